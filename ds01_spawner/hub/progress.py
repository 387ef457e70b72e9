"""What a start tells its user: a bounded, replayable log of its phases.

JupyterHub calls `progress()` anew for each tab and each reload, so events are kept, not consumed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Literal

from ds01_spawner.services.build_record import BuildEvent

Phase = Literal["resolve", "admit", "image", "lease", "create", "start", "ready"]
PHASES: dict[Phase, tuple[int, str]] = {  # where the bar is when the phase begins, and its title
    "resolve": (1, "Checking what you chose"),
    "admit": (3, "Checking what you may have now"),
    "image": (5, "Preparing your environment"),
    "lease": (80, "Reserving your place"),
    "create": (84, "Making your container"),
    "start": (88, "Starting your container"),
    "ready": (92, "Waiting for your notebook server"),
}
MAX_EVENTS = 1000
MAX_LOG_CHARS = 4000


class ProgressLog:
    """The events of one start, readable by any number of readers from the beginning.

    Phases and steps of a build are few and kept for good; of the passing events, which are the
    lines of a build's log and the positions in a line, the newest 1000.
    """

    def __init__(self) -> None:
        self._events: dict[int, dict[str, Any]] = {}  # by number, in order
        self._passing: deque[int] = deque()
        self._count = 0
        self._changed = asyncio.Event()
        self._closed = False
        self._percent = 0
        self._title = ""
        self._began = time.monotonic()

    @property
    def seconds(self) -> int:
        """For how long the start has been going on."""
        return int(time.monotonic() - self._began)

    def phase(self, name: Phase, message: str = "") -> None:
        """Say that a phase begins."""
        percent, title = PHASES[name]
        self.say(f"{title}{': ' + message if message else ''}", percent, phase=name)

    def say(self, message: str, percent: int | None = None, **more: Any) -> None:
        """Add an event; the percentage never goes back."""
        self._percent = max(self._percent, min(percent or 0, 99))
        self._add({"message": message, **more})

    def build(self, event: BuildEvent) -> None:
        """Tell of a build: its steps take the part of the bar that the image phase has."""
        if not event.step:  # not begun: the build waits in a line, or its base is fetched
            line = f": {event.line}" if event.line else ""
            self._add({"message": f"{event.title}{line}"}, passing=True)
            return
        if event.title != self._title:
            self._title = event.title
            first, last = PHASES["image"][0], PHASES["lease"][0]
            percent = first + (last - first) * (event.step - 1) // max(event.steps, 1)
            self.say(
                f"{event.title} (step {event.step} of {event.steps})", percent,
                step=event.step, steps=event.steps, title=event.title,
            )  # fmt: skip
        if event.line:
            self.log(event.line)

    def log(self, text: str) -> None:
        """Add lines of a build's log; the page shows them apart from the events."""
        self._add({"message": text[:MAX_LOG_CHARS], "log": True}, passing=True)

    def close(self) -> None:
        """No more events come."""
        self._closed = True
        self._wake()

    async def read(self) -> AsyncIterator[dict[str, Any]]:
        """All events, from the first on, until the log is closed."""
        sent = 0
        while True:
            changed = self._changed
            for number in [number for number in self._events if number >= sent]:
                event = self._events.get(number)
                sent = number + 1
                if event is not None:
                    yield event
            if changed is not self._changed:
                continue
            if self._closed:
                return
            await changed.wait()

    def _add(self, event: dict[str, Any], passing: bool = False) -> None:
        self._events[self._count] = {"progress": self._percent, **event}
        if passing:
            self._passing.append(self._count)
            if len(self._passing) > MAX_EVENTS:
                del self._events[self._passing.popleft()]
        self._count += 1
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
