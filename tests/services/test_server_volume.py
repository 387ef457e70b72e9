"""The notebook server's volume: filled once, whole or made anew, whoever shares it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from ds01_spawner.core.build_site import BuildSite
from ds01_spawner.core.server_image import SERVER_ROOT, ServerRecipe
from ds01_spawner.errors import ServerVolumeUnusable
from ds01_spawner.services import server_volume
from ds01_spawner.services.base_images import BaseImages
from ds01_spawner.services.build_network import SharedNetwork
from ds01_spawner.services.build_record import BuildEvent
from ds01_spawner.services.builder import Builder, Remembered
from ds01_spawner.services.server_volume import MARK, SEED, ServerVolume
from tests.fakes.engine import FakeEngine

IMAGE = "python:3.12-slim"
RECIPE = ServerRecipe(IMAGE, "6.1.1")
WHOLE = {MARK: RECIPE.digest.encode()}
Make = Callable[..., ServerVolume]


@pytest.fixture
def engine() -> FakeEngine:
    made = FakeEngine()
    made.add_image(IMAGE)
    return made


@pytest.fixture
def make(engine: FakeEngine, tmp_path: Path) -> Make:
    """A hub's view of the volume."""

    def made(hub: str = "one", recipe: ServerRecipe = RECIPE) -> ServerVolume:
        builder = Builder(
            engine,
            concurrency=1,
            memory=None,
            cpus=None,
            timeout_s=60,
            log_dir=tmp_path,
            now=lambda: datetime.now(timezone.utc),
            made=Remembered(),
            network=SharedNetwork("bridge", {}),
            gate_image=gate_image,
        )
        return ServerVolume(engine, builder, BaseImages(engine, {}), recipe, BuildSite(), hub)

    return made


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_volume, "PATIENCE_S", 0.05)
    monkeypatch.setattr(server_volume, "_BETWEEN_S", 0.001)


async def gate_image() -> str:
    return IMAGE


def nothing(event: BuildEvent) -> None:
    pass


def holder(engine: FakeEngine, name: str = "holder", **labels: str) -> asyncio.Task[str]:
    """A container that mounts the volume, which is made if it is not there."""
    mount = {"Type": "volume", "Source": RECIPE.volume, "Target": SERVER_ROOT, "ReadOnly": True}
    body = {"Image": IMAGE, "Labels": labels, "HostConfig": {"Mounts": [mount]}}
    return asyncio.ensure_future(engine.create_container(name, body))


async def test_it_is_built_and_filled_once(engine: FakeEngine, make: Make) -> None:
    volume = make()
    told: list[BuildEvent] = []
    await asyncio.gather(*(volume.ready(told.append) for _ in range(30)))
    await volume.ready(nothing)
    assert len(engine.builds) == 1
    assert {event.title for event in told} == {"Notebook server"}
    assert engine.volumes[RECIPE.volume]["Labels"] == RECIPE.labels
    assert engine.files[RECIPE.volume] == WHOLE
    assert engine.containers == {}


async def test_another_hub_takes_it_as_it_is(engine: FakeEngine, make: Make) -> None:
    await make().ready(nothing)
    engine.files[RECIPE.volume]["bin/python"] = b"as it was"
    await make("two").ready(nothing)
    assert engine.files[RECIPE.volume] == {**WHOLE, "bin/python": b"as it was"}


async def test_one_that_was_not_finished_is_made_anew(engine: FakeEngine, make: Make) -> None:
    engine.add_volume(RECIPE.volume, RECIPE.labels)
    engine.files[RECIPE.volume] = {"bin/half": b""}
    await make().ready(nothing)
    assert engine.files[RECIPE.volume] == WHOLE


async def test_one_that_was_removed_is_made_anew(engine: FakeEngine, make: Make) -> None:
    volume = make()
    await volume.ready(nothing)
    await engine.remove_volume(RECIPE.volume)
    await volume.ready(nothing)
    assert engine.files[RECIPE.volume] == WHOLE


async def test_one_that_a_mount_made_in_its_absence_is_not_taken_for_it(
    engine: FakeEngine, make: Make
) -> None:
    volume = make()
    await volume.ready(nothing)
    await engine.remove_volume(RECIPE.volume)
    await engine.remove_container(await holder(engine))
    assert engine.volumes[RECIPE.volume]["Labels"] == {}
    await volume.ready(nothing)
    assert engine.files[RECIPE.volume] == WHOLE


async def test_one_that_is_in_use_and_not_whole_is_told(engine: FakeEngine, make: Make) -> None:
    held = await holder(engine)
    volume = make()
    with pytest.raises(ServerVolumeUnusable):
        await volume.ready(nothing)
    await engine.remove_container(held)
    await volume.ready(nothing)


async def test_one_that_another_hub_fills_is_waited_for(
    engine: FakeEngine, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_volume, "PATIENCE_S", 60)
    filling = make("two")
    put = engine.put_archive
    begun, gate = asyncio.Event(), asyncio.Event()

    async def slow(id: str, path: str, tar: bytes) -> None:
        begun.set()
        await gate.wait()
        await put(id, path, tar)

    monkeypatch.setattr(engine, "put_archive", slow)
    other = asyncio.ensure_future(filling.ready(nothing))
    await begun.wait()
    ours = asyncio.ensure_future(make("one").ready(nothing))
    done, _ = await asyncio.wait([ours], timeout=0.1)
    assert not done
    gate.set()
    await asyncio.gather(other, ours)
    assert engine.files[RECIPE.volume] == WHOLE


async def test_who_gives_up_leaves_no_container(
    engine: FakeEngine, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = engine.put_archive
    begun, gate = asyncio.Event(), asyncio.Event()

    async def slow(id: str, path: str, tar: bytes) -> None:
        begun.set()
        await gate.wait()
        await put(id, path, tar)

    monkeypatch.setattr(engine, "put_archive", slow)
    asking = asyncio.ensure_future(make().ready(nothing))
    await begun.wait()
    asking.cancel()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert engine.containers == {}


async def test_what_an_earlier_process_left_in_the_middle_is_removed(
    engine: FakeEngine, make: Make
) -> None:
    await holder(engine, f"{RECIPE.volume}.one", **{SEED: "one"})
    await make().ready(nothing)
    assert engine.files[RECIPE.volume] == WHOLE


@pytest.mark.parametrize(
    "other",
    [
        {"image": "python:3.13-slim"},
        {"hub": "5.5.4"},
        {"site": "0123"},
        {"version": RECIPE.version + 1},
    ],
)
def test_whatever_decides_what_is_in_it_decides_its_name(other: dict[str, object]) -> None:
    made = ServerRecipe(**{"image": IMAGE, "hub": "6.1.1", **other})  # type: ignore[arg-type]
    assert made.volume != RECIPE.volume
