"""A start that is given up, wherever it is: nothing of it is left, and the next one works."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import pytest

from ds01_spawner.hub import containers
from tests.hub.clients import PATIENCE_S, server_path, until
from tests.hub.world import World

CALLS = [  # of a start that builds, in their order
    "free_disk",
    "list_containers",
    "inspect_image",
    "build",
    "tag_image",
    "create_container",
    "put_archive",
    "start_container",
    "inspect_container",
]


def options(user: str) -> dict[str, object]:
    return {"framework": "Pytorch", "pip": [f"only-{user}"], "gpus": 1, "gpu": "full"}


async def undoing(world: World, user: str) -> None:
    """Wait until the start of the user's server was cancelled."""
    await until(lambda: world.spawner(user)._undoing is not None)


@pytest.mark.parametrize("call", CALLS)
async def test_a_start_is_given_up_in_the_middle_of_a_call(
    world: World, user: str, call: str
) -> None:
    async with world.starting(user, options(user), at=call) as gate:
        stop = asyncio.ensure_future(world.api("DELETE", server_path(user)))
        await undoing(world, user)
        gate.set()
        assert (await asyncio.wait_for(stop, PATIENCE_S)).code == 204
    assert await world.left_of(user) == ([], [])
    assert (await world.model(user))["servers"] == {}
    assert (await world.start(user, options(user))).code == 201
    await world.stop(user)


async def test_a_start_is_given_up_while_the_server_does_not_answer(
    world: World, user: str
) -> None:
    world.engine.ready = lambda container: container["Config"]["Labels"]["ds01.user"] != user
    request = asyncio.ensure_future(world.start(user, options(user)))
    await until(lambda: any(c["State"]["Running"] for c in world.containers(user)))
    assert (await world.stop(user)).code == 204
    world.engine.ready = lambda container: True
    await asyncio.wait_for(request, PATIENCE_S)
    assert await world.left_of(user) == ([], [])


async def test_while_the_engine_hangs_the_server_is_still_stopping(world: World, user: str) -> None:
    async with world.starting(user, options(user), at="create_container") as gate:
        assert (await world.api("DELETE", server_path(user))).code == 202
        again = await world.api("POST", server_path(user), options(user))
        assert again.code == 400
        assert "pending stop" in json.loads(again.body)["message"]
        assert [lease.state for lease in await world.leases(user)] == ["releasing"]
        gate.set()
        await world.settled(user)
    assert await world.left_of(user) == ([], [])
    assert (await world.start(user, options(user))).code == 201
    await world.stop(user)


@pytest.mark.parametrize("call", ["create_container", "start_container", "inspect_container"])
async def test_a_start_that_its_cancel_did_not_reach_ends_before_its_stop(
    world: World, user: str, call: str
) -> None:
    """As where a library swallows the cancel: the hub stops what still starts."""
    async with world.starting(user, options(user), at=call) as gate:
        spawner = world.spawner(user)
        assert await spawner.poll() is None
        stop = asyncio.ensure_future(world.hub.users[user].stop())
        await until(lambda: spawner._undoing is not None)
        gate.set()
        await asyncio.wait_for(stop, PATIENCE_S)
        assert await world.left_of(user) == ([], [])
    assert (await world.model(user))["servers"] == {}
    assert (await world.start(user, options(user))).code == 201
    await world.stop(user)


async def test_a_start_that_swallows_every_cancel_is_ended_once_it_runs(
    world: World, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, going, goes_on = containers.http_answers, asyncio.Event(), asyncio.Event()

    async def deaf(address: str, port: int, path: str) -> bool:
        going.set()
        while not goes_on.is_set():
            with suppress(asyncio.CancelledError):
                await goes_on.wait()
        return await answers(address, port, path)

    monkeypatch.setattr(containers, "http_answers", deaf)
    request = asyncio.ensure_future(world.start(user, options(user)))
    await asyncio.wait_for(going.wait(), PATIENCE_S)
    stop = asyncio.ensure_future(world.hub.users[user].stop())
    asyncio.get_running_loop().call_later(0.1, goes_on.set)
    await asyncio.wait_for(stop, PATIENCE_S)
    assert await world.left_of(user) == ([], [])
    await asyncio.wait_for(request, PATIENCE_S)
    assert await world.left_of(user) == ([], [])


async def test_a_build_that_takes_too_long_ends_with_the_start(world: World, user: str) -> None:
    world.spawner(user).start_timeout = 1
    with world.blocked("step"):
        answer = await world.start(user, options(user))
        assert answer.code == 500
        await world.settled(user)
        assert await world.left_of(user) == ([], [])
    assert [image for image in world.engine.images.values() if user in str(image)] == []
    assert (await world.start(user, options(user))).code == 201
    await world.stop(user)


async def test_who_waits_for_the_same_build_goes_on(world: World, user: str, other: str) -> None:
    same = options(user)
    with world.blocked("step") as gate:
        first = asyncio.ensure_future(world.start(user, same))
        await world.engine.reached("build", len(world.engine.made("build")) + 1)
        builds = len(world.engine.made("build"))
        second = asyncio.ensure_future(world.start(other, same))
        (build,) = world.runtime.images._builder._shared._jobs.values()
        await until(lambda: len(build.listeners) == 2)
        await world.stop(user)
        gate.set()
        assert (await asyncio.wait_for(second, PATIENCE_S)).code == 201
        await asyncio.wait_for(first, PATIENCE_S)
    assert len(world.engine.made("build")) == builds
    assert await world.left_of(user) == ([], [])
    await world.stop(other)
