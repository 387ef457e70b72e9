"""The user's own environments as HTML: what is told of each, how many, and hostile words."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from ds01_spawner.core.catalog import parse as parse_catalog
from ds01_spawner.core.own_images import Contents, OwnEnvironment
from ds01_spawner.core.policy import Preset
from ds01_spawner.hub.form import render
from tests.hub.test_form import FULL_CATALOG, NASTY, facts
from tests.hub.test_form import Form as Shown

AT = datetime(2026, 1, 5, 15, 40, tzinfo=timezone.utc)


def environment(number: int = 0, **more: Any) -> OwnEnvironment:
    made = OwnEnvironment(
        "ada", f"p{number}", f"ds01-ada/p{number}:{number:016x}", "r",
        Contents("Pytorch", "2.7.1", "CUDA_AMPERE"), {"gpus": 0}, AT, True,
    )  # fmt: skip
    return replace(made, **more)


async def shown(*environments: OwnEnvironment, **more: Any) -> Shown:
    return Shown(render(await facts(environments=environments, **more)))


async def test_without_any_there_is_nothing() -> None:
    form = await shown()
    assert "Your environments" not in form.words
    assert "button" not in form.tags


async def test_what_is_told_of_one() -> None:
    what = Contents(
        "Pytorch",
        "2.7.1",
        "CUDA_AMPERE",
        ("datascience",),
        tuple(f"a{n}" for n in range(10)),
        ("htop",),
    )
    form = await shown(environment(contents=what, options={"gpus": 2, "gpu": "full"}))
    for words in (
        "p0 PyTorch 2.7.1 ", "Bundles: datascience", "a7 and 2 more", "System packages: htop",
        "Last used 2026-01-05 15:40 UTC", "with 2 GPUs (full)",
    ):  # fmt: skip
        assert words in form.words
    assert "built again" not in form.words
    assert "has to be built again" in (await shown(environment(here=False))).words
    assert "When it was used is not known" in (await shown(environment(used=None))).words


async def test_one_of_a_preset_says_so() -> None:
    seen = await facts(environments=(environment(options={"preset": "dl"}),))
    preset = Preset("dl", "Deep Learning", "Pytorch")
    form = Shown(render(replace(seen, offer=replace(seen.offer, presets={"dl": preset}))))
    assert "PyTorch 2.7.1 Deep Learning" in form.words
    assert "Deep Learning" not in (await shown(environment(options={"preset": "dl"}))).words


async def test_enter_in_a_field_presses_none_of_their_buttons() -> None:
    """A browser presses the first button of the form that the field is in."""
    html = render(await facts(environments=(environment(),)))
    first = html[html.index("<button") :].partition(">")[0]
    assert 'type="submit"' in first
    assert "name=" not in first
    name = html[html.index('name="environment-name"') :]
    assert name[name.index("<button") :].partition(">")[0].count('name="rename"') == 1
    assert html.count('form="ds01-own-1"') == 3


@pytest.mark.parametrize("number", [1, 3, 4, 12, 13, 40])
async def test_not_more_than_twelve_are_shown(number: int) -> None:
    form = await shown(*map(environment, range(number)))
    assert form.html.count('name="again"') == min(number, 12)
    assert form.html.count(f'form="ds01-own-{min(number, 12)}"') == 3
    assert ("more that you used before" in form.words) is (number > 3)
    assert ("not shown until" in form.words) is (number > 12)


async def test_hostile_words_stay_words() -> None:
    what = Contents(NASTY, NASTY, NASTY, (NASTY,), (NASTY,), (NASTY,))
    options, image = {"gpu": NASTY, "gpus": 1}, f"ds01-ada/{NASTY}:1"
    one = environment(project=NASTY, contents=what, image=image, options=options)
    form = await shown(one, done=NASTY)
    assert "script" not in form.tags
    assert "<script>alert" not in form.html
    assert NASTY in form.words


async def test_the_whole_stays_small() -> None:
    if not FULL_CATALOG.is_file():
        pytest.skip("../shared is not here")
    what = Contents("Pytorch", "2.7.1", "CUDA_AMPERE", (), tuple(f"package-{n}" for n in range(50)))
    mine = tuple(environment(n, contents=what) for n in range(50))
    seen = await facts("32xA100-40GB,16xA100-40GB:mig=2x3g.20gb", environments=mine)
    catalog = parse_catalog(FULL_CATALOG.read_text())
    html = render(replace(seen, offer=replace(seen.offer, catalog=catalog)))
    assert len(html.encode()) <= 60 * 1024
