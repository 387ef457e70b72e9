"""The line for GPUs as the hub runs it: after every release and look, and while anybody waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ds01_spawner.core.limits import Limits
from ds01_spawner.core.line import Outlook
from ds01_spawner.core.options import Offer, Request
from ds01_spawner.core.tickets import Action, Ticket
from ds01_spawner.errors import DS01Error
from ds01_spawner.services import wiring
from ds01_spawner.services.engine import EngineRefused
from ds01_spawner.services.ledger import LeaseRequest, Ledger
from ds01_spawner.services.metrics import TICKETS, WAIT_SECONDS

if TYPE_CHECKING:
    from ds01_spawner.hub.runtime import Runtime

log = logging.getLogger(__name__)
SECONDS = 2.0
EVENTS = {
    "offered": "queue.offer",
    "lapsed": "queue.lapse",
    "withdrawn": "queue.withdraw",
    "dropped": "queue.leave",
}


@dataclass(frozen=True, slots=True)
class Place:
    """What the form tells of a ticket. `held_until`: its devices are held for it, so long."""

    position: int
    of: int
    waits_for: str
    expected: datetime | None
    held_until: datetime | None
    options: Mapping[str, Any]


class HubLine:
    """The line of one hub's ledger."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._nudge = asyncio.Event()

    def soon(self) -> None:
        """Run it now: something was given back, or somebody came."""
        self._nudge.set()

    async def run_for_ever(self, settled: asyncio.Task[None]) -> None:
        """Run it when told to, and every other second while anybody waits."""
        await asyncio.wait([settled])
        loop, waiting = asyncio.get_running_loop(), True
        while True:
            timer = loop.call_later(SECONDS, self._nudge.set) if waiting else None
            try:
                await self._nudge.wait()
            finally:
                if timer is not None:
                    timer.cancel()
            self._nudge.clear()
            try:
                waiting = await self.run()
            except (DS01Error, EngineRefused) as error:
                log.warning("The line was not run: %s", error)
            except Exception:
                log.exception("The line was not run")

    async def run(self) -> bool:
        """Offer what there is; whether anybody waits."""
        runtime = self._runtime
        if not await runtime.in_ledger(Ledger.tickets):
            TICKETS.set(0)
            return False
        snapshot = await runtime.inventory.snapshot(fresh=True)
        foreign = await runtime.reconciler.foreign_devices(snapshot)
        for action in await runtime.in_ledger(Ledger.run_line, snapshot, foreign):
            self._tell(action)
        line = await runtime.in_ledger(Ledger.tickets)
        TICKETS.set(len(line))
        return bool(line)

    def _tell(self, action: Action) -> None:
        ticket = action.ticket
        if action.what == "passed":
            return
        if ticket.offer is not None:
            WAIT_SECONDS.observe((wiring.now() - ticket.since).total_seconds())
        devices = list(ticket.offer.devices) if ticket.offer else []
        self._runtime.events.write(
            EVENTS[action.what], ticket.user,
            server=ticket.server, ticket=ticket.id, devices=devices, why=action.why,
        )  # fmt: skip

    # --- one server's place ------------------------------------------------------------------

    async def join(self, request: LeaseRequest, options: Mapping[str, Any]) -> None:
        """Take a place, and look at once whether it is its turn."""
        runtime = self._runtime
        snapshot = await runtime.inventory.snapshot()
        ticket = await runtime.in_ledger(Ledger.take_ticket, request, options, snapshot)
        runtime.events.write(
            "queue.join", request.user, server=request.server, ticket=ticket.id,
            gpus=request.wanted.count, kind=request.wanted.kind,
        )  # fmt: skip
        with suppress(DS01Error, EngineRefused):  # it is run again in a moment
            await self.run()
        self.soon()

    async def prepare(self, request: Request, user: str, offer: Offer) -> None:
        """Have the image when the turn comes: an offer is too short for a build.

        What fails is told by the start, which tries again.
        """
        with suppress(DS01Error, EngineRefused):
            await self._runtime.images.ready(request, user, offer, lambda _: None)

    async def leave(self, user: str, server: str) -> None:
        """Give the place up."""
        runtime = self._runtime
        if await runtime.in_ledger(Ledger.leave, runtime.settings.hub_id, user, server):
            runtime.events.write("queue.leave", user, server=server, why="left")
            self.soon()

    async def options(self, user: str, server: str) -> dict[str, Any] | None:
        """The options that were waited with; None: the server has no place."""
        hub = self._runtime.settings.hub_id
        return await self._runtime.in_ledger(Ledger.ticket_options, hub, user, server)

    async def promised(self, user: str) -> set[str]:
        """What is offered to others, or kept for them."""
        runtime, me = self._runtime, (self._runtime.settings.hub_id, user)
        line = await runtime.in_ledger(Ledger.tickets)
        offered = {uuid for t in line if t.offer and t.person != me for uuid in t.offer.devices}
        kept = await runtime.in_ledger(Ledger.holds)
        return offered | {hold.device for hold in kept if (hold.hub, hold.user) != me}

    async def place(self, user: str, server: str, limits: Limits) -> Place | None:
        """The place of a server whose page is open now."""
        runtime, hub = self._runtime, self._runtime.settings.hub_id
        before = await runtime.in_ledger(Ledger.asked, hub, user, server, limits)
        if before is None:
            return None
        if before.lapses:
            self.soon()  # it may have slept
        snapshot = await runtime.inventory.snapshot()
        foreign: Mapping[str, str] = {}
        with suppress(DS01Error, EngineRefused):
            foreign = await runtime.reconciler.foreign_devices(snapshot)
        line = await runtime.in_ledger(Ledger.outlook, snapshot, foreign)
        options = await self.options(user, server)
        return next(
            (_place(ticket, seen, len(line), options or {}) for ticket, seen in line
             if ticket.id == before.id), None,
        )  # fmt: skip


def _place(ticket: Ticket, seen: Outlook, of: int, options: Mapping[str, Any]) -> Place:
    held = ticket.offer.until if ticket.offer and ticket.offer.until > wiring.now() else None
    return Place(seen.position, of, seen.waits_for, seen.expected, held, options)
