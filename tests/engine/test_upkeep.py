"""Deleting and pruning on a real engine: what goes, and that nothing else loses a name."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from ds01_spawner.core.catalog import parse as parse_catalog
from ds01_spawner.core.container import Mount
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.options import Offer, Request
from ds01_spawner.core.recipe import BUILT_BY, image_labels, image_name
from ds01_spawner.errors import EnvironmentInUse
from ds01_spawner.services.base_images import BaseImage, BaseImages
from ds01_spawner.services.docker_engine import DockerEngine
from ds01_spawner.services.environments import Environments
from ds01_spawner.services.images import Images, ReadyImage
from ds01_spawner.services.ledger import Ledger
from ds01_spawner.services.settings import Settings
from ds01_spawner.services.upkeep import Upkeep
from tests.fakes.contract_bench import tar

if TYPE_CHECKING:
    from docker import APIClient

pytestmark = pytest.mark.any_hub

T = TypeVar("T")
USER = "test-upkeep"
CATALOG = parse_catalog(f"Pytorch, 2.8.0, [CUDA_ADA], {USER}/pytorch\n")
OFFER = Offer(CATALOG, ("CUDA_ADA",), Limits())
SERVER = Mount("ds01-server", "/opt/ds01/server", read_only=True)
BIG = 3 << 20  # bytes of a layer


class Bench:
    """A hub's ledger on the tests' engine, and images as its starts would leave them."""

    def __init__(
        self, engine: DockerEngine, client: APIClient, settings: Settings, base: BaseImage
    ) -> None:
        self.engine, self.client, self.base = engine, client, base
        self.time = datetime.now(timezone.utc)
        self.ledger = Ledger(
            Path(settings.data_dir) / "ledger.sqlite",
            simulated=True,
            now=lambda: self.time,
            new_id=lambda: secrets.token_hex(8),
        )
        self.images = Images(engine, settings)
        self.own = Environments(engine, self._in_ledger, "hub", lambda recipe: False)
        self.upkeep = Upkeep(
            engine, self.ledger, self.images, hub="hub", catalog=CATALOG, presets=()
        )

    async def _in_ledger(self, method: Callable[..., T], *args: Any) -> T:
        return method(self.ledger, *args)

    async def start(self, user: str, pip: str, labels: dict[str, str] | None = None) -> str:
        """The image of a start, made or found, and the note of it; its name.

        It has a layer of its own, on top of one that it shares with all others.
        """
        request = Request(CATALOG.entries[0], "CUDA_ADA", pip=(pip,), project="p")
        made = self.images.recipe_of(request, OFFER, self.base.identity)
        name = image_name(made, user, "p")
        image = self.ledger.image_of(made.digest)
        if image is None:
            lines = (f"FROM {self.base.tag}", *(
                f"RUN head -c {BIG} /dev/urandom >/{what}" for what in (f"{USER}-all", pip)
            ))  # fmt: skip
            image = await self.engine.build(
                tar({"Dockerfile": "\n".join(lines).encode()}),
                tag=name, labels={**image_labels(made), BUILT_BY: "hub"}, buildargs={},
                memory=None, cpus=None, network="none", on_line=lambda line: None,
            )  # fmt: skip
            self.ledger.set_image(made.digest, image)
        for tag in (made.short, "latest"):
            await self.engine.tag_image(image, name.rpartition(":")[0], tag)
        await self.own.note(
            user, request, OFFER, ReadyImage(name, made.digest, lambda home: {}, SERVER)
        )
        return name

    async def prune(self, days: int = 60, budget: int | None = None) -> tuple[list[str], int]:
        """The names that went, and the bytes that the command says it freed."""
        gone = await self.upkeep.prune(self.time, days=days, budget=budget, dry_run=False)
        names = [n for removal in gone for n in removal.image.names if n in removal.image.owners]
        return names, sum(removal.freed for removal in gone)

    def names(self) -> dict[str, str]:
        """Every name of every image -> its id."""
        images = self.client.images()
        return {tag: image["Id"] for image in images for tag in image["RepoTags"] or ()}

    def layers(self) -> int:
        """Bytes of all layers."""
        return int(self.client.df()["LayersSize"])


@pytest.fixture
async def bench(
    engine_url: str, docker_client: APIClient, standin_image: str, tmp_path: Path
) -> AsyncIterator[Bench]:
    settings = Settings(
        data_dir=str(tmp_path), image_map={f"{USER}/*": standin_image}, build_network="bridge"
    )
    engine = DockerEngine(engine_url)
    bases = BaseImages(engine, settings.image_map)
    base = await bases.resolve(f"{USER}/pytorch", lambda event: None)
    bench = Bench(engine, docker_client, settings, base)
    yield bench
    for name in bench.names():
        if name.startswith((f"ds01-{USER}", f"{USER}/", f"ds01-base:{USER}")):
            docker_client.remove_image(name, force=True)
    bench.ledger.close()
    await engine.close()


async def test_a_user_deletes_and_nothing_else_loses_a_name(
    bench: Bench, run_labels: dict[str, str]
) -> None:
    before, size = bench.names(), bench.layers()
    mine, theirs = await bench.start(USER, "one"), await bench.start(f"{USER}-2", "one")
    used = await bench.start(USER, "two")
    body = {"Image": used, "Cmd": ["true"], "Labels": run_labels}
    container = await bench.engine.create_container(f"{USER}-{secrets.token_hex(4)}", body)
    with pytest.raises(EnvironmentInUse):  # though it never ran
        await bench.own.delete(USER, used.partition("/")[2])
    assert bench.names()[used]
    await bench.engine.remove_container(container)

    renamed = await bench.own.rename(USER, used.partition("/")[2], "Other")
    assert used not in bench.names()
    await bench.own.delete(USER, renamed.key)
    await bench.own.delete(USER, mine.partition("/")[2])
    assert await bench.own.of(USER) == ()
    left = {name: id for name, id in bench.names().items() if name not in before}
    assert set(left) == {theirs, f"{theirs.rpartition(':')[0]}:latest"}
    await bench.own.delete(f"{USER}-2", theirs.partition("/")[2])
    assert bench.names() == before
    assert bench.layers() == size


async def test_prune_frees_what_it_says_and_nothing_else_loses_a_name(
    bench: Bench, run_labels: dict[str, str]
) -> None:
    before, size = bench.names(), bench.layers()
    old = [await bench.start(USER, "old"), await bench.start(f"{USER}-2", "old")]
    kept = await bench.start(USER, "kept")
    await bench.engine.tag_image(kept, f"{USER}/of-somebody", "1")
    imitated = f"ds01-{USER}-3/p:{'0' * 16}"
    await bench.engine.tag_image(bench.base.id, *imitated.split(":"))
    used = await bench.start(USER, "used")
    body = {"Image": used, "Cmd": ["true"], "Labels": run_labels}
    container = await bench.engine.create_container(f"{USER}-{secrets.token_hex(4)}", body)
    bench.time += timedelta(days=61)
    fresh = await bench.start(USER, "fresh")
    bench.time += timedelta(hours=2)

    # the engine has images of other hubs, too
    seen = {n: i for i in await bench.upkeep.look() if i.known for n in i.owners}
    ours = {*old, kept, used, fresh}
    assert set(seen) == ours
    assert seen[old[0]].size == 2 * BIG
    assert [image.stale for image in seen.values()] == [""] * 5
    assert seen[used].in_use

    full = bench.layers()
    names, freed = await bench.prune()
    assert sorted(names) == sorted(old)
    assert freed == BIG  # what it shares with the others is still theirs
    assert full - bench.layers() == BIG
    assert await bench.prune() == ([], 0)
    names, freed = await bench.prune(budget=1)
    assert (names, freed) == ([fresh], BIG)

    await bench.engine.remove_container(container)
    await bench.engine.remove_image(f"{USER}/of-somebody:1")
    names, freed = await bench.prune(budget=1)
    assert sorted(names) == sorted([kept, used])
    assert freed == 3 * BIG
    assert bench.layers() == size
    left = bench.names()
    assert left.pop(imitated) == bench.base.id
    assert left == before
