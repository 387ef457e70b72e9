"""Upkeep on an engine with everybody's images: what is seen of ours, and what alone is removed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ds01_spawner.core.catalog import parse as parse_catalog
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.options import Offer, Request
from ds01_spawner.core.own_images import Contents, OwnEnvironment
from ds01_spawner.core.recipe import BUILT_BY, RECIPE_VERSION, Recipe, image_labels, image_name
from ds01_spawner.errors import EngineUnavailable
from ds01_spawner.services.images import Images
from ds01_spawner.services.ledger import Ledger
from ds01_spawner.services.settings import Settings
from ds01_spawner.services.upkeep import NamedPreset, Upkeep, preset_repository
from tests.fakes.engine import FakeEngine
from tests.services.world import START

BASE = "aimehub/pytorch-2.8.0"
CATALOG = parse_catalog(f"Pytorch, 2.8.0, [CUDA_ADA], {BASE}\n")
OFFER = Offer(CATALOG, ("CUDA_ADA",), Limits())
MIB = 1 << 20


class Shelf:
    """An engine, a ledger, and images that starts of the hub made."""

    def __init__(self, folder: Path) -> None:
        self.engine = FakeEngine()
        self.base = self.engine.add_image(f"{BASE}:latest", layers={"framework": 9000 * MIB})
        self.engine._name(self.base, f"ds01-base:pytorch-{self.base[7:19]}")
        self.time = START
        self.ledger = Ledger(
            folder / "ledger.sqlite", simulated=True, now=lambda: self.time, new_id=str
        )
        self.settings = Settings(data_dir=str(folder), build_network="bridge")
        self.presets: list[NamedPreset] = []

    def upkeep(self) -> Upkeep:
        images = Images(self.engine, self.settings)
        return Upkeep(
            self.engine, self.ledger, images, hub="hub", catalog=CATALOG, presets=self.presets
        )

    def recipe(self, *pip: str, **change: Any) -> Recipe:
        made = Images(self.engine, self.settings).recipe_of(
            Request(CATALOG.entries[0], "CUDA_ADA", pip=pip), OFFER, self.base
        )
        return made if not change else Recipe(**{**_fields(made), **change})

    def start(self, user: str, *pip: str, **change: Any) -> str:
        """The image of a start, made or found; its name."""
        made = self.recipe(*pip, **change)
        name, known = image_name(made, user, "p"), self.ledger.image_of(made.digest)
        if known is None or known not in self.engine.images:
            layers = {"framework": 9000 * MIB, **{f"pip {p}": 100 * MIB for p in pip}}
            known = self.engine.add_image(name, labels=labels_of(made, "hub"), layers=layers)
            self.ledger.set_image(made.digest, known)
        for tag in (made.short, "latest"):
            self.engine._name(known, f"{name.rpartition(':')[0]}:{tag}")
        contents = Contents("Pytorch", "2.8.0", "CUDA_ADA", pip=pip)
        self.ledger.note_environment(
            "hub", OwnEnvironment(user, "p", name, made.digest, contents, {})
        )
        return name

    def pass_(self, days: float) -> None:
        self.time += timedelta(days=days)

    async def prune(self, days: int = 60, budget: int | None = None, dry: bool = False) -> set[str]:
        gone = await self.upkeep().prune(self.time, days=days, budget=budget, dry_run=dry)
        return {name for removal in gone for name in removal.image.names if "latest" not in name}

    def names(self) -> set[str]:
        return {name for image in self.engine.images.values() for name in image["RepoTags"]}


def labels_of(recipe: Recipe, hub: str) -> dict[str, str]:
    return {**image_labels(recipe), BUILT_BY: hub}


def _fields(recipe: Recipe) -> dict[str, Any]:
    return {name: getattr(recipe, name) for name in Recipe.__slots__}


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.ledger.close()


async def test_what_is_seen_of_an_image(shelf: Shelf) -> None:
    mine = shelf.start("ada", "six")
    shelf.pass_(1)
    theirs = shelf.start("bob", "six")
    (image,) = await shelf.upkeep().look()
    assert image.owners == {mine: "ada", theirs: "bob"}
    assert image.used == START + timedelta(days=1)
    assert list(image.layers.values()) == [100 * MIB]
    assert (image.known, image.in_use, image.stale, image.others) == (True, (), "", ())
    assert image.base == shelf.base


async def test_only_what_was_unused_for_long_is_removed(shelf: Shelf) -> None:
    old = shelf.start("ada", "six")
    shelf.pass_(50)
    new = shelf.start("ada", "rich")
    shelf.pass_(11)
    before = shelf.names()
    assert await shelf.prune(dry=True) == {old}
    assert shelf.names() == before
    assert await shelf.prune() == {old}
    assert shelf.names() == before - {old}
    assert shelf.ledger.image_of(shelf.recipe("six").digest) is None
    assert shelf.ledger.image_of(shelf.recipe("rich").digest) is not None
    # what the user had is still listed, and can be started again
    assert [one.image for one in shelf.ledger.environments("hub", "ada")] == [new, old]


async def test_an_image_that_somebody_else_uses_still_is_kept(shelf: Shelf) -> None:
    shelf.start("ada", "six")
    shelf.pass_(61)
    shelf.start("bob", "six")
    shelf.pass_(1)
    before = shelf.names()
    assert await shelf.prune() == set()
    assert shelf.names() == before
    shelf.pass_(61)
    assert len(await shelf.prune()) == 2
    assert not any(name.startswith(("ds01-ada", "ds01-bob")) for name in shelf.names())


async def test_what_is_not_ours_is_never_touched(shelf: Shelf) -> None:
    labels = labels_of(shelf.recipe("six"), "hub")
    strange = [
        "ds01-1001/thesis:latest", "aimehub/pytorch-2.8.0._.1001:1", "lab/course:1",
        f"ds01-eve/p:{'a' * 16}",  # imitates a name of ours
        f"ds01-eve/q:{shelf.recipe('six').short}",  # and this one the labels, too
        f"ds01_presets/hub/p:{shelf.recipe('six').short}",
        "ds01-base:other-0123456789ab",
    ]  # fmt: skip
    for name in strange:
        shelf.engine.add_image(name, labels=labels)
    ours = shelf.start("ada", "rich")
    kept = shelf.start("ada", "tqdm")
    shelf.engine._name(shelf.engine.image(kept)["Id"], "lab/keep:1")
    unnoted = shelf.start("bob", "attrs")  # its start was given up just then
    shelf.ledger.forget_environment("hub", "bob", unnoted)
    unknown = shelf.start("bob", "black")
    shelf.ledger.forget_image(shelf.recipe("black").digest, shelf.engine.image(unknown)["Id"])
    shelf.pass_(400)
    assert await shelf.prune(budget=1) == {ours, unnoted}
    assert {*strange, kept, unknown, "lab/keep:1"} <= shelf.names()


@pytest.mark.parametrize("running", [True, False])
async def test_what_a_container_has_is_kept(shelf: Shelf, running: bool) -> None:
    name = shelf.start("ada", "six")
    container = await shelf.engine.create_container("anybody-s", {"Image": name})
    if running:
        await shelf.engine.start_container(container)
    shelf.pass_(400)
    (image,) = await shelf.upkeep().look()
    assert image.in_use == ("the container anybody-s",)
    assert await shelf.prune(budget=1) == set()
    assert name in shelf.names()
    await shelf.engine.remove_container(container, force=True)
    # what ran until now counts as used now
    assert await shelf.prune() == (set() if running else {name})


async def test_what_a_preset_needs_is_kept(shelf: Shelf) -> None:
    asked = Request(CATALOG.entries[0], "CUDA_ADA", pip=("six",))
    shelf.presets = [NamedPreset("course", asked, OFFER)]
    needed, other = shelf.start("ada", "six"), shelf.start("ada", "rich")
    shelf.pass_(400)
    (a, b) = await shelf.upkeep().look()
    assert {a.in_use, b.in_use} == {("the preset course",), ()}
    assert await shelf.prune() == {other}
    assert needed in shelf.names()


async def test_a_prebuilt_one_that_no_preset_needs_any_more_goes(shelf: Shelf) -> None:
    made = shelf.recipe("six")
    name = f"{preset_repository('hub', 'course')}:{made.short}"
    another = f"{preset_repository('hub2', 'course')}:{shelf.recipe('rich').short}"
    shelf.ledger.set_image(made.digest, shelf.engine.add_image(name, labels=labels_of(made, "hub")))
    shelf.engine.add_image(another, labels=labels_of(shelf.recipe("rich"), "hub2"))
    shelf.pass_(61)  # since it was made
    assert await shelf.prune() == {name}
    assert another in shelf.names()


async def test_which_are_stale(shelf: Shelf) -> None:
    fresh = shelf.start("ada", "six")
    renewed = shelf.start("ada", "rich", base="sha256:" + "0" * 64)
    other_way = shelf.start("ada", "tqdm", recipe_version=RECIPE_VERSION - 1)
    gone = shelf.start("ada", "attrs", version="2.7.0")
    stale = {name: one.stale for one in await shelf.upkeep().look() for name in one.owners}
    assert stale == {
        fresh: "",
        renewed: "its framework image was renewed",
        other_way: "environments are made in another way now",
        gone: "the catalog has its framework no more",
    }
    del shelf.engine.images[shelf.base]  # not fetched: whether it was renewed is not known
    stale = {name: one.stale for one in await shelf.upkeep().look() for name in one.owners}
    assert stale[renewed] == ""


async def test_what_came_into_use_meanwhile_stays(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = shelf.start("ada", "six")
    shelf.pass_(400)
    upkeep = shelf.upkeep()
    look = upkeep.look

    async def and_then() -> Any:
        seen = await look()
        await shelf.engine.create_container("late", {"Image": name})
        return seen

    monkeypatch.setattr(upkeep, "look", and_then)
    assert await upkeep.prune(shelf.time, days=60, budget=None, dry_run=False) == ()
    assert name in shelf.names()


async def test_while_the_engine_is_away_nothing_is_decided(shelf: Shelf) -> None:
    shelf.start("ada", "six")
    shelf.pass_(400)
    shelf.engine.unreachable = True
    with pytest.raises(EngineUnavailable):
        await shelf.prune()
    assert shelf.ledger.image_of(shelf.recipe("six").digest) is not None


async def test_what_is_gone_and_was_not_started_for_a_year_is_forgotten(shelf: Shelf) -> None:
    shelf.start("ada", "six")
    shelf.pass_(300)
    await shelf.prune()
    assert len(shelf.ledger.environments("hub", "ada")) == 1
    shelf.pass_(66)
    await shelf.prune()
    assert shelf.ledger.environments("hub", "ada") == ()
