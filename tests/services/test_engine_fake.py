"""The fake engine passes the engine's contract, and its faults do what they say."""

from __future__ import annotations

import asyncio

import pytest

from ds01_spawner.errors import EngineUnavailable
from ds01_spawner.services.engine import EngineConflict, EngineNotFound, EngineRefused, Json
from tests.fakes.contract import EngineContract
from tests.fakes.contract_bench import OUTPUT, TALK, Bench
from tests.fakes.engine import FakeEngine, Ran

IMAGE = "stand-in:1"


def talk(container: Json) -> Ran | None:
    return Ran(3, OUTPUT) if container["Config"]["Cmd"] == TALK else None


async def shell(command: str) -> int:
    if command.startswith("sleep"):
        await asyncio.Event().wait()
    return int(command.removeprefix("exit ")) if command.startswith("exit ") else 0


@pytest.fixture
def engine() -> FakeEngine:
    engine = FakeEngine(devices=["GPU-a", "GPU-b"])
    engine.add_image(IMAGE, env=["NVIDIA_VISIBLE_DEVICES=all"])
    engine.program = talk
    engine.run = shell
    return engine


@pytest.fixture
def bench(engine: FakeEngine) -> Bench:
    return Bench(engine, IMAGE, {"ds01.test": "fake"}, "test")


class TestFakeEngine(EngineContract):
    """The contract, on the fake."""


async def test_a_failure_comes_once_and_before_the_call_has_an_effect(
    engine: FakeEngine, bench: Bench
) -> None:
    engine.fail_next("create_container", EngineUnavailable("time-out"))
    with pytest.raises(EngineUnavailable):
        await bench.container()
    assert engine.containers == {}
    await bench.container()


async def test_a_failure_after_the_effect_is_what_a_time_out_can_be(
    engine: FakeEngine, bench: Bench
) -> None:
    engine.fail_next("create_container", EngineUnavailable("time-out"), after=True)
    with pytest.raises(EngineUnavailable):
        await bench.container()
    with pytest.raises(EngineConflict):
        await bench.container()


async def test_a_blocked_call_waits_and_survives_its_cancelled_caller(
    engine: FakeEngine, bench: Bench
) -> None:
    gate = engine.block("create_container")
    caller = asyncio.ensure_future(bench.container())
    await engine.reached("create_container")
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert engine.containers == {}
    events = await engine.events(bench.labels)
    gate.set()
    event = await asyncio.wait_for(events.__anext__(), 60)
    assert event["Action"] == "create"


async def test_an_unreachable_engine_answers_nothing_and_changes_nothing(
    engine: FakeEngine, bench: Bench
) -> None:
    id = await bench.running()
    events = await engine.events(bench.labels)
    engine.unreachable = True
    engine.lose_events()
    with pytest.raises(EngineUnavailable):
        await events.__anext__()
    for call in (engine.inspect_container(id), engine.stop_container(id, 0), engine.info()):
        with pytest.raises(EngineUnavailable):
            await call
    engine.unreachable = False
    assert (await bench.state(id))["Running"]


async def test_a_container_can_be_seen_while_it_is_being_removed(
    engine: FakeEngine, bench: Bench
) -> None:
    id = await bench.container()
    gate = engine.block("removal")
    removal = asyncio.ensure_future(engine.remove_container(id))
    await engine.reached("remove_container")

    async def status() -> str:
        return str((await bench.state(id))["Status"])

    while await status() != "removing":
        await asyncio.sleep(0)
    with pytest.raises(EngineConflict, match="already in progress"):
        await engine.remove_container(id, force=True)
    with pytest.raises(EngineConflict, match="already in use"):
        await bench.container()
    with pytest.raises(EngineConflict, match="marked for removal"):
        await engine.start_container(id)
    assert not await engine.wait_removed(id, 0)
    gate.set()
    assert await engine.wait_removed(id, 60)
    await removal


REQUESTS: list[tuple[list[Json], str]] = [
    ([], ""),
    ([{"DeviceIDs": ["GPU-a", "GPU-b"], "Capabilities": [["gpu"]]}], "GPU-a,GPU-b"),
    ([{"Count": 1, "Capabilities": [["gpu"]]}], "0"),
    (
        [
            {"DeviceIDs": ["GPU-a"], "Capabilities": [["gpu"]]},
            {"DeviceIDs": ["GPU-b"], "Capabilities": [["gpu"]]},
        ],
        "GPU-b",
    ),
]


@pytest.mark.parametrize(("requests", "given"), REQUESTS)
async def test_devices_are_given_as_the_engine_does(
    engine: FakeEngine, bench: Bench, requests: list[Json], given: str
) -> None:
    id = await bench.running(HostConfig={"DeviceRequests": requests})
    assert engine.visible_devices[id] == given


async def test_count_and_ids_together_are_refused_at_start(bench: Bench) -> None:
    request = {"Count": 1, "DeviceIDs": ["GPU-a"], "Capabilities": [["gpu"]]}
    with pytest.raises(EngineRefused, match="cannot set both"):
        await bench.running(HostConfig={"DeviceRequests": [request]})


async def test_a_server_answers_when_the_test_says_so(engine: FakeEngine, bench: Bench) -> None:
    await engine.ensure_network("hub", subnet="10.0.0.0/24", labels={})
    id = await bench.running(HostConfig={"NetworkMode": "hub"})
    seen = await engine.inspect_container(id)
    address = seen["NetworkSettings"]["Networks"]["hub"]["IPAddress"]
    assert engine.answers(address)
    engine.ready = lambda container: False
    assert not engine.answers(address)


async def test_a_container_that_runs_out_of_memory_says_so(
    engine: FakeEngine, bench: Bench
) -> None:
    id = await bench.running()
    events = await engine.events(bench.labels)
    engine.exit(id, 137, oom=True, output="Killed\n")
    assert [(await events.__anext__())["Action"] for _ in range(2)] == ["oom", "die"]
    assert (await bench.state(id))["OOMKilled"]
    assert await engine.logs(id, 1) == "Killed\n"


async def test_a_pull_gives_an_image_with_a_digest(engine: FakeEngine) -> None:
    engine.registry.add("site/torch:2")
    seen: list[Json] = []
    await engine.pull("site/torch:2", seen.append)
    assert [event["status"] for event in seen] == ["Pulling fs layer", "Pull complete"]
    [digest] = (await engine.inspect_image("site/torch:2"))["RepoDigests"]
    assert digest.startswith("site/torch@sha256:")
    with pytest.raises(EngineNotFound):
        await engine.pull("site/none:2", seen.append)


async def test_calls_are_recorded(engine: FakeEngine) -> None:
    await engine.info()
    with pytest.raises(EngineNotFound):
        await engine.inspect_image("none")
    assert [call.method for call in engine.calls] == ["info", "inspect_image"]
    assert engine.made("inspect_image")[0].args == ("none",)


async def test_warnings_of_a_creation_reach_who_asks(engine: FakeEngine, bench: Bench) -> None:
    engine.warnings = ["Your kernel does not support swap limit capabilities."]
    told: list[str] = []
    await engine.create_container("warned", bench.body(), told.append)
    assert told == engine.warnings
