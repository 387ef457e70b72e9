"""The devices of AMD's driver, read from the kernel's files in a thread, with a deadline.

A file of a driver whose card hangs can be read for ever, so none is read on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from ds01_spawner.core.devices import Snapshot
from ds01_spawner.services.inventory import kfd
from ds01_spawner.services.inventory.base import BACKOFF_S, FRESH_S, Kept, WithoutXids
from ds01_spawner.services.threads import Pool

DEADLINE_S = 10.0


class RocmInventory(WithoutXids):
    """The inventory of a host with, perhaps, AMD's driver, whose files are below `root`.

    No KFD: known, no devices. A topology that cannot be read, or not in time: not known, so
    nothing is granted and nothing that runs is touched. A card whose files cannot be read is
    unhealthy and hides no other.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        now: Callable[[], datetime],
        deadline_s: float = DEADLINE_S,
        fresh_s: float = FRESH_S,
        backoff_s: tuple[float, float] = BACKOFF_S,
        monotonic: Callable[[], float] = time.monotonic,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._root = root
        self._now = now
        self._deadline_s = deadline_s
        self._kept = Kept(self._ask, fresh_s, backoff_s, monotonic, on_change=on_change)
        self._pool = Pool("ds01-rocm", 1, lambda: None)
        self._reading: asyncio.Task[Snapshot] | None = None

    async def snapshot(self, *, fresh: bool = False) -> Snapshot:
        """The devices now, at most `fresh_s` old; with `fresh`, asked for after this call."""
        return await self._kept.snapshot(fresh=fresh)

    async def close(self) -> None:
        """End the thread, unless a file keeps it."""
        await self._kept.close()
        await self._pool.close(0)

    async def _ask(self) -> Snapshot:
        if self._reading is not None and not self._reading.done():
            return _unknown("an earlier look at the AMD driver's files still hangs")
        self._reading = asyncio.ensure_future(self._pool.run(self._read))
        await asyncio.wait([self._reading], timeout=self._deadline_s)
        if not self._reading.done():
            return _unknown(f"the AMD driver's files were not read within {self._deadline_s:g} s")
        return self._reading.result()

    def _read(self) -> Snapshot:
        try:
            return kfd.read(self._root, self._now())
        except (OSError, ValueError) as error:
            return _unknown(f"the AMD driver's files cannot be read ({error})")


def _unknown(problem: str) -> Snapshot:
    return Snapshot(known=False, problems=(problem,))
