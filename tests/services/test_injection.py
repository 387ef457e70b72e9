"""The engine is asked how devices get into containers, and nothing is left of the question."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable

import pytest

from ds01_spawner.core.devices import Device, Kind, Snapshot
from ds01_spawner.core.gpu_way import NOT_ASKED, Setting
from ds01_spawner.core.injection import NvidiaWay
from ds01_spawner.errors import EngineUnavailable
from ds01_spawner.services import injection
from ds01_spawner.services.engine import EngineRefused
from ds01_spawner.services.injection import HOLD_S, GpuWay
from tests.fakes.engine import FakeEngine

NAMES = frozenset({"nvidia.com/gpu=GPU-1", "nvidia.com/gpu=GPU-2"})


def snapshot(*uuids: str, kind: Kind = "gpu", **more: bool) -> Snapshot:
    devices = (Device(uuid, kind, "A100", "CUDA_AMPERE", 2520, 40 << 30) for uuid in uuids)
    return Snapshot(devices=tuple(devices), **more)


def way_of(
    engine: FakeEngine, setting: Setting = "auto", hub: str = "lab",
    clock: Callable[[], float] = lambda: 0.0,
) -> GpuWay:  # fmt: skip
    numbers = itertools.count()
    return GpuWay(engine, setting, hub, lambda: f"{hub}-{next(numbers)}", clock)


@pytest.mark.parametrize(
    ("hook", "cdi", "setting", "way", "problem"),
    [
        (["GPU-1"], None, "auto", "request", ""),
        ([], None, "auto", "request", ""),  # the devices are the hook's own affair
        (None, None, "auto", "request", "the container engine finds no NVIDIA driver"),
        (None, NAMES, "auto", "cdi", ""),
        (["GPU-1"], NAMES, "auto", "cdi", ""),
        (["GPU-1"], frozenset(), "auto", "cdi", "the engine's CDI does not know GPU-1, GPU-2"),
        (["GPU-1"], frozenset(), "request", "request", ""),
        (["GPU-1"], None, "cdi", "cdi", "CDI is off in engine 20.10.24"),
    ],
)
async def test_the_way(
    hook: list[str] | None,
    cdi: frozenset[str] | None,
    setting: Setting,
    way: NvidiaWay,
    problem: str,
) -> None:
    engine = FakeEngine(hook)
    engine.cdi = cdi
    gpu_way = way_of(engine, setting)
    await gpu_way.learn(snapshot("GPU-1", "GPU-2"))
    assert (gpu_way.choice.way, gpu_way.choice.problem) == (way, problem)
    assert bool(gpu_way.choice.fix) == bool(problem)
    assert (engine.containers, engine.images) == ({}, {})


async def test_a_lost_card_does_not_shut_the_others() -> None:
    engine = FakeEngine()
    engine.cdi = NAMES
    lost = Device("unknown-0", "gpu", "", None, 2520, 0, healthy=False, problem="is lost")
    gpu_way = way_of(engine, "cdi")
    await gpu_way.learn(Snapshot(devices=(*snapshot("GPU-1", "GPU-2").devices, lost)))
    assert not gpu_way.choice.problem


async def test_it_asks_again_only_where_there_is_a_reason() -> None:
    engine = FakeEngine(["GPU-1"])
    now = 0.0
    gpu_way = way_of(engine, clock=lambda: now)

    async def asks(seen: Snapshot, *, again: bool = False) -> bool:
        before = len(engine.calls)
        await gpu_way.learn(seen, again=again)
        return len(engine.calls) > before

    assert await asks(snapshot("GPU-1"))
    assert not await asks(snapshot("GPU-1"))
    assert await asks(snapshot("GPU-1"), again=True)
    assert await asks(snapshot("GPU-1", "GPU-2"))
    assert not await asks(Snapshot(known=False), again=True)
    engine.devices = None  # the engine came back without its hook
    assert not await asks(snapshot("GPU-1", "GPU-2"))
    assert await asks(snapshot("GPU-1", "GPU-2"), again=True)
    assert gpu_way.choice.problem
    engine.devices = frozenset({"GPU-1", "GPU-2"})
    assert not await asks(snapshot("GPU-1", "GPU-2"))  # not each start of a busy morning
    now = HOLD_S
    assert await asks(snapshot("GPU-1", "GPU-2"))
    assert not gpu_way.choice.problem


@pytest.mark.parametrize(
    "seen", [Snapshot(), snapshot("0x1", kind="amd"), snapshot("GPU-1", simulated=True)]
)
async def test_without_devices_of_nvidia_nothing_is_made(seen: Snapshot) -> None:
    engine = FakeEngine()
    gpu_way = way_of(engine)
    await gpu_way.learn(seen)
    assert not gpu_way.choice.problem
    assert {call.method for call in engine.calls} == {"version", "info"}


async def test_an_engine_that_is_away_is_no_answer() -> None:
    engine = FakeEngine(["GPU-1"])
    gpu_way = way_of(engine)
    engine.unreachable = True
    with pytest.raises(EngineUnavailable):
        await gpu_way.learn(snapshot("GPU-1"))
    assert gpu_way.choice == NOT_ASKED


@pytest.mark.parametrize("method", ["build", "create_container"])
async def test_a_question_that_cannot_be_asked_shuts_the_devices(method: str) -> None:
    engine = FakeEngine(["GPU-1"])
    engine.fail_next(method, EngineRefused(500, "no space left on device"))
    gpu_way = way_of(engine)
    await gpu_way.learn(snapshot("GPU-1"))
    assert "no space left on device" in gpu_way.choice.problem
    await gpu_way.learn(snapshot("GPU-1"), again=True)
    assert not gpu_way.choice.problem
    assert (engine.containers, engine.images) == ({}, {})


async def test_what_a_killed_hub_left_of_its_question_is_removed_and_no_others() -> None:
    engine = FakeEngine(["GPU-1"])
    for hub in ("lab", "other"):
        engine.fail_next("start_container", EngineUnavailable("killed"))
        with pytest.raises(EngineUnavailable):
            await way_of(engine, hub=hub).learn(snapshot("GPU-1"))
    assert len(engine.containers) == len(engine.images) == 2
    numbers = itertools.count(10)
    await GpuWay(engine, "auto", "lab", lambda: f"lab-{next(numbers)}").learn(snapshot("GPU-1"))
    (left,) = engine.containers.values()
    assert left["Config"]["Labels"] == {"ds01.probe": "other"}
    assert [image["RepoTags"] for image in engine.images.values()] == [["ds01-probe:other-0"]]


async def test_those_who_ask_at_once_ask_one_after_the_other() -> None:
    engine = FakeEngine(["GPU-1"])
    gpu_way = way_of(engine)
    with_gate = engine.block("start_container")
    asking = [asyncio.ensure_future(gpu_way.learn(snapshot("GPU-1"))) for _ in range(5)]
    await engine.reached("start_container")
    with_gate.set()
    await asyncio.gather(*asking)
    assert len(engine.made("build")) == 1
    assert not gpu_way.choice.problem


@pytest.mark.parametrize("method", ["build", "create_container", "start_container"])
async def test_an_engine_that_is_too_slow_shuts_the_devices(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(injection, "TRIAL_S", 0.05)
    engine = FakeEngine(["GPU-1"])
    gate = engine.block(method)
    gpu_way = way_of(engine)
    asking = [gpu_way.learn(snapshot("GPU-1")) for _ in range(5)]
    await asyncio.wait_for(asyncio.gather(*asking), 10)
    assert "it said: nothing within 0.05 s" in gpu_way.choice.problem
    assert len(engine.made(method)) == 1  # one for all five
    gate.set()
    await gpu_way.learn(snapshot("GPU-1"), again=True)
    assert not gpu_way.choice.problem
    assert (engine.containers, engine.images) == ({}, {})


async def test_a_change_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine = FakeEngine()
    gpu_way = way_of(engine)
    for _ in range(3):
        await gpu_way.learn(snapshot("GPU-1"), again=True)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "nvidia-container-toolkit" in caplog.text
