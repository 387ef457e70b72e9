"""The fake engine's events, and who listens to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from ds01_spawner.errors import EngineUnavailable
from ds01_spawner.services.engine import EventStream, Json, Labels
from tests.fakes.faults import Faults


def has(labels: Mapping[str, str], wanted: Labels) -> bool:
    """Whether these labels pass the filter."""
    return all(k in labels and (v is None or labels[k] == v) for k, v in wanted.items())


class FakeEvents:
    """One subscription to the fake's events."""

    def __init__(self, labels: Labels, types: Sequence[str]) -> None:
        self.labels, self.types = labels, types
        self.queue: asyncio.Queue[Json | Exception | None] = asyncio.Queue()

    def __aiter__(self) -> AsyncIterator[Json]:
        return self

    async def __anext__(self) -> Json:
        event = await self.queue.get()
        if event is None:
            raise StopAsyncIteration
        if isinstance(event, Exception):
            raise event
        return event

    async def aclose(self) -> None:
        self.queue.put_nowait(None)


class FakeEventSource(Faults):
    """Where the fake's events come from."""

    def __init__(self) -> None:
        super().__init__()
        self._subscriptions: list[FakeEvents] = []

    def lose_events(self) -> None:
        """Break all event streams, as a restart of the engine does."""
        for subscription in self._subscriptions:
            subscription.queue.put_nowait(EngineUnavailable("its stream of events ended"))
        self._subscriptions.clear()

    def end_events(self) -> None:
        """Let all event streams end."""
        for subscription in self._subscriptions:
            subscription.queue.put_nowait(None)

    async def events(self, labels: Labels, types: Sequence[str] = ("container",)) -> EventStream:
        def effect() -> FakeEvents:
            self._subscriptions.append(FakeEvents(labels, types))
            return self._subscriptions[-1]

        return await self.call("events", (labels, types), effect)

    def emit(self, container: Json, action: str, **attributes: str) -> None:
        """Tell who listens what happened to a container."""
        labels = container["Config"]["Labels"]
        event = {
            "Type": "container",
            "Action": action,
            "Actor": {
                "ID": container["Id"],
                "Attributes": {**labels, **attributes, "name": container["Name"][1:]},
            },
        }
        for subscription in self._subscriptions:
            if "container" in subscription.types and has(labels, subscription.labels):
                subscription.queue.put_nowait(event)
