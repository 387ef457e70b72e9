"""Builds: found before they are made, made once for all, ended when nobody wants them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ds01_spawner.core.build_plan import BuildPlan
from ds01_spawner.core.build_site import BuildSite
from ds01_spawner.core.recipe import Recipe, image_name
from ds01_spawner.errors import BuildFailed, EngineUnavailable
from ds01_spawner.services.build_network import SharedNetwork
from ds01_spawner.services.build_output import EndlessOutput
from ds01_spawner.services.builder import Builder, BuildEvent, Remembered, to_tar
from ds01_spawner.services.images import plan_of
from tests.fakes.engine import FakeEngine

TAG = "ds01-base:pytorch-0123456789ab"


def recipe(*pip: str) -> Recipe:
    return Recipe(
        base="sha256:" + "a" * 64,
        framework="Pytorch",
        version="2.8.0",
        architecture="CUDA_ADA",
        pip=pip,
    )


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        self.time += timedelta(seconds=1)
        return self.time


async def gate_image() -> str:
    return TAG


def plan(made: Recipe, user: str = "alice") -> BuildPlan:
    return plan_of(made, image_name(made, user, "p"), TAG, BuildSite())


class Site:
    """A builder on a fake engine whose steps wait until the test lets them go on."""

    def __init__(self, log_dir: Path, **options: Any) -> None:
        self.engine = FakeEngine()
        self.engine.add_image(TAG)
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self.code = 0
        self.engine.run = self._step
        settings: dict[str, Any] = {
            "concurrency": 2,
            "memory": 1 << 30,
            "cpus": 1.5,
            "timeout_s": 60,
            "now": Clock(),
            "made": Remembered(),
            "gate_image": gate_image,
            "network": SharedNetwork("bridge", {"http_proxy": "http://proxy.example.org"}),
        }
        self.builder = Builder(self.engine, log_dir=log_dir, **{**settings, **options})
        self.events: dict[str, list[BuildEvent]] = {}

    async def _step(self, command: str) -> int:
        if "pip.sh" in command:
            self.begun.set()
            await self.gate.wait()
            return self.code
        return 0

    def open(self) -> Site:
        self.gate.set()
        return self

    def ask(self, made: Recipe, user: str = "alice") -> asyncio.Task[str]:
        """Someone starts a server with this recipe."""
        listener = self.events.setdefault(user, []).append
        return asyncio.ensure_future(self.builder.ensure(plan(made, user), listener))

    def titles(self, user: str = "alice") -> list[str]:
        return list(dict.fromkeys(event.title for event in self.events[user]))


@pytest.fixture
def site(tmp_path: Path) -> Callable[..., Site]:
    return lambda **options: Site(tmp_path / "logs", **options)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_build_gets_the_context_the_labels_and_the_limits(
    site: Callable[..., Site],
) -> None:
    here = site().open()
    made = recipe("pandas>=2")
    image = await here.ask(made)
    (build,) = here.engine.builds
    assert build.files["requirements.txt"] == b"pandas>=2\n"
    assert build.files["build/env.sh"].startswith(b"#!/bin/sh")
    assert build.labels["ds01.recipe"] == made.digest
    assert (build.memory, build.cpus) == (1 << 30, 1.5)
    assert build.network == "bridge"
    assert build.buildargs == {"http_proxy": "http://proxy.example.org"}
    assert here.engine.image(f"ds01-alice/p:{made.short}")["Id"] == image
    assert here.engine.image("ds01-alice/p:latest")["Id"] == image
    assert here.titles() == [
        "Framework image",
        "Python kernel",
        "Your packages: pandas",
        "Check of the result",
    ]
    assert {event.steps for event in here.events["alice"]} == {5}


async def test_what_is_there_is_not_built(site: Callable[..., Site]) -> None:
    here = site().open()
    first = await here.ask(recipe("pandas"))
    assert await here.ask(recipe("Pandas")) == first
    assert await here.ask(recipe("pandas"), "bob") == first
    assert here.engine.image("ds01-bob/p:latest")["Id"] == first
    assert len(here.engine.builds) == 1
    assert here.events["bob"] == []


async def test_a_name_that_another_recipe_has_is_not_trusted(site: Callable[..., Site]) -> None:
    here = site().open()
    made = recipe("pandas")
    other = here.engine.add_image(image_name(made, "alice", "p"), labels={"ds01.recipe": "other"})
    assert await here.ask(made) != other
    assert len(here.engine.builds) == 1


async def test_labels_make_no_image_the_recipe_s(site: Callable[..., Site]) -> None:
    """A commit of somebody's container has the labels of its image, and their files."""
    here = site().open()
    made = recipe("pandas")
    labels = {"ds01.image.managed": "true", "ds01.recipe": made.digest}
    commit = here.engine.add_image("commit:1", labels=labels)
    here.engine._name(commit, image_name(made, "alice", "p"))
    built = await here.ask(made)
    assert built != commit
    assert here.engine.image(image_name(made, "alice", "p"))["Id"] == built
    # a name that was moved to a commit later is moved back
    here.engine._name(commit, image_name(made, "alice", "p"))
    assert await here.ask(made) == built
    assert here.engine.image(image_name(made, "alice", "p"))["Id"] == built
    assert len(here.engine.builds) == 1


async def test_an_image_that_is_remembered_but_gone_is_built_again(
    site: Callable[..., Site],
) -> None:
    here = site().open()
    first = await here.ask(recipe("pandas"))
    del here.engine.images[first]
    second = await here.ask(recipe("pandas"))
    assert here.engine.image(image_name(recipe("pandas"), "alice", "p"))["Id"] == second
    assert len(here.engine.builds) == 2


async def test_what_an_earlier_builder_made_is_not_built_again(site: Callable[..., Site]) -> None:
    made = Remembered()
    before, after = site(made=made).open(), site(made=made).open()
    after.engine.images = before.engine.images
    image = await before.ask(recipe("pandas"))
    assert await after.ask(recipe("pandas"), "bob") == image
    assert after.engine.builds == []


async def test_thirty_who_want_the_same_have_one_build(site: Callable[..., Site]) -> None:
    here = site()
    users = [f"user{number}" for number in range(30)]
    asking = [here.ask(recipe("pandas"), user) for user in users]
    await here.begun.wait()
    late = here.ask(recipe("pandas"), "late")
    await settle()
    here.open()
    images = await asyncio.gather(*asking, late)
    assert len(set(images)) == 1
    assert len(here.engine.builds) == 1
    # Who came late was told all that came before.
    assert here.titles("late") == here.titles("user0")
    assert {f"ds01-{user}/p:latest" for user in (*users, "late")} <= {
        tag for image in here.engine.images.values() for tag in image["RepoTags"]
    }


async def test_builds_beyond_the_places_wait_in_line(site: Callable[..., Site]) -> None:
    here = site(concurrency=1)
    asking = [here.ask(recipe(name), name) for name in ("first", "second", "third", "fourth")]
    await here.begun.wait()
    await settle()
    assert len(here.engine.builds) == 1
    assert here.events["third"][-1].line == "place 2 in the line"
    assert here.events["third"][-1].step == 0
    asking[1].cancel()
    await settle()
    assert here.events["third"][-1].line == "place 1 in the line"
    here.open()
    await asyncio.gather(*asking, return_exceptions=True)
    built = [build.files["requirements.txt"] for build in here.engine.builds]
    assert built == [b"first\n", b"third\n", b"fourth\n"]


async def test_a_build_ends_with_the_last_who_wants_it_and_not_before(
    site: Callable[..., Site],
) -> None:
    here = site()
    alice, bob = here.ask(recipe("pandas")), here.ask(recipe("pandas"), "bob")
    await here.begun.wait()
    await settle()
    alice.cancel()
    await settle()
    assert alice.cancelled()
    assert not bob.done()
    here.open()
    assert await bob
    assert len(here.engine.builds) == 1


async def test_a_build_that_nobody_wants_any_more_is_ended(site: Callable[..., Site]) -> None:
    here = site()
    alice = here.ask(recipe("pandas"))
    await here.begun.wait()
    alice.cancel()
    with pytest.raises(asyncio.CancelledError):
        await alice
    assert "The build was given up." in here.builder.log_path(plan(recipe("pandas"))).read_text()
    # The next one begins anew, and its place in the line is free.
    here.open()
    assert await here.ask(recipe("pandas"))
    assert len(here.engine.builds) == 2


async def test_who_asks_while_a_build_is_being_ended_gets_one(site: Callable[..., Site]) -> None:
    here = site()
    alice = here.ask(recipe("pandas"))
    await here.begun.wait()
    alice.cancel()
    bob = here.ask(recipe("pandas"), "bob")
    here.open()
    assert await bob
    await asyncio.wait([alice])
    assert alice.cancelled()


@pytest.mark.parametrize("code", [1, 137])
async def test_a_failed_build_tells_the_step_and_names_nothing(
    site: Callable[..., Site], code: int
) -> None:
    here = site().open()
    old = await here.ask(recipe("pandas"))
    here.code = code
    with pytest.raises(BuildFailed) as failed:
        await here.ask(recipe("pandas", "nosuch"))
    assert "'Your packages: nosuch, pandas'" in failed.value.message
    assert ("memory" in failed.value.message) == (code == 137)
    assert str(here.builder.log_path(plan(recipe("pandas", "nosuch")))) in failed.value.detail
    assert here.engine.image("ds01-alice/p:latest")["Id"] == old
    assert len(here.engine.images) == 2


async def test_all_who_wait_are_told_of_the_failure_and_the_next_try_is_new(
    site: Callable[..., Site],
) -> None:
    here = site()
    here.code = 1
    asking = [here.ask(recipe("pandas"), user) for user in ("alice", "bob")]
    await here.begun.wait()
    await settle()
    here.open()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(result) for result in results] == [BuildFailed, BuildFailed]
    here.code = 0
    assert await here.ask(recipe("pandas"))


async def test_a_build_has_an_end(site: Callable[..., Site]) -> None:
    here = site(timeout_s=0.05)
    with pytest.raises(BuildFailed, match="took longer than the"):
        await here.ask(recipe("pandas"))


async def test_a_build_that_prints_without_end_is_told_in_words(site: Callable[..., Site]) -> None:
    here = site().open()

    async def endless(asked: Any, on_line: Callable[[str], None]) -> str:
        on_line("Killed")  # what it printed is no reason
        raise EndlessOutput

    here.engine._build = endless  # type: ignore[method-assign,assignment]
    with pytest.raises(BuildFailed, match="failed: it printed without end\\."):
        await here.ask(recipe("pandas"))


async def test_an_engine_that_is_away_is_no_failed_build(site: Callable[..., Site]) -> None:
    here = site().open()

    async def away(command: str) -> int:
        raise EngineUnavailable("gone")

    here.engine.run = away
    with pytest.raises(EngineUnavailable):
        await here.ask(recipe("pandas"))


async def test_a_listener_that_fails_harms_nobody(site: Callable[..., Site]) -> None:
    here = site().open()
    made = recipe("pandas")

    def broken(event: BuildEvent) -> None:
        raise RuntimeError("a page went away")

    assert await here.builder.ensure(plan(made), broken)


async def test_output_is_cleaned_bounded_and_kept(site: Callable[..., Site]) -> None:
    here = site().open()
    made = recipe("pandas")
    build = here.engine._build

    async def chatty(asked: Any, on_line: Callable[[str], None]) -> str:
        image = await build(asked, on_line)
        for number in range(30_000):
            on_line(f"\x1b[31mline {number}\x1b[0m with some text to fill the file\r\n")
        return image

    here.engine._build = chatty  # type: ignore[method-assign,assignment]
    await here.ask(made)
    path = here.builder.log_path(plan(made))
    text = path.read_text()
    assert path.stat().st_size < 1_200_000
    assert path.stat().st_mode & 0o777 == 0o600
    assert "lines are left out" in text
    assert "line 29999 with" in text
    assert "\x1b" not in text
    last = "line 29999 with some text to fill the file"
    assert last in [event.line for event in here.events["alice"]]


def test_a_context_is_the_same_tar_for_the_same_files() -> None:
    assert to_tar({"a": b"1", "b": b"2"}) == to_tar({"b": b"2", "a": b"1"})
