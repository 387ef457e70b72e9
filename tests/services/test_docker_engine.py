"""The Docker adapter against canned answers: errors, versions, streams, time-outs, the end."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import requests

from ds01_spawner.errors import EngineUnavailable
from ds01_spawner.services.docker_client import Timeouts, translate
from ds01_spawner.services.docker_engine import DockerEngine
from ds01_spawner.services.engine import (
    Engine,
    EngineConflict,
    EngineNotFound,
    EngineRefused,
)
from tests.fakes.wire import Answer, Wire, wire

IMPATIENT = Timeouts(connect=0.2, question=0.2, change=0.2, stream=0.2)


@pytest.fixture
async def canned() -> AsyncIterator[Wire]:
    async with wire() as served:
        yield served


@pytest.fixture
async def engine(canned: Wire) -> AsyncIterator[DockerEngine]:
    engine = DockerEngine(canned.url)
    yield engine
    await engine.close()


async def build(engine: Engine, on_line: Callable[[str], None]) -> str:
    return await engine.build(
        b"tar",
        tag="a:1",
        labels={},
        buildargs={},
        memory=None,
        cpus=None,
        network=None,
        on_line=on_line,
    )


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, EngineRefused),
        (403, EngineRefused),
        (404, EngineNotFound),
        (409, EngineConflict),
        (500, EngineRefused),
        (501, EngineRefused),
    ],
)
async def test_a_no_of_the_engine_keeps_its_status_and_words(
    engine: DockerEngine, canned: Wire, status: int, kind: type[EngineRefused]
) -> None:
    canned.answers["/json"] = Answer({"message": "because"}, status)
    with pytest.raises(kind) as refused:
        await engine.inspect_container("a")
    assert type(refused.value) is kind
    assert (refused.value.status, refused.value.message) == (status, "because")


@pytest.mark.parametrize("body", [b"plain words", b"[1]", b'"text"', b"{}", b"\xff\x00"])
async def test_an_error_in_another_form_is_passed_on_as_text(
    engine: DockerEngine, canned: Wire, body: bytes
) -> None:
    canned.answers["/json"] = Answer(body, 500)
    with pytest.raises(EngineRefused) as refused:
        await engine.inspect_container("a")
    assert refused.value.message


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_proxy_that_finds_no_engine_is_no_engine(
    engine: DockerEngine, canned: Wire, status: int
) -> None:
    canned.answers["/json"] = Answer("upstream gone", status)
    with pytest.raises(EngineUnavailable) as away:
        await engine.inspect_container("a")
    assert str(status) in away.value.detail


async def test_what_docker_py_itself_refuses_is_a_refusal(engine: DockerEngine) -> None:
    with pytest.raises(EngineRefused) as refused:
        await engine.inspect_container("")
    assert refused.value.status == 400


def test_a_builds_arguments_are_in_no_error() -> None:
    text = "Max retries exceeded with url: /v1.41/build?buildargs=hunter2 (Caused by X('refused'))"
    away = translate(requests.ConnectionError(text))
    assert isinstance(away, EngineUnavailable)
    assert "hunter2" not in away.detail
    assert "refused" in away.detail


EVERY_KIND: list[Callable[[Engine], Awaitable[object]]] = [
    lambda e: e.version(),
    lambda e: e.inspect_container("a"),
    lambda e: e.create_container("a", {}),
    lambda e: e.stop_container("a", 0),
    lambda e: e.pull("a:1", print),
    lambda e: build(e, print),
    lambda e: e.events({}),
    lambda e: e.wait_removed("a", 1),
    lambda e: e.ensure_network("a", subnet="10.0.0.0/24", labels={}),
]


@pytest.mark.parametrize("call", EVERY_KIND)
async def test_a_socket_that_is_not_there_is_no_engine(
    call: Callable[[Engine], Awaitable[object]],
) -> None:
    engine = DockerEngine("unix:///nonexistent/docker.sock")
    with pytest.raises(EngineUnavailable):
        await call(engine)
    await engine.close()


@pytest.mark.parametrize("call", EVERY_KIND)
async def test_a_socket_that_accepts_and_never_answers_is_no_engine(
    call: Callable[[Engine], Awaitable[object]],
) -> None:
    with TemporaryDirectory(prefix="mute") as folder, socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(Path(folder) / "s"))
        mute.listen()
        engine = DockerEngine(f"unix://{folder}/s", timeouts=IMPATIENT)
        with pytest.raises(EngineUnavailable):
            await asyncio.wait_for(call(engine), 60)
        await engine.close()


async def test_an_answer_that_is_no_engines_is_no_engine(
    engine: DockerEngine, canned: Wire
) -> None:
    canned.answers["/version"] = Answer({"hello": "world"})
    with pytest.raises(EngineUnavailable, match="does not answer"):
        await engine.inspect_container("a")
    canned.answers["/version"] = Answer(b"<html>")
    with pytest.raises(EngineUnavailable):
        await engine.inspect_container("a")


# --- versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "given", "spoken", "asked"),
    [
        ("1.41", None, "1.41", 1),
        ("1.9999", None, "1.45", 1),  # docker-py's own
        ("1.45", "1.40", "1.40", 0),
    ],
)
async def test_the_api_version_is_one_that_both_know_and_asked_for_once(
    canned: Wire, theirs: str, given: str | None, spoken: str, asked: int
) -> None:
    canned.answers["/version"] = Answer({"ApiVersion": theirs})
    canned.answers["/volumes/x"] = Answer({})
    engine = DockerEngine(canned.url, api_version=given)
    for _ in range(3):
        await engine.inspect_volume("x")
    assert canned.requests == ["GET /version"] * asked + [f"GET /v{spoken}/volumes/x"] * 3
    await engine.close()


async def test_an_engine_that_was_away_is_asked_again(engine: DockerEngine, canned: Wire) -> None:
    canned.answers["/volumes/x"] = Answer({})
    await engine.inspect_volume("x")
    canned.answers["/volumes/x"] = Answer("upstream gone", 503)
    with pytest.raises(EngineUnavailable):
        await engine.inspect_volume("x")
    canned.answers["/version"] = Answer({"ApiVersion": "1.43"})
    canned.answers["/volumes/x"] = Answer({})
    await engine.inspect_volume("x")
    assert canned.requests[-2:] == ["GET /version", "GET /v1.43/volumes/x"]


async def test_what_the_engine_knows_is_asked_in_its_newest_api(
    engine: DockerEngine, canned: Wire
) -> None:
    """An older one would leave out the devices that it found (moby, API 1.50)."""
    canned.answers["/info"] = Answer({"DiscoveredDevices": []})
    assert await engine.info() == {"DiscoveredDevices": []}
    assert canned.requests[-1] == "GET /info"


# --- time ----------------------------------------------------------------------------------------


async def test_a_stop_may_take_as_long_as_it_was_told_to(canned: Wire) -> None:
    engine = DockerEngine(canned.url, timeouts=Timeouts(question=0.2, change=0.2))
    canned.answers["/stop"] = Answer(status=204, body=b"", until=asyncio.Event())
    canned.answers["/start"] = Answer(status=204, body=b"", until=asyncio.Event())
    stop = asyncio.ensure_future(engine.stop_container("a", 60))
    with pytest.raises(EngineUnavailable):
        await engine.start_container("a")  # both have waited for 0.2 s now
    assert not stop.done()
    canned.answers["/stop"].until.set()  # type: ignore[union-attr]
    await stop
    await engine.close()


async def test_many_slow_changes_delay_no_question(engine: DockerEngine, canned: Wire) -> None:
    release = asyncio.Event()
    canned.answers["/stop"] = Answer(status=204, body=b"", until=release)
    canned.answers["/json"] = Answer({"Id": "b"})
    stops = [asyncio.ensure_future(engine.stop_container("a", 60)) for _ in range(100)]
    for _ in range(20):
        await engine.inspect_container("b")
    assert not any(stop.done() for stop in stops)
    release.set()
    await asyncio.gather(*stops)


async def test_a_call_that_began_goes_on_when_its_caller_is_cancelled(
    engine: DockerEngine, canned: Wire
) -> None:
    release = asyncio.Event()
    canned.answers["/create"] = Answer({"Id": "abc", "Warnings": ["no swap"]}, until=release)
    told: list[str] = []
    creation = asyncio.ensure_future(engine.create_container("a", {}, told.append))
    caller = asyncio.ensure_future(asyncio.wait_for(asyncio.shield(creation), 60))
    await canned.reached("POST /v1.41/containers/create")
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    release.set()
    assert await creation == "abc"
    assert told == ["no swap"]


# --- the end -------------------------------------------------------------------------------------


async def test_a_closed_engine_has_no_threads_and_answers_no_more(canned: Wire) -> None:
    before = set(threading.enumerate())
    engine = DockerEngine(canned.url)
    canned.answers["/info"] = Answer({})
    canned.answers["/events"] = Answer(stream=[], until=asyncio.Event())
    await asyncio.gather(*(engine.info() for _ in range(20)))
    events = await engine.events({})
    waiting = asyncio.ensure_future(events.__anext__())
    assert set(threading.enumerate()) > before
    await engine.close()
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert set(threading.enumerate()) == before
    for call in (engine.info(), engine.events({}), engine.pull("a:1", print)):
        with pytest.raises(EngineUnavailable):
            await call


async def test_the_environments_proxy_is_not_asked_for_the_engine(
    canned: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await asyncio.start_server(canned.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    canned.answers["/info"] = Answer({"NCPU": 4, "DockerRootDir": "/"})
    engine = DockerEngine(f"tcp://127.0.0.1:{port}")
    assert (await engine.info())["NCPU"] == 4
    assert await engine.free_disk() is None  # another host's disk
    await engine.close()
    server.close()


async def test_free_disk_is_unknown_where_the_engines_folder_cannot_be_seen(
    engine: DockerEngine, canned: Wire, tmp_path: Path
) -> None:
    canned.answers["/info"] = Answer({"DockerRootDir": str(tmp_path)})
    assert (await engine.free_disk() or 0) > 0
    canned.answers["/info"] = Answer({"DockerRootDir": str(tmp_path / "elsewhere")})
    assert await engine.free_disk() is None
