"""The form through the hub's own pages: what opens it, what fills it in, what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from ds01_spawner.errors import LedgerBusy
from ds01_spawner.hub.runtime import Runtime
from tests.fakes.engine import Ran
from tests.hub.clients import Form
from tests.hub.world import World

POLICY = """\
defaults: {max_containers_per_user: 3, allow_full_gpu: true, max_gpu_equivalents: 2}
presets:
  dl101:
    title: Deep Learning 101
    description: <b>hostile</b> words
    framework: Pytorch
    version: 2.7.1
    architecture: CUDA_AMPERE
    gpus: 0
"""
HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}"
SAVED = {"framework": "Pytorch", "version": "2.7.1", "architecture": "CUDA_AMPERE"}
CARD = "Pytorch|2.7.1|CUDA_AMPERE"


async def save(world: World, user: str, options: Any) -> None:
    """Have these options saved, whatever the hub of today would say of them."""
    world.spawner(user).orm_spawner.user_options = options
    world.hub.db.commit()
    world.hub.users[user].spawners.pop("")


# --- opening it --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "?preset=dl101",
        "?opt-preset=dl101",
        "?preset=unknown",
        "?framework=Tensorflow&gpus=1",
        "?opt-framework=Tensorflow",
        "?_xsrf=x",
        "?image=evil",
        "?next=%2Fhub%2Fhome",
        "?user_options=%7B%7D",
        "",
    ],
)
async def test_a_get_shows_the_form_and_starts_nothing(world: World, user: str, query: str) -> None:
    await save(world, user, SAVED)
    browser = await world.browser(user)
    page = await browser.get(f"spawn{query}")
    assert page.code == 200
    assert "environment" in Form(page).fields
    assert world.spawner(user).pending is None
    assert await world.left_of(user) == ([], [])
    assert world.spawner(user).orm_spawner.user_options == SAVED
    again = await browser.get("spawn")
    assert Form(again).fields["environment"] == [CARD]


@pytest.mark.parametrize("key", ["preset", "opt-preset"])
async def test_a_link_fills_the_form_in(world: World, user: str, key: str) -> None:
    browser = await world.browser(user)
    form = Form(await browser.get(f"spawn?{key}=dl101"))
    assert form.fields["environment"] == ["preset:dl101"]
    assert "Deep Learning 101" in form.page
    assert "<b>hostile" not in form.page


async def test_a_link_leaves_no_traceback_in_the_log(
    world: World, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    browser = await world.browser(user)
    caplog.clear()
    await browser.get("spawn?preset=dl101")
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_link_survives_the_log_in(world: World, user: str) -> None:
    answer = await world.fetch("spawn?preset=dl101")
    assert answer.code == 302
    assert "preset%3Ddl101" in answer.headers["Location"]


async def test_the_form_of_a_link_starts_its_preset(world: World, user: str) -> None:
    browser = await world.browser(user)
    fields = Form(await browser.get("spawn?preset=dl101")).fields
    posted = {key: fields[key] for key in ("environment", "pip", "apt", "gpus", "project")}
    answer = await browser.post("spawn?preset=dl101", posted)
    assert answer.code == 302, answer.body
    await world.settled(user)
    assert world.spawner(user).user_options == {"preset": "dl101"}
    assert world.container(user)["Config"]["Labels"]["ds01.framework"] == "Pytorch-2.7.1"
    await world.stop(user)


@pytest.mark.parametrize(
    "junk",
    [
        {"framework": ["x"], "version": {}, "gpus": "many", "pip": {"a": 1}, "hours": None},
        {"framework": "Pytorch", "version": "0.0.1"},
        {"preset": "gone"},
        {"preset": {}, "bundles": [{}], "gpu": 3, "cpus": float("1e400"), "memory": -1},
        {"user_options": {"framework": "Tensorflow"}},
        {"user_options": 5},
        {HOSTILE: HOSTILE, "framework": HOSTILE, "project": HOSTILE, "pip": [HOSTILE]},
        ["a", "list"],
        "a string",
        7,
        {},
        None,
    ],
    ids=repr,
)
async def test_junk_that_was_saved_breaks_no_form(world: World, user: str, junk: Any) -> None:
    browser = await world.browser(user)
    await save(world, user, junk)
    page = await browser.get("spawn")
    assert page.code == 200
    form = Form(page)
    assert len(form.fields["environment"]) == 1
    assert "<script>alert" not in form.page


# --- posting it --------------------------------------------------------------------------------


async def test_a_refused_form_is_shown_again_as_it_was(world: World, user: str) -> None:
    browser = await world.browser(user)
    before = len(world.engine.calls)
    page = await browser.post(
        "spawn",
        {
            "environment": CARD,
            "pip": "pandas\nhttps://evil.example/x.whl",
            "project": HOSTILE,
            "hours": "soon",
        },
    )
    assert page.code == 400
    form = Form(page)
    assert form.fields["environment"] == [CARD]
    assert form.fields["pip"] == ["pandas\nhttps://evil.example/x.whl"]
    assert form.fields["project"] == [HOSTILE]
    assert form.fields["hours"] == ["soon"]
    assert "is not a project name" in form.page
    assert HOSTILE not in form.page
    assert world.touched(before) == []
    assert world.spawner(user).user_options == {}
    calm = Form(await browser.get("spawn"))
    assert calm.fields["project"] == [""]


@pytest.mark.parametrize("server", ["", "/work"])
async def test_what_may_not_be_had_now_is_said_on_the_form(
    world: World, user: str, server: str
) -> None:
    """Refused by `admit`, within the second that the hub waits with the form."""
    for name in ("a", "b", "c"):
        await world.start(user, {"user_options": {}}, name)
    browser = await world.browser(user)
    page = await browser.post(f"spawn/{user}{server}", {"environment": CARD, "project": "mine"})
    assert page.code == 409
    assert Form(page).fields["project"] == ["mine"]
    assert "You have 3 of 3 servers that you may have at once." in Form(page).page
    for name in ("a", "b", "c"):
        await world.stop(user, name)


async def test_a_refused_form_of_a_named_server(world: World, user: str) -> None:
    browser = await world.browser(user)
    page = await browser.post(f"spawn/{user}/work", {"environment": CARD, "hours": "soon"})
    assert page.code == 400
    assert Form(page).fields["hours"] == ["soon"]


# --- trouble -----------------------------------------------------------------------------------


async def test_the_page_says_so_when_the_form_cannot_be_made(
    world: World, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(self: Runtime) -> None:
        raise LedgerBusy("secret path")

    browser = await world.browser(user)
    monkeypatch.setattr(Runtime, "leases", busy)
    page = await browser.get("spawn")
    assert page.code == 200
    assert "The record of who holds which GPU" in page.body.decode()
    assert "secret" not in page.body.decode()


async def test_the_form_is_there_while_the_engine_is_away(world: World, user: str) -> None:
    browser = await world.browser(user)
    with world.away():
        page = await browser.get("spawn")
    assert page.code == 200
    assert "environment" in Form(page).fields


async def test_a_start_that_failed_is_explained_on_its_own_page(world: World, user: str) -> None:
    """As it is shown to who comes back after the progress page was closed."""
    world.engine.program = lambda container: Ran(1, f"{HOSTILE}\nsecret\n")
    try:
        await world.start(user, {"user_options": {}})
    finally:
        world.engine.program = lambda container: None
    browser = await world.browser(user)
    page = await browser.get(f"spawn-pending/{user}")
    text = page.body.decode()
    assert page.code == 500
    assert "Your server started and ended before it could be used: it ended with status 1" in text
    assert "secret" not in text
    assert HOSTILE not in text
