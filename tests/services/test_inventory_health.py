"""Cards that are lost, reset, out of order, and well again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ds01_spawner.core.devices import Snapshot, Xid
from ds01_spawner.core.health import BAD_SWEEPS, CLEAN_SWEEPS, QUARANTINE_S, RECURS_WITHIN_S
from ds01_spawner.core.losses import GONE, why_lost
from ds01_spawner.services.inventory.answers import Answer, CardFacts, Event
from ds01_spawner.services.inventory.fleet import Fleet
from ds01_spawner.services.inventory.nvml import OPEN_AT_MOST_S, REOPEN_S
from tests.services.conftest import TAKEN, Driver, Listening
from tests.services.world import DatedEngine, World

ALL = 0xFFFFFFFF
XID, MIG_CHANGE, RECOVERY_ACTION = 0x8, 0x100, 0x8000
A100 = "gpu GPU-a NVIDIA_A100 8 0 40960 0 0 0"
A100_LOST = "gpu GPU-a NVIDIA_A100 8 0 40960 0 0 1"
B100 = "gpu GPU-b NVIDIA_A100 8 0 40960 0 0 0"
H100 = (
    "gpu GPU-h NVIDIA_H100 9 0 81559 1 1 0",
    "mig 0 MIG-0 NVIDIA_H100_MIG_1g.10gb 9984 1",
    "mig 1 MIG-1 NVIDIA_H100_MIG_1g.10gb 9984 1",
)
H100_LOST = (H100[0][:-1] + "1", *H100[1:])


def states(snapshot: Snapshot) -> dict[str, bool]:
    assert snapshot.known, snapshot.problems
    return {device.uuid: device.healthy for device in snapshot.devices}


async def after(driver: Driver, inventory: Listening, seconds: float = 3) -> dict[str, bool]:
    driver.later(seconds)
    return states(await inventory.snapshot())


async def sweeps_until_healthy(driver: Driver, inventory: Listening) -> int:
    """How many it takes until everything is healthy again."""
    for number in range(1, 20):
        if all((await after(driver, inventory)).values()):
            return number
    raise AssertionError((await inventory.snapshot()).problems)


async def test_a_lost_gpu_hides_no_other_and_comes_back(driver: Driver) -> None:
    driver.says(A100, B100)
    inventory = driver.inventory()
    assert states(await inventory.snapshot()) == {"GPU-a": True, "GPU-b": True}
    epoch = (await inventory.snapshot()).epoch
    driver.says(A100_LOST, B100, "used GPU-b 100 0")
    assert await after(driver, inventory) == {"GPU-a": False, "GPU-b": True}
    lost = await inventory.snapshot()
    assert lost.devices[0].problem == "GPU 0 (NVIDIA A100): GPU is lost"
    assert lost.problems == (lost.devices[0].problem,)
    assert list(lost.usage) == ["GPU-b"]
    assert lost.epoch == epoch
    driver.says(A100, B100)
    # The library that is open goes on as it began; a new one sees the card.
    assert await after(driver, inventory) == {"GPU-a": False, "GPU-b": True}
    assert await after(driver, inventory, REOPEN_S) == {"GPU-a": False, "GPU-b": True}
    assert await sweeps_until_healthy(driver, inventory) == CLEAN_SWEEPS - 1
    assert (await inventory.snapshot()).problems == ()


async def test_a_gpu_that_is_not_counted_any_more_is_not_forgotten(driver: Driver) -> None:
    driver.says(A100, B100)
    inventory = driver.inventory()
    await inventory.snapshot()
    driver.says(B100)
    await after(driver, inventory)
    assert await after(driver, inventory, REOPEN_S) == {"GPU-a": False, "GPU-b": True}
    assert "does not see it any more" in (await inventory.snapshot()).problems[0]
    driver.says(A100, B100)
    assert await after(driver, inventory, REOPEN_S) == {"GPU-a": False, "GPU-b": True}
    assert await sweeps_until_healthy(driver, inventory) == CLEAN_SWEEPS - 1


async def test_a_lost_card_with_instances(driver: Driver) -> None:
    driver.says(*H100)
    inventory = driver.inventory()
    await inventory.snapshot()
    driver.says(*H100_LOST)
    assert await after(driver, inventory) == {"MIG-0": False, "MIG-1": False}
    assert (await inventory.snapshot()).problems == ("GPU 0 (NVIDIA H100): GPU is lost",)
    new = H100[1].replace("MIG-0", "MIG-5")  # instances do not survive a reset
    driver.says(H100[0], new)
    assert await after(driver, inventory, REOPEN_S) == {"MIG-5": False}
    assert await sweeps_until_healthy(driver, inventory) == CLEAN_SWEEPS - 1


async def test_a_gpu_that_was_lost_from_the_start_has_no_name(driver: Driver) -> None:
    driver.says(A100_LOST, B100)
    inventory = driver.inventory()
    assert states(await inventory.snapshot()) == {"unknown-0": False, "GPU-b": True}
    assert "GPU is lost" in (await inventory.snapshot()).problems[0]
    driver.says(A100, B100)
    assert await after(driver, inventory, REOPEN_S) == {"GPU-a": True, "GPU-b": True}


async def test_a_gpu_that_came_later_is_seen_after_a_while(driver: Driver) -> None:
    driver.says(A100)
    inventory = driver.inventory()
    await inventory.snapshot()
    driver.says(A100, B100)
    assert await after(driver, inventory) == {"GPU-a": True}
    assert await after(driver, inventory, OPEN_AT_MOST_S) == {"GPU-a": True, "GPU-b": True}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ("recovery GPU-a 1", "the driver asks for a reset of the GPU"),
        ("remapped GPU-a 1 0", "it needs a reset to remap rows"),
        ("remapped GPU-a 0 1", "it has to be replaced"),
        ("fail nvmlDeviceGetMemoryInfo_v2 GPU-a 999", "Unknown Error"),
        ("fail nvmlDeviceGetCudaComputeCapability GPU-a 15", "GPU is lost"),
        ("fail nvmlDeviceGetComputeRunningProcesses_v3 GPU-a 999", "Unknown Error"),
    ],
)
async def test_a_card_that_is_not_well(driver: Driver, record: str, words: str) -> None:
    driver.says(A100, B100, "recovery GPU-a 0")
    inventory = driver.inventory()
    await inventory.snapshot()
    driver.says(A100, B100, record)
    assert await after(driver, inventory) == {"GPU-a": False, "GPU-b": True}
    assert words in (await inventory.snapshot()).devices[0].problem
    driver.says(A100, B100, "recovery GPU-a 0")
    assert await sweeps_until_healthy(driver, inventory) == CLEAN_SWEEPS


async def test_one_bad_look_is_none(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.says(A100, "fail nvmlDeviceGetMemoryInfo_v2 GPU-a 999")
    inventory = driver.inventory()
    looks = 0

    async def look_again(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        driver.says(A100)

    monkeypatch.setattr("ds01_spawner.services.inventory.nvml.asyncio.sleep", look_again)
    assert states(await inventory.snapshot()) == {"GPU-a": True}
    assert looks == BAD_SWEEPS - 1


async def test_an_instance_that_fails_does_not_hide_the_others(driver: Driver) -> None:
    driver.says(*H100)
    inventory = driver.inventory()
    before = (await inventory.snapshot()).devices
    driver.says(*H100, "fail nvmlDeviceGetMemoryInfo_v2 MIG-0 999")
    assert await after(driver, inventory) == {"MIG-0": False, "MIG-1": True}
    failing = (await inventory.snapshot()).devices[0]
    assert (failing.profile, failing.units) == (before[0].profile, before[0].units)
    assert failing.problem == "MIG instance MIG-0: Unknown Error"
    driver.says(*H100)
    assert await sweeps_until_healthy(driver, inventory) == CLEAN_SWEEPS


# --- events --------------------------------------------------------------------------------------


async def event(driver: Driver, inventory: Listening, *records: str) -> None:
    """The driver has this to tell, and it is heard."""
    driver.says(*records)
    await inventory.heard.get()


@pytest.mark.parametrize(
    ("gi", "ci", "xid", "healthy"),
    [
        (1, 0, 48, (False, True)),  # the instance in slot 0
        (2, 0, 48, (True, False)),
        (2, ALL, 48, (True, False)),
        (ALL, ALL, 48, (False, False)),  # the card, and so all of them
        (7, 0, 48, (False, False)),  # of an instance that is not known
        (1, 3, 48, (False, False)),
        (ALL, ALL, 79, (False, False)),
        (1, 0, 31, (True, True)),
        (ALL, ALL, 109, (True, True)),
    ],
)
async def test_whom_an_xid_is_about(
    driver: Driver, gi: int, ci: int, xid: int, healthy: tuple[bool, bool]
) -> None:
    driver.says(*H100)
    inventory = driver.inventory()
    await inventory.snapshot()
    await event(driver, inventory, *H100, f"event 1 GPU-h {XID} {xid} {gi} {ci}")
    # No time has passed: what an event says is not older than the last answer.
    assert tuple(states(await inventory.snapshot()).values()) == healthy


async def test_an_xid_of_one_card_is_not_the_others(driver: Driver) -> None:
    driver.says(A100, B100, "recovery GPU-b 0")
    inventory = driver.inventory()
    await inventory.snapshot()
    about = f"event 1 GPU-b {XID} 119 {ALL} {ALL}"
    await event(driver, inventory, A100, B100, "recovery GPU-b 0", about)
    assert states(await inventory.snapshot()) == {"GPU-a": True, "GPU-b": False}
    assert (await inventory.snapshot()).problems == (
        "GPU 1 (NVIDIA A100): the driver reported XID 119",
    )
    assert await sweeps_until_healthy(driver, inventory) == CLEAN_SWEEPS - 1


def test_an_xid_before_the_first_answer_is_not_lost() -> None:
    fleet = Fleet()
    assert fleet.hit(Event(card="GPU-a", kind="xid", xid=48, gi=ALL, ci=ALL), 0, TAKEN)
    assert not fleet.hit(Event(card=None, kind="xid", xid=48, gi=ALL, ci=ALL), 0, TAKEN)
    cards = tuple(CardFacts(index=n, uuid=uuid) for n, uuid in enumerate(("GPU-a", "GPU-b")))
    fleet.look(Answer(library=True, cards=cards), 1)
    devices, _ = fleet.devices()
    assert [(d.uuid, d.healthy) for d in devices] == [("GPU-a", False), ("GPU-b", True)]


async def test_xid_109_is_a_fault_of_the_card_when_it_recurs(driver: Driver) -> None:
    driver.says(A100)
    inventory = driver.inventory()
    await inventory.snapshot()
    events = [f"event {n} GPU-a {XID} 109 {ALL} {ALL}" for n in (1, 2, 3)]
    await event(driver, inventory, A100, *events[:1])
    assert states(await inventory.snapshot()) == {"GPU-a": True}
    driver.later(RECURS_WITHIN_S + 1)
    await event(driver, inventory, A100, *events[:2])
    assert states(await inventory.snapshot()) == {"GPU-a": True}
    driver.later()
    await event(driver, inventory, A100, *events)
    assert states(await inventory.snapshot()) == {"GPU-a": False}


@pytest.mark.parametrize("record", [f"{XID} 154", f"{RECOVERY_ACTION} 0"])
async def test_another_recovery_action_is_read_at_once(driver: Driver, record: str) -> None:
    driver.says(A100, "recovery GPU-a 0")
    inventory = driver.inventory()
    await inventory.snapshot()
    await event(driver, inventory, A100, "recovery GPU-a 1", f"event 1 GPU-a {record} {ALL} {ALL}")
    assert states(await inventory.snapshot()) == {"GPU-a": False}


async def test_events_are_told_again_after_the_library_was_opened_again(driver: Driver) -> None:
    driver.says(A100, f"event 1 GPU-a {XID} 48 {ALL} {ALL}")  # before anybody listened
    inventory = driver.inventory()
    await inventory.snapshot()
    assert await after(driver, inventory, OPEN_AT_MOST_S) == {"GPU-a": True}
    await event(driver, inventory, A100, f"event 2 GPU-a {XID} 48 {ALL} {ALL}")
    assert states(await inventory.snapshot()) == {"GPU-a": False}


async def test_listening_that_fails_begins_again(driver: Driver) -> None:
    driver.says(A100)
    inventory = driver.inventory()
    await inventory.snapshot()
    listened = inventory._prober._process
    driver.says(A100, "fail nvmlEventSetWait_v2 - 999")
    while not inventory._fleet.blind:
        await after(driver, inventory)
    driver.says(A100)
    assert await after(driver, inventory, REOPEN_S) == {"GPU-a": True}
    assert inventory._prober._process is not listened
    await event(driver, inventory, A100, f"event 1 GPU-a {XID} 48 {ALL} {ALL}")
    assert states(await inventory.snapshot()) == {"GPU-a": False}


async def test_other_instances_are_read_by_a_library_opened_anew(driver: Driver) -> None:
    driver.says(*H100)
    inventory = driver.inventory()
    await inventory.snapshot()
    epoch, opened = (await inventory.snapshot()).epoch, inventory._prober._process
    new = (
        "mig 0 MIG-7 NVIDIA_H100_MIG_2g.20gb 19968 2",
        "mig 3 MIG-8 NVIDIA_H100_MIG_1g.10gb 9984 1",
    )
    await event(driver, inventory, H100[0], *new, f"event 1 GPU-h {MIG_CHANGE} 0 {ALL} {ALL}")
    assert states(await inventory.snapshot()) == {"MIG-7": True, "MIG-8": True}
    assert inventory._prober._process is not opened
    assert (await inventory.snapshot()).epoch != epoch
    driver.says(*H100)  # also seen where the driver tells no such event
    assert await after(driver, inventory) == {"MIG-0": True, "MIG-1": True}


# --- what outlives the hub -----------------------------------------------------------------------


async def test_what_is_out_of_use_is_told_for_the_next_process(driver: Driver) -> None:
    driver.says(A100, B100)
    inventory = driver.inventory()
    assert (await inventory.snapshot()).struck == ()
    events = [f"event {n} GPU-a {XID} {xid} {ALL} {ALL}" for n, xid in ((1, 48), (2, 79), (3, 48))]
    for heard, xid in ((1, 48), (2, 79), (3, 79)):  # the worst one
        await event(driver, inventory, A100, B100, *events[:heard])
        assert (await inventory.snapshot()).struck == (Xid("GPU-a", xid, TAKEN),)


@pytest.mark.parametrize(
    ("xid", "recovery", "ago_s", "comes_back"),
    [
        pytest.param(48, (), QUARANTINE_S - 60, False, id="the driver says nothing"),
        pytest.param(48, (), QUARANTINE_S, True, id="and nothing comes for long"),
        pytest.param(48, ("recovery GPU-a 0",), 60, True, id="the driver says it is well"),
        pytest.param(109, (), 60, False, id="one that recurred"),
        pytest.param(79, (), 1e6, False, id="fatal"),
        pytest.param(79, ("recovery GPU-a 0",), 60, True, id="fatal, and well"),
        pytest.param(79, ("recovery GPU-a 2",), 60, False, id="fatal, and a reboot is due"),
    ],
)
async def test_in_the_next_process_it_comes_back_by_the_same_rule(
    driver: Driver, xid: int, recovery: tuple[str, ...], ago_s: float, comes_back: bool
) -> None:
    driver.says(A100, B100, *recovery)
    inventory = driver.inventory()
    inventory.remember([Xid("GPU-a", xid, TAKEN - timedelta(seconds=ago_s))])
    assert states(await inventory.snapshot()) == {"GPU-a": False, "GPU-b": True}
    for _ in range(CLEAN_SWEEPS - 2):
        assert not (await after(driver, inventory))["GPU-a"]
    assert (await after(driver, inventory))["GPU-a"] is comes_back
    assert bool((await inventory.snapshot()).struck) is not comes_back


async def test_a_card_that_does_not_answer_is_not_forgotten(driver: Driver) -> None:
    driver.says(A100_LOST, B100)
    inventory = driver.inventory()
    remembered = Xid("GPU-a", 79, TAKEN)
    inventory.remember([remembered])
    await inventory.snapshot()
    await after(driver, inventory)
    assert (await inventory.snapshot()).struck == (remembered,)
    driver.says(A100, B100)
    assert (await after(driver, inventory, REOPEN_S))["GPU-a"] is False


async def test_an_admin_has_the_last_word(driver: Driver) -> None:
    driver.says(A100, B100)
    inventory = driver.inventory()
    inventory.remember([Xid("GPU-a", 79, TAKEN), Xid("GPU-b", 48, TAKEN)])
    await inventory.snapshot()
    inventory.forgive(["GPU-a", "GPU-none"])
    assert states(await inventory.snapshot()) == {"GPU-a": True, "GPU-b": False}
    driver.says(A100_LOST, B100)  # what the looks find counts all the same
    assert await after(driver, inventory) == {"GPU-a": False, "GPU-b": False}


@pytest.mark.parametrize(
    ("gi", "ci", "xid", "device"),
    [
        (1, 0, 31, "MIG-0"),
        (ALL, ALL, 13, "GPU-h"),
        (ALL, ALL, 109, "GPU-h"),
        (1, 0, 48, None),  # the card's
        (1, 0, 94, None),  # may be either's
    ],
)
async def test_faults_of_programs_are_told(
    driver: Driver, gi: int, ci: int, xid: int, device: str | None
) -> None:
    driver.says(*H100)
    inventory = driver.inventory()
    await inventory.snapshot()
    await event(driver, inventory, *H100, f"event 1 GPU-h {XID} {xid} {gi} {ci}")
    driver.later()
    told = (await inventory.snapshot()).faults
    assert told == (() if device is None else (Xid(device, xid, TAKEN),))


async def test_what_follows_a_fault_of_the_card_is_no_programs(driver: Driver) -> None:
    driver.says(A100)
    inventory = driver.inventory()
    await inventory.snapshot()
    events = [f"event {n} GPU-a {XID} {xid} {ALL} {ALL}" for n, xid in ((1, 48), (2, 45))]
    await event(driver, inventory, A100, *events[:1])
    await event(driver, inventory, A100, *events)
    driver.later()
    assert (await inventory.snapshot()).faults == ()


async def test_the_hub_is_told_when_something_changes(driver: Driver) -> None:
    changes: list[str] = []
    driver.says(*H100)
    inventory = driver.inventory(on_change=lambda: changes.append("!"))
    await inventory.snapshot()
    await after(driver, inventory)
    assert changes == []
    driver.says(H100[0], H100[1])  # fewer instances, and no event
    await after(driver, inventory)
    assert len(changes) == 1
    for number, (xid, told) in enumerate([(31, 2), (92, 2), (48, 3)], 1):
        at_all = f"event {number} GPU-h {XID} {xid} {ALL} {ALL}"
        await event(driver, inventory, H100[0], H100[1], at_all)
        assert len(changes) == told
    await after(driver, inventory)
    assert len(changes) == 4, "and it is not healthy now"
    (driver.proc / "sys/kernel/random/boot_id").write_text("another\n")
    await after(driver, inventory)
    assert len(changes) == 5


async def test_a_card_that_is_whole_again_is_held_for_who_had_an_instance(
    driver: Driver, tmp_path: Path
) -> None:
    def simulated(snapshot: Snapshot) -> Snapshot:  # for a ledger of the tests
        return replace(snapshot, simulated=True)

    driver.says(*H100)
    inventory = driver.inventory()
    seen = simulated(await inventory.snapshot())
    world = World(DatedEngine(), tmp_path / "ledger" / "db", seen)
    lease = await world.serve("ada")
    assert lease.cards == ("GPU-h",)
    whole = H100[0].replace("1 1 0", "0 0 0")
    driver.says(whole)
    driver.later()
    world.snapshot = simulated(await inventory.snapshot())
    assert [device.uuid for device in world.snapshot.devices] == ["GPU-h"]
    assert why_lost(lease.devices, world.snapshot) == f"{lease.devices[0]}: {GONE}"
    held = await world.reconciler.foreign_devices(world.snapshot)
    assert held == {"GPU-h": "a server of ada, from before its card was divided anew"}
    await world.reconciler.end(lease, "the admin said so")
    assert await world.reconciler.foreign_devices(world.snapshot) == {}
    world.ledger.close()
