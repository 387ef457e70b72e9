"""Faults that the driver reports: of cards, beyond the hub's process, and of users' programs."""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from traitlets.config import Config

from ds01_spawner.core.devices import Device, Snapshot, Usage, Xid
from ds01_spawner.services import wiring
from ds01_spawner.services.inventory.base import boot_id
from ds01_spawner.services.ledger import Ledger
from tests.hub.clients import until
from tests.hub.test_devices import CUDA, GPUS, NVIDIA, POLICY, UUIDS, Fixed, Has, host
from tests.hub.world import World

__all__ = ["GPUS", "POLICY", "host"]

GPU = {"user_options": {**CUDA, "gpus": 1, "gpu": "full"}}
CPU = {"user_options": {**CUDA, "gpus": 0}}


def configure(c: Config) -> None:
    c.DS01Spawner.gpu_faults = 2


class Reporting(Fixed):
    """Devices whose driver reports XIDs, and what it is told of earlier ones."""

    def __init__(self, *devices: Device) -> None:
        super().__init__(*devices)
        self.seen = replace(self.seen, driver="570", epoch="one")
        self.remembered: list[Xid] = []
        self.forgiven: list[str] = []

    def says(self, **more: Any) -> None:
        self.seen = replace(self.seen, **more)

    def remember(self, struck: Iterable[Xid]) -> None:
        self.remembered += struck
        self.says(struck=tuple(self.remembered))

    def forgive(self, devices: Iterable[str]) -> None:
        self.forgiven += devices
        self.says(struck=tuple(x for x in self.seen.struck if x.device not in self.forgiven))


@pytest.fixture
async def driver(world: World, host: Has) -> Reporting:
    await host(*NVIDIA, hook=UUIDS)
    world.runtime.inventory = reporting = Reporting(*NVIDIA)
    return reporting


def lines(world: World, event: str) -> list[dict[str, Any]]:
    """The details of the events of a type, with their users."""
    found = map(json.loads, (world.folder / "data" / "events.jsonl").read_text().splitlines())
    return [{"user": e.get("user"), **e["details"]} for e in found if e["event_type"] == event]


async def test_whose_programs_fault_often_waits_for_a_gpu(
    world: World, user: str, other: str, driver: Reporting
) -> None:
    await world.start(user, GPU)
    (lease,) = await world.leases(user)
    faults = []
    for _ in range(3):
        world.passed += timedelta(minutes=2)
        faults.append(Xid(lease.devices[0], 31, world.now()))
        driver.says(faults=tuple(faults))
        await world.runtime.watch.look()
        await world.runtime.watch.look()
    assert [line["user"] for line in lines(world, "gpu.fault")] == [user] * 3
    browser = await world.browser(user)
    page = html.unescape((await browser.get(f"spawn/{user}/two")).body.decode())
    told = "made 3 faults on a GPU within 1 h"
    assert told in page
    refused = await world.start(user, GPU, "two")
    assert refused.code == 409
    assert told in refused.body.decode()
    assert (await world.start(user, CPU, "two")).code == 201
    assert (await world.start(other, GPU)).code == 201
    assert await world.spawner(user).poll() is None
    await world.runtime.in_ledger(Ledger.forgive, world.runtime.settings.hub_id, user)
    assert told not in html.unescape((await browser.get("spawn")).body.decode())
    await world.stop(user, "two")
    await world.stop(other)
    assert (await world.start(user, GPU, "two")).code == 201
    await world.stop(user)
    await world.stop(user, "two")


async def test_of_a_shared_gpu_nobody_answers_and_that_is_told(
    world: World, user: str, other: str, driver: Reporting
) -> None:
    shared = {"user_options": {**CUDA, "gpus": 1, "gpu": "shared"}}
    for name in (user, other):
        assert (await world.start(name, shared)).code == 201
    (lease,) = await world.leases(user)
    driver.says(faults=(Xid(lease.devices[0], 13, world.now()),))
    await world.runtime.watch.look()
    last = lines(world, "gpu.fault")[-1]
    assert (last["user"], last["xid"]) == (None, 13)
    assert "several servers held it" in last["why"]
    for name in (user, other):
        await world.stop(name)


async def test_a_card_that_an_xid_put_out_of_use_stays_so_for_the_next_hub(
    world: World, user: str, driver: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    struck = Xid("GPU-1", 48, world.now())
    driver.says(struck=(struck,))
    await asyncio.gather(*(world.runtime.watch.look() for _ in range(3)))
    assert [line["device"] for line in lines(world, "gpu.cordon")] == ["GPU-1"]
    driver.says(struck=())  # as of a process that has just begun
    restarted, changes = Reporting(*NVIDIA), list[Callable[[], None]]()

    def inventory(_settings: object, on_change: Callable[[], None]) -> Reporting:
        changes.append(on_change)
        return restarted

    monkeypatch.setattr(wiring, "inventory", inventory)
    await world.end()
    await world.begin()
    await world.runtime.ready()
    assert restarted.remembered == [struck]
    await world.start(user, GPU)
    assert [lease.devices for lease in await world.leases(user)] == [("GPU-2",)]
    await world.stop(user)
    # The admin lifts one, which the inventory is told; the other is well again.
    restarted.says(struck=(struck, Xid("GPU-2", 79, world.now())))
    await world.runtime.watch.look()
    await world.runtime.in_ledger(Ledger.uncordon, "GPU-1")
    restarted.says(struck=(struck,))
    changes[-1]()
    await until(lambda: restarted.forgiven == ["GPU-1"])
    await until(lambda: len(lines(world, "gpu.uncordon")) == 2)
    told = {line["device"]: line["why"] for line in lines(world, "gpu.uncordon")}
    assert told == {"GPU-1": "an administrator lifted it", "GPU-2": "it is well again"}
    assert await world.runtime.in_ledger(Ledger.cordons) == ()
    assert await world.runtime.in_ledger(Ledger.remembered, boot_id()) == ()


async def test_other_devices_are_told_once(world: World, driver: Reporting) -> None:
    await world.runtime.watch.look()
    before = len(lines(world, "gpu.inventory"))
    driver.says(devices=NVIDIA[:1], epoch="two", usage={"GPU-1": Usage(0.0, 0, ())})
    await world.runtime.watch.look()
    await world.runtime.watch.look()
    world.runtime.inventory = Reporting()
    world.runtime.inventory.seen = Snapshot(known=False)
    await world.runtime.watch.look()
    (line,) = lines(world, "gpu.inventory")[before:]
    assert (line["devices"], line["epoch"]) == (["GPU-1"], "two")
