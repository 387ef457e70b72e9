"""Blocking calls and streams in threads: order, bounds, cancels and ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import aclosing

import pytest

from ds01_spawner.services.threads import Pool, PoolClosed, ThreadStream

Opened = Callable[[Callable[[], None]], None]


def nothing() -> None:
    pass


async def test_a_pool_gives_results_and_exceptions() -> None:
    pool = Pool("test", 2, nothing)
    assert await pool.run(lambda: 1 + 1) == 2
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 // 0)
    await pool.close(60)


async def test_a_pool_has_no_more_threads_than_it_needs_and_may() -> None:
    pool, barrier = Pool("test-size", 2, nothing), threading.Barrier(3)
    names: set[str] = set()

    def name() -> None:
        names.add(threading.current_thread().name)

    for _ in range(5):
        await pool.run(name)
    assert names == {"test-size-0"}
    two = [asyncio.ensure_future(pool.run(barrier.wait)) for _ in range(2)]
    third = asyncio.ensure_future(pool.run(name))
    await asyncio.to_thread(barrier.wait, 60)
    await asyncio.gather(*two, third)
    assert len(pool._threads) == 2
    await pool.close(60)


async def test_a_cancelled_call_that_waits_is_never_made_one_that_began_goes_on() -> None:
    pool = Pool("test", 1, nothing)
    began, release, made = threading.Event(), threading.Event(), []

    def first() -> None:
        began.set()
        release.wait(60)
        made.append("first")

    calls = [
        asyncio.ensure_future(pool.run(first)),
        asyncio.ensure_future(pool.run(lambda: made.append("second"))),
    ]
    await asyncio.to_thread(began.wait, 60)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    release.set()
    await pool.run(lambda: made.append("third"))
    assert made == ["first", "third"]
    await pool.close(60)


async def test_a_closed_pool_has_done_its_work_and_takes_no_more() -> None:
    ended: list[str] = []
    pool = Pool("test", 2, lambda: ended.append(threading.current_thread().name))
    assert await pool.run(lambda: 1) == 1
    call = asyncio.ensure_future(pool.run(lambda: 2))
    await asyncio.sleep(0)
    await pool.close(60)
    assert await call == 2
    assert ended
    with pytest.raises(PoolClosed):
        await pool.run(lambda: 3)


async def test_a_thread_that_hangs_does_not_hold_the_end() -> None:
    pool, release = Pool("test", 1, nothing), threading.Event()
    call = asyncio.ensure_future(pool.run(lambda: release.wait(60)))
    await asyncio.sleep(0)
    await pool.close(0)
    assert all(thread.daemon for thread in pool._threads)
    release.set()
    assert await call


async def test_a_stream_gives_its_items_in_order_and_ends() -> None:
    def source(opened: Opened) -> Generator[int, None, None]:
        opened(nothing)
        yield from range(5000)

    async with aclosing(ThreadStream("test", source, limit=10)) as stream:
        await stream.opened()
        assert [item async for item in stream] == list(range(5000))


async def test_a_source_waits_for_its_reader() -> None:
    made: list[int] = []

    def source(opened: Opened) -> Generator[int, None, None]:
        for number in range(100):
            made.append(number)
            yield number

    async with aclosing(ThreadStream("test", source, limit=10)) as stream:
        for _ in range(5):
            assert await stream.__anext__() < 5
            assert len(made) <= 5 + 10 + 1


async def test_a_source_that_always_has_more_leaves_the_loop_to_others() -> None:
    """However few its items are: each may be much work for the reader."""
    loop, items, turns = asyncio.get_running_loop(), 0, 0

    def source(opened: Opened) -> Generator[int, None, None]:
        yield from range(20)

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with aclosing(ThreadStream("test", source)) as stream:
        await stream.__anext__()
        stream._thread.join(60)
        task = asyncio.ensure_future(others())
        async for _ in stream:
            items += 1
            end = loop.time() + 0.006
            while loop.time() < end:
                pass
        task.cancel()
    assert items == 19
    assert turns >= items - 1


async def test_a_source_that_fails_says_so_after_its_items() -> None:
    def source(opened: Opened) -> Generator[int, None, None]:
        opened(nothing)
        yield 1
        raise ZeroDivisionError

    async with aclosing(ThreadStream("test", source)) as stream:
        await stream.opened()
        assert await stream.__anext__() == 1
        with pytest.raises(ZeroDivisionError):
            await stream.__anext__()


async def test_a_source_that_cannot_be_opened_says_so_at_once() -> None:
    def source(opened: Opened) -> Generator[int, None, None]:
        yield 1 // 0

    async with aclosing(ThreadStream("test", source)) as stream:
        with pytest.raises(ZeroDivisionError):
            await stream.opened()


async def test_closing_a_stream_closes_its_source_and_wakes_its_reader() -> None:
    closed = threading.Event()

    def source(opened: Opened) -> Generator[int, None, None]:
        opened(closed.set)
        closed.wait(60)
        yield 1

    stream = ThreadStream("test", source)
    await stream.opened()
    reader = asyncio.ensure_future(stream.__anext__())
    await asyncio.sleep(0)
    await stream.aclose()
    assert closed.is_set()
    with pytest.raises(StopAsyncIteration):
        await reader


async def test_a_source_that_opens_after_the_close_is_closed_then() -> None:
    go, closed, ended = threading.Event(), threading.Event(), threading.Event()

    def source(opened: Opened) -> Generator[int, None, None]:
        go.wait(60)
        opened(closed.set)
        try:
            yield 1
        finally:
            ended.set()

    stream = ThreadStream("test", source)
    closing = asyncio.ensure_future(stream.aclose())
    await asyncio.sleep(0)
    assert not closed.is_set()
    go.set()
    await closing
    assert closed.is_set()
    assert ended.is_set()


async def test_closing_ends_a_source_that_waits_for_its_reader() -> None:
    ended = threading.Event()

    def source(opened: Opened) -> Generator[int, None, None]:
        opened(nothing)
        try:
            while True:
                yield 1
        finally:
            ended.set()

    stream = ThreadStream("test", source, limit=3)
    assert await stream.__anext__() == 1
    await stream.aclose()
    assert ended.is_set()
