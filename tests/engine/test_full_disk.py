"""The engine's disk, a small one, is full: that is said, and all goes on when there is room."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from docker import APIClient

from ds01_spawner.core.build_plan import BuildPlan, Step
from ds01_spawner.core.build_site import BuildSite
from ds01_spawner.core.recipe import Recipe
from ds01_spawner.errors import BuildFailed, DS01Error, NoDiskSpace
from ds01_spawner.hub.planning import enough_disk
from ds01_spawner.hub.runtime import Runtime
from ds01_spawner.services.build_network import SharedNetwork
from ds01_spawner.services.builder import Builder, Remembered
from ds01_spawner.services.docker_engine import DockerEngine
from ds01_spawner.services.images import plan_of
from ds01_spawner.services.settings import Settings
from tests.engine.spare_engines import SpareEngine, spare_engine

pytestmark = pytest.mark.any_hub

BASE = "ds01-base:small-0123456789ab"
MIB = 1 << 20
WRITE = "RUN python3 -c \"open('/opt/x', 'wb').write(b'x' * {size})\""
TOLD = "this server's disk is full"


@pytest.fixture(scope="module")
def small(bench_folder: Path) -> Iterator[SpareEngine]:
    with spare_engine(bench_folder, "small") as engine:
        yield engine


@pytest.fixture(scope="module")
def client(small: SpareEngine, docker_client: APIClient, standin_image: str) -> Iterator[APIClient]:
    client = APIClient(small.url, version="1.41", timeout=300)
    client.load_image(docker_client.get_image(standin_image))
    client.tag(standin_image, *BASE.split(":"))
    yield client
    client.close()


class Bench:
    """Builds on the small engine."""

    def __init__(self, engine: DockerEngine, client: APIClient, disk: Path, logs: Path) -> None:
        self.engine, self.client, self._disk = engine, client, disk
        self.builder = Builder(
            engine,
            concurrency=1,
            memory=2 << 30,
            cpus=2,
            timeout_s=300,
            log_dir=logs,
            now=lambda: datetime.now(timezone.utc),
            made=Remembered(),
            network=SharedNetwork("none", {}),
            gate_image=self._gate_image,
        )

    async def _gate_image(self) -> str:
        return BASE

    def plan(self, *lines: str) -> BuildPlan:
        """An environment of these lines on the base."""
        made = Recipe("sha256:0", "Pytorch", "2.8.0", "CUDA_ADA", pip=(f"ds01-{uuid4().hex}",))
        plan = plan_of(made, f"ds01-full/p:{made.short}", BASE, BuildSite())
        steps = tuple(Step("Your packages", line) for line in (f"FROM {BASE}", *lines))
        return replace(plan, steps=steps)

    async def build(self, size: int) -> str:
        """An environment that has a file of this size, beside one that never changes."""
        plan = self.plan(WRITE.format(size=MIB), WRITE.format(size=size))
        return await self.builder.ensure(plan, lambda event: None)

    async def free(self) -> int:
        return await self.engine.free_disk() or 0

    def fill(self) -> Path:
        """Have somebody else's file take all that is free."""
        file = self._disk / "ballast"
        with file.open("wb", buffering=0) as opened:
            for size in (MIB, 4096, 1):
                with suppress(OSError):
                    while True:
                        opened.write(bytes(size))
        return file

    async def admitted(self, floor: int) -> None:
        """What a start asks of the disk before anything else."""
        settings = Settings(min_free_disk=floor)
        hub = SimpleNamespace(engine=self.engine, settings=settings)
        await enough_disk(cast(Runtime, hub))

    def containers(self) -> list[Any]:
        found: list[Any] = self.client.containers(all=True)
        return found


@pytest.fixture
async def bench(client: APIClient, small: SpareEngine, tmp_path: Path) -> AsyncIterator[Bench]:
    engine = DockerEngine(small.url)
    yield Bench(engine, client, small.root, tmp_path)
    (small.root / "ballast").unlink(missing_ok=True)
    await engine.close()


async def test_a_build_that_fills_the_disk(bench: Bench) -> None:
    before = await bench.free()
    assert 100 * MIB < before < 1024 * MIB
    with pytest.raises(BuildFailed, match=TOLD) as failed:
        await bench.build(1024 * MIB)
    assert "No space left on device" in failed.value.log_tail
    assert bench.containers() == []
    assert await bench.free() > before - 20 * MIB  # the step's own files have gone with it
    assert await bench.build(MIB)


async def test_a_disk_that_others_have_filled(bench: Bench) -> None:
    image = await bench.build(2 * MIB)
    ballast = bench.fill()
    assert await bench.free() < MIB
    with pytest.raises(DS01Error, match=TOLD):
        await bench.build(3 * MIB)
    with pytest.raises(NoDiskSpace, match="This server's disk is nearly full"):
        await bench.admitted(floor=100 * MIB)
    # what is there can be looked at, and the hub's next question is answered
    assert (await bench.engine.inspect_image(image))["Id"] == image
    ballast.unlink()
    await bench.admitted(floor=100 * MIB)
    assert await bench.build(3 * MIB)
    assert bench.containers() == []
