"""A requirements file through the hub's own pages: to the build exactly, or back to the form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ds01_spawner.core.requirements import MAX_LIST
from tests.hub.clients import Form
from tests.hub.world import World

POLICY = """\
presets:
  shut: {title: Shut, framework: Pytorch, version: 2.7.1}
  opened: {title: Opened, framework: Pytorch, version: 2.7.1, allow: [pip]}
"""
CARD = "Pytorch|2.7.1|CUDA_AMPERE"
HASH = "--hash=sha256:" + "a" * 64


def lock(user: str) -> str:
    """As pip-compile writes one, with a package of this test's own."""
    return (
        f"# locked\r\nonly-{user}==1.0 ; python_version >= '3.8' \\\r\n    {HASH}\r\n"
        f"    # via nobody\r\n\r\nPandas==2.2.3 {HASH}  # data\r\n"
    )


def built_of(world: World) -> str:
    """The list that pip was given in the last build."""
    return world.engine.builds[-1].files["requirements.txt"].decode()


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
async def test_an_uploaded_file_is_built_exactly_and_is_on_the_form_afterwards(
    world: World, user: str, bom: bytes
) -> None:
    browser = await world.browser(user)
    fields = {"environment": CARD, "pip": "not-this-one", "project": "mine"}
    answer = await browser.upload("spawn", fields, "requirements", bom + lock(user).encode())
    assert answer.code == 302, answer.body
    await world.settled(user)
    assert built_of(world) == (
        f'only-{user}==1.0; python_version >= "3.8" {HASH}\npandas==2.2.3 {HASH}\n'
    )
    assert world.container(user)["Config"]["Labels"]["ds01.user"] == user
    await world.stop(user)
    again = Form(await browser.get("spawn"))
    assert again.fields["pip"] == [lock(user).replace("\r\n", "\n").rstrip()]
    assert again.fields["project"] == ["mine"]


async def test_without_a_file_the_list_of_the_form_is_taken(world: World, user: str) -> None:
    browser = await world.browser(user)
    fields = {"environment": CARD, "pip": f"only-{user}>=1  # mine"}
    answer = await browser.upload("spawn", fields, "requirements", None)
    assert answer.code == 302, answer.body
    await world.settled(user)
    assert built_of(world) == f"only-{user}>=1\n"
    assert world.spawner(user).user_options["pip"] == [f"only-{user}>=1  # mine"]
    await world.stop(user)


@pytest.mark.parametrize(
    ("file", "shown", "told"),
    [
        (
            b"rich\n\n--index-url https://evil.example/simple\n",
            "rich\n\n--index-url https://evil.example/simple",
            "Line 3: &#39;--index-url https://evil.example/simple&#39; is an option of pip",
        ),
        (
            b"rich==1 " + HASH.encode() + b"\ntqdm",
            f"rich==1 {HASH}\ntqdm",
            "Line 2: tqdm has no hash, but line 1 has one",
        ),
        (b"<script>alert(1)</script>", "<script>alert(1)</script>", "is not a package"),
        (b"\x89PNG\r\n", "typed", "The file is not text"),
        (b"x" * (MAX_LIST + 1), "typed", "The file is longer than 100,000 bytes."),
        (b" \n", "typed", "The file is empty."),
    ],
    ids=["an option", "hashes for some", "HTML", "no text", "too long", "empty"],
)
async def test_a_refused_file_is_told_on_the_form(
    world: World, user: str, file: bytes, shown: str, told: str
) -> None:
    browser = await world.browser(user)
    before = len(world.engine.calls)
    fields = {"environment": CARD, "pip": "typed", "apt": "htop", "hours": "2"}
    page = await browser.upload("spawn", fields, "requirements", file)
    assert page.code == 400
    form = Form(page)
    assert form.fields["pip"] == [shown]
    assert told in form.page
    assert (form.fields["apt"], form.fields["hours"]) == (["htop"], ["2"])
    assert form.fields["environment"] == [CARD]
    assert "<script>alert" not in form.page
    assert world.touched(before) == []


async def test_a_preset_takes_a_file_if_it_opens_the_packages(world: World, user: str) -> None:
    browser = await world.browser(user)
    for preset, lists in (("shut", {}), ("opened", {"pip": [f"only-{user}"]})):
        fields = {"environment": f"preset:{preset}", "gpus": "0"}
        answer = await browser.upload(
            f"spawn?preset={preset}", fields, "requirements", f"only-{user}".encode()
        )
        assert answer.code == 302, answer.body
        await world.settled(user)
        assert world.spawner(user).user_options == {"preset": preset, **lists}
        await world.stop(user)


async def test_over_rest_a_list_is_read_like_the_lines_of_a_file(world: World, user: str) -> None:
    lines = [f"only-{user}==1.0 \\", f"  {HASH}", "", "# more", f"rich==13.0 {HASH}"]
    answer = await world.start(user, {"framework": "Pytorch", "pip": lines})
    assert answer.code == 201, answer.body
    assert built_of(world) == f"only-{user}==1.0 {HASH}\nrich==13.0 {HASH}\n"
    await world.stop(user)
    answer = await world.start(user, {"framework": "Pytorch", "pip": [*lines, "tqdm"]})
    assert answer.code == 400
    assert "Line 6: tqdm has no hash, but line 1" in json.loads(answer.body)["message"]


async def test_after_a_build_that_failed_the_form_is_as_it_was(world: World, user: str) -> None:
    async def no_such_package(command: str) -> int:
        return 1 if "pip.sh" in command else 0

    fields: dict[str, Any] = {
        "environment": CARD,
        "gpus": "1:full",
        "bundles": ["nlp", "ts"],
        "pip": f"# mine\nonly-{user}>=2\n\nrich",
        "apt": "htop\ntree",
        "project": "My thesis",
        "hours": "2.5",
        "cpus": "1",
        "memory": "2G",
    }
    browser = await world.browser(user)
    run, world.engine.run = world.engine.run, no_such_package
    try:
        await browser.post("spawn", fields)
        await world.settled(user)
    finally:
        world.engine.run = run
    page = await browser.get(f"spawn-pending/{user}")
    text = page.body.decode()
    assert page.code in (200, 422)
    assert "Your environment could not be built" in text
    assert f'href="/under/hub/spawn/{user}"' in text
    form = Form(await browser.get(f"spawn/{user}"))
    for key, value in fields.items():
        assert form.fields[key] == (value if isinstance(value, list) else [value]), key
    assert await world.left_of(user) == ([], [])
