"""What one click came to, and how long to wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

CLICK_SECONDS = 300.0  # a click that is not ready by then has failed
PROBE_SECONDS = 0.01
PROBE_SECONDS_EACH = 0.005  # more of them ask less often: the asking must not slow the answer


class CannotMeasure(Exception):
    """Something that the measure needs is not there; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One click: `seconds` until its server answered, None when it failed, and why."""

    seconds: float | None
    why: str = ""


class System(Protocol):
    """Something that starts a notebook server for a user who clicks."""

    name: str

    async def begin(self, users: Sequence[str]) -> None:
        """Start what the users click at."""
        ...

    async def warm_up(self, users: Sequence[str]) -> None:
        """Start and end servers once, untimed: images, volumes and caches are there after it."""
        ...

    async def click(self, user: str) -> Outcome:
        """Start the user's server and wait until it answers."""
        ...

    async def clear(self, users: Sequence[str]) -> None:
        """End these users' servers and wait until they are gone."""
        ...

    async def phases(self) -> dict[str, tuple[float, float]]:
        """Of each phase that the system tells of: seconds in all, and how often."""
        ...

    def end(self) -> None:
        """End what `begin` started; nothing of it is at work afterwards."""
        ...


class Probes:
    """Asks servers that are coming up whether they answer, all from this one loop."""

    def __init__(self) -> None:
        self._waiting = 0

    async def until_ready(self, host: str, port: int, path: str, deadline: float) -> bool:
        """Whether it answers 200 before the deadline (of the monotonic clock)."""
        self._waiting += 1
        try:
            while time.monotonic() < deadline:
                if await answers(host, port, path):
                    return True
                await asyncio.sleep(max(PROBE_SECONDS, self._waiting * PROBE_SECONDS_EACH))
            return False
        finally:
            self._waiting -= 1


async def answers(host: str, port: int, path: str) -> bool:
    """Whether one GET gets the status 200."""
    writer = None
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 5)
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
        line = await asyncio.wait_for(reader.readline(), 60)
        return b" 200 " in line
    except (OSError, asyncio.TimeoutError):
        return False
    finally:
        if writer is not None:
            writer.close()
