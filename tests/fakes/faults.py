"""What can go wrong with an outside thing, made to happen on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from ds01_spawner.errors import EngineUnavailable

T = TypeVar("T")


class Call(NamedTuple):
    """One call that was made, whatever came of it."""

    method: str
    args: tuple[Any, ...]


class Faults:
    """Calls that are recorded and can be made to fail, to wait or to take time.

    As in the real adapter, a call whose awaiting task is cancelled goes on.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.latency: Callable[[str], Awaitable[None]] | None = None
        self.unreachable = False
        self._failures: dict[str, list[tuple[Exception, bool]]] = {}
        self._gates: dict[str, asyncio.Event] = {}
        self._arrival = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    def fail_next(self, method: str, error: Exception, *, after: bool = False) -> None:
        """Let the method's next call fail; `after` it has taken effect, as when it times out."""
        self._failures.setdefault(method, []).append((error, after))

    def block(self, method: str) -> asyncio.Event:
        """Let calls of the method wait, before they take effect, until the event is set.

        Two more places to wait at: `removal`, while a container is being removed, and `step`,
        before each step of a build.
        """
        return self._gates.setdefault(method, asyncio.Event())

    def made(self, method: str) -> list[Call]:
        """The calls of one method."""
        return [call for call in self.calls if call.method == method]

    async def reached(self, method: str, count: int = 1) -> None:
        """Wait until the method was called that many times, counted from the beginning."""
        while len(self.made(method)) < count:
            self._arrival.clear()
            await self._arrival.wait()

    async def passing(self, place: str) -> None:
        """Wait at a place that is blocked."""
        if gate := self._gates.get(place):
            await gate.wait()
            if self._gates.get(place) is gate:
                del self._gates[place]

    async def call(self, method: str, args: tuple[Any, ...], effect: Callable[[], T]) -> T:
        """Make a call whose effect takes no time."""

        async def run() -> T:
            return effect()

        return await self.long_call(method, args, run)

    async def long_call(
        self, method: str, args: tuple[Any, ...], effect: Callable[[], Awaitable[T]]
    ) -> T:
        """Make a call that goes on when who awaits it is cancelled."""
        self._record(method, args)
        task = asyncio.ensure_future(self._faulty(method, effect))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def stream_call(
        self, method: str, args: tuple[Any, ...], effect: Callable[[], Awaitable[T]]
    ) -> T:
        """Make a call that ends when who awaits it is cancelled."""
        self._record(method, args)
        return await self._faulty(method, effect)

    def _record(self, method: str, args: tuple[Any, ...]) -> None:
        self.calls.append(Call(method, args))
        self._arrival.set()

    async def _faulty(self, method: str, effect: Callable[[], Awaitable[T]]) -> T:
        if self.latency is not None:
            await self.latency(method)
        await self.passing(method)
        if self.unreachable:
            raise EngineUnavailable("the fake engine is unreachable")
        failures = self._failures.get(method)
        error, after = failures.pop(0) if failures else (None, False)
        if error is not None and not after:
            raise error
        result = await effect()
        if error is not None:
            raise error
        return result

    def end_calls(self) -> None:
        """Cancel the calls that still wait."""
        for task in self._tasks:
            task.cancel()
