"""`render` shows what a start sends: with its placeholders filled in, the real body is equal."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from ds01_spawner.cli.main import main
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


NO_DEVICE_RUNS = """\
Pytorch, 3.0, [CUDA], a/pytorch-3.0-cuda13.0
Pytorch, 2.9, [CUDA_AMPERE], a/pytorch-2.9
"""


async def test_what_no_device_runs_is_refused_with_the_sentence_of_the_form(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config.DS01Spawner.gpus = "simulated:1xV100-32GB"
    config.DS01Spawner.catalog_file = str(tmp_path / "catalog.repo")
    (tmp_path / "catalog.repo").write_text(NO_DEVICE_RUNS)
    monkeypatch.setattr("ds01_spawner.cli.render.load", lambda path: config)

    async def rendered(options: str) -> tuple[int, str]:
        args = ["--config", "hub.py", "render", "--user", "ada", "--options", options]
        code = await asyncio.to_thread(main, args)  # it has an event loop of its own
        return code, capsys.readouterr().err

    wanted = '{"framework": "Pytorch", "version": "3.0", "gpus": %d}'
    code, told = await rendered(wanted % 1)
    assert code == 1
    assert (
        "version: Pytorch 3.0 needs a GPU of compute capability 7.5 or higher, and this server's "
        "Tesla V100-SXM2-32GB has 7.0: choose an older version." in told
    )
    assert await rendered(wanted % 0) == (0, "")
    code, told = await rendered('{"framework": "Pytorch", "version": "2.9"}')
    assert code == 1
    assert "Pytorch 2.9 is made for CUDA_AMPERE" in told

    # An admin who knows better says so.
    policy = tmp_path / "policy.yaml"
    policy.write_text("runs_on: {Pytorch/3.*: {compute_capability: 7.0}}")
    config.DS01Spawner.policy_file = str(policy)
    assert await rendered(wanted % 1) == (0, "")


async def test_it_changes_nothing(world: World, user: str, config: Config, tmp_path: Path) -> None:
    config.DS01Spawner.data_dir = str(tmp_path / "none")
    before = len(world.engine.calls)
    await render(config, user, (), {"gpus": 1})
    asked = {call.method for call in world.engine.calls[before:]}
    assert asked <= {"info", "inspect_image", "list_containers", "version"}
    assert not (tmp_path / "none").exists()
