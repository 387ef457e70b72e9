"""What a start tells those who watch it, through the hub's event stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from ds01_spawner.errors import EngineUnavailable
from tests.hub.clients import PATIENCE_S
from tests.hub.world import World


def phases(events: list[dict[str, Any]]) -> list[str]:
    return [e["phase"] for e in events if "phase" in e]


async def test_every_reader_gets_the_same_from_the_beginning(world: World, user: str) -> None:
    async with world.starting(user, {"pip": ["watched"]}, at="create_container") as gate:
        early = asyncio.ensure_future(world.events(user))
        late = asyncio.ensure_future(world.events(user))
        await world.engine.reached("create_container")
        gate.set()
        first, second = await asyncio.wait_for(asyncio.gather(early, late), PATIENCE_S)
    assert first == second
    assert phases(first) == ["resolve", "admit", "image", "lease", "create", "start", "ready"]
    assert first[-1]["ready"] is True
    percents = [e["progress"] for e in first]
    assert percents == sorted(percents)
    await world.stop(user)


async def test_the_lines_of_a_build_arrive(
    world: World, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(on_line: Callable[[str], None]) -> None:
        world.passed += timedelta(seconds=1)  # so that it is told: not every line is
        on_line("Collecting \x1b[31mlines\x1b[0m <script>")

    monkeypatch.setattr(world.engine, "output", say)
    async with world.starting(user, {"pip": ["lines"]}, at="create_container") as gate:
        reader = asyncio.ensure_future(world.events(user))
        await asyncio.sleep(0)
        gate.set()
        events = await asyncio.wait_for(reader, PATIENCE_S)
    assert [e["message"] for e in events if e.get("log")] == ["Collecting lines <script>"]
    image = [e for e in events if e.get("phase") == "image"]
    assert len(image) == 1
    assert [e for e in events[events.index(image[0]) + 1 :] if "step" in e["message"]]
    await world.stop(user)


async def test_a_second_start_without_a_build_has_no_lines(world: World, user: str) -> None:
    await world.start(user, {"pip": ["once"]})
    await world.stop(user)
    async with world.starting(user, {"pip": ["once"]}, at="create_container") as gate:
        reader = asyncio.ensure_future(world.events(user))
        await asyncio.sleep(0)
        gate.set()
        events = await asyncio.wait_for(reader, PATIENCE_S)
    assert [e for e in events if e.get("log")] == []
    await world.stop(user)


async def test_a_failure_is_told_in_our_words(world: World, user: str) -> None:
    async with world.starting(user, {"pip": ["fails"]}, at="create_container") as gate:
        world.engine.fail_next("create_container", EngineUnavailable("secret"))
        spawner, attached = world.spawner(user), asyncio.Event()
        progress = spawner.progress

        async def watched() -> AsyncIterator[dict[str, Any]]:
            async for event in progress():
                attached.set()
                yield event

        spawner.progress = watched
        reader = asyncio.ensure_future(world.events(user))
        await asyncio.wait_for(attached.wait(), PATIENCE_S)
        gate.set()
        events = await asyncio.wait_for(reader, PATIENCE_S)
    failed = events[-1]
    assert failed["failed"] is True
    assert "The container engine of this server does not answer." in failed["message"]
    assert "secret" not in str(events)
    assert phases(events)[-1] == "create"


async def test_a_page_that_is_opened_after_the_failure(world: World, user: str) -> None:
    world.engine.fail_next("create_container", EngineUnavailable("secret"))
    await world.start(user, {"pip": ["fails"]})
    events = await world.events(user)
    assert "does not answer" in events[-1]["message"]
    assert events[-1]["failed"] is True
    assert "secret" not in str(events)
