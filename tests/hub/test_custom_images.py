"""Images of the admin's own: who may have them starts them, others neither see nor start them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from traitlets.config import Config

from tests.hub.clients import Form
from tests.hub.world import BASE, World

POLICY = """\
groups:
  bio: {members: [biologist]}
images:
  genomics:
    image: lab.example.org/genomics:2026
    title: Genomics <2026>
    description: With BLAST & friends
    groups: [bio, genomics-course]
  tuned: {image: "lab.example.org/tuned:1", title: Tuned, framework: Pytorch}
  absent: {image: "lab.example.org/absent:1", title: Not there}
  loads: {image: "lab.example.org/loads:1", title: Loads}
presets:
  week1: {title: First week, framework: custom, version: genomics, pip: [rich]}
"""
GENOMICS = {"framework": "custom", "version": "genomics"}
NONSENSE = {"framework": "custom", "version": "nonsense"}


def configure(c: Config) -> None:
    """The admin's own images are where the policy says, the catalog's are the stand-in."""
    c.DS01Spawner.image_map = {"lab.example.org/*": "lab.example.org/*", "*": BASE}


@pytest.fixture(autouse=True)
def images(world: World) -> dict[str, str]:
    """Ids by name of what the engine has of them."""
    env = {"loads": ["LD_PRELOAD=/x.so"]}
    return {
        name: world.engine.add_image(f"lab.example.org/{name}", env=env.get(name.split(":")[0], ()))
        for name in ("genomics:2026", "tuned:1", "loads:1")
    }


def words(answer: Any) -> str:
    return str(json.loads(answer.body)["message"])


async def join(world: World, user: str, method: str = "POST") -> None:
    """Have JupyterHub's group of the course have the user, or not any more."""
    await world.api("POST", "groups/genomics-course")
    path = "groups/genomics-course/users"
    assert (await world.api(method, path, {"users": [user]})).code == 200


async def form_of(world: World, user: str) -> Form:
    return Form(await (await world.browser(user)).get("spawn"))


@pytest.mark.parametrize("by", ["file", "jupyterhub"])
async def test_a_member_starts_one(
    world: World, user: str, images: dict[str, str], by: str
) -> None:
    if by == "file":
        user = "biologist"
        await world.api("POST", f"users/{user}")
    else:
        await join(world, user)
    page = (await form_of(world, user)).page
    assert 'value="custom|genomics|CUDA_AMPERE"' in page
    assert "<b>Genomics &lt;2026&gt;</b>" in page
    assert "<small>With BLAST &amp; friends</small>" in page
    assert "First week" in page
    asked = {**GENOMICS, "gpus": 1, "gpu": "full", "pip": ["tqdm"]}
    assert (await world.start(user, {"user_options": asked})).code == 201
    labels = world.created(user)["Labels"]
    assert labels["ds01.custom_image"] == labels["ds01.image"] == "lab.example.org/genomics:2026"
    assert labels["ds01.framework"] == "custom-genomics"
    build = world.engine.builds[-1]
    assert build.labels["ds01.base"] == images["genomics:2026"]
    assert (build.labels["ds01.framework"], build.labels["ds01.version"]) == ("custom", "genomics")
    assert b"tqdm" in build.files["requirements.txt"]
    assert build.files["Dockerfile"].startswith(b"FROM ds01-base:lab-example-org-g")
    await world.stop(user)


async def test_who_is_no_member_hears_what_of_one_that_is_not_there(
    world: World, user: str
) -> None:
    before = len(world.engine.calls)
    refusals = []
    for options in (GENOMICS, NONSENSE):
        answer = await world.start(user, {"user_options": options})
        assert answer.code == 400
        refusals.append(words(answer).replace(options["version"], "X"))
    assert refusals[0] == refusals[1]
    assert "'X' of custom is not offered here. Allowed: latest, absent, loads." in refusals[0]
    preset = await world.start(user, {"preset": "week1"})
    assert (preset.code, "'week1' is not offered to you" in words(preset)) == (400, True)
    assert world.touched(before) == []
    page = (await form_of(world, user)).page
    for secret in ("enomics", "BLAST", "First week", "lab.example.org"):
        assert secret not in page
    linked = (await (await world.browser(user)).get("spawn?preset=week1")).body.decode()
    assert "First week" not in linked


async def test_who_leaves_the_group_keeps_the_server_and_starts_no_other(
    world: World, user: str
) -> None:
    await join(world, user)
    assert (await world.start(user, GENOMICS)).code == 201
    await join(world, user, "DELETE")
    assert await world.spawner(user).poll() is None
    await world.stop(user)
    form = await form_of(world, user)
    assert "Custom genomics is not offered to you here" in form.page
    assert form.fields["environment"] == ["Pytorch|2.8.0|CUDA_AMPERE"]
    again = await world.start(user, GENOMICS)
    assert (again.code, "is not offered here" in words(again)) == (400, True)


async def test_the_form_starts_one_that_has_a_framework(world: World, user: str) -> None:
    browser = await world.browser(user)
    form = Form(await browser.get("spawn"))
    assert "<b>Tuned</b>" in form.page
    chosen = {**form.fields, "environment": "Pytorch|tuned|CUDA_AMPERE", "gpus": "0"}
    assert (await browser.post("spawn", chosen)).code == 302
    await world.settled(user)
    labels = world.created(user)["Labels"]
    assert labels["ds01.framework"] == "Pytorch-tuned"
    assert labels["ds01.custom_image"] == "lab.example.org/tuned:1"
    dockerfile = world.engine.builds[-1].files["Dockerfile"].decode()
    assert '"/opt/ds01/build/env.sh", "torch"' in dockerfile  # its Python has to have it
    await world.stop(user)


async def test_an_image_of_the_catalog_is_not_custom(world: World, user: str) -> None:
    assert (await world.start(user, {"user_options": {}})).code == 201
    labels = world.created(user)["Labels"]
    assert (labels["ds01.image"], labels["ds01.custom_image"]) == ("aimehub/pytorch-2.8.0", "")
    await world.stop(user)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("absent", "The image lab.example.org/absent:1 is not on this server and could not be"),
        ("loads", "The image lab.example.org/loads:1 cannot be used: it sets LD_PRELOAD"),
    ],
)
async def test_one_that_cannot_be_used_is_told_in_words(
    world: World, user: str, name: str, told: str
) -> None:
    options = {"framework": "custom", "version": name}
    answer = await world.start(user, {"user_options": options})
    said = [event["message"] for event in await world.events(user)]
    assert told in f"{answer.body.decode()} {' '.join(said)}"
    assert await world.left_of(user) == ([], [])
    assert (await world.start(user, {"user_options": {}})).code == 201
    await world.stop(user)


async def test_one_that_the_policy_no_longer_has_starts_no_more(world: World, user: str) -> None:
    tuned = {"framework": "Pytorch", "version": "tuned"}
    assert (await world.start(user, {"user_options": tuned})).code == 201
    world.policy.write_text("defaults: {}\n")
    try:
        assert await world.spawner(user).poll() is None
        await world.stop(user)
        answer = await world.start(user, {"user_options": tuned})
        assert (answer.code, "'tuned' of Pytorch is not offered here." in words(answer)) == (
            400, True,
        )  # fmt: skip
    finally:
        world.policy.write_text(POLICY)
