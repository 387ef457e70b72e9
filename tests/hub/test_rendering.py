"""`render` shows what a start sends: with its placeholders filled in, the real body is equal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from ds01_spawner.hub.rendering import DEVICE, HUB, LEASE, TOKEN, UID, render
from tests.hub.world import World

PLACEHOLDERS = re.compile("|".join(map(re.escape, (DEVICE, HUB, LEASE, TOKEN, UID))))


@pytest.fixture
def config(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    async def stays_open() -> None:
        """The engine is the hub's."""

    monkeypatch.setattr(world.engine, "close", stays_open)
    return world.config()


def same(rendered: Any, real: Any) -> bool:
    """Whether they are equal, a placeholder standing for any text."""
    if isinstance(rendered, dict) and isinstance(real, dict):
        return rendered.keys() == real.keys() and all(
            same(value, real[key]) for key, value in rendered.items()
        )
    if isinstance(rendered, list) and isinstance(real, list):
        return len(rendered) == len(real) and all(map(same, rendered, real))
    if isinstance(rendered, str) and isinstance(real, str):
        parts = map(re.escape, PLACEHOLDERS.split(rendered))
        return re.fullmatch(".*".join(parts), real, re.DOTALL) is not None
    return bool(rendered == real)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gpus": 1, "gpu": "full", "pip": ["rich"], "hours": 2},
        {
            "framework": "Pytorch",
            "architecture": "CUDA_ADA",
            "gpus": 1,
            "gpu": "1g.10gb",
            "cpus": 2,
            "memory": "2G",
            "project": "my thesis",
        },
        {"bundles": ["datascience"], "apt": ["htop"]},
    ],
)
async def test_the_real_body_is_equal(
    world: World, user: str, config: Config, options: dict[str, Any]
) -> None:
    shown = await render(config, user, (), options)
    assert (await world.start(user, {"user_options": options})).code == 201
    real = world.created(user)
    assert same(shown["container"], real)
    assert not same({**shown["container"], "User": "0:0"}, real)
    assert shown["image"] == real["Image"]
    assert world.engine.builds[-1].files["Dockerfile"].decode() == shown["dockerfile"]
    await world.stop(user)


async def test_it_changes_nothing(world: World, user: str, config: Config, tmp_path: Path) -> None:
    config.DS01Spawner.data_dir = str(tmp_path / "none")
    before = len(world.engine.calls)
    await render(config, user, (), {"gpus": 1})
    asked = {call.method for call in world.engine.calls[before:]}
    assert asked <= {"info", "inspect_image", "list_containers", "version"}
    assert not (tmp_path / "none").exists()
