"""The real jupyterhub-idle-culler beside the hub: of servers with a GPU it knows what the hub does.

Its own limit is nothing here, so that it would stop whatever it looks at.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta

import pytest
from jupyterhub_idle_culler import IdleCuller, cull_idle
from traitlets.config import Config

from ds01_spawner.hub.culling import CullArbiter
from ds01_spawner.services import wiring
from ds01_spawner.services.ledger import Ledger
from tests.hub.world import TOKEN, World

POLICY = """\
defaults: {max_containers_per_user: 3, max_runtime_h: 6, max_gpu_equivalents: 2, idle_timeout_h: 1}
"""
ANY = {"user_options": {}}
GPU = {"framework": "Pytorch", "architecture": "CUDA_AMPERE", "gpus": 1, "gpu": "full"}


@pytest.fixture
def arbiter(world: World) -> Iterator[CullArbiter]:
    made = CullArbiter(Config(DS01Spawner=world.config().DS01Spawner))
    yield made
    made.close()


async def cull(world: World, arbiter: CullArbiter) -> None:
    """One round of the culler, as its service does it."""
    culler = IdleCuller(config=Config(IdleCuller={"cull_arbiter_hook": arbiter}))
    await cull_idle(
        f"{world.url}hub/api", TOKEN, -1, logging.getLogger("culler"),
        cull_arbiter=culler.cull_arbiter_hook,
    )  # fmt: skip


async def servers(world: World, user: str) -> list[str]:
    await world.settled(user)
    return sorted((await world.model(user))["servers"])


async def test_a_server_without_a_gpu_is_the_culler_s_and_one_with_is_not(
    world: World, user: str, arbiter: CullArbiter
) -> None:
    await world.start(user, ANY)
    await world.start(user, ANY, "thesis")
    await world.start(user, GPU, "gpu")
    await cull(world, arbiter)
    assert await servers(world, user) == ["gpu"]
    assert [lease.server for lease in await world.leases(user)] == ["gpu"]
    await world.stop(user, "gpu")


async def test_an_idle_gpu_is_culled_when_the_hub_would(
    world: World, user: str, arbiter: CullArbiter
) -> None:
    await world.start(user, GPU)
    (lease,) = await world.leases(user)
    async with world.undisturbed():  # by the hub's own rule
        world.passed += timedelta(hours=1, minutes=1)
        await cull(world, arbiter)
        assert await servers(world, user) == [""]  # nobody was told yet
        assert lease.end is not None
        await world.runtime.in_ledger(Ledger.mark_warned, lease.id, lease.end)
        await world.runtime.in_ledger(Ledger.keep, lease.id, wiring.now() + timedelta(hours=1))
        await cull(world, arbiter)
        assert await servers(world, user) == [""]  # it is kept
        world.passed += timedelta(hours=1)
        (lease,) = await world.leases(user)
        assert lease.end is not None
        await world.runtime.in_ledger(Ledger.mark_warned, lease.id, lease.end)
        await cull(world, arbiter)
        assert await servers(world, user) == []
    assert await world.left_of(user) == ([], [])


async def test_what_nobody_can_tell_is_not_culled(
    world: World, user: str, arbiter: CullArbiter, caplog: pytest.LogCaptureFixture
) -> None:
    await world.start(user, ANY)
    elsewhere = Config(DS01Spawner=world.config().DS01Spawner)
    elsewhere.DS01Spawner.data_dir = str(world.folder / "elsewhere")
    await cull(world, CullArbiter(elsewhere))
    assert not (world.folder / "elsewhere").exists()
    elsewhere.DS01Spawner.data_dir = str(world.folder / ("x" * 300))  # which nobody can open
    await cull(world, CullArbiter(elsewhere))
    elsewhere.DS01Spawner.data_dir = str(world.folder / "damaged")
    (world.folder / "damaged").mkdir()
    (world.folder / "damaged" / "ledger.sqlite").write_text("nonsense " * 1000)
    await cull(world, CullArbiter(elsewhere))
    assert f"{user}/ is not culled" in caplog.text
    other_hub = Config(DS01Spawner=world.config().DS01Spawner)
    other_hub.DS01Spawner.hub_id = "another"
    unknown = CullArbiter(other_hub)
    await cull(world, unknown)
    unknown.close()
    assert await servers(world, user) == [""]
    await cull(world, arbiter)
    assert await servers(world, user) == []
