"""Servers come up in turns: as many at once as the host carries."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from ds01_spawner.hub import turns
from ds01_spawner.hub.turns import Turn


async def begun(turn: Turn) -> asyncio.Task[None]:
    task = asyncio.ensure_future(turn.begin())
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def test_the_next_one_comes_up_when_one_has_answered() -> None:
    slots = asyncio.Semaphore(1)
    first, second = Turn(slots), Turn(slots)
    await first.begin()
    waiting = await begun(second)
    assert not waiting.done()
    first.end()
    await waiting
    second.end()
    assert not slots.locked()


async def test_who_gives_up_in_the_line_takes_nobodys_turn() -> None:
    slots = asyncio.Semaphore(1)
    first, second = Turn(slots), Turn(slots)
    await first.begin()
    waiting = await begun(second)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    second.end()
    assert slots.locked(), "the first one's turn has not ended"
    first.end()
    assert not slots.locked()


async def test_a_turn_ends_once() -> None:
    slots = asyncio.Semaphore(1)
    first, others = Turn(slots), [Turn(slots), Turn(slots)]
    await first.begin()
    for _ in range(2):
        first.end()
    waiting = [await begun(turn) for turn in others]
    assert [task.done() for task in waiting] == [True, False]
    others[0].end()
    await waiting[1]
    others[1].end()


async def test_a_server_that_does_not_come_up_holds_up_nobody_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 0)
    slots = asyncio.Semaphore(1)
    first, second = Turn(slots), Turn(slots)
    await first.begin()
    await second.begin()
    first.end()
    second.end()
    assert not slots.locked()
