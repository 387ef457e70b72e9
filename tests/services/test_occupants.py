"""Who is on a card: whose its processes are, and memory that nobody gave back."""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from ds01_spawner.core.devices import Device, Process, Snapshot, Usage
from ds01_spawner.errors import NoDeviceFree
from ds01_spawner.services.inventory.simulated import SimulatedInventory
from ds01_spawner.services.occupants import (
    BASELINE_AT_MOST,
    TOLERANCE,
    Processes,
    container_of,
)
from tests.services.world import DatedEngine, World

ID, OTHER = "a1" * 32, "b2" * 32


@pytest.mark.parametrize(
    ("groups", "container"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param("0::/\n", "", id="v2, the root"),
        pytest.param("0::/init.scope\n", "", id="v2, init"),
        pytest.param(f"0::/system.slice/docker-{ID}.scope\n", ID, id="v2, systemd"),
        pytest.param(f"0::/docker/{ID}\n", ID, id="v2, cgroupfs"),
        pytest.param(f"0::/ds01.slice/alice.slice/docker-{ID}.scope\n", ID, id="v2, own parent"),
        pytest.param(f"0::/docker/{ID}/init.scope\n", ID, id="v2, groups of its own"),
        pytest.param(f"12:memory:/docker/{ID}\n1:cpu:/docker/{ID}\n0::/\n", ID, id="v1"),
        pytest.param(f"12:memory:/\n4:cpu:/docker/{ID}\n", ID, id="v1, not all controllers"),
        pytest.param(f"1:name=systemd:/system.slice/docker-{ID}.scope\n", ID, id="v1, systemd"),
        pytest.param(f"0::/docker/{ID}/docker/{OTHER}\n", ID, id="a container in a container"),
        pytest.param(f"0::/machine.slice/libpod-{ID}.scope/container\n", ID, id="podman"),
        pytest.param(f"0::/kubepods.slice/cri-containerd-{ID}.scope\n", ID, id="containerd"),
        pytest.param(f"0::/system.slice/docker-{ID[:-1]}.scope\n", "", id="no id"),
        pytest.param(f"0::/system.slice/docker-{ID}f.scope\n", "", id="too long"),
        pytest.param(
            f"0::/user.slice/user-1000.slice/user@1000.service/docker-{ID}.scope\n", "",
            id="a name that a user chose",
        ),
    ],
)  # fmt: skip
def test_the_container_of_a_process(groups: str, container: str) -> None:
    assert container_of(groups) == container


def test_the_processes_of_this_host() -> None:
    found = asyncio.run(Processes().look([os.getpid(), 2**30]))
    assert set(found) == {os.getpid()}
    me = found[os.getpid()]
    # The tests themselves may run in a container.
    assert me.container or me.account == pwd.getpwuid(os.getuid()).pw_name
    assert me.command == Path("/proc/self/comm").read_text().strip()


async def test_a_process_that_tells_no_owner(tmp_path: Path) -> None:
    for name in ("cgroup", "status", "comm"):
        (tmp_path / "7").mkdir(exist_ok=True)
        (tmp_path / "7" / name).write_text("")
    assert (await Processes(tmp_path).look([7]))[7].account == "somebody"


# --- on the cards --------------------------------------------------------------------------------


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    inventory = SimulatedInventory("1xA100,1xH100:mig=2x1g.10gb", "host")
    snapshot = await inventory.snapshot()
    world = World(DatedEngine([d.uuid for d in snapshot.devices]), tmp_path / "l" / "db", snapshot)
    yield world
    world.ledger.close()


class OnCards:
    """The host's processes, and what the driver tells of them."""

    def __init__(self, world: World, proc: Path) -> None:
        self.world = world
        self.proc = proc
        self.pids = itertools.count(4711)
        world.reconciler._processes = Processes(proc)

    def process(self, cgroup: str, uid: int = 1, command: str = "python") -> int:
        pid = next(self.pids)
        folder = self.proc / str(pid)
        folder.mkdir(parents=True)
        (folder / "cgroup").write_text(f"0::{cgroup}\n")
        (folder / "status").write_text(f"Name:\tx\nUid:\t{uid}\t0\t0\t0\n")
        (folder / "comm").write_text(f"{command}\n")
        return pid

    def within(self, container: str | None) -> int:
        return self.process(f"/system.slice/docker-{container}.scope")

    async def held(self, *usage: Usage) -> list[str]:
        """By whom, of the devices in their order, where the driver tells this of them."""
        devices = self.world.snapshot.devices
        told = {d.uuid: of for d, of in zip(devices, usage, strict=False)}
        snapshot = replace(self.world.snapshot, usage=told, simulated=False)
        held = await self.world.reconciler.foreign_devices(snapshot)
        return [held.get(d.uuid, "") for d in devices[: len(usage)]]


@pytest.fixture
def on_cards(world: World, tmp_path: Path) -> OnCards:
    return OnCards(world, tmp_path / "proc")


def by(*pids: int, memory: int = 300 << 20) -> Usage:
    return Usage(None, memory * len(pids), tuple(Process(pid, memory) for pid in pids))


async def test_the_processes_of_a_server_are_its_own(world: World, on_cards: OnCards) -> None:
    lease = await world.serve("ada")
    assert lease.devices == (world.snapshot.devices[1].uuid,)
    pid = on_cards.within(lease.container)
    assert await on_cards.held(by(), by(pid)) == ["", ""]
    assert await on_cards.held(by(pid), by(pid)) == [
        f"process {pid} of container ds01.ada of ada",
        "",
    ]


async def test_a_server_that_starts_has_its_processes_already(
    world: World, on_cards: OnCards
) -> None:
    lease = world.reserve("ada")
    container = await world.create(lease)
    await world.engine.start_container(container)
    assert await on_cards.held(by(), by(on_cards.within(container))) == ["", ""]


async def test_whoever_is_there_without_a_lease_holds_the_device(
    world: World, on_cards: OnCards
) -> None:
    pid = on_cards.process("/user.slice/user-1000.slice/session-3.scope")
    whose = pwd.getpwuid(1).pw_name
    assert await on_cards.held(by(pid)) == [f"process {pid} of {whose}, outside this hub"]
    privileged = await world.foreign("theirs")
    pid = on_cards.within(privileged)
    assert await on_cards.held(by(pid)) == [f"process {pid} of container theirs of eve"]
    pid = on_cards.within("f" * 64)
    assert await on_cards.held(by(pid)) == [f"process {pid} of container ffffffffffff"]
    assert await on_cards.held(by(1)) == ["process 1, which is not to be seen on this host"]
    assert await on_cards.held(by()) == [""]


async def test_an_account_that_is_not_known_is_told_by_its_number(on_cards: OnCards) -> None:
    pid = on_cards.process("/", uid=4_000_000_000)
    assert await on_cards.held(by(pid)) == [f"process {pid} of uid 4000000000, outside this hub"]


async def test_names_of_accounts_are_not_waited_for_for_long(on_cards: OnCards) -> None:
    """The directory of accounts is down: nobody's form or start may hang on that."""
    answers = threading.Event()
    asked: list[int] = []

    def name_of(uid: int) -> str:
        asked.append(uid)
        if uid != 1:
            assert answers.wait(60)
        return f"account-{uid}"

    processes = Processes(on_cards.proc, name_of=name_of, patience_s=0.05)
    local, remote = on_cards.process("/", uid=1), on_cards.process("/", uid=2)
    try:
        for _ in range(3):
            found = await processes.look([local, remote])
            assert [found[pid].account for pid in (local, remote)] == ["account-1", "uid 2"]
        assert asked.count(2) == 1  # one that hangs is not asked for again
    finally:
        answers.set()
    processes._patience_s = 60
    assert (await processes.look([remote]))[remote].account == "account-2"


async def test_a_container_that_holds_a_device_is_told_before_its_processes(
    world: World, on_cards: OnCards
) -> None:
    greedy = await world.foreign("greedy", Count=-1)
    assert await on_cards.held(by(on_cards.within(greedy))) == ["container greedy of eve"]


@pytest.mark.parametrize(
    ("command", "mib", "held"),
    [
        ("Xorg", 49, False),
        ("gdm-x-session", 10, False),
        ("Xorg", 50, True),
        ("Xorg", None, True),
        ("python", 1, True),
    ],
)
async def test_a_screen_is_no_holder(
    on_cards: OnCards, command: str, mib: int | None, held: bool
) -> None:
    pid = on_cards.process("/system.slice/gdm.service", 0, command)
    process = Process(pid, None if mib is None else mib << 20)
    assert bool((await on_cards.held(Usage(0.0, 60 << 20, (process,))))[0]) is held


async def test_memory_that_nobody_gave_back(world: World, on_cards: OnCards) -> None:
    assert await on_cards.held(Usage(None, 100, ())) == [""]
    assert await on_cards.held(Usage(None, 100 + TOLERANCE, ())) == [""]
    rest = 100 + TOLERANCE + 1
    assert await on_cards.held(Usage(None, rest, ())) == [
        "256 MiB still in use and no process to be seen"
    ]
    assert await on_cards.held(Usage(None, rest, None)) == [
        "256 MiB still in use and the driver does not tell by whom"
    ]
    assert await on_cards.held(Usage(None, 100, None), Usage(None, None, ())) == ["", ""]
    screen = Process(on_cards.process("/", 0, "Xorg"), 40 << 20)
    assert await on_cards.held(Usage(None, (40 << 20) + 100, (screen,))) == [""]
    assert await on_cards.held(Usage(None, (40 << 20) + rest, (screen,))) == [
        "256 MiB still in use and no process to be seen"
    ]


async def test_a_rest_from_before_the_first_look(on_cards: OnCards) -> None:
    most = BASELINE_AT_MOST + TOLERANCE
    assert await on_cards.held(Usage(None, most, ())) == [""]
    assert await on_cards.held(Usage(None, most + 1, ())) == [
        "768 MiB still in use and no process to be seen"
    ]


async def test_a_device_of_which_nothing_is_told_is_not_given_out(
    world: World, on_cards: OnCards
) -> None:
    silent, untold = Usage(utilization=0.0), "the driver does not tell who uses it"
    assert await on_cards.held(silent, silent) == [untold, untold]
    told_of_none = replace(world.snapshot, simulated=False)
    held = await world.reconciler.foreign_devices(told_of_none)
    assert set(held) == {d.uuid for d in world.snapshot.devices}
    sick = tuple(replace(d, healthy=False) for d in world.snapshot.devices)
    assert await world.reconciler.foreign_devices(replace(told_of_none, devices=sick)) == {}
    assert await world.reconciler.foreign_devices(world.snapshot) == {}  # made up
    await world.serve("ada")  # whose devices are its own, whatever is told
    assert await on_cards.held(silent, silent) == [untold, ""]


async def test_memory_of_a_leased_device_is_its_servers(world: World, on_cards: OnCards) -> None:
    lease = await world.serve("ada")
    idle, leased = Usage(None, 0, ()), Usage(None, 3 << 30, ())
    assert await on_cards.held(idle, leased) == ["", ""]
    await world.reconciler.end(lease, "the admin said so")
    assert await on_cards.held(idle, leased) == ["", "3 GiB still in use and no process to be seen"]


CARD = Device("0x9", "amd", "AMD Instinct MI300X", "ROCM6", 2520, 192 << 30)


GPU = Device("GPU-h", "gpu", "NVIDIA H100", "CUDA_ADA", 2520, 80 << 30)
NAMED = replace(CARD, uuid="0x7.0x9", card_name="0x9")


def migs(*names: str) -> tuple[Device, ...]:
    part = replace(GPU, kind="mig", parent="GPU-h", units=360, profile="1g.10gb")
    return tuple(replace(part, uuid=f"MIG-{name}") for name in names)


def divided(mode: str, parts: int) -> tuple[Device, ...]:
    part = replace(CARD, units=2520 // parts, parent="0x9", profile=mode)
    return tuple(replace(part, uuid=f"0x{8 - n}.0x9.{mode}{n}") for n in range(parts))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param((CARD,), divided("dpx", 2), id="the card, then its parts"),
        pytest.param(divided("dpx", 2), (CARD,), id="a part, then the card"),
        pytest.param(divided("dpx", 2), divided("qpx", 4), id="a part, then others"),
        pytest.param((NAMED,), divided("dpx", 2), id="a card of two names, then its parts"),
        pytest.param(divided("dpx", 2), (NAMED,), id="a part, then a card of two names"),
        pytest.param((GPU,), migs("a", "b"), id="a GPU, then its instances"),
        pytest.param(migs("a", "b"), (GPU,), id="an instance, then the GPU"),
        pytest.param(migs("a", "b"), migs("b", "c"), id="an instance, then others"),
    ],
)
async def test_a_card_that_is_divided_anew_is_its_tenants(
    world: World, before: tuple[Device, ...], after: tuple[Device, ...]
) -> None:
    other = replace(CARD, uuid="0xa", healthy=False)
    world.snapshot = Snapshot(devices=(*before, other), simulated=True)
    await world.serve("ada")
    assert await world.reconciler.foreign_devices(world.snapshot) == {}
    world.snapshot = Snapshot(devices=(*after, replace(other, healthy=True)), simulated=True)
    held = await world.reconciler.foreign_devices(world.snapshot)
    who = "a server of ada, from before its card was divided anew"
    assert held == {device.uuid: who for device in after}
    assert world.reserve("bob", foreign=held).devices == ("0xa",)
    with pytest.raises(NoDeviceFree):
        world.reserve("eve", foreign=held)
