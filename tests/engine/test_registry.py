"""Images are fetched from a real registry, with progress and a log-in, or it is said why not."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from ds01_spawner.errors import ImageMissing
from ds01_spawner.services.base_images import BaseImage, BaseImages
from ds01_spawner.services.build_record import BuildEvent
from ds01_spawner.services.docker_engine import DockerEngine
from ds01_spawner.services.registry_logins import RegistryLogins
from tests.engine.registry import PASSWORD, USER, Registry, Stall, encoded, registry

if TYPE_CHECKING:
    from docker import APIClient

pytestmark = pytest.mark.any_hub

MIB = 1 << 20
LATE_S = 2.0


class Bench:
    """Images in the registry, and what fetches them."""

    def __init__(
        self, engine: DockerEngine, client: APIClient, registry: Registry, folder: Path
    ) -> None:
        self.engine, self.client, self.registry, self.folder = engine, client, registry, folder
        self.names: list[str] = []
        self.events: list[BuildEvent] = []

    def image(self, *sizes: int) -> str:
        """A new image with layers of these sizes, which is in the registry alone; its name."""
        name = f"{uuid4().hex}:1"
        return self.known(self.registry.push(self.client, name, [os.urandom(s) for s in sizes]))

    def known(self, name: str) -> str:
        """Have what is fetched by that name removed in the end."""
        self.names.append(name)
        return name

    def bases(
        self, password: str | None = PASSWORD, of: str = "", timeout_s: float = 120
    ) -> BaseImages:
        """With this log-in for the registry, or none."""
        file = None
        if password is not None:
            file = self.folder / uuid4().hex
            entry = {"auth": encoded(USER, password)}
            file.write_text(json.dumps({"auths": {of or self.registry.name: entry}}))
            file.chmod(0o600)
        return BaseImages(self.engine, {}, RegistryLogins(file), timeout_s=timeout_s)

    async def fetch(self, bases: BaseImages, name: str) -> BaseImage:
        return await bases.resolve(name, self.events.append)

    async def why_not(self, bases: BaseImages, name: str) -> str:
        """The sentence that a user is told; nothing is left on the engine."""
        before = {image["Id"] for image in self.client.images(all=True)}
        with pytest.raises(ImageMissing) as missing:
            await self.fetch(bases, name)
        assert {image["Id"] for image in self.client.images(all=True)} == before
        assert PASSWORD not in f"{missing.value.message} {missing.value.detail}"
        return missing.value.message.partition("could not be fetched: ")[2]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture
async def bench(
    engine_url: str, docker_client: APIClient, served: Registry, tmp_path: Path
) -> AsyncIterator[Bench]:
    engine = DockerEngine(engine_url)
    made = Bench(engine, docker_client, served, tmp_path)
    yield made
    await engine.close()
    for name in made.names:
        for image in docker_client.images(name):
            docker_client.remove_image(image["Id"], force=True)


@pytest.fixture
async def longest() -> AsyncIterator[Callable[[], float]]:
    """For how long the event loop was held up at most."""
    held, loop = 0.0, asyncio.get_running_loop()

    async def tick() -> None:
        nonlocal held
        while True:
            before = loop.time()
            await asyncio.sleep(0.01)
            held = max(held, loop.time() - before)

    ticker = asyncio.ensure_future(tick())
    yield lambda: held
    ticker.cancel()


async def test_thirty_fetch_once_and_are_told_how_far_it_is(
    bench: Bench, longest: Callable[[], float]
) -> None:
    name = bench.image(6 * MIB, 4 * MIB, 2 * MIB)
    bases = bench.bases()
    told: list[list[BuildEvent]] = [[] for _ in range(30)]
    found = await asyncio.gather(*(bases.resolve(name, events.append) for events in told))
    assert len({base.id for base in found}) == 1
    assert found[0].identity in bench.client.inspect_image(name)["RepoDigests"][0]
    assert bench.registry.asked(f"GET /v2/{name.partition('/')[2].partition(':')[0]}/blobs/") == 4
    lines = [event.line or "" for event in told[0]]
    assert all(events == told[0] for events in told)
    assert {event.title for event in told[0]} == {"Fetching the framework image"}
    assert lines[-1].startswith("3 of 3 layers, ")
    assert any(", 12 MiB of 12 MiB" in line for line in lines), lines
    assert any(line.startswith(("0 of 3", "1 of 3", "2 of 3")) for line in lines)
    assert longest() < LATE_S


async def test_a_tag_that_is_missing(bench: Bench) -> None:
    name = bench.image(1000)
    why = await bench.why_not(bench.bases(), f"{name}-none")
    assert why == "the registry has no image of this name."


@pytest.mark.parametrize(
    ("password", "why"),
    [
        (None, "the registry asks for a log-in, and none is set for it."),
        ("wrong", "the registry did not take the log-in that is set for it."),
    ],
)
async def test_a_log_in_that_is_wrong_or_missing(
    bench: Bench, password: str | None, why: str
) -> None:
    name = bench.image(1000)
    assert await bench.why_not(bench.bases(password), name) == why
    assert await bench.fetch(bench.bases(), name)


async def test_the_log_in_of_another_registry_is_not_given_away(bench: Bench) -> None:
    name = bench.image(1000)
    bases = bench.bases(of="registry.example.org")
    assert "none is set for it" in await bench.why_not(bases, name)


@pytest.mark.parametrize("way", ["changed", "cut"])
async def test_a_broken_layer(bench: Bench, way: str, longest: Callable[[], float]) -> None:
    name = bench.image(1000, 2 * MIB)
    blob = bench.registry.blob(name)
    with blob.open("r+b") as file:
        if way == "cut":
            file.truncate(MIB)
        else:
            file.seek(MIB)
            file.write(b"broken" * 100)
    why = await bench.why_not(bench.bases(), name)
    assert why == "a part of the image is broken in the registry, or was broken on its way."
    assert longest() < LATE_S


async def test_a_registry_that_is_away(bench: Bench) -> None:
    name = bench.image(1000)
    bench.registry.stop()
    try:
        assert await bench.why_not(bench.bases(), name) == "the registry could not be reached."
    finally:
        bench.registry.start()
    assert await bench.fetch(bench.bases(), name)


async def test_a_registry_that_hangs_in_the_middle(
    bench: Bench, longest: Callable[[], float]
) -> None:
    name = bench.image(4 * MIB)
    stall = Stall(bench.registry.port, MIB)
    through = bench.known(name.replace(bench.registry.name, f"127.0.0.1:{stall.port}"))
    bases = bench.bases(of=f"127.0.0.1:{stall.port}", timeout_s=6)
    try:
        assert await bench.why_not(bases, through) == "it took longer than 0.1 minutes."
        assert stall.silent.is_set()
    finally:
        stall.close()
    assert longest() < LATE_S
    assert bench.events[-1].line
    assert await bench.fetch(bench.bases(), name)  # the engine has given up the one before
