"""The Docker adapter's streams against canned answers: builds, pulls, events, and their ends."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from ds01_spawner.core.registries import Login
from ds01_spawner.errors import EngineUnavailable
from ds01_spawner.services import build_output
from ds01_spawner.services.docker_client import Timeouts
from ds01_spawner.services.docker_engine import DockerEngine
from ds01_spawner.services.engine import Engine, EngineNotFound, EngineStreamError, Json
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


FAILURE = {"errorDetail": {"code": 7, "message": "it failed"}, "error": "it failed"}


async def test_an_error_inside_a_pull_is_raised(engine: DockerEngine, canned: Wire) -> None:
    events = [{"status": "Pulling from a", "id": "1"}, {"errorDetail": {"message": "disk full"}}]
    canned.answers["/images/create"] = Answer(stream=events)
    seen: list[Json] = []
    with pytest.raises(EngineStreamError, match="disk full") as failed:
        await engine.pull("a:1", seen.append)
    assert (seen, failed.value.code) == (events[:1], None)


async def test_a_pull_is_given_its_own_log_in_and_nobody_else_any(
    canned: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of the account that the hub runs as, either."""
    auth = base64.b64encode(b"somebody:geheim").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"r.example.org": {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    canned.answers["/images/create"] = canned.answers["/build"] = Answer(stream=[])
    engine = DockerEngine(canned.url, api_version="1.41")
    name = "r.example.org/a:1"
    await engine.pull(name, print)
    await engine.pull(name, print, Login("r.example.org", "hub", "geheim"))
    canned.answers["/images/a:1/json"] = Answer({"Id": "sha256:1"})
    await build(engine, print)
    await engine.close()
    given = re.findall(r"(?im)^(x-registry-\w+): (\S+)", "\n".join(canned.heads))
    decoded = [json.loads(base64.urlsafe_b64decode(value)) for _, value in given]
    assert {header.lower() for header, _ in given} == {"x-registry-auth"}
    assert decoded == [
        {},
        {
            "username": "hub",
            "password": "geheim",
            "identitytoken": "",
            "serveraddress": "r.example.org",
        },
    ]


async def test_an_error_inside_a_build_is_raised_with_its_exit_code(
    engine: DockerEngine, canned: Wire
) -> None:
    canned.answers["/build"] = Answer(stream=[{"stream": "no end of line"}, FAILURE])
    lines: list[str] = []
    with pytest.raises(EngineStreamError, match="it failed") as failed:
        await build(engine, lines.append)
    assert (lines, failed.value.code) == (["no end of line"], 7)


@pytest.mark.parametrize("path", ["/images/create", "/build"])
async def test_an_error_before_the_stream_is_one_like_any_other(
    engine: DockerEngine, canned: Wire, path: str
) -> None:
    canned.answers[path] = Answer({"message": "no such repository"}, 404)
    with pytest.raises(EngineNotFound, match="no such repository"):
        await (engine.pull("a:1", print) if "images" in path else build(engine, print))


@pytest.mark.parametrize("stream", [[{"stream": "a\n"}], [], [b'{"stream": "a'], [b"<html>"]])
async def test_a_stream_that_breaks_off_is_no_success(
    engine: DockerEngine, canned: Wire, stream: list[object]
) -> None:
    canned.answers["/build"] = Answer(stream=stream, cut=True)
    canned.answers["/images/create"] = Answer(stream=stream, cut=True)
    for call in (build(engine, lambda line: None), engine.pull("a:1", lambda event: None)):
        with pytest.raises(EngineUnavailable):
            await call


async def test_a_stream_that_falls_silent_is_given_up(canned: Wire) -> None:
    engine = DockerEngine(canned.url, timeouts=IMPATIENT)
    for path in ("/build", "/events"):
        canned.answers[path] = Answer(stream=[], until=asyncio.Event())
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(build(engine, print), 60)
    events = await engine.events({})
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(events.__anext__(), 60)
    await engine.close()


async def test_a_builds_output_comes_as_lines(engine: DockerEngine, canned: Wire) -> None:
    canned.answers["/build"] = Answer(
        stream=[
            {"stream": "Step 1/2 : FROM a\n"},
            {"status": "Pulling from a", "id": "1"},
            {"status": "Downloading", "progressDetail": {"current": 1, "total": 2}, "id": "2"},
            {"stream": "one\ntw"},
            {"stream": "o\n\n\x1b[1mthree\r\n"},
            {"stream": "x" * 10_000},
            {"aux": {"ID": "sha256:abc"}},
            {"stream": "\ntail"},
        ]
    )
    lines: list[str] = []
    assert await build(engine, lines.append) == "sha256:abc"
    assert lines == [
        "Step 1/2 : FROM a",
        "Pulling from a",
        "one",
        "two",
        "",
        "\x1b[1mthree",
        "x" * 8192,
        "x" * 1808,
        "tail",
    ]


async def test_a_build_that_prints_without_end_is_ended(
    engine: DockerEngine, canned: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_output, "MAX_OUTPUT", 1 << 20)
    flood = {"stream": "y\n" * 16_384}
    canned.answers["/build"] = Answer(stream=[flood] * 33, until=asyncio.Event())
    lines: list[str] = []
    with pytest.raises(build_output.EndlessOutput):
        await build(engine, lines.append)
    await asyncio.wait_for(canned.closed.wait(), 60)
    assert len(lines) < 16_384


async def test_an_image_whose_id_the_build_does_not_tell_is_asked_for(
    engine: DockerEngine, canned: Wire
) -> None:
    canned.answers["/build"] = Answer(stream=[{"stream": "Successfully built abc\n"}])
    canned.answers["/images/a:1/json"] = Answer({"Id": "sha256:abc"})
    assert await build(engine, lambda line: None) == "sha256:abc"


async def test_a_cancelled_build_closes_its_stream(engine: DockerEngine, canned: Wire) -> None:
    canned.answers["/build"] = Answer(stream=[{"stream": "Step 1\n"}], until=asyncio.Event())
    begun = asyncio.Event()
    task = asyncio.ensure_future(build(engine, lambda line: begun.set()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(canned.closed.wait(), 60)


async def test_a_reader_that_fails_closes_the_stream(engine: DockerEngine, canned: Wire) -> None:
    canned.answers["/build"] = Answer(stream=[{"stream": "Step 1\n"}], until=asyncio.Event())
    with pytest.raises(ZeroDivisionError):
        await build(engine, lambda line: print(1 / 0))
    await asyncio.wait_for(canned.closed.wait(), 60)


async def test_a_long_stream_arrives_whole_and_in_order(engine: DockerEngine, canned: Wire) -> None:
    events = [{"status": "Extracting", "n": n} for n in range(5000)]
    canned.answers["/images/create"] = Answer(stream=events)
    seen: list[Json] = []
    await engine.pull("a:1", seen.append)
    assert seen == events


async def test_events_are_filtered_by_the_engine_and_their_loss_is_an_error(
    engine: DockerEngine, canned: Wire
) -> None:
    canned.answers["/events"] = Answer(stream=[{"Action": "die"}])
    async with aclosing(await engine.events({"ds01.hub": "a"})) as events:
        assert await events.__anext__() == {"Action": "die"}
        with pytest.raises(EngineUnavailable):
            await events.__anext__()
