"""Catalog images: found, fetched once, known by digest, refused where they act on their own."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from ds01_spawner.errors import BaseImageRefused, ImageMissing, SettingUnusable
from ds01_spawner.services import wiring
from ds01_spawner.services.base_images import BaseImages
from ds01_spawner.services.build_record import BuildEvent
from ds01_spawner.services.registry_logins import RegistryLogins
from ds01_spawner.services.settings import Settings
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


def log_ins(folder: Path, text: str, mode: int = 0o600) -> RegistryLogins:
    file = folder / "auth.json"
    file.write_text(text)
    file.chmod(mode)
    return RegistryLogins(file)


async def test_each_pull_has_the_log_in_of_its_own_registry_as_it_is_now(
    engine: FakeEngine, tmp_path: Path
) -> None:
    names = ("r.example.org/a:1", "other.example.org/a:1", "r.example.org/b:1")
    engine.registry.update(names)
    logins = log_ins(tmp_path, '{"auths": {"r.example.org": {"auth": "aHViOmdlaGVpbQ=="}}}')
    images = BaseImages(engine, {}, logins)
    for name in names[:2]:
        await images.resolve(name, nothing)
    log_ins(tmp_path, '{"auths": {"r.example.org": {"auth": "aHViOm5ldQ=="}}}')
    await images.resolve(names[2], nothing)
    given = [(login.user, login.password) if login else None for login in engine.logins]
    assert given == [("hub", "geheim"), None, ("hub", "neu")]


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("{}", 0o640, "others may read it: chmod 600"),
        ("{", 0o600, "it is not JSON"),
        ("\udcff", 0o600, "it is not JSON"),
        (None, 0, "No such file"),
    ],
)
async def test_a_file_of_log_ins_that_cannot_be_used(
    engine: FakeEngine, tmp_path: Path, text: str | None, mode: int, why: str
) -> None:
    engine.registry.add("r.example.org/a:1")
    logins = RegistryLogins(tmp_path / "auth.json")
    if text is not None:
        (tmp_path / "auth.json").write_bytes(text.encode(errors="surrogateescape"))
        (tmp_path / "auth.json").chmod(mode)
    with pytest.raises(ImageMissing, match="file of registry log-ins cannot be used") as missing:
        await BaseImages(engine, {}, logins).resolve("r.example.org/a:1", nothing)
    assert why in missing.value.detail
    assert engine.logins == []
    settings = Settings(registry_auth_file=str(tmp_path / "auth.json"))
    with pytest.raises(SettingUnusable, match=why):
        wiring.registry_logins(settings)
