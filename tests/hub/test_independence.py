"""One user's slow build, stop or ledger delays nobody else: nothing slow is on the hub's loop."""

from __future__ import annotations

import ast
import asyncio
import sqlite3
from pathlib import Path

import pytest
from dockerspawner import DockerSpawner

import ds01_spawner.hub
from tests.hub.clients import PATIENCE_S
from tests.hub.world import World

ANY = {"user_options": {}}
BLOCKING = {"docker", "requests", "sqlite3", "subprocess", "socket", "pynvml", "urllib"}


async def test_a_build_delays_nobody(world: World, user: str, other: str) -> None:
    await world.start(other, ANY, "first")
    async with world.starting(user, {"pip": ["endless"]}, at="build") as gate:
        assert (await world.start(other, ANY)).code == 201
        assert await world.spawner(other).poll() is None
        assert (await world.stop(other)).code == 204
        gate.set()
    await world.stop(other, "first")
    await world.stop(user)


async def test_a_stop_delays_nobody(world: World, user: str, other: str) -> None:
    await world.start(user, ANY)
    with world.blocked("stop_container") as gate:
        stop = asyncio.ensure_future(world.stop(user))
        await world.engine.reached("stop_container", len(world.engine.made("stop_container")) + 1)
        assert (await world.start(other, ANY)).code == 201
        assert await world.spawner(other).poll() is None
        gate.set()
        await asyncio.wait_for(stop, PATIENCE_S)
    await world.stop(other)


async def test_a_removal_delays_nobody(world: World, user: str, other: str) -> None:
    await world.start(user, ANY)
    with world.blocked("removal") as gate:
        stop = asyncio.ensure_future(world.stop(user))
        await world.engine.reached(
            "remove_container", len(world.engine.made("remove_container")) + 1
        )
        assert (await world.start(other, ANY)).code == 201
        gate.set()
        await asyncio.wait_for(stop, PATIENCE_S)
    await world.stop(other)


async def test_a_ledger_that_is_locked_delays_starts_alone(
    world: World, user: str, other: str
) -> None:
    await world.start(other, ANY)
    lock = sqlite3.connect(world.folder / "data" / "ledger.sqlite", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    try:
        start = asyncio.ensure_future(world.start(user, ANY))
        assert await world.spawner(other).poll() is None
        assert (await world.fetch("login")).code == 200
        assert not start.done()
    finally:
        lock.execute("ROLLBACK")
        lock.close()
    assert (await asyncio.wait_for(start, PATIENCE_S)).code == 201
    await world.stop(user)
    await world.stop(other)


async def test_nothing_goes_through_dockerspawners_one_thread(
    world: World, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("DockerSpawner's own client was used")

    for name in ("client", "executor"):
        monkeypatch.setattr(DockerSpawner, name, property(refuse))
    for name in ("docker", "_docker"):
        monkeypatch.setattr(DockerSpawner, name, refuse)
    assert (await world.start(user, ANY)).code == 201
    assert await world.spawner(user).poll() is None
    assert (await world.stop(user)).code == 204


@pytest.mark.parametrize(
    "path", sorted(Path(ds01_spawner.hub.__file__).parent.glob("*.py")), ids=lambda p: p.name
)
def test_no_module_of_the_hub_blocks(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    assert names & BLOCKING == set()
    assert "time.sleep(" not in path.read_text()
