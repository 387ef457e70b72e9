"""One hub per module, on the fake engine. A module may have its own GPUS, POLICY, configure(c)."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType

import pytest

from ds01_spawner.services import wiring
from tests.hub.world import BASE, World

GPUS = "simulated:2xA100-40GB,1xH100-80GB:mig=7x1g.10gb"
POLICY = "defaults: {max_containers_per_user: 3, allow_full_gpu: true, max_gpu_equivalents: 2}\n"
names = (f"user{number}" for number in itertools.count())


@asynccontextmanager
async def hub_of(module: ModuleType, factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A hub that runs, with what the module sets."""
    if shutil.which("configurable-http-proxy") is None:
        pytest.skip("configurable-http-proxy is not on PATH; ./test puts it there")
    gpus, policy = getattr(module, "GPUS", GPUS), getattr(module, "POLICY", POLICY)
    more = getattr(module, "configure", lambda c: None)
    world = World(factory.mktemp("hub"), gpus, policy, more)
    world.engine.add_image(BASE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wiring, "engine", lambda settings: world.engine)
        patch.setattr(wiring, "now", world.now)
        await world.notebooks.begin()
        try:
            await world.begin()
            yield world
        finally:
            await world.close()


@pytest.fixture(scope="module")
async def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """The hub that a module's tests share, each with users of its own."""
    async with hub_of(request.module, tmp_path_factory) as world:
        yield world


@pytest.fixture
async def user(world: World) -> str:
    """The name of a user of this test's own."""
    return await new_user(world)


@pytest.fixture
async def other(world: World) -> str:
    """One more user of this test's own."""
    return await new_user(world)


async def new_user(world: World) -> str:
    name = next(names)
    answer = await world.api("POST", f"users/{name}")
    assert answer.code == 201, answer.body
    return name
