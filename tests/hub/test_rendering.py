"""`render` shows what a start sends: with its placeholders filled in, the real body is equal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from ds01_spawner.cli.main import main
from ds01_spawner.core.sharing import label
from ds01_spawner.errors import OptionsRefused
from ds01_spawner.hub.rendering import DEVICE, HUB, LEASE, TOKEN, UID, render
from tests.hub.world import World

POLICY = """\
defaults: {max_containers_per_user: 3, max_gpu_equivalents: 2, idle_timeout_h: 1}
exemptions:
- username: excused
  exempt_from: [max_runtime_h, idle_timeout_h]
  expires_on: 2999-12-31
  reason: a test
images:
  stats:
    image: lab/stats:1
    title: Statistics
    architectures: [CUDA_AMPERE]
    groups: [staff]
groups: {staff: {members: [lecturer]}}
"""


@pytest.fixture
def config(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    async def stays_open() -> None:
        """The engine is the hub's."""

    monkeypatch.setattr(world.engine, "close", stays_open)
    return world.config()


async def filled(world: World, user: str, shown: dict[str, Any]) -> dict[str, Any]:
    """The body with what only this start knew in the place of the placeholders."""
    (lease,) = await world.leases(user)
    uid = await world.runtime.uid_of(user)
    snapshot = await world.runtime.inventory.snapshot()
    slots = [str(device.index) for device in snapshot.devices if device.uuid in lease.devices]
    exempt = [
        time.isoformat() if time and user == "excused" else ""
        for time in (lease.until, lease.keep_until)
    ]
    hours = ["" if h is None else f"{h:g}" for h in (lease.hours, lease.idle_h, lease.hold_h)]
    labels = {
        "ds01.lease": lease.id, "ds01.lease_generation": str(lease.generation),
        "ds01.units": str(lease.units), "ds01.gpu.seat": label(lease.seat, lease.seats),
        "ds01.hours": hours[0], "ds01.idle_hours": hours[1],
        "ds01.hold_hours": hours[2],
        "ds01.exempt_until": exempt[0], "ds01.exempt_idle_until": exempt[1],
        "ds01.gpu.cards": ",".join(lease.cards),
        "ds01.gpu.uuids": ",".join(lease.devices), "ds01.gpu.slots": ",".join(slots),
        "ds01.gpu.allocated": ",".join(slots),
        "ds01.gpu.uuid": lease.devices[0] if len(lease.devices) == 1 else "",
    }  # fmt: skip
    hubs = world.spawner(user).get_env()
    env = {
        key: hubs[key] if value in (HUB, TOKEN) else value.replace(DEVICE, ",".join(lease.devices))
        for key, value in (pair.split("=", 1) for pair in shown["Env"])
    }
    return {
        **shown,
        "User": shown["User"].replace(UID, str(uid)),
        "Labels": {**shown["Labels"], **labels},
        "Env": [f"{key}={value}" for key, value in env.items()],
    }


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
    await check_equal(world, user, config, options)


async def test_the_real_body_of_who_is_exempt_is_equal(world: World, config: Config) -> None:
    await world.api("POST", "users/excused")
    await check_equal(world, "excused", config, {"gpus": 1, "pip": ["tqdm"]})
    labels = world.created("excused")["Labels"]
    assert labels["ds01.exempt_until"] == "3000-01-01T00:00:00+00:00"
    assert labels["ds01.exempt_idle_until"] == "3000-01-01T00:00:00+00:00"


async def test_the_real_body_of_a_custom_image_is_equal_and_of_members_alone(
    world: World, user: str, config: Config
) -> None:
    await world.api("POST", "users/lecturer")
    options = {"framework": "custom", "version": "stats", "gpus": 1, "gpu": "full"}
    await check_equal(world, "lecturer", config, options)
    assert world.created("lecturer")["Labels"]["ds01.custom_image"] == "lab/stats:1"
    assert (await render(config, user, ("staff",), options))["container"]["Labels"][
        "ds01.framework"
    ] == "custom-stats"
    with pytest.raises(OptionsRefused, match="'custom' is not in the catalog"):
        await render(config, user, (), options)


async def check_equal(world: World, user: str, config: Config, options: dict[str, Any]) -> None:
    """Render and start with these options, and compare."""
    shown = await render(config, user, (), options)
    began = world.now()
    assert (await world.start(user, {"user_options": options})).code == 201
    real = world.created(user)
    placeholders = (DEVICE, HUB, LEASE, TOKEN, UID)
    assert any(placeholder in str(shown["container"]) for placeholder in placeholders)
    expected = await filled(world, user, shown["container"])
    reserved = real["Labels"]["ds01.created_at"]
    assert began <= datetime.fromisoformat(reserved) <= world.now()
    expected["Labels"]["ds01.created_at"] = reserved
    assert {**expected, "Labels": real["Labels"]} == {**real, "Labels": real["Labels"]}
    assert expected["Labels"] == real["Labels"]
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
