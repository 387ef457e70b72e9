"""Several users on one GPU: by the form, by a preset and by REST, and refused where it is full."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.hub.clients import Form, until
from tests.hub.conftest import new_user
from tests.hub.test_rendering import check_equal, config
from tests.hub.world import World

__all__ = ["config"]

GPUS = "simulated:2xA100-40GB"
POLICY = """\
sharing: {seats: 2, max_devices: 1}
defaults: {max_gpu_equivalents: 1}
presets:
  course: {title: The course, framework: Pytorch, gpus: 1, gpu: shared}
"""
SEAT = {"user_options": {"gpus": 1, "gpu": "shared"}}


@pytest.mark.parametrize("options", [SEAT["user_options"], {"preset": "course"}])
async def test_what_render_shows_of_a_seat_is_sent(
    world: World, user: str, config: Any, options: dict[str, Any]
) -> None:
    await check_equal(world, user, config, options)


async def test_two_sit_on_one_gpu_and_the_third_is_told(
    world: World, user: str, other: str
) -> None:
    assert (await world.start(user, SEAT)).code == 201
    assert (await world.start(other, {"user_options": {"preset": "course"}})).code == 201
    (first,), (second,) = [await world.leases(name) for name in (user, other)]
    assert first.devices == second.devices
    assert [(x.seat, x.seats, x.units) for x in (first, second)] == [(0, 2, 1260), (1, 2, 1260)]
    labels = world.created(other)["Labels"]
    assert (labels["ds01.gpu.seat"], labels["ds01.units"]) == ("2/2", "1260")
    assert "DS01_GPU_MEMORY_FRACTION=0.5000" in world.created(other)["Env"]

    third = await new_user(world)
    page = (await (await world.browser(third)).get("spawn")).body.decode()
    assert "1 of 2 seats on NVIDIA A100-SXM4-40GB: 0 free" in page
    assert "1 of 2 free" in page  # the other GPU is for who wants one alone
    refused = await world.start(third, SEAT)
    assert refused.code == 409
    assert "No seat on a shared GPU is free" in json.loads(refused.body)["message"]
    assert (await world.start(third, {"user_options": {"gpus": 1, "gpu": "full"}})).code == 201
    (alone,) = await world.leases(third)
    assert alone.devices != first.devices
    await world.stop(user)
    page = (await (await world.browser(user)).get("spawn")).body.decode()
    assert "1 of 2 seats on NVIDIA A100-SXM4-40GB: 1 free" in page
    for name in (other, third):
        await world.stop(name)


async def test_a_seat_can_be_waited_for(world: World, user: str, other: str) -> None:
    for name in (user, other):
        assert (await world.start(name, SEAT)).code == 201
    third, late = await new_user(world), await new_user(world)
    browser = await world.browser(third)
    form = Form(await browser.get("spawn"))
    assert "you can wait in line for one" in form.page
    fields = {**form.fields, "gpus": ["1:shared"], "line": ["wait"]}
    told = (await browser.post("spawn", fields)).body.decode()
    assert "number 1 of 1 in the line" in told
    assert "At the latest about" in told
    await world.stop(user)
    await until(lambda: "queue.offer" in world.told(third))
    page = (await (await world.browser(late)).get("spawn")).body.decode()
    assert "1 of 2 seats on NVIDIA A100-SXM4-40GB: 0 free" in page  # the seat is kept for third
    assert (await world.start(late, SEAT)).code == 409
    assert (await browser.post("spawn", {"line": ["start"]})).code == 302
    await world.settled(third)
    (lease,) = await world.leases(third)
    assert (lease.state, lease.seat, lease.seats) == ("bound", 0, 2)
    for name in (other, third):
        await world.stop(name)
