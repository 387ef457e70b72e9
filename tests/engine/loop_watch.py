"""For how long the event loop is held up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


@asynccontextmanager
async def loop_watch() -> AsyncIterator[Callable[[], float]]:
    """While it lasts, it is measured: what it gives tells the longest time so far, in seconds."""
    held, loop = 0.0, asyncio.get_running_loop()

    async def tick() -> None:
        nonlocal held
        while True:
            before = loop.time()
            await asyncio.sleep(0.01)
            held = max(held, loop.time() - before)

    ticker = asyncio.ensure_future(tick())
    try:
        yield lambda: held
    finally:
        ticker.cancel()
