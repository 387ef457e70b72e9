"""The devices of the NVIDIA driver, asked in a process of its own, with a deadline.

NVML is never called on the way of a start or on the event loop: a driver call can hang for ever.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.health import RECOVERY_CHANGED
from ds01_spawner.services.inventory.answers import EVERY_INSTANCE, Answer, Event
from ds01_spawner.services.inventory.fleet import Fleet
from ds01_spawner.services.inventory.probing import DEADLINE_S, NoAnswer, Prober

log = logging.getLogger(__name__)

FRESH_S = 2.0
RECHECK_S = 0.5  # between the two looks that make a device unhealthy
HURRY_S = 0.1  # what is known to be outdated is kept so long, for it may stay so
BACKOFF_S = (2.0, 60.0)  # after the first failure, and at most; doubled between
# A library does not see what came after it was opened. So it is opened again, at most this often
# while a card is missing, and this often in any case.
REOPEN_S = 30.0
OPEN_AT_MOST_S = 3600.0
EPOCH_LENGTH = 12


class NvmlInventory:
    """The inventory of a host with, perhaps, an NVIDIA driver.

    No driver library: known, no devices. A library whose driver hangs, is not loaded or does not
    match: not known, so nothing is granted and nothing that runs is touched. Answers are kept for
    `fresh_s`; callers at the same time share one question; failures are repeated ever more slowly.
    `proc` is where the host's processes are seen. Ended by `close`, and by the end of this process.
    """

    def __init__(
        self,
        *,
        now: Callable[[], datetime],
        deadline_s: float = DEADLINE_S,
        fresh_s: float = FRESH_S,
        recheck_s: float = RECHECK_S,
        backoff_s: tuple[float, float] = BACKOFF_S,
        monotonic: Callable[[], float] = time.monotonic,
        environment: Mapping[str, str] | None = None,
        proc: Path = Path("/proc"),
    ) -> None:
        self._now = now
        self._fresh_s = fresh_s
        self._recheck_s = recheck_s
        self._backoff_s = backoff_s
        self._monotonic = monotonic
        self._proc = proc
        self._prober = Prober(
            self._heard, deadline_s=deadline_s, monotonic=monotonic, environment=environment
        )
        self._fleet = Fleet()
        self._reopen = False
        self._last: Snapshot | None = None
        self._asked = self._ask_again = 0.0
        self._failures = 0
        self._asking: asyncio.Task[Snapshot] | None = None

    async def snapshot(self, *, fresh: bool = False) -> Snapshot:
        """The devices now, at most `fresh_s` old; with `fresh`, asked for after this call."""
        last = self._last
        early = last is not None and self._monotonic() < self._ask_again
        if last is not None and early and not (last.known and (fresh or self._outdated())):
            return last
        if fresh and self._asking is not None and not self._asking.done():
            begun_before = await asyncio.shield(self._asking)
            if not begun_before.known:
                return begun_before
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        # Whoever gives up waiting does not take the answer from the others.
        return await asyncio.shield(self._asking)

    async def close(self) -> None:
        """End the probe."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self._prober.end()

    def _outdated(self) -> bool:
        """Whether the last answer tells of a process that has ended: its device may be free now."""
        usage = self._last.usage.values() if self._last is not None else ()
        pids = [process.pid for device in usage for process in device.processes or ()]
        gone = any(not (self._proc / str(pid)).exists() for pid in pids)
        return gone and self._monotonic() >= self._asked + HURRY_S

    async def _ask(self) -> Snapshot:
        taken = self._now()
        try:
            snapshot = await self._look()
        except NoAnswer as problem:
            snapshot = Snapshot(known=False, problems=(str(problem),))
        if snapshot.known:
            self._failures = 0
            wait = self._fresh_s
        else:
            first, most = self._backoff_s
            wait = min(most, first * 2.0 ** min(self._failures, 16))
            self._failures += 1
        self._last = replace(snapshot, taken=taken)
        self._asked = self._monotonic()
        self._ask_again = self._asked + wait
        return self._last

    async def _look(self) -> Snapshot:
        answer = await self._answer()
        if not answer.library:
            return Snapshot(problems=("there is no NVIDIA driver on this host",))
        self._fleet.look(answer, self._monotonic())
        if self._fleet.in_doubt:
            await asyncio.sleep(self._recheck_s)
            answer = await self._answer()
            self._fleet.look(answer, self._monotonic())
        devices, problems = self._fleet.devices()
        return Snapshot(
            devices=devices,
            driver=answer.driver,
            cuda=None if answer.cuda is None else (answer.cuda // 1000, answer.cuda % 1000 // 10),
            problems=problems,
            epoch=self._epoch(d.uuid for d in devices),
            usage=self._fleet.usage(),
            links=self._fleet.links(),
        )

    async def _answer(self) -> Answer:
        """What the probe says of the cards, or that there is no driver. Raises NoAnswer."""
        longest = REOPEN_S if self._fleet.blind else OPEN_AT_MOST_S
        anew = self._reopen or self._prober.age_s >= longest
        self._reopen = False
        answer = await self._prober.ask(anew=anew)
        # Without a library there is no driver, unless there was one a moment ago.
        if answer.error and (answer.library or len(self._fleet)):
            raise NoAnswer(f"the NVIDIA driver says: {answer.error}")
        return answer

    def _heard(self, event: Event) -> None:
        """Take in what the driver tells by itself."""
        if event.kind == "xid":
            changed = self._fleet.hit(event, self._monotonic()) or event.xid == RECOVERY_CHANGED
            where = "" if event.gi == EVERY_INSTANCE else f", instance {event.gi}/{event.ci}"
            log.log(logging.WARNING if changed else logging.INFO,
                    "XID %s on %s%s", event.xid, event.card, where)  # fmt: skip
            if not changed:
                return
        self._reopen = self._reopen or event.kind == "mig"
        if self._last is not None and self._last.known:
            self._ask_again = 0.0

    def _epoch(self, devices: Iterable[str]) -> str:
        """A short name of this boot with these devices."""
        try:
            boot = (self._proc / "sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            boot = ""
        return sha256("\n".join([boot, *sorted(devices)]).encode()).hexdigest()[:EPOCH_LENGTH]
