"""Whose server may come up now: as many at once as the host carries.

A server's way up costs a core for a second or so. All at once would all be as late as the last;
in turns the last is no later and the others are early (measured: docs/benchmarks.md).
"""

from __future__ import annotations

import asyncio

TURN_SECONDS = 10.0  # a server that is not up by then lets the next one start beside it


class Turn:
    """One start's turn among `slots`, which all starts of a hub share."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._timer: asyncio.TimerHandle | None = None

    async def begin(self) -> None:
        """Wait for it."""
        await self._slots.acquire()
        self._timer = asyncio.get_running_loop().call_later(TURN_SECONDS, self.end)

    def end(self) -> None:
        """Let the next one start; nothing happens when it has not begun or has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._slots.release()
