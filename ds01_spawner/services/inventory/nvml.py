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

from ds01_spawner.core.devices import Snapshot, Xid
from ds01_spawner.core.health import RECOVERY_CHANGED
from ds01_spawner.services.inventory.answers import EVERY_INSTANCE, Answer, Event
from ds01_spawner.services.inventory.base import BACKOFF_S, FRESH_S, Kept, boot_id
from ds01_spawner.services.inventory.fleet import Fleet
from ds01_spawner.services.inventory.probing import DEADLINE_S, NoAnswer, Prober

log = logging.getLogger(__name__)

RECHECK_S = 0.5  # between the two looks that make a device unhealthy
HURRY_S = 0.1  # what is known to be outdated is kept so long, for it may stay so
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
    `proc` is where the host's processes are seen. `on_change` is called when what may be given out
    has changed, and when the driver tells of a fault. Ended by `close`, and by the end of this
    process.
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
        on_change: Callable[[], None] = lambda: None,
        environment: Mapping[str, str] | None = None,
        proc: Path = Path("/proc"),
    ) -> None:
        self._now = now
        self._recheck_s = recheck_s
        self._monotonic = monotonic
        self._proc = proc
        self._prober = Prober(
            self._heard, deadline_s=deadline_s, monotonic=monotonic, environment=environment
        )
        self._fleet = Fleet()
        self._reopen = False
        self._on_change = on_change
        self._kept = Kept(self._ask, fresh_s, backoff_s, monotonic, self._outdated, on_change)

    async def snapshot(self, *, fresh: bool = False) -> Snapshot:
        """The devices now, at most `fresh_s` old; with `fresh`, asked for after this call."""
        return await self._kept.snapshot(fresh=fresh)

    def remember(self, struck: Iterable[Xid]) -> None:
        """Keep these out of use until the rule of `core.health` says that they are well again."""
        now, monotonic = self._now(), self._monotonic()
        for xid in struck:
            self._fleet.remember(xid, monotonic - (now - xid.at).total_seconds())
        self._kept.expire()

    def forgive(self, devices: Iterable[str]) -> None:
        """Judge these by what the next looks find."""
        self._fleet.forgive(devices)
        self._kept.expire()

    async def close(self) -> None:
        """End the probe."""
        await self._kept.close()
        await self._prober.end()

    def _outdated(self, answer: Snapshot, age_s: float) -> bool:
        """Whether an answer tells of a process that has ended: its device may be free now."""
        pids = [p.pid for device in answer.usage.values() for p in device.processes or ()]
        return age_s >= HURRY_S and any(not (self._proc / str(pid)).exists() for pid in pids)

    async def _ask(self) -> Snapshot:
        taken = self._now()
        try:
            snapshot = await self._look()
        except NoAnswer as problem:
            snapshot = Snapshot(known=False, problems=(str(problem),))
        return replace(snapshot, taken=taken)

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
            struck=self._fleet.struck(),
            faults=self._fleet.faults(),
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
            changed = self._fleet.hit(event, self._monotonic(), self._now())
            changed = changed or event.xid == RECOVERY_CHANGED
            where = "" if event.gi == EVERY_INSTANCE else f", instance {event.gi}/{event.ci}"
            log.log(logging.WARNING if changed else logging.INFO,
                    "XID %s on %s%s", event.xid, event.card, where)  # fmt: skip
            if not changed:
                return
        self._reopen = self._reopen or event.kind == "mig"
        self._kept.expire()
        self._on_change()

    def _epoch(self, devices: Iterable[str]) -> str:
        """A short name of this boot with these devices."""
        boot = boot_id(self._proc)
        return sha256("\n".join([boot, *sorted(devices)]).encode()).hexdigest()[:EPOCH_LENGTH]
