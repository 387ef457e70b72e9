"""Work that several wait for and one does; and a line in front of work that only a few may do."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

E = TypeVar("E")
T = TypeVar("T")
log = logging.getLogger(__name__)
MAX_EVENTS = 300  # kept of one work, for those who join late


class _Job(Generic[E, T]):
    """One work, its events so far, and who listens."""

    def __init__(self, work: Callable[[Callable[[E], None]], Coroutine[Any, Any, T]]) -> None:
        self.events: deque[E] = deque(maxlen=MAX_EVENTS)
        self.listeners: list[list[Callable[[E], None]]] = []  # one list each, equal callables too
        self.abandoned = False
        self.task = asyncio.ensure_future(work(self._tell))
        self.task.add_done_callback(_retrieve)

    def _tell(self, event: E) -> None:
        self.events.append(event)
        for (listener,) in tuple(self.listeners):
            _call(listener, event)

    def replay(self, listener: Callable[[E], None]) -> None:
        for event in tuple(self.events):
            _call(listener, event)


class SharedWork(Generic[E, T]):
    """One work per key at a time: who asks for a key that is being worked on joins.

    The work is cancelled when the last who waits for it has gone, and not before.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, _Job[E, T]] = {}

    def works_on(self, key: str) -> bool:
        """Whether the work of this key is under way."""
        return key in self._jobs

    async def join(
        self,
        key: str,
        work: Callable[[Callable[[E], None]], Coroutine[Any, Any, T]],
        on_event: Callable[[E], None],
    ) -> T:
        """The work's result, or its exception. `on_event` gets all its events, earlier ones too.

        Cancelled as the last waiter, it returns when the work has ended.
        """
        while (job := self._jobs.get(key)) is not None and job.abandoned:
            await asyncio.wait([job.task])
        if job is None:
            job = self._jobs[key] = _Job(work)
            job.task.add_done_callback(lambda _: self._jobs.pop(key, None))
        listener = [on_event]
        job.replay(on_event)
        job.listeners.append(listener)
        try:
            return await asyncio.shield(job.task)
        finally:
            job.listeners = [other for other in job.listeners if other is not listener]
            if not job.listeners and not job.task.done():
                job.abandoned = True
                job.task.cancel()
                await asyncio.wait([job.task])


class Line:
    """At most `places` at a time, first come, first served; who waits is told its position."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[tuple[asyncio.Future[None], Callable[[int], None]]] = deque()

    @asynccontextmanager
    async def place(self, on_position: Callable[[int], None]) -> AsyncIterator[None]:
        """A place in front, waited for. `on_position` gets each position, 1 is the next."""
        if self._free > 0:
            self._free -= 1
        else:
            await self._wait(on_position)
        try:
            yield
        finally:
            self._leave()

    async def _wait(self, on_position: Callable[[int], None]) -> None:
        entry = (asyncio.get_running_loop().create_future(), on_position)
        self._waiting.append(entry)
        _call(on_position, len(self._waiting))
        try:
            await entry[0]
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
                self._tell()
            else:  # the place came in the same moment
                self._leave()
            raise

    def _leave(self) -> None:
        if self._waiting:
            self._waiting.popleft()[0].set_result(None)
            self._tell()
        else:
            self._free += 1

    def _tell(self) -> None:
        for position, (_, on_position) in enumerate(tuple(self._waiting), 1):
            _call(on_position, position)


def _call(listener: Callable[[E], None], event: E) -> None:
    """A listener that fails harms neither the work nor the others."""
    try:
        listener(event)
    except Exception:
        log.exception("An event could not be delivered")


def _retrieve(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()
