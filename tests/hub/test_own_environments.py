"""A user's own environments on the form: started again, renamed, deleted, by nobody else."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.hub.clients import Browser, Form
from tests.hub.world import World

FIRST = {"framework": "Pytorch", "version": "2.7.1", "architecture": "CUDA_AMPERE", "gpus": 0}
SECOND = {**FIRST, "pip": ["six"], "project": "thesis"}


async def used(world: World, user: str, *choices: dict[str, Any]) -> list[str]:
    """Start and stop a server with each of the options; the images' names."""
    for options in choices:
        answer = await world.start(user, options)
        assert answer.code in (201, 202), answer.body
        assert len(world.containers(user)) == 1
        await world.stop(user)
    return [one.image for one in reversed(await world.runtime.environments.of(user))]


def keys(page: str) -> list[str]:
    """The environments that a page shows, by what their buttons post."""
    return re.findall(r'name="again" value="([^"]+)"', page)


async def page(browser: Browser) -> str:
    answer = await browser.get("spawn")
    assert answer.code == 200
    return answer.body.decode()


def names(world: World) -> set[str]:
    return {name for image in world.engine.images.values() for name in image["RepoTags"]}


async def test_a_user_without_any_sees_none(world: World, user: str) -> None:
    shown = await page(await world.browser(user))
    assert "Your environments" not in shown
    assert keys(shown) == []


async def test_what_was_started_is_shown_the_last_first(world: World, user: str) -> None:
    await used(world, user, FIRST, SECOND)
    shown = await page(await world.browser(user))
    assert [key.partition(":")[0] for key in keys(shown)] == ["thesis", "default"]
    assert "Packages: six" in shown
    assert "PyTorch 2.7.1" in shown
    assert re.search(r"Last used <time datetime=\"[^\"]+\">\d{4}-\d\d-\d\d \d\d:\d\d UTC", shown)
    assert "has to be built again" not in shown


async def test_one_is_started_again_with_one_click(world: World, user: str) -> None:
    (first, _) = await used(world, user, FIRST, SECOND)
    browser = await world.browser(user)
    form = Form(await browser.get("spawn"))
    builds = len(world.engine.builds)
    again = keys(form.page)[1]
    # what else is filled in does not matter
    answer = await browser.post("spawn", {**form.fields, "pip": "rich", "again": again})
    assert answer.code == 302
    await world.settled(user)
    assert world.created(user)["Image"] == first
    assert len(world.engine.builds) == builds
    await world.stop(user)
    assert keys(await page(browser))[0] == again


async def test_a_get_starts_and_changes_nothing(world: World, user: str) -> None:
    await used(world, user, FIRST)
    browser = await world.browser(user)
    (key,) = keys(await page(browser))
    before = names(world)
    for query in (f"again={key}", f"delete={key}", f"rename={key}&environment-name=x"):
        assert (await browser.get(f"spawn?{query}")).code == 200
    assert world.containers(user) == []
    assert (names(world), keys(await page(browser))) == (before, [key])


async def test_what_may_no_longer_be_started_is_told_on_the_form(world: World, user: str) -> None:
    await used(world, user, SECOND)
    browser = await world.browser(user)
    (key,) = keys(await page(browser))
    catalog = world.catalog.read_text()
    try:
        world.catalog.write_text(catalog.replace("Pytorch, 2.7.1", "Pytorch, 2.7.2"))
        answer = await browser.post("spawn", {"again": key})
    finally:
        world.catalog.write_text(catalog)
    assert answer.code == 400
    told = Form(answer)
    assert "2.7.1&#39; of Pytorch is not offered here" in told.page
    assert told.fields["pip"] == ["six"]  # the form is as the environment was
    assert world.containers(user) == []


async def test_one_is_deleted(world: World, user: str) -> None:
    first, second = await used(world, user, FIRST, SECOND)
    browser = await world.browser(user)
    answer = await browser.post("spawn", {"delete": first.partition("/")[2]})
    assert answer.code == 200
    told = answer.body.decode()
    assert "The environment default was deleted." in told
    assert keys(told) == [second.partition("/")[2]]
    assert first not in names(world)
    assert second in names(world)
    assert world.told(user)[-1] == "image.delete"
    assert world.containers(user) == []
    assert "was deleted" not in await page(browser)


async def test_one_is_renamed(world: World, user: str) -> None:
    (image,) = await used(world, user, FIRST)
    browser = await world.browser(user)
    fields = {"rename": image.partition("/")[2], "environment-name": "Lab 3"}
    answer = await browser.post("spawn", fields)
    assert answer.code == 200
    told = answer.body.decode()
    assert "The environment is called Lab 3 now." in told
    assert image not in names(world)
    await browser.post("spawn", {"again": keys(told)[0]})
    await world.settled(user)
    assert world.container(user)["Config"]["Labels"]["ds01.project"] == "Lab 3"
    await world.stop(user)


async def test_a_name_that_is_none_is_refused_in_words(world: World, user: str) -> None:
    (image,) = await used(world, user, FIRST)
    browser = await world.browser(user)
    for name in ("<script>", ""):
        fields = {"rename": image.partition("/")[2], "environment-name": name}
        answer = await browser.post("spawn", fields)
        assert answer.code == 400
        told = answer.body.decode()
        assert "is not a project name" in told
        assert "<script>'" not in told
        assert image in names(world)


@pytest.mark.parametrize("field", ["again", "rename", "delete"])
async def test_another_s_is_out_of_reach(world: World, user: str, other: str, field: str) -> None:
    (theirs,) = await used(world, other, SECOND)
    await used(world, user, FIRST)
    browser = await world.browser(user)
    before = names(world)
    own = theirs.partition("/")[2]
    for key in (own, theirs, f"../{other}/{own}", "base:1"):
        answer = await browser.post("spawn", {field: key, "environment-name": "mine"})
        assert answer.code == 404, key
        assert "You have no such environment" in answer.body.decode()
    # nor through the page of theirs
    answer = await browser.post(f"spawn/{other}", {field: own})
    assert answer.code in (403, 404)
    assert names(world) == before
    assert world.containers(user) == world.containers(other) == []
    assert keys(await page(await world.browser(other))) == [own]


@pytest.mark.parametrize("field", ["again", "rename", "delete"])
async def test_a_post_without_the_page_s_token_is_refused(
    world: World, user: str, field: str
) -> None:
    (image,) = await used(world, user, FIRST)
    browser = await world.browser(user)
    before = names(world)
    answer = await browser._fetch(
        "spawn", "POST", body=f"{field}={image.partition('/')[2]}&environment-name=x"
    )
    assert answer.code == 403
    assert names(world) == before
    assert world.containers(user) == []


async def test_one_in_use_is_kept_and_it_is_said(world: World, user: str) -> None:
    (image,) = await used(world, user, FIRST)
    await world.start(user, FIRST, "second")
    browser = await world.browser(user)
    before = names(world)
    for fields in ({"delete": ""}, {"rename": "", "environment-name": "x"}):
        fields = {k: v or image.partition("/")[2] for k, v in fields.items()}
        answer = await browser.post("spawn", fields)
        assert answer.code == 409
        assert "it is in use, for a server of yours has it" in answer.body.decode()
    assert names(world) == before
    await world.stop(user, "second")
    assert (await browser.post("spawn", {"delete": image.partition("/")[2]})).code == 200


async def test_one_is_kept_while_a_server_is_on_its_way(world: World, user: str) -> None:
    """It may be about to make a container of it."""
    (image,) = await used(world, user, FIRST)
    browser = await world.browser(user)
    async with world.starting(user, FIRST, "second", at="create_container"):
        answer = await browser.post("spawn", {"delete": image.partition("/")[2]})
        assert answer.code == 409
        assert "a server of yours is starting" in answer.body.decode()
    await world.settled(user, "second")
    assert image in names(world)
    await world.stop(user, "second")


async def test_images_are_shown_that_the_ledger_lost(world: World, user: str) -> None:
    (image,) = await used(world, user, SECOND)
    await world.runtime.in_ledger(
        type(world.runtime._ledger).forget_environment, world.runtime.settings.hub_id, user, image
    )
    browser = await world.browser(user)
    shown = await page(browser)
    assert keys(shown) == [image.partition("/")[2]]
    assert "When it was used is not known" in shown
    await browser.post("spawn", {"again": keys(shown)[0]})
    await world.settled(user)
    assert world.created(user)["Image"] == image
    await world.stop(user)


async def test_while_the_engine_is_away_the_form_shows_them(world: World, user: str) -> None:
    (image,) = await used(world, user, FIRST)
    browser = await world.browser(user)
    with world.away():
        assert keys(await page(browser)) == [image.partition("/")[2]]


async def test_a_failed_build_names_its_log(world: World, user: str) -> None:
    async def fail(command: str) -> int:
        return 1 if "pip.sh" in command else 0

    world.engine.run, before = fail, world.engine.run
    try:
        answer = await world.start(user, {**FIRST, "pip": ["nosuch"]})
    finally:
        world.engine.run = before
    told = answer.body.decode() if answer.code != 202 else str(await world.events(user))
    found = re.search(r"finds the whole log as ([0-9a-f]{16})\.", told)
    assert found, told
    log = world.folder / "data" / "builds" / f"{found[1]}.log"
    assert "nosuch" not in log.name
    assert log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
