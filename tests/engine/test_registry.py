"""Images are fetched from a real registry, with progress and a log-in, or it is said why not."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from ds01_spawner.errors import ImageMissing
from ds01_spawner.services.base_images import BaseImage, BaseImages
from ds01_spawner.services.build_record import BuildEvent
from ds01_spawner.services.docker_engine import DockerEngine
from ds01_spawner.services.registry_logins import RegistryLogins
from tests.engine.loop_watch import loop_watch
from tests.engine.registry import PASSWORD, USER, Registry, Stall, encoded, registry

if TYPE_CHECKING:
    from docker import APIClient

    from tests.engine.conftest import MakeHub

pytestmark = pytest.mark.any_hub

MIB = 1 << 20
LATE_S = 2.0


def write_log_in(file: Path, registry: str, password: str) -> None:
    """A file with this log-in, for its owner alone."""
    file.touch(0o600)
    file.write_text(json.dumps({"auths": {registry: {"auth": encoded(USER, password)}}}))


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
            write_log_in(file, of or self.registry.name, password)
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


async def test_thirty_fetch_once_and_are_told_how_far_it_is(bench: Bench) -> None:
    name = bench.image(6 * MIB, 4 * MIB, 2 * MIB)
    bases = bench.bases()
    told: list[list[BuildEvent]] = [[] for _ in range(30)]
    async with loop_watch() as longest:
        found = await asyncio.gather(*(bases.resolve(name, events.append) for events in told))
        assert longest() < LATE_S
    assert len({base.id for base in found}) == 1
    assert found[0].identity in bench.client.inspect_image(name)["RepoDigests"][0]
    assert bench.registry.asked(f"GET /v2/{name.partition('/')[2].partition(':')[0]}/blobs/") == 4
    lines = [event.line or "" for event in told[0]]
    assert all(events == told[0] for events in told)
    assert {event.title for event in told[0]} == {"Fetching the framework image"}
    assert lines[-1].startswith("3 of 3 layers, ")
    assert any(", 12 MiB of 12 MiB" in line for line in lines), lines
    assert any(line.startswith(("0 of 3", "1 of 3", "2 of 3")) for line in lines)


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
async def test_a_broken_layer(bench: Bench, way: str) -> None:
    name = bench.image(1000, 2 * MIB)
    blob = bench.registry.blob(name)
    with blob.open("r+b") as file:
        if way == "cut":
            file.truncate(MIB)
        else:
            file.seek(MIB)
            file.write(b"broken" * 100)
    async with loop_watch() as longest:
        why = await bench.why_not(bench.bases(), name)
        assert longest() < LATE_S
    assert why == "a part of the image is broken in the registry, or was broken on its way."


async def test_a_registry_that_is_away(bench: Bench) -> None:
    name = bench.image(1000)
    bench.registry.stop()
    try:
        assert await bench.why_not(bench.bases(), name) == "the registry could not be reached."
    finally:
        bench.registry.start()
    assert await bench.fetch(bench.bases(), name)


async def test_a_registry_that_hangs_in_the_middle(bench: Bench) -> None:
    name = bench.image(4 * MIB)
    stall = Stall(bench.registry.port, MIB)
    through = bench.known(name.replace(bench.registry.name, f"127.0.0.1:{stall.port}"))
    bases = bench.bases(of=f"127.0.0.1:{stall.port}", timeout_s=6)
    try:
        async with loop_watch() as longest:
            assert await bench.why_not(bases, through) == "it took longer than 0.1 minutes."
            assert longest() < LATE_S
        assert stall.silent.is_set()
    finally:
        stall.close()
    assert bench.events[-1].line
    assert await bench.fetch(bench.bases(), name)  # the engine has given up the one before


def test_a_hub_fetches_with_the_log_in_of_its_file_as_it_is_then(
    make_hub: MakeHub,
    served: Registry,
    docker_client: APIClient,
    standin_image: str,
    tmp_path: Path,
) -> None:
    image, file = f"{served.name}/aime/pytorch-2.8.0-cuda12.6.3", tmp_path / "auth.json"
    docker_client.tag(standin_image, image)
    served.push_image(docker_client, image)
    docker_client.remove_image(image)
    write_log_in(file, served.name, "wrong")
    images = {"aimehub/*": f"{served.name}/aime/*", "*": standin_image}
    settings = {"image_map": images, "registry_auth_file": str(file)}
    extra = "\n".join(f"c.DS01Spawner.{name} = {value!r}" for name, value in settings.items())
    hub = make_hub(light=True, extra=extra)
    hub.make_user("anna")
    try:
        outcome = hub.start("anna")
        assert outcome.status == 503
        assert f"The image {image}:latest is not on this server" in outcome.message
        assert "the registry did not take the log-in that is set for it." in outcome.message
        write_log_in(file, served.name, PASSWORD)
        outcome = hub.start("anna")
        assert outcome.status == 201, outcome.message
        (digest,) = docker_client.inspect_image(image)["RepoDigests"]
        assert digest.startswith(f"{served.name}/aime/")
        container = hub.container_of("anna")
        history = docker_client.history(container["Image"])
        for shown in (hub.log.read_text(), str(container), str(history)):
            assert PASSWORD not in shown
            assert encoded(USER, PASSWORD) not in shown
        assert hub.stop("anna") in (202, 204)
    finally:
        if docker_client.images(image):
            docker_client.remove_image(f"{image}:latest", force=True)
