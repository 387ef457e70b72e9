"""What a removal of a container takes along."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ds01_spawner.hub import containers
from tests.fakes.engine import FakeEngine


async def test_a_removal_takes_the_nameless_volumes_of_the_image_along() -> None:
    engine = FakeEngine()
    engine.add_image("image:1")
    runtime: Any = SimpleNamespace(engine=engine, settings=SimpleNamespace(hub_id="hub"))
    labels = {"ds01.hub": "hub"}
    id = await engine.create_container("server", {"Image": "image:1", "Labels": labels})
    await containers.remove(runtime, "server")
    (removal,) = engine.made("remove_container")
    force, volumes = True, True
    assert removal.args == (id, force, volumes)
