"""The hub's process ends and another one begins: servers stay, and nothing is done in ignorance."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from ds01_spawner.hub import runtime
from ds01_spawner.hub.runtime import Runtime
from ds01_spawner.services.ledger import Lease, Ledger
from ds01_spawner.services.reconcile import Action
from tests.hub.clients import PATIENCE_S, until
from tests.hub.conftest import hub_of, new_user
from tests.hub.world import World

GPU = {"framework": "Pytorch", "architecture": "CUDA_AMPERE", "gpus": 1, "gpu": "full"}
ANY = {"user_options": {}}


@pytest.fixture
async def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """A hub for each test: these end it."""
    async with hub_of(request.module, tmp_path_factory) as world:
        yield world


def unseen(lease: Lease) -> Lease:
    """The lease without what was seen of its use, which goes on."""
    return replace(lease, busy=None, heard=None, looked=None)


async def test_a_server_and_its_lease_outlive_the_hub(world: World, user: str) -> None:
    await world.start(user, GPU)
    container, leases = world.container(user)["Id"], await world.leases(user)
    incarnation = leases[0].incarnation
    await world.end()
    await world.begin()
    await world.runtime.ready()
    assert world.spawner(user).ready
    assert world.container(user)["Id"] == container
    assert world.container(user)["State"]["Running"]
    assert [unseen(lease) for lease in await world.leases(user)] == leases
    assert await world.spawner(user).poll() is None
    await world.start(user, GPU, "second")
    assert (await world.leases(user))[1].incarnation != incarnation
    await world.runtime.reconciler.run()
    assert len(world.containers(user)) == 2
    await world.stop(user)
    await world.stop(user, "second")
    assert await world.left_of(user) == ([], [])


async def test_a_surprise_at_the_beginning_does_not_last(
    world: World, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.end()
    monkeypatch.setattr(runtime, "RETRY_SECONDS", 0.01)
    world.engine.fail_next("list_containers", IndexError("what nobody thought of"))
    await world.begin()
    await world.start(user, GPU)
    assert len(await world.leases(user)) == 1
    await world.stop(user)


async def test_a_server_that_died_meanwhile_is_cleared_away(world: World, user: str) -> None:
    await world.start(user, GPU)
    await world.end()
    world.engine.exit(f"ds01.{user}", 1)
    await world.begin()
    await world.runtime.ready()
    await until(lambda: not world.containers(user))
    assert (await world.model(user))["servers"] == {}
    await world.runtime.reconciler.run()
    assert await world.leases(user) == []


async def test_the_address_may_have_changed(world: World, user: str) -> None:
    """As after a restart of the engine's host with live containers."""
    await world.start(user, ANY)
    await world.end()
    world.container(user)["NetworkSettings"]["Networks"]["ds01"]["IPAddress"] = "127.77.0.201"
    await world.begin()
    assert "127.77.0.201" in world.spawner(user).server.url
    assert world.spawner(user).ready
    await world.stop(user)


async def test_while_the_engine_is_late_servers_stay(world: World, user: str) -> None:
    await world.start(user, GPU)
    await world.end()
    with world.away():
        await world.begin()
        assert await world.spawner(user).poll() is None
        assert world.spawner(user).active
        answer = await world.fetch("login")
        assert answer.code == 200
    await asyncio.wait_for(world.runtime.ready(), 30)
    assert await world.left_of(user) == ([f"ds01.{user}"], ["bound"])
    await world.settled(user)
    await world.stop(user)
    assert await world.left_of(user) == ([], [])


async def test_a_start_that_the_hub_died_in_is_undone(world: World, user: str) -> None:
    """Its lease and its container are there, its process is not; nobody has to start anything."""
    await world.start(user, GPU)
    await forget(world, user)
    await world.end()
    began = time.monotonic()
    await world.begin()
    await until(lambda: "gpu.release" in world.told(user))
    assert time.monotonic() - began < world.runtime.settings.reconcile_interval / 2
    assert await world.left_of(user) == ([], [])
    assert (await world.start(user, GPU)).code == 201
    await world.stop(user)


async def test_nothing_is_ended_before_the_hub_has_read_its_database(
    world: World, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.start(user, GPU)
    await world.end()
    done: list[Action] = []
    acted = Runtime._acted
    monkeypatch.setattr(Runtime, "_acted", lambda self, a: (done.append(a), acted(self, a)))
    import ds01_spawner

    ds01_spawner.configure(world.config())
    await world.runtime.ready()  # no hub yet, and a whole reconciliation
    await world.runtime.reconciler.run()
    assert done == []
    await world.runtime.end()
    await world.begin()
    await world.runtime.reconciler.run()
    assert done == []
    assert world.spawner(user).ready
    await world.stop(user)


async def test_a_container_of_no_known_lease_gets_it_back(world: World, user: str) -> None:
    """The ledger was lost: what runs and is the hub's is adopted from its labels."""
    await world.start(user, GPU)
    (lease,) = await world.leases(user)
    await world.end()
    for file in (world.folder / "data").glob("ledger.sqlite*"):
        file.unlink()
    await world.begin()
    await world.runtime.ready()
    (adopted,) = await world.leases(user)
    assert (adopted.id, adopted.devices) == (lease.id, lease.devices)
    assert world.spawner(user).ready
    rival = await new_user(world)
    await world.start(rival, GPU)
    assert (await world.leases(rival))[0].devices != lease.devices
    await world.stop(rival)
    await world.stop(user)
    assert await world.left_of(user) == ([], [])


async def test_containers_of_others_are_left_alone(world: World, user: str) -> None:
    body = {"Image": "base:1", "Labels": {"ds01.hub": "another", "ds01.lease": "theirs"}}
    theirs = await world.engine.create_container("theirs", body)
    plain = await world.engine.create_container("plain", {"Image": "base:1"})
    await world.end()
    await world.begin()
    await world.runtime.ready()
    world.passed += timedelta(hours=2)
    await world.runtime.reconciler.run()
    assert {theirs, plain} <= set(world.engine.containers)


async def test_a_hub_that_is_nudged_while_it_ends_ends(world: World) -> None:
    """As JupyterHub ends: by cancelling whatever runs."""
    world.runtime.reconcile_soon()
    await asyncio.sleep(0)
    await asyncio.wait_for(world.end(), PATIENCE_S)
    await world.begin()


async def test_who_waited_for_a_start_that_the_hub_died_in_is_told(world: World, user: str) -> None:
    """As in the middle of a build: the hub has a server then, which has no container yet."""
    await world.start(user, ANY)
    spawner = world.spawner(user)
    spawner.orm_spawner.state = None
    world.hub.db.commit()
    spawner.stop_polling()
    await world.end()
    await world.begin()
    await until(lambda: not world.spawner(user).active)
    browser = await world.browser(user)
    for path in ("home", "spawn", f"spawn-pending/{user}", f"user/{user}/"):
        page = await browser.get(path)
        assert page.body.decode().count("was broken off, because the hub was restarted") == 1, path
    await world.start(user, ANY)
    for path in ("home", "spawn"):
        assert "was broken off" not in (await browser.get(path)).body.decode()
    await world.stop(user)
    assert await world.left_of(user) == ([], [])
    assert "was broken off" not in (await browser.get("home")).body.decode()


async def forget(world: World, user: str) -> None:
    """Have the hub's database as it was before this server's start had ended."""
    spawner = world.spawner(user)
    spawner.orm_spawner.server = None
    spawner.orm_spawner.state = None
    world.hub.db.commit()
    spawner.stop_polling()


async def test_a_stop_that_an_earlier_hub_began_is_not_waited_for(world: World, user: str) -> None:
    await world.start(user, GPU)
    (lease,) = await world.leases(user)
    await world.runtime.in_ledger(Ledger.releasing, lease.id)
    await world.end()
    gate = world.engine.block("stop_container")
    await world.begin()  # it still runs, and would answer for a moment
    assert not world.spawner(user).active
    gate.set()
    await world.runtime.ready()
    assert await world.left_of(user) == ([], [])
    assert (await world.start(user, GPU)).code == 201
    await world.stop(user)
