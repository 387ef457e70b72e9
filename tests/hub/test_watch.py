"""Servers that run: what the hub hears of them, and how they end."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest

from ds01_spawner.errors import EngineUnavailable
from ds01_spawner.services.engine import EngineRefused, Json, Labels
from tests.hub.clients import until
from tests.hub.world import World

ANY = {"user_options": {}}
GPU = {"framework": "Pytorch", "architecture": "CUDA_AMPERE", "gpus": 1, "gpu": "full"}


async def gone(world: World, user: str) -> None:
    """Wait until neither the hub nor the engine nor the ledger has the server."""
    await until(lambda: not world.spawner(user).active and not world.containers(user))
    while await world.leases(user):
        await world.runtime.reconciler.run()


# --- poll --------------------------------------------------------------------------------------


async def test_poll_of_a_server_that_runs(world: World, user: str) -> None:
    await world.start(user, ANY)
    assert await world.spawner(user).poll() is None
    await world.stop(user)
    assert await world.spawner(user).poll() == 0


@pytest.mark.parametrize(("code", "oom"), [(0, False), (3, False), (137, True)])
async def test_poll_of_a_server_that_ended(world: World, user: str, code: int, oom: bool) -> None:
    await world.start(user, ANY)
    spawner = world.spawner(user)
    with world.blocked("list_containers"):  # so that reconcile does not remove it meanwhile
        world.engine.exit(f"ds01.{user}", code, oom=oom)
        assert await spawner.poll() == code
    await gone(world, user)


async def test_poll_of_a_server_whose_container_is_gone(world: World, user: str) -> None:
    await world.start(user, ANY)
    spawner = world.spawner(user)
    with world.blocked("list_containers"):
        await world.engine.remove_container(world.container(user)["Id"], force=True)
        assert await spawner.poll() == 0
    await gone(world, user)


@pytest.mark.parametrize(
    "error", [EngineUnavailable("x"), EngineRefused(500, "x"), RuntimeError("x")], ids=repr
)
async def test_poll_calls_unknown_never_gone(world: World, user: str, error: Exception) -> None:
    await world.start(user, ANY)
    world.engine.fail_next("inspect_container", error)
    assert await world.spawner(user).poll() is None
    assert await world.left_of(user) == ([f"ds01.{user}"], ["bound"])
    await world.stop(user)


async def test_an_engine_that_is_away_ends_no_server(world: World, user: str) -> None:
    await world.start(user, GPU)
    spawner = world.spawner(user)
    with world.away():
        assert await spawner.poll_and_notify() is None
        with pytest.raises(EngineUnavailable):
            await world.runtime.reconciler.run()
    assert spawner.ready
    assert await world.left_of(user) == ([f"ds01.{user}"], ["bound"])
    await world.stop(user)


# --- servers that end by themselves ------------------------------------------------------------


@pytest.mark.parametrize(("code", "oom"), [(1, False), (137, True)])
async def test_the_hub_notices_at_once_that_a_server_died(
    world: World, user: str, code: int, oom: bool
) -> None:
    """By the engine's events: nobody polls here."""
    await world.start(user, GPU)
    world.engine.exit(f"ds01.{user}", code, oom=oom)
    await gone(world, user)
    assert (await world.model(user))["servers"] == {}
    assert world.told(user)[-2:] == ["container.remove", "gpu.release"]
    assert (await world.start(user, GPU)).code == 201
    await world.stop(user)


async def test_the_hub_notices_it_though_the_engines_list_is_behind_its_events(
    world: World, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real engine tells of an end first, and cleans up before its list has it."""
    await world.start(user, GPU)
    listed, behind = world.engine.list_containers, asyncio.Event()

    async def list_containers(labels: Labels, all: bool = True) -> list[Json]:
        found = await listed(labels, all)
        if behind.is_set():
            return found
        behind.set()
        return [{**container, "State": "running"} for container in found]

    async with world.undisturbed():
        monkeypatch.setattr(world.engine, "list_containers", list_containers)
        world.engine.exit(f"ds01.{user}", 1)
    began = time.monotonic()
    await until(lambda: "gpu.release" in world.told(user))
    assert time.monotonic() - began < world.runtime.settings.reconcile_interval / 2
    await gone(world, user)


async def test_a_server_that_died_while_events_were_lost(world: World, user: str) -> None:
    await world.start(user, GPU)
    world.engine.lose_events()
    world.engine.exit(f"ds01.{user}", 1)
    world.runtime.reconcile_soon()  # as the timer does
    await gone(world, user)


async def test_a_server_that_was_removed_by_hand(world: World, user: str) -> None:
    await world.start(user, GPU)
    await world.engine.remove_container(world.container(user)["Id"], force=True)
    await gone(world, user)
    assert (await world.model(user))["servers"] == {}


async def test_another_users_server_lives_on(world: World, user: str, other: str) -> None:
    await world.start(user, GPU)
    await world.start(other, GPU)
    world.engine.exit(f"ds01.{user}", 1)
    await gone(world, user)
    assert world.spawner(other).ready
    assert await world.left_of(other) == ([f"ds01.{other}"], ["bound"])
    await world.stop(other)


# --- stop --------------------------------------------------------------------------------------


async def test_a_stop_while_the_engine_is_away_keeps_the_lease(world: World, user: str) -> None:
    await world.start(user, GPU)
    with world.away():
        with pytest.raises(EngineUnavailable):
            await world.spawner(user).stop()
        assert [lease.state for lease in await world.leases(user)] == ["releasing"]
    assert len(world.containers(user)) == 1
    world.passed += timedelta(minutes=2)
    await world.runtime.reconciler.run()
    await gone(world, user)


async def test_after_such_a_stop_the_user_can_start_at_once(world: World, user: str) -> None:
    await world.start(user, GPU)
    with world.away():
        await world.stop(user)
    assert (await world.start(user, GPU)).code == 201
    assert len(world.containers(user)) == len(await world.leases(user)) == 1
    await world.stop(user)


@pytest.mark.parametrize("error", [EngineUnavailable("x"), EngineRefused(500, "x")], ids=repr)
@pytest.mark.parametrize("call", ["stop_container", "remove_container", "inspect_container"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_stop_whose_call_fails_once_leaves_nothing_in_the_end(
    world: World, user: str, call: str, error: Exception, after: bool
) -> None:
    await world.start(user, GPU)
    world.engine.fail_next(call, error, after=after)
    await world.stop(user)
    world.passed += timedelta(minutes=2)
    await world.runtime.reconciler.run()
    await gone(world, user)
    assert (await world.model(user))["servers"] == {}
    assert (await world.start(user, GPU)).code == 201
    await world.stop(user)


async def test_a_stop_waits_until_the_container_is_gone(world: World, user: str) -> None:
    await world.start(user, GPU)
    with world.blocked("removal") as gate:
        answer = await world.api("DELETE", f"users/{user}/server")
        assert answer.code == 202  # after the second that the hub waits here
        assert [lease.state for lease in await world.leases(user)] == ["releasing"]
        gate.set()
        await world.settled(user)
    assert await world.left_of(user) == ([], [])


async def test_a_cancelled_stop_goes_on(world: World, user: str) -> None:
    await world.start(user, GPU)
    with world.blocked("stop_container") as gate:
        stop = asyncio.ensure_future(world.spawner(user).stop())
        await world.engine.reached("stop_container", len(world.engine.made("stop_container")) + 1)
        stop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stop
        gate.set()
    await until(lambda: not world.containers(user))
    await world.stop(user)
    assert await world.left_of(user) == ([], [])


async def test_a_stop_now_does_not_wait_for_the_server(world: World, user: str) -> None:
    await world.start(user, ANY)
    await world.spawner(user).stop(now=True)
    assert world.engine.made("stop_container")[-1].args[1] == 0
    await world.stop(user)
