"""How devices get into a server: by what the engine offers, and refused where it offers nothing."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest

from ds01_spawner.core.devices import Device, Process, Snapshot, Usage
from ds01_spawner.hub.rendering import render
from ds01_spawner.services import injection, wiring
from ds01_spawner.services.inventory.base import NoDevices
from ds01_spawner.services.occupants import Occupant, Processes
from tests.hub.test_rendering import config
from tests.hub.world import World

__all__ = ["config"]

GPUS = "none"  # for the configuration; the tests bring their own, which are not simulated
POLICY = """\
sharing: {seats: 8}
defaults: {max_gpu_slots_per_container: 2, allow_full_gpu: true, max_gpu_equivalents: 4}
"""
UUIDS = ("GPU-1", "GPU-2")
NVIDIA = tuple(Device(u, "gpu", "A100", "CUDA_AMPERE", 2520, 40 << 30) for u in UUIDS)
AMD = tuple(
    Device(
        f"0x{number}", "amd", "MI210", "ROCM6", 2520, 64 << 30, index=number,
        nodes=("/dev/kfd", f"/dev/dri/renderD{128 + number}"), groups=(44, 109),
    )
    for number in range(2)
)  # fmt: skip
CUDA = {"framework": "Pytorch", "architecture": "CUDA_AMPERE"}
ROCM = {"framework": "Pytorch", "architecture": "ROCM6"}

Has = Callable[..., Any]


class Fixed(NoDevices):
    """An inventory of these devices, which nobody uses."""

    def __init__(self, *devices: Device) -> None:
        usage = {device.uuid: Usage(0.0, 0, ()) for device in devices}
        self.seen = Snapshot(devices=devices, usage=usage)

    async def snapshot(self, *, fresh: bool = False) -> Snapshot:
        return self.seen


@pytest.fixture
async def host(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Has]:
    """Gives the host these devices and the engine these ways."""

    async def has(
        *devices: Device, hook: tuple[str, ...] | None = None, cdi: tuple[str, ...] | None = None
    ) -> None:
        world.engine.devices = None if hook is None else frozenset(hook)
        names = None if cdi is None else frozenset(f"nvidia.com/gpu={uuid}" for uuid in cdi)
        world.engine.cdi = names
        inventory = Fixed(*devices)
        world.runtime.inventory = inventory
        monkeypatch.setattr(wiring, "inventory", lambda *_: inventory)
        await world.runtime._learn_host(again=True)

    yield has
    await has()


async def body_of(world: World, user: str, options: dict[str, Any]) -> dict[str, Any]:
    answer = await world.start(user, {"user_options": options})
    assert answer.code == 201, answer.body
    body = world.created(user)
    await world.stop(user)
    return body


def told(body: dict[str, Any]) -> dict[str, Any]:
    """What of a create body is about devices, and all that the engine does for it."""
    return {"HostConfig": body["HostConfig"], "Env": gpu_variables(body)}


def gpu_variables(body: dict[str, Any]) -> list[str]:
    return [pair for pair in body["Env"] if re.match("(NVIDIA|AMD|ROCR|HIP|GPU|CUDA)_", pair)]


@pytest.mark.parametrize(
    ("ways", "driver"),
    [
        ({"hook": UUIDS}, "nvidia"),
        ({"cdi": UUIDS}, "cdi"),
        ({"hook": UUIDS, "cdi": UUIDS}, "cdi"),
    ],
)
async def test_nvidias_go_the_engines_way_and_render_shows_it(
    world: World, user: str, host: Has, config: Any, ways: dict[str, Any], driver: str
) -> None:
    await host(*NVIDIA, **ways)
    options = {**CUDA, "gpus": 2}
    shown = await render(config, user, (), options)
    real = await body_of(world, user, options)
    (request,) = real["HostConfig"]["DeviceRequests"]
    assert request["Driver"] == driver
    text = json.dumps(told(shown["container"]))
    for _ in range(2):  # the request's, then the environment's
        for uuid in UUIDS:
            text = text.replace("<device>", uuid, 1)
    assert json.loads(text) == told(real)


async def test_amds_go_as_their_own_files_and_render_shows_it(
    world: World, user: str, host: Has, config: Any
) -> None:
    await host(*AMD, *NVIDIA, hook=UUIDS)
    for gpus in (1, 2):
        options = {**ROCM, "gpus": gpus}
        shown = await render(config, user, (), options)
        real = await body_of(world, user, options)
        files = [device["PathOnHost"] for device in real["HostConfig"]["Devices"]]
        assert files == ["/dev/kfd", "/dev/dri/renderD128", "/dev/dri/renderD129"][: gpus + 1]
        assert "DeviceRequests" not in real["HostConfig"]
        text = json.dumps(told(shown["container"]))
        for placeholder, file in zip(("<device>", "<device 2>"), files[1:], strict=False):
            text = text.replace(placeholder, file)
        assert json.loads(text) == told(real)


async def test_with_no_way_devices_are_not_given_out_and_servers_without_one_go_on(
    world: World, user: str, host: Has
) -> None:
    await host(*NVIDIA)
    before = len(world.engine.calls)
    answer = await world.start(user, {"user_options": {**CUDA, "gpus": 1}})
    assert answer.code == 400
    assert b"no GPU can be given out at the moment" in answer.body
    assert b"ds01-spawner doctor" in answer.body
    assert world.touched(before) == []
    page = await (await world.browser(user)).get("spawn")
    assert b"No GPU can be given out at the moment" in page.body
    body = await body_of(world, user, {**CUDA, "gpus": 0})
    assert "DeviceRequests" not in body["HostConfig"]
    await host(*NVIDIA, *AMD)
    body = await body_of(world, user, {**ROCM, "gpus": 1})  # whose way needs nothing of the engine
    assert body["HostConfig"]["Devices"]


async def test_a_server_without_gpu_does_not_wait_for_the_engines_answer(
    world: World, user: str, host: Has, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host(*NVIDIA)
    monkeypatch.setattr(injection, "HOLD_S", 0.0)
    world.engine.devices = frozenset(UUIDS)
    gate = world.engine.block("build")
    asks = asyncio.ensure_future(world.runtime.gpu_way.learn(Snapshot(devices=NVIDIA)))
    await world.engine.reached("build")
    assert await asyncio.wait_for(body_of(world, user, {**CUDA, "gpus": 0}), 20)
    assert not asks.done()
    gate.set()
    await asks
    assert await body_of(world, user, {**CUDA, "gpus": 1})


async def test_a_start_with_a_gpu_asks_for_the_way_of_devices_that_are_new(
    world: World, user: str, host: Has
) -> None:
    await host(NVIDIA[0], hook=UUIDS)
    world.engine.devices = None
    world.runtime.inventory = Fixed(*NVIDIA)
    answer = await world.start(user, {"user_options": {**CUDA, "gpus": 1}})
    assert b"no GPU can be given out at the moment" in answer.body
    assert await world.left_of(user) == ([], [])


async def test_a_way_that_comes_back_opens_the_devices_again(
    world: World, user: str, host: Has, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host(*NVIDIA)
    monkeypatch.setattr(injection, "HOLD_S", 0.0)
    world.engine.devices = frozenset(UUIDS)
    await world.runtime._measure()  # what each reconciliation ends with
    assert await body_of(world, user, {**CUDA, "gpus": 1})


async def test_a_runtime_that_refuses_the_device_is_a_sentence(
    world: World, user: str, host: Has
) -> None:
    await host(*NVIDIA, hook=())
    answer = await world.start(user, {"user_options": {**CUDA, "gpus": 1}})
    assert answer.code == 503
    assert b"it is not there any more" in answer.body
    assert await world.left_of(user) == ([], [])


async def test_of_a_shared_gpu_who_computes_there_is_in_use(
    world: World, user: str, other: str, host: Has, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host(NVIDIA[0], hook=UUIDS)
    options = {"user_options": {**CUDA, "gpus": 1, "gpu": "shared"}}
    for name in (user, other):
        assert (await world.start(name, options)).code == 201
    (busy,), (idle,) = [await world.leases(name) for name in (user, other)]
    assert busy.devices == idle.devices == ("GPU-1",)

    class OneProcess(Processes):
        async def look(self, pids: Iterable[int]) -> dict[int, Occupant]:
            return {pid: Occupant(busy.container or "") for pid in pids}

    monkeypatch.setattr(world.runtime.watch, "_processes", OneProcess())
    usage = {"GPU-1": Usage(0.9, processes=(Process(4711),))}
    now = world.now()
    world.runtime.inventory = Fixed(NVIDIA[0])
    world.runtime.inventory.seen = Snapshot(devices=NVIDIA[:1], usage=usage)
    await world.runtime.watch.look()
    (busy,), (idle,) = [await world.leases(name) for name in (user, other)]
    assert busy.use.busy >= now > idle.use.busy
    for name in (user, other):
        await world.stop(name)
