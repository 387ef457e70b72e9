"""A user's own environments: listed with and without the ledger, renamed, deleted, kept in use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ds01_spawner.core.catalog import CatalogEntry
from ds01_spawner.core.catalog import parse as parse_catalog
from ds01_spawner.core.container import Mount
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.options import Offer, Request
from ds01_spawner.core.own_images import OwnEnvironment
from ds01_spawner.core.recipe import BUILT_BY, Recipe, image_labels, image_name
from ds01_spawner.errors import (
    EnvironmentInUse,
    EnvironmentNameRefused,
    LedgerBusy,
    NoSuchEnvironment,
)
from ds01_spawner.services.engine import EngineNotFound
from ds01_spawner.services.environments import Environments
from ds01_spawner.services.images import ReadyImage
from ds01_spawner.services.ledger import Ledger
from tests.fakes.engine import FakeEngine

T = TypeVar("T")
SERVER = Mount("server", "/opt/ds01/server", read_only=True)
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
ENTRY = CatalogEntry("Pytorch", "2.8.0", ("CUDA_ADA",), "a/pytorch", 1)
OFFER = Offer(parse_catalog("Pytorch, 2.8.0, [CUDA_ADA], a/pytorch\n"), ("CUDA_ADA",), Limits())


def recipe(*pip: str) -> Recipe:
    return Recipe("sha256:" + "a" * 64, "Pytorch", "2.8.0", "CUDA_ADA", pip=pip)


class Shelf:
    """An engine and a ledger with environments in them, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.engine = FakeEngine()
        self.engine.add_image("aimehub/pytorch:2.8.0")
        self.time = START
        self.building: set[str] = set()
        self.ledger = Ledger(
            folder / "ledger.sqlite", simulated=True, now=lambda: self.time, new_id=str
        )
        self.own = Environments(
            self.engine, self._in_ledger, "hub", lambda recipe: recipe in self.building
        )

    async def _in_ledger(self, method: Callable[..., T], *args: Any) -> T:
        return method(self.ledger, *args)

    async def start(self, user: str, *pip: str, project: str = "default") -> str:
        """What the start of a server does: its image, made or found, and the note of it."""
        made = recipe(*pip)
        name = image_name(made, user, project)
        repository, _, tag = name.rpartition(":")
        others = [
            i["Id"] for i in self.engine.images.values()
            if i["Config"]["Labels"].get("ds01.recipe") == made.digest
        ]  # fmt: skip
        if not others:
            self.engine.add_image(name, labels={**image_labels(made), BUILT_BY: "hub"})
        for name_of_it in (tag, "latest"):
            await self.engine.tag_image(others[0] if others else name, repository, name_of_it)
        request = Request(ENTRY, "CUDA_ADA", pip=made.pip, project=project)
        ready = ReadyImage(name, made.digest, lambda home: {}, SERVER)
        await self.own.note(user, request, OFFER, ready)
        self.time += timedelta(hours=1)
        return name

    async def serve(
        self, image: str, name: str = "c1", user: str = "", running: bool = True
    ) -> str:
        body = {"Image": image, "Labels": {"ds01.user": user}, "HostConfig": {}}
        id = await self.engine.create_container(name, body)
        if running:
            await self.engine.start_container(id)
        return id

    def names(self) -> set[str]:
        return {name for image in self.engine.images.values() for name in image["RepoTags"]}

    async def projects(self, user: str) -> list[str]:
        return [one.project for one in await self.own.of(user)]


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.ledger.close()


def key(image: str) -> str:
    return image.partition("/")[2]


async def test_what_a_user_started_the_last_used_first(shelf: Shelf) -> None:
    await shelf.start("ada", "pandas", project="thesis")
    await shelf.start("ada")
    await shelf.start("bob", "six")
    await shelf.start("ada", "pandas", project="thesis")
    first, second = await shelf.own.of("ada")
    assert (first.project, first.contents.pip, first.here) == ("thesis", ("pandas",), True)
    assert first.used == START + timedelta(hours=3)
    assert first.options["pip"] == ["pandas"]
    assert second.project == "default"


async def test_one_whose_image_is_gone_can_be_started_again(shelf: Shelf) -> None:
    name = await shelf.start("ada")
    await shelf.engine.remove_image(f"{name.rpartition(':')[0]}:latest")
    await shelf.engine.remove_image(name)
    (one,) = await shelf.own.of("ada")
    assert one.here is False
    assert one.options["framework"] == "Pytorch"


async def test_images_tell_of_what_the_ledger_lost(shelf: Shelf) -> None:
    name = await shelf.start("ada", "pandas", project="thesis")
    await shelf.start("bob")
    shelf.ledger.forget_environment("hub", "ada", name)
    (one,) = await shelf.own.of("ada")
    assert (one.project, one.contents.pip, one.used) == ("thesis", ("pandas",), None)
    await shelf.own.delete("ada", one.key)
    assert not any(name.startswith("ds01-ada/") for name in shelf.names())


async def test_while_the_engine_is_away_the_ledger_tells(shelf: Shelf) -> None:
    await shelf.start("ada")
    shelf.engine.unreachable = True
    (one,) = await shelf.own.of("ada")
    assert one.here is None


async def test_another_s_is_not_found(shelf: Shelf) -> None:
    theirs = await shelf.start("bob")
    await shelf.start("ada", "six")
    names = shelf.names()
    for tried in (key(theirs), theirs, "", "aimehub/pytorch:2.8.0", "../bob/default", "default"):
        with pytest.raises(NoSuchEnvironment):
            await shelf.own.delete("ada", tried)
        with pytest.raises(NoSuchEnvironment):
            await shelf.own.rename("ada", tried, "mine")
    assert shelf.names() == names


async def test_a_deleted_one_takes_its_image_along_unless_another_has_it(shelf: Shelf) -> None:
    mine, theirs = await shelf.start("ada", "six"), await shelf.start("bob", "six")
    await shelf.own.delete("ada", key(mine))
    assert await shelf.projects("ada") == []
    assert shelf.names() == {
        "aimehub/pytorch:2.8.0", theirs, f"{theirs.rpartition(':')[0]}:latest"
    }  # fmt: skip
    await shelf.own.delete("bob", key(theirs))
    assert shelf.names() == {"aimehub/pytorch:2.8.0"}
    assert len(shelf.engine.images) == 1


async def test_the_moving_name_stays_with_the_one_that_has_it(shelf: Shelf) -> None:
    old, new = await shelf.start("ada", "six"), await shelf.start("ada", "rich")
    await shelf.own.delete("ada", key(old))
    assert shelf.engine.image("ds01-ada/default:latest") == shelf.engine.image(new)


@pytest.mark.parametrize("running", [True, False])
async def test_one_in_use_stays(shelf: Shelf, running: bool) -> None:
    name, names = await shelf.start("ada"), shelf.names()
    container = await shelf.serve(name, user="ada", running=running)
    for attempt in (shelf.own.delete("ada", key(name)), shelf.own.rename("ada", key(name), "new")):
        with pytest.raises(EnvironmentInUse, match="a server of yours") as refused:
            await attempt
        assert ("does not run" in refused.value.message) is not running
    assert shelf.names() == names
    await shelf.engine.remove_container(container, force=True)
    await shelf.own.delete("ada", key(name))


async def test_one_of_another_s_container_is_in_use_where_it_is_the_last_name(shelf: Shelf) -> None:
    mine, theirs = await shelf.start("ada"), await shelf.start("bob")
    await shelf.serve(theirs, user="bob")
    await shelf.own.delete("ada", key(mine))  # bob's name keeps the image
    again = await shelf.start("ada")
    await shelf.own.delete("ada", key(again))
    alone = await shelf.start("ada", "six")
    await shelf.serve(shelf.engine.image(alone)["Id"], "by-id", "eve")
    with pytest.raises(EnvironmentInUse, match="somebody else's"):
        await shelf.own.delete("ada", key(alone))


async def test_one_that_is_being_built_stays(shelf: Shelf) -> None:
    name = await shelf.start("ada")
    shelf.building = {recipe().digest}
    with pytest.raises(EnvironmentInUse, match="being built"):
        await shelf.own.delete("ada", key(name))


async def test_a_renamed_one_has_its_name_on_the_engine(shelf: Shelf) -> None:
    old = await shelf.start("ada", "six")
    renamed = await shelf.own.rename("ada", key(old), "My thesis")
    (one,) = await shelf.own.of("ada")
    assert (one.project, one.options["project"], one.here) == ("My thesis", "My thesis", True)
    assert one.used == START
    assert one.image == renamed.image == image_name(recipe("six"), "ada", "My thesis")
    with pytest.raises(EngineNotFound):
        shelf.engine.image(old)
    assert await shelf.start("ada", "six", project="My thesis") == one.image
    assert len(await shelf.own.of("ada")) == 1


async def test_one_that_is_not_built_is_renamed_all_the_same(shelf: Shelf) -> None:
    name = await shelf.start("ada")
    shelf.engine.images.clear()
    await shelf.own.rename("ada", key(name), "later")
    (one,) = await shelf.own.of("ada")
    assert (one.project, one.here) == ("later", False)


@pytest.mark.parametrize("name", ["", ".x", "a/b", "x" * 41, "<b>", "a\nb"])
async def test_a_name_that_is_none_is_refused(shelf: Shelf, name: str) -> None:
    made, names = await shelf.start("ada"), shelf.names()
    with pytest.raises(EnvironmentNameRefused, match="is not a project name"):
        await shelf.own.rename("ada", key(made), name)
    assert shelf.names() == names


async def test_a_name_that_is_taken_is_refused(shelf: Shelf) -> None:
    one, two = await shelf.start("ada"), await shelf.start("ada", project="thesis")
    names = shelf.names()
    with pytest.raises(EnvironmentNameRefused, match="already as thesis"):
        await shelf.own.rename("ada", key(one), "thesis")
    shelf.ledger.forget_environment("hub", "ada", two)
    shelf.engine.image(two)["Config"]["Labels"].clear()  # now it is somebody's, of the same name
    shelf.engine.add_image(two)
    with pytest.raises(EnvironmentNameRefused, match="another image has that name"):
        await shelf.own.rename("ada", key(one), "thesis")
    assert shelf.names() == names


async def test_another_hub_s_image_that_took_the_name_is_left_alone(shelf: Shelf) -> None:
    name = await shelf.start("ada")
    shelf.engine.add_image(name, labels={**image_labels(recipe()), BUILT_BY: "another"})
    (one,) = await shelf.own.of("ada")
    await shelf.own.rename("ada", one.key, "thesis")
    await shelf.own.delete("ada", (await shelf.own.of("ada"))[0].key)
    assert await shelf.own.of("ada") == ()
    assert name in shelf.names()


async def test_what_starts_from_another_image_is_only_forgotten(shelf: Shelf) -> None:
    """An environment whose image is the catalog's, which is not the user's to remove."""
    name = await shelf.start("ada")
    (one,) = await shelf.own.of("ada")
    shelf.ledger.rename_environment("hub", name, replace(one, image="aimehub/pytorch:2.8.0"))
    await shelf.own.delete("ada", "pytorch:2.8.0")
    assert "aimehub/pytorch:2.8.0" in shelf.names()


async def test_a_delete_that_is_cut_short_can_be_done_again(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await shelf.start("ada")

    def busy(*args: object) -> bool:
        raise LedgerBusy("full")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "forget_environment", busy)
        with pytest.raises(LedgerBusy):
            await shelf.own.delete("ada", key(name))
    (one,) = await shelf.own.of("ada")
    assert isinstance(one, OwnEnvironment)
    assert one.here is False
    await shelf.own.delete("ada", key(name))
    assert await shelf.own.of("ada") == ()
