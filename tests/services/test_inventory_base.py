"""Several inventories as one, and how often a driver is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from ds01_spawner.core.devices import Device, Snapshot, Usage
from ds01_spawner.services import wiring
from ds01_spawner.services.inventory.base import Kept, NoDevices, Together
from ds01_spawner.services.settings import Settings

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
NVIDIA = Snapshot(
    devices=(Device("GPU-a", "gpu", "A100", "CUDA_AMPERE", 2520, 1 << 30),),
    driver="570.124.06", cuda=(12, 8), taken=NOW, epoch="n", usage={"GPU-a": Usage(0.5)},
    links=(("GPU-a", "GPU-b", 3),),
)  # fmt: skip
AMD = Snapshot(
    devices=(Device("0x1", "amd", "MI210", "ROCM6", 2520, 1 << 30),),
    driver="amdgpu", taken=NOW - timedelta(seconds=3), epoch="a", usage={"0x1": Usage(0.1)},
    problems=("a fan is loud",),
)  # fmt: skip
HANGS = Snapshot(known=False, problems=("the driver hangs",))


class Fixed(NoDevices):
    """Tells the same each time."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    async def snapshot(self, *, fresh: bool = False) -> Snapshot:
        return self._snapshot


async def together(*snapshots: Snapshot) -> Snapshot:
    return await Together(*map(Fixed, snapshots)).snapshot()


async def test_the_devices_of_both_makers() -> None:
    assert await together(NVIDIA, AMD) == Snapshot(
        devices=NVIDIA.devices + AMD.devices,
        driver="570.124.06",
        cuda=(12, 8),
        problems=("a fan is loud",),
        taken=AMD.taken,  # as old as the older
        epoch="n+a",
        usage={"GPU-a": Usage(0.5), "0x1": Usage(0.1)},
        links=(("GPU-a", "GPU-b", 3),),
    )


async def test_a_host_of_one_maker_is_told_as_that_maker_does() -> None:
    for one in (NVIDIA, AMD):
        assert await together(one, Snapshot()) == one
        assert await together(Snapshot(), one) == one


async def test_what_one_does_not_know_hides_no_device_of_the_other_and_grants_none() -> None:
    for snapshots in [(HANGS, AMD), (AMD, HANGS)]:
        told = await together(*snapshots)
        assert (told.known, told.devices) == (False, AMD.devices)
        assert set(told.problems) == {"the driver hangs", "a fan is loud"}
        assert told.epoch == ""


@pytest.mark.parametrize(
    ("gpus", "devices"),
    [
        ("auto", ["GPU-a", "0x1"]),
        ("none", []),
    ],
)
async def test_what_the_setting_chooses(
    monkeypatch: pytest.MonkeyPatch, gpus: str, devices: list[str]
) -> None:
    monkeypatch.setattr(wiring, "NvmlInventory", lambda **_: Fixed(NVIDIA))
    monkeypatch.setattr(wiring, "RocmInventory", lambda **_: Fixed(AMD))
    told = await wiring.inventory(Settings(gpus=gpus)).snapshot()
    assert [device.uuid for device in told.devices] == devices


# --- how often it asks ---------------------------------------------------------------------------


class Driver:
    """Counts the questions; answers what the test says, when it says so."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self.time = 0.0
        self.questions = 0
        self.answer = Snapshot()
        self.gate = asyncio.Event()
        self.gate.set()
        self.kept = Kept(
            self.ask, fresh_s=5, backoff_s=(2, 8), monotonic=lambda: self.time, on_change=on_change
        )

    async def ask(self) -> Snapshot:
        self.questions += 1
        await self.gate.wait()
        return self.answer


async def test_an_answer_is_kept_and_failures_are_asked_about_ever_more_slowly() -> None:
    driver = Driver()
    for driver.time, questions in [(0, 1), (4.9, 1), (5, 2), (9, 2)]:
        assert (await driver.kept.snapshot()).known
        assert driver.questions == questions
    driver.answer = HANGS
    for driver.time, questions in [(10, 3), (11, 3), (12, 4), (15, 4), (16, 5), (24, 6), (32, 7)]:
        assert not (await driver.kept.snapshot()).known
        assert driver.questions == questions
    driver.answer = NVIDIA
    for driver.time, questions in [(40, 8), (44, 8), (45, 9)]:
        assert await driver.kept.snapshot() == NVIDIA
        assert driver.questions == questions
    driver.answer = replace(NVIDIA, known=False)
    for driver.time, questions in [(50, 10), (52, 11)]:  # from the start again
        assert not (await driver.kept.snapshot()).known
        assert driver.questions == questions


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        pytest.param(AMD, AMD, 0, id="none"),
        pytest.param(AMD, replace(AMD, epoch="another"), 1, id="boot, or other devices"),
        pytest.param(AMD, replace(AMD, devices=()), 1, id="health"),
        pytest.param(HANGS, AMD, 0, id="the first that is known"),
        pytest.param(AMD, HANGS, 0, id="not known"),
    ],
)
async def test_changes_are_told(before: Snapshot, after: Snapshot, changes: int) -> None:
    told: list[str] = []
    driver = Driver(lambda: told.append("!"))
    for driver.answer in (before, after, after):
        await driver.kept.snapshot()
        driver.time += 60
    assert len(told) == changes


async def test_callers_at_the_same_time_share_one_question() -> None:
    driver = Driver()
    driver.gate.clear()
    callers = [asyncio.ensure_future(driver.kept.snapshot()) for _ in range(5)]
    await asyncio.sleep(0)
    callers[0].cancel()  # who asked first goes; the others get their answer
    await asyncio.sleep(0)
    driver.gate.set()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [Snapshot()] * 4
    assert driver.questions == 1
