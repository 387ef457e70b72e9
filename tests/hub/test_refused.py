"""Starts that are refused: before anything is touched, in words, and not as failures."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ds01_spawner.services.ledger import Ledger
from tests.hub.clients import server_path
from tests.hub.world import World

GPUS = "simulated:2xA100-40GB,1xH100-80GB:mig=7x1g.10gb"
POLICY = """\
defaults: {max_containers_per_user: 2, allow_full_gpu: true, max_gpu_equivalents: 1, memory: 8G}
groups:
  slices: {allow_full_gpu: false, members: [slicer]}
  many: {max_gpu_equivalents: 4, max_containers_per_user: 9, members: [taker, wanter]}
"""
A100 = {"framework": "Pytorch", "architecture": "CUDA_AMPERE", "gpus": 1, "gpu": "full"}


def words(answer: Any) -> str:
    return str(json.loads(answer.body)["message"])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"image": "evil"}, "'image': is not an option. Allowed: preset, framework,"),
        ({"environment": 5}, "'environment': is not an option."),
        ({"framework": "Pytorhc"}, "'Pytorhc' is not in the catalog. Allowed: Pytorch, Tensorflow"),
        ({"framework": "Pytorch", "version": "9"}, "Allowed: latest, 2.8.0, 2.7.1."),
        ({"framework": "Pytorch", "version": "2.5.1"}, "is not offered here."),
        ({"framework": 5}, "'5' is not in the catalog."),
        ({"gpus": "1"}, "is not a number of GPUs."),
        ({"gpus": True}, "is not a number of GPUs."),
        ({"gpus": -1}, "is not a number of GPUs."),
        ({"gpu": "full"}, "is only for a server with at least one GPU."),
        ({"gpus": 1, "gpu": "9g.90gb"}, "Allowed: any, full, 1g.10gb."),
        ({"memory": "9G"}, "is more than you may have. Allowed: at most 8 GiB."),
        ({"memory": 5}, "is not a size."),
        ({"cpus": 1e999}, "is not a number"),
        ({"hours": "4"}, "is not a number"),
        ({"pip": "pandas"}, "is not a list of names."),
        ({"pip": ["--index-url=http://x"]}, "pip:"),
        ({"pip": ["a\nRUN evil"]}, "pip:"),
        ({"apt": ["$(evil)"]}, "apt:"),
        ({"bundles": ["x"]}, "'x' is not a bundle."),
        ({"project": "../x"}, "is not a project name."),
        ({"preset": "x"}, "'x' is not offered to you."),
        ({"v": 2}, "'2' is not known. Allowed: 1."),
        ({"a": {"b": [{}]}, "framework": [], "gpus": {}}, "'a': is not an option."),
    ],
)
async def test_refused_options_name_what_is_allowed(
    world: World, user: str, options: dict[str, Any], problem: str
) -> None:
    before = len(world.engine.calls)
    answer = await world.start(user, {"user_options": options})
    assert answer.code == 400
    assert problem in words(answer)
    assert words(answer).startswith("These choices cannot be used:")
    assert world.touched(before) == []
    assert await world.left_of(user) == ([], [])
    assert (await world.start(user, {"user_options": {}})).code == 201
    await world.stop(user)


async def test_a_body_that_is_no_object_is_refused(world: World, user: str) -> None:
    answer = await world.start(user, ["a", "list"])
    assert answer.code == 400
    assert "object" in words(answer)
    assert (await world.browser(user)) is not None
    assert (await world.start(user, {"user_options": {}})).code == 201
    await world.stop(user)


async def test_a_refusal_is_not_a_failure(world: World, user: str, hub_major: int) -> None:
    """JupyterHub 5 counts it as one, so there `configure` takes the limit away."""
    await world.start(user, {"user_options": {}})  # which sets the count to 0
    await world.stop(user)
    assert (await world.start(user, {"image": "evil"})).code == 400
    assert (await world.start(user, {"gpus": 9})).code == 400
    counted = world.hub.tornado_application.settings["failure_count"]
    assert counted == (0 if hub_major >= 6 else 2)
    assert world.spawner(user).consecutive_failure_limit == 0
    await world.start(user, {"user_options": {}})
    await world.stop(user)


async def test_too_many_servers(world: World, user: str) -> None:
    await world.start(user, {"user_options": {}}, "a")
    await world.start(user, {"user_options": {}}, "b")
    before = len(world.engine.calls)
    answer = await world.start(user, {"pip": ["new"]}, "c")
    assert answer.code == 409
    assert words(answer).startswith("You have 2 of 2 servers that you may have at once. Stop one")
    assert world.touched(before) == []
    await world.stop(user, "a")
    assert (await world.start(user, {"user_options": {}}, "c")).code == 201
    await world.stop(user, "b")
    await world.stop(user, "c")


async def test_more_gpus_than_the_users_share(world: World, user: str) -> None:
    assert (await world.start(user, A100, "a")).code == 201
    before = len(world.engine.calls)
    answer = await world.start(user, {**A100, "pip": ["new"]}, "b")
    assert answer.code == 409
    assert "hold 1 of the 1 GPUs" in words(answer)
    assert world.touched(before) == []
    await world.stop(user, "a")
    assert (await world.start(user, A100, "b")).code == 201
    await world.stop(user, "b")


async def test_no_device_is_free(world: World) -> None:
    for name in ("taker", "wanter"):
        await world.api("POST", f"users/{name}")
    for server in ("a", "b"):
        assert (await world.start("taker", A100, server)).code == 201
    before = len(world.engine.calls)
    answer = await world.start("wanter", {**A100, "pip": ["new"]})
    assert answer.code == 409
    assert "You asked for 1 GPU, and 0 of the 2 that would do are free." in words(answer)
    assert world.touched(before) == []  # nobody waits through a build to hear this
    await world.stop("taker", "a")
    assert (await world.start("wanter", A100)).code == 201
    await world.stop("taker", "b")
    await world.stop("wanter")


async def test_slices_only(world: World) -> None:
    await world.api("POST", "users/slicer")
    answer = await world.start("slicer", A100)
    assert answer.code == 400
    assert "Allowed: any, 1g.10gb." in words(answer)
    slice_ = {"framework": "Pytorch", "architecture": "CUDA_ADA", "gpus": 1, "gpu": "1g.10gb"}
    assert (await world.start("slicer", slice_)).code == 201
    (lease,) = await world.leases("slicer")
    assert lease.devices[0].startswith("MIG-")
    await world.stop("slicer")


async def test_the_disk_is_nearly_full(world: World, user: str) -> None:
    world.engine.disk_free = 5 << 30
    try:
        answer = await world.start(user, {"pip": ["new"]})
    finally:
        world.engine.disk_free = None
    assert answer.code == 503
    assert "5 GiB are free, and no new server starts below 10 GiB" in words(answer)


async def test_twenty_at_once_for_two_devices(world: World) -> None:
    """Whoever comes first gets one; the others hear at once that there is none."""
    names = [f"racer{number}" for number in range(20)]
    for name in names:
        await world.api("POST", f"users/{name}")
    answers = await asyncio.gather(*(world.start(name, A100) for name in names))
    assert sorted(a.code for a in answers) == [201] * 2 + [409] * 18
    given = [lease.devices for name in names for lease in await world.leases(name)]
    assert len(given) == len(set(given)) == 2
    for name, answer in zip(names, answers, strict=True):
        if answer.code == 201:
            await world.stop(name)


async def test_a_start_that_is_under_way_is_not_started_again(world: World, user: str) -> None:
    async with world.starting(user, {"pip": ["slow"]}, at="build") as gate:
        assert (await world.api("POST", server_path(user), {})).code in (202, 400)
        gate.set()
    assert len(world.containers(user)) == 1
    await world.stop(user)


async def test_a_drained_host_says_so_on_the_form_and_starts_nothing(
    world: World, user: str
) -> None:
    runtime = world.runtime
    await runtime.in_ledger(Ledger.drain, "new disks until <noon>")
    try:
        page = (await (await world.browser(user)).get("spawn")).body.decode()
        assert "No new servers start here at the moment: new disks until &lt;noon&gt;." in page
        answer = await world.start(user, {"user_options": {}})
        assert answer.code == 409
        assert words(answer).startswith("No new servers start here at the moment: new disks")
    finally:
        await runtime.in_ledger(Ledger.resume)
    assert (await world.start(user, {"user_options": {}})).code == 201
    await world.stop(user)


async def test_a_device_that_is_set_aside_is_not_free(world: World, user: str) -> None:
    runtime = world.runtime
    devices = (await runtime.inventory.snapshot()).devices
    whole = [device.uuid for device in devices if device.whole]
    (card,) = {device.parent for device in devices if device.parent}
    for uuid in (*whole, card):
        await runtime.in_ledger(Ledger.cordon, uuid, "a fan rattles")
    page = (await (await world.browser(user)).get("spawn")).body.decode()
    assert "0 of 9" in page
    assert "set aside by the administrator" in page
    answer = await world.start(user, A100)
    assert answer.code == 409
    assert "0 of the 2 that would do are free" in words(answer)
    for uuid in (*whole, card):
        await runtime.in_ledger(Ledger.uncordon, uuid)
