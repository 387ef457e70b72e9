"""A GPU that goes while a server has it: told to its user and the admin, and given to nobody."""

from __future__ import annotations

import html
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from ds01_spawner.core.devices import Device, Snapshot, Usage
from ds01_spawner.core.losses import SURE_AFTER
from tests.hub.test_devices import AMD, CUDA, GPUS, NVIDIA, POLICY, ROCM, UUIDS, Fixed, Has, host
from tests.hub.test_hours import asked, token_of
from tests.hub.world import World

__all__ = ["GPUS", "POLICY", "host"]

GPU = {"user_options": {**CUDA, "gpus": 1, "gpu": "full"}}
CARD = replace(NVIDIA[0], uuid="GPU-h")
PART = replace(CARD, uuid="MIG-1", kind="mig", parent="GPU-h", units=360, profile="1g.10gb")
LOST = replace(NVIDIA[0], healthy=False, problem="GPU 0 (A100): GPU is lost")


class Changing:
    """A host whose devices change, and looks of the hub at it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def has(self, *devices: Device, known: bool = True) -> None:
        inventory = Fixed()
        usage = {device.uuid: Usage(0.0, 0, ()) for device in devices}
        inventory.seen = Snapshot(devices=devices, known=known, driver="570", usage=usage)
        self.world.runtime.inventory = inventory

    async def looks(self, *, sure: bool = True) -> None:
        await self.world.runtime.watch.look()
        if sure:
            self.world.passed += SURE_AFTER
            await self.world.runtime.watch.look()

    async def told(self, user: str) -> str:
        """What the user's page says of a GPU, and nothing else."""
        page = html.unescape((await (await self.world.browser(user)).get("home")).body.decode())
        return page.partition("cannot be relied on any more: ")[2].partition(" Work on it")[0]


@pytest.fixture
async def changing(world: World, host: Has) -> Changing:
    await host(*NVIDIA, PART, *AMD, hook=(*UUIDS, "MIG-1"))
    return Changing(world)


def events(world: World, user: str) -> list[str]:
    return [event for event in world.told(user) if event in ("gpu.lost", "gpu.regained")]


async def test_the_user_is_told_once_it_is_sure_and_the_server_goes_on(
    world: World, user: str, changing: Changing
) -> None:
    await world.start(user, GPU)
    assert await changing.told(user) == ""
    changing.has(LOST, NVIDIA[1])
    await changing.looks(sure=False)
    assert (await changing.told(user), events(world, user)) == ("", [])
    await changing.looks()
    await changing.looks()
    assert await changing.told(user) == "GPU 0 (A100): GPU is lost."
    assert events(world, user) == ["gpu.lost"]
    _, told = await asked(world, token_of(world, user), f"{user}/")
    assert "cannot be relied on any more: GPU 0 (A100): GPU is lost." in told["ending"]["message"]
    assert told["ending"]["keep_h"] is None
    assert await world.spawner(user).poll() is None
    assert await world.left_of(user) == ([f"ds01.{user}"], ["bound"])
    changing.has(*NVIDIA)
    await changing.looks()
    assert (await changing.told(user), events(world, user)) == ("", ["gpu.lost", "gpu.regained"])
    await world.stop(user)


@pytest.mark.parametrize(
    ("options", "had", "left"),
    [
        ({**CUDA, "gpus": 1, "gpu": "1g.10gb"}, PART.uuid, (*NVIDIA, CARD)),
        ({**ROCM, "gpus": 1}, AMD[0].uuid, NVIDIA),
    ],
    ids=["an instance", "one of AMD's"],
)
async def test_a_device_that_is_gone(
    world: World, user: str, changing: Changing,
    options: dict[str, object], had: str, left: tuple[Device, ...],
) -> None:  # fmt: skip
    await world.start(user, {"user_options": options}, "thesis")
    changing.has(*left)
    await changing.looks()
    assert await changing.told(user) == f"{had}: it is not there any more."
    line = (world.folder / "data" / "events.jsonl").read_text().splitlines()[-1]
    told = json.loads(line)["details"]
    assert (told["server"], told["devices"]) == ("thesis", [had])
    await world.stop(user, "thesis")
    assert await changing.told(user) == ""


async def test_a_device_that_goes_while_its_server_is_made(
    world: World, user: str, changing: Changing
) -> None:
    async with world.starting(user, GPU, at="put_archive") as gate:
        made = world.container(user)["Id"]
        changing.has(LOST, NVIDIA[1])
        gate.set()
        (*_, last) = await world.events(user)
    assert "it went away or out of order while your server was being made" in last["message"]
    assert made not in [call.args[0] for call in world.engine.made("start_container")]
    assert await world.left_of(user) == ([], [])


async def test_what_one_look_shows_or_nobody_knows_is_not_told(
    world: World, user: str, changing: Changing
) -> None:
    await world.start(user, GPU)
    for devices, known in (((NVIDIA[1],), True), (NVIDIA, True), ((), False)):
        changing.has(*devices, known=known)
        await changing.looks(sure=False)
        world.passed += SURE_AFTER
    changing.has(known=False)
    await changing.looks()
    assert (await changing.told(user), events(world, user)) == ("", [])
    changing.has(LOST, NVIDIA[1])
    await changing.looks()
    changing.has(known=False)
    await changing.looks()
    assert events(world, user) == ["gpu.lost"], "and what was told stays so while nobody knows"
    await world.stop(user)


async def test_it_is_given_to_nobody_until_it_is_well(
    world: World, user: str, other: str, changing: Changing
) -> None:
    await world.start(user, GPU)
    changing.has(LOST)
    await changing.looks()
    await world.stop(user)
    refused = await world.start(other, GPU)
    assert refused.code == 409, refused.body
    changing.has(NVIDIA[0])
    world.passed += timedelta(seconds=1)
    assert (await world.start(other, GPU)).code == 201
    await world.stop(other)


async def test_a_card_is_nobody_elses_while_somebody_has_an_instance_that_is_gone(
    world: World, user: str, other: str, changing: Changing
) -> None:
    instance = {"user_options": {**CUDA, "gpus": 1, "gpu": "1g.10gb"}}
    await world.start(user, instance)
    world.engine.devices = frozenset({"GPU-h"})
    changing.has(CARD)
    assert (await world.start(other, GPU)).code == 409
    await world.stop(user)
    assert (await world.start(other, GPU)).code == 201
    await world.stop(other)
