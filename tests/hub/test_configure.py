"""`ds01_spawner.configure(c)`, and files that change while the hub runs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

import ds01_spawner
from ds01_spawner.errors import FileUnusable, PolicyRefused, SettingUnusable, TraitRefused
from ds01_spawner.services import wiring
from tests.fakes.engine import FakeEngine
from tests.hub.world import CATALOG, World

POLICY = """\
defaults: {memory: 8G}
groups:
  course: {memory: 12G}
"""


def configured(**sections: dict[str, Any]) -> Config:
    c = Config(sections)
    ds01_spawner.configure(c)
    return c


def test_it_sets_the_class_the_pages_and_the_address() -> None:
    c = configured(DS01Spawner={"network_subnet": "172.30.5.0/24"})
    assert c.JupyterHub.spawner_class == "ds01_spawner.DS01Spawner"
    assert c.JupyterHub.cleanup_servers is False
    assert c.JupyterHub.hub_ip == "172.30.5.1"
    assert c.Spawner.consecutive_failure_limit == 0
    (templates,) = c.JupyterHub.template_paths
    assert (Path(templates) / "spawn_pending.html").is_file()


def test_what_the_admin_set_stays() -> None:
    c = configured(
        JupyterHub={"hub_bind_url": "http://10.0.0.1:1", "template_paths": ["/etc/mine"]},
        Spawner={"consecutive_failure_limit": 7},
    )
    assert "hub_ip" not in c.JupyterHub
    assert c.JupyterHub.template_paths[1:] == ["/etc/mine"]
    assert c.Spawner.consecutive_failure_limit == 7
    assert configured(JupyterHub={"hub_ip": "10.0.0.1"}).JupyterHub.hub_ip == "10.0.0.1"


@pytest.mark.parametrize(
    ("section", "trait"), [("DockerSpawner", "image"), ("Spawner", "options_form")]
)
def test_a_trait_that_would_not_be_honoured_is_refused(section: str, trait: str) -> None:
    with pytest.raises(TraitRefused, match=rf"c\.{section}\.{trait} is set"):
        configured(**{section: {trait: "x"}})


@pytest.mark.parametrize(
    ("setting", "text", "error"),
    [
        ("policy_file", "defaults: {memry: 8G}\n", PolicyRefused),
        ("policy_file", None, FileUnusable),
        ("catalog_file", "", FileUnusable),
        ("image_map", {"a*b*": "c"}, SettingUnusable),
    ],
)
def test_a_hub_does_not_begin_with_files_that_cannot_be_used(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    text: Any,
    error: type[Exception],
) -> None:
    monkeypatch.setattr(wiring, "engine", lambda settings: FakeEngine())
    value = text
    if setting.endswith("_file"):
        value = str(tmp_path / "file")
        if text is not None:
            Path(value).write_text(text)

    async def begin() -> None:
        configured(DS01Spawner={setting: value, "data_dir": str(tmp_path / "data")})

    with pytest.raises(error):
        asyncio.run(begin())


# --- while it runs -----------------------------------------------------------------------------


@pytest.fixture
def _as_before(world: World) -> Iterator[None]:
    """The files are as they were, and the hub has seen it."""
    files = {path: path.read_text() for path in (world.policy, world.catalog)}
    yield
    for path, text in files.items():
        path.write_text(text)
    world.runtime.policy.current()
    world.runtime.catalog.current()


@pytest.mark.usefixtures("_as_before")
async def test_an_edit_of_the_policy_is_in_use_at_once(world: World, user: str) -> None:
    assert (await world.start(user, {"memory": "10G"})).code == 400
    world.policy.write_text("defaults: {memory: 16G}\n")
    assert (await world.start(user, {"memory": "10G"})).code == 201
    await world.stop(user)


@pytest.mark.usefixtures("_as_before")
async def test_a_bad_edit_is_not(world: World, user: str, caplog: pytest.LogCaptureFixture) -> None:
    await world.browser(user)
    world.policy.write_text("defaults: {memory: [}\n")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            answer = await world.start(user, {"memory": "9G"})
            assert "at most 8 GiB" in json.loads(answer.body)["message"]
    told = [r for r in caplog.records if "the earlier one stays in use" in r.getMessage()]
    assert len(told) == 1
    assert (await world.start(user, {"memory": "8G"})).code == 201
    await world.stop(user)


async def test_a_group_of_the_hub_is_a_group_of_the_policy(world: World, user: str) -> None:
    assert (await world.start(user, {"memory": "12G"})).code == 400
    await world.api("POST", "groups/course")
    assert (await world.api("POST", "groups/course/users", {"users": [user]})).code == 200
    assert (await world.start(user, {"memory": "12G"})).code == 201
    assert world.container(user)["HostConfig"]["Memory"] == 12 << 30
    await world.stop(user)


@pytest.mark.usefixtures("_as_before")
async def test_an_edit_of_the_catalog_is_in_use_at_once(world: World, user: str) -> None:
    world.catalog.write_text(CATALOG + "Jax, 0.9, [CUDA_AMPERE], aimehub/jax-0.9\n")
    assert (await world.start(user, {"framework": "Jax"})).code == 201
    await world.stop(user)
    world.catalog.write_text("")
    answer = await world.start(user, {"framework": "Jax"})
    assert answer.code == 201  # the last good copy stays
    await world.stop(user)
