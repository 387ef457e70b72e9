"""The gate and door of a build: there while it runs, gone afterwards, whatever happens."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from ds01_spawner.core.build_gate import Door
from ds01_spawner.errors import BuildNetworkUnusable, DiskFull, EngineUnavailable
from ds01_spawner.services import build_network
from ds01_spawner.services.build_network import GatedNetwork, SharedNetwork
from ds01_spawner.services.engine import EngineRefused
from tests.fakes.engine import FakeEngine, Ran

IMAGE = "ds01-base:pytorch-0123456789ab"
REACHED = {"pypi.org:443": Door(None, private=False)}


class Host(FakeEngine):
    """Its gates and doors work, unless they shall not."""

    def __init__(self) -> None:
        super().__init__()
        self.add_image(IMAGE)
        self.said = "ready\n"
        self.program = self._run

    def _run(self, container: Any) -> Ran | None:
        if container["Config"]["Cmd"][:1] == ["door"]:
            self.outputs[container["Id"]] = self.said
        return None


@pytest.fixture
def engine() -> Host:
    return Host()


@pytest.fixture
def network(engine: Host) -> GatedNetwork:
    ids = (f"{number:016}" for number in itertools.count(1))
    return GatedNetwork(engine, hub="teaching", doors=REACHED, seconds=60, new_id=lambda: next(ids))


async def test_a_build_joins_the_door(engine: Host, network: GatedNetwork) -> None:
    async with network.open(IMAGE) as joined:
        assert joined.network is not None
        kind, _, id = joined.network.partition(":")
        assert kind == "container"
        door = engine.container(id)
        assert door["State"]["Running"]
        assert door["HostConfig"]["NetworkMode"] == "none"
        (gate,) = (c for c in engine.containers.values() if c is not door)
        assert door["HostConfig"]["VolumesFrom"] == [gate["Name"][1:]]
        assert gate["State"]["Running"]
        assert joined.buildargs["https_proxy"] == "http://127.0.0.1:3128"
    assert engine.containers == {}


async def test_two_builds_have_nothing_in_common(engine: Host, network: GatedNetwork) -> None:
    async with network.open(IMAGE) as one, network.open(IMAGE) as other:
        assert one.network != other.network
        assert len(engine.containers) == 4
    assert engine.containers == {}


async def test_a_build_that_fails_leaves_nothing(engine: Host, network: GatedNetwork) -> None:
    with pytest.raises(ZeroDivisionError):
        async with network.open(IMAGE):
            raise ZeroDivisionError
    assert engine.containers == {}


@pytest.mark.parametrize("place", ["create_container", "start_container", "logs"])
async def test_a_build_that_is_given_up_leaves_nothing(
    engine: Host, network: GatedNetwork, place: str
) -> None:
    async def build() -> None:
        async with network.open(IMAGE):
            pytest.fail("it was given up before")

    held = engine.block(place)
    building = asyncio.ensure_future(build())
    await engine.reached(place)
    building.cancel()
    held.set()
    with pytest.raises(asyncio.CancelledError):
        await building
    assert engine.containers == {}


async def test_a_build_that_is_given_up_while_it_runs_leaves_nothing(
    engine: Host, network: GatedNetwork
) -> None:
    begun = asyncio.Event()

    async def build() -> None:
        async with network.open(IMAGE):
            begun.set()
            await asyncio.Event().wait()

    building = asyncio.ensure_future(build())
    await begun.wait()
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    assert engine.containers == {}


@pytest.mark.parametrize("place", ["create_container", "start_container"])
async def test_a_full_disk_is_told_as_one(engine: Host, network: GatedNetwork, place: str) -> None:
    why = "error creating overlay mount to /var/lib/docker/overlay2/x: no space left on device"
    engine.fail_next(place, EngineRefused(500, why))
    with pytest.raises(DiskFull, match="this server's disk is full") as refused:
        async with network.open(IMAGE):
            pytest.fail("there is no network")
    assert why in refused.value.detail
    assert engine.containers == {}


@pytest.mark.parametrize("place", ["create_container", "start_container"])
async def test_an_engine_that_says_no_refuses_the_build(
    engine: Host, network: GatedNetwork, place: str
) -> None:
    engine.fail_next(place, EngineRefused(500, "no"))
    with pytest.raises(BuildNetworkUnusable) as refused:
        async with network.open(IMAGE):
            pytest.fail("there is no network")
    assert "no" in refused.value.detail
    assert engine.containers == {}


async def test_a_gate_that_fails_refuses_the_build_with_its_words(
    engine: Host, network: GatedNetwork
) -> None:
    engine.said = "SyntaxError: invalid syntax\nfailed\n"
    with pytest.raises(BuildNetworkUnusable) as refused:
        async with network.open(IMAGE):
            pytest.fail("there is no network")
    assert "SyntaxError" in refused.value.detail
    assert engine.containers == {}


async def test_a_gate_that_does_nothing_is_not_waited_for_for_ever(
    engine: Host, network: GatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_network, "READY_S", 0.05)
    engine.said = ""
    with pytest.raises(BuildNetworkUnusable, match="was not built"):
        async with network.open(IMAGE):
            pytest.fail("there is no network")
    assert engine.containers == {}


async def test_an_engine_that_went_away_hides_no_result(
    engine: Host, network: GatedNetwork
) -> None:
    async with network.open(IMAGE):
        engine.unreachable = True
    with pytest.raises(EngineUnavailable):
        async with network.open(IMAGE):
            pytest.fail("there is no engine")
    engine.unreachable = False
    assert len(engine.containers) == 2
    assert all(c["HostConfig"]["AutoRemove"] for c in engine.containers.values())
    await network.sweep()
    assert engine.containers == {}


async def test_what_a_command_builds_is_left_alone_until_it_ends_by_itself(
    engine: Host, network: GatedNetwork
) -> None:
    """`images build` works beside the hub, which does not know its builds."""
    command = GatedNetwork(
        engine, hub="teaching", doors=REACHED, seconds=60, new_id=lambda: "c" * 32, of_command=True
    )
    async with command.open(IMAGE):
        await network.sweep()
        assert len(engine.containers) == 2
        for container in list(engine.containers.values()):
            engine.exit(container["Id"], 0)
        await network.sweep()
        assert engine.containers == {}


async def test_a_step_that_lost_its_engine_is_swept_and_nobody_s_container_else(
    engine: Host, network: GatedNetwork
) -> None:
    with pytest.raises(EngineUnavailable):
        async with network.open(IMAGE) as joined, network.open(IMAGE) as other:
            modes = {"step": joined.network, "other": other.network, "someone-s": "container:abc"}
            for name, mode in modes.items():
                host = {"NetworkMode": mode}
                await engine.create_container(name, {"Image": IMAGE, "HostConfig": host})
            raise EngineUnavailable
    left = [c["Name"] for c in engine.containers.values()]
    assert left == ["/step", "/other", "/someone-s"]
    await network.sweep()
    assert [c["Name"] for c in engine.containers.values()] == ["/someone-s"]
    calls = len(engine.calls)
    await network.sweep()
    await network.sweep()
    assert len(engine.calls) - calls == 5  # and nothing is looked for any more


async def test_what_the_engine_made_too_late_is_swept(engine: Host, network: GatedNetwork) -> None:
    engine.fail_next("create_container", EngineUnavailable("it did not answer"))
    with pytest.raises(EngineUnavailable):
        async with network.open(IMAGE):
            pytest.fail("there is no network")
    labels = {"ds01.build": "teaching"}
    late = {"Image": IMAGE, "Labels": labels}
    await engine.create_container("ds01-build-0000000000000001-gate", late)
    await network.sweep()
    assert engine.containers == {}


async def test_a_container_that_lost_its_name_is_swept(
    engine: Host, network: GatedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker lists one that is half removed without."""
    body = {"Image": IMAGE, "Labels": {"ds01.build": "teaching"}}
    await engine.create_container("half-gone", body)
    listed = engine.list_containers

    async def nameless(labels: dict[str, str]) -> list[Any]:
        return [{**found, "Names": None} for found in await listed(labels)]

    monkeypatch.setattr(engine, "list_containers", nameless)
    await network.sweep()
    assert engine.containers == {}


async def test_a_sweep_removes_what_an_earlier_process_left(
    engine: Host, network: GatedNetwork
) -> None:
    earlier = GatedNetwork(
        engine, hub="teaching", doors=REACHED, seconds=60, new_id=lambda: "a" * 32
    )
    async with earlier.open(IMAGE):
        engine.unreachable = True
    engine.unreachable = False
    other = GatedNetwork(engine, hub="other", doors=REACHED, seconds=60, new_id=lambda: "b" * 32)
    await engine.create_container("someone-s", {"Image": IMAGE})
    async with other.open(IMAGE), network.open(IMAGE) as joined:
        await network.sweep()
        assert engine.container(str(joined.network).partition(":")[2])["State"]["Running"]
    async with other.open(IMAGE):
        await network.sweep()
        labels = [c["Config"]["Labels"].get("ds01.build") for c in engine.containers.values()]
        assert labels == [None, "other", "other"]
    await SharedNetwork(None, {}).sweep()
    assert len(engine.containers) == 1
