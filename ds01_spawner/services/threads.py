"""Blocking calls and blocking streams, kept off the event loop.

All threads are daemons: one that hangs in the kernel cannot keep the hub's process from ending,
which the standard library's pool, joining its threads at exit, would let it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import closing, suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_POLL_S = 0.005  # how often the loop looks whether a thread has ended
_HOLD_S = 0.005  # how long a source that always has more may hold the loop


class PoolClosed(Exception):
    """The pool takes no more calls."""


class Pool:
    """At most `size` threads, made when needed, that run blocking calls in order of arrival.

    `on_exit` runs in each thread as it ends, to close what the thread keeps.
    """

    def __init__(self, name: str, size: int, on_exit: Callable[[], None]) -> None:
        self._name = name
        self._size = size
        self._on_exit = on_exit
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._calls = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._closed = False

    async def run(self, call: Callable[[], T]) -> T:
        """The call's result. Cancelled while it waits for a thread, the call is never made."""
        if self._closed:
            raise PoolClosed(self._name)
        future: Future[T] = Future()
        self._calls.put((future, call))
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._size:
            name = f"{self._name}-{len(self._threads)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        return await asyncio.wrap_future(future)

    def _work(self) -> None:
        while (entry := self._calls.get()) is not None:
            _settle(*entry)
            del entry  # an idle thread keeps nothing alive
            self._idle.release()
        self._on_exit()

    async def close(self, seconds: float) -> None:
        """Take no more calls, run those that came before, wait at most `seconds` for the end."""
        self._closed = True
        for _ in self._threads:
            self._calls.put(None)
        await _ended(self._threads, seconds)


def _settle(future: Future[Any], call: Callable[[], Any]) -> None:
    """Run the call, unless it was cancelled, into its future."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


class ThreadStream(Generic[T]):
    """An async iterator over what a blocking source yields, in a thread of its own.

    `source` is called in that thread with a function that it must call once, as soon as it is
    open, with a way to close it from the loop's thread (quick, never blocking). It then yields
    items; when `limit` of them wait to be taken, it waits too. Its exception is raised by the
    iteration. Close the stream in the end: `async with contextlib.aclosing(stream)`.
    """

    def __init__(
        self,
        name: str,
        source: Callable[[Callable[[Callable[[], None]], None]], Generator[T, None, None]],
        limit: int = 1000,
    ) -> None:
        self._source = source
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._state = threading.Condition()
        self._items: deque[T] = deque()
        self._close_source: Callable[[], None] | None = None
        self._closed = False
        self._ended = False
        self._error: BaseException | None = None
        self._resumed = self._loop.time()  # when others last had the loop
        self._thread = threading.Thread(target=self._feed, name=name, daemon=True)
        self._thread.start()

    def _feed(self) -> None:
        error: BaseException | None = None
        try:
            with closing(self._source(self._opened)) as items:
                for item in items:
                    if not self._put(item):
                        break
        except BaseException as problem:
            error = problem
        with self._state:
            self._ended, self._error = True, error
        self._notify()

    def _put(self, item: T) -> bool:
        """Hand an item over, when there is room; whether more are wanted."""
        with self._state:
            while len(self._items) >= self._limit and not self._closed:
                self._state.wait()
            if self._closed:
                return False
            self._items.append(item)
            first = len(self._items) == 1
        if first:
            self._notify()
        return True

    def _opened(self, close_source: Callable[[], None]) -> None:
        with self._state:
            self._close_source = close_source
            closed = self._closed
        if closed:
            close_source()
        self._notify()

    def _notify(self) -> None:
        with suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._wake.set)

    async def opened(self) -> None:
        """Wait until the source is open; raises its exception when it fails before."""
        while True:
            with self._state:
                if self._close_source is not None or self._closed:
                    return
                if self._ended:
                    if self._error is not None:
                        raise self._error
                    return
                self._wake.clear()
            await self._wake.wait()

    def __aiter__(self) -> ThreadStream[T]:
        """The stream itself."""
        return self

    async def __anext__(self) -> T:
        """Wait for the next item."""
        if self._loop.time() - self._resumed >= _HOLD_S:
            await asyncio.sleep(0)
            self._resumed = self._loop.time()
        while True:
            with self._state:
                if self._closed:
                    raise StopAsyncIteration
                if self._items:
                    item = self._items.popleft()
                    self._state.notify_all()
                    return item
                if self._ended:
                    if self._error is not None:
                        raise self._error
                    raise StopAsyncIteration
                self._wake.clear()
            await self._wake.wait()
            self._resumed = self._loop.time()

    async def aclose(self) -> None:
        """Close the source and wait, two seconds at most, for its thread to end."""
        with self._state:
            self._closed = True
            close_source = self._close_source
            self._state.notify_all()
        if close_source is not None:
            close_source()
        self._wake.set()
        await _ended([self._thread], 2.0)


async def _ended(threads: list[threading.Thread], seconds: float) -> None:
    """Wait until the threads have ended, or for `seconds`; a thread's end cannot be awaited."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while any(thread.is_alive() for thread in threads) and loop.time() < end:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)
