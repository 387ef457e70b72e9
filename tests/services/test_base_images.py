"""Catalog images: found, fetched once, known by digest, refused where they act on their own."""

from __future__ import annotations

import asyncio
import re

import pytest

from ds01_spawner.errors import BaseImageRefused, ImageMissing
from ds01_spawner.services.base_images import BaseImages
from ds01_spawner.services.build_record import BuildEvent
from tests.fakes.engine import FakeEngine

CATALOG = "aimehub/pytorch-2.8.0"
DIGEST = "sha256:" + "d" * 64


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def nothing(event: BuildEvent) -> None:
    pass


async def test_a_local_image_is_known_by_its_id_and_named_for_from(engine: FakeEngine) -> None:
    id = engine.add_image(f"{CATALOG}:latest")
    base = await BaseImages(engine, {}).resolve(CATALOG, nothing)
    assert (base.name, base.identity) == (f"{CATALOG}:latest", id)
    assert re.fullmatch(rf"ds01-base:aimehub-pytorch[a-z0-9-]+-{id[7:19]}", base.tag)
    assert engine.image(base.tag)["Id"] == id


async def test_a_pulled_image_is_known_by_its_digest(engine: FakeEngine) -> None:
    other = "mirror.example.org/x@sha256:" + "e" * 64
    engine.add_image(f"{CATALOG}:latest", digests=[other, f"{CATALOG}@{DIGEST}"])
    assert (await BaseImages(engine, {}).resolve(CATALOG, nothing)).identity == DIGEST


async def test_a_site_s_own_name_is_used(engine: FakeEngine) -> None:
    engine.registry.add("mirror.example.org:5000/aime/pytorch-2.8.0:latest")
    images = BaseImages(engine, {"aimehub/*": "mirror.example.org:5000/aime/*"})
    base = await images.resolve(CATALOG, nothing)
    assert base.name == "mirror.example.org:5000/aime/pytorch-2.8.0:latest"
    assert base.identity.startswith("sha256:")


async def test_a_missing_image_is_fetched_once_for_all(engine: FakeEngine) -> None:
    engine.registry.add(f"{CATALOG}:latest")
    images = BaseImages(engine, {})
    events: list[BuildEvent] = []
    bases = await asyncio.gather(*(images.resolve(CATALOG, events.append) for _ in range(5)))
    assert len(set(bases)) == 1
    assert len([call for call in engine.calls if call[0] == "pull"]) == 1
    assert {event.title for event in events} == {"Fetching the framework image"}
    assert events[-1].line == "1 of 1 layers"


async def test_an_image_that_cannot_be_fetched_is_told(engine: FakeEngine) -> None:
    with pytest.raises(ImageMissing, match="no such image, or asks for a log-in"):
        await BaseImages(engine, {}).resolve(CATALOG, nothing)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"OnBuild": ["RUN reboot"]}, "ONBUILD"),
        ({"Env": ["PATH=/bin", "LD_PRELOAD=/evil.so"]}, "LD_PRELOAD"),
        ({"Env": ["LD_AUDIT="]}, "LD_AUDIT"),
    ],
)
async def test_an_image_that_would_act_on_its_own_is_refused(
    engine: FakeEngine, config: dict[str, list[str]], why: str
) -> None:
    id = engine.add_image(f"{CATALOG}:latest")
    engine.images[id]["Config"].update(config)
    with pytest.raises(BaseImageRefused, match=why):
        await BaseImages(engine, {}).resolve(CATALOG, nothing)
    assert engine.images[id]["RepoTags"] == [f"{CATALOG}:latest"]
