"""The ledger cannot be written, as on a full disk: servers stay, and who gets none is told why."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ds01_spawner.errors import LedgerBusy
from ds01_spawner.hub import runtime
from ds01_spawner.services.ledger import Ledger
from tests.hub.clients import Form, until
from tests.hub.conftest import hub_of
from tests.hub.world import World

GPU = {"framework": "Pytorch", "architecture": "CUDA_AMPERE", "gpus": 1, "gpu": "full"}
TOLD = "record of who holds which GPU cannot be used at the moment, so nothing was given out"


@pytest.fixture
async def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """A hub for each test: one of them restarts it."""
    async with hub_of(request.module, tmp_path_factory) as world:
        yield world


@asynccontextmanager
async def full_disk(world: World) -> AsyncIterator[None]:
    """While it lasts, the ledger's file is read and not written."""
    await set_read_only(world, "ON")
    yield
    await set_read_only(world, "OFF")


async def set_read_only(world: World, value: str) -> None:
    def tell(ledger: Ledger) -> None:
        ledger._db.execute(f"PRAGMA query_only={value}")

    await world.runtime.in_ledger(tell)


async def test_nothing_is_given_out_and_servers_stay(world: World, user: str, other: str) -> None:
    await world.start(user, GPU)
    container = world.container(user)
    browser = await world.browser(other)
    form = Form(await browser.get("spawn"))
    async with full_disk(world):
        answer = await world.start(other, GPU)
        assert answer.code == 503
        assert TOLD in json.loads(answer.body)["message"]
        page = await browser.post("spawn", {**form.fields, "gpus": ["1:full"]})
        assert (page.code, TOLD in page.body.decode()) == (503, True)
        assert await world.left_of(other) == ([], [])
        assert world.container(user) == container
        assert await world.spawner(user).poll() is None
    assert (await world.start(other, GPU)).code == 201
    await world.stop(other)
    await world.stop(user)


async def test_a_stop_ends_the_server_and_its_lease_ends_when_it_can(
    world: World, user: str
) -> None:
    await world.start(user, GPU)
    async with full_disk(world):
        await world.stop(user)
        assert world.containers(user) == []
        assert [lease.state for lease in await world.leases(user)] == ["bound"]
    world.runtime.reconcile_soon()
    await until(lambda: "gpu.release" in world.told(user))
    assert await world.left_of(user) == ([], [])


async def test_a_hub_that_begins_on_a_full_disk_works_once_there_is_room(
    world: World, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin: Callable[[Ledger], Any] = Ledger.begin_incarnation
    full = asyncio.Event()
    full.set()

    def begin_unless_full(ledger: Ledger) -> Any:
        if full.is_set():
            raise LedgerBusy("database or disk is full")
        return begin(ledger)

    monkeypatch.setattr(Ledger, "begin_incarnation", begin_unless_full)
    monkeypatch.setattr(runtime, "SETTLE_SECONDS", 0.5)
    monkeypatch.setattr(runtime, "RETRY_SECONDS", 0.1)
    await world.end()
    await world.begin()
    answer = await world.start(user, GPU)
    assert answer.code == 503
    assert TOLD in json.loads(answer.body)["message"]
    full.clear()
    assert (await world.start(user, GPU)).code == 201
    await world.stop(user)
