"""The line for GPUs as the hub runs it: after every release and look, and while anybody waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ds01_spawner.core.line import Outlook
from ds01_spawner.core.options import Offer, Request, parse
from ds01_spawner.core.tickets import Action, Hold, Ticket
from ds01_spawner.errors import DS01Error, FieldProblem, OptionsRefused
from ds01_spawner.services import wiring
from ds01_spawner.services.engine import EngineRefused
from ds01_spawner.services.ledger import LeaseRequest, Ledger
from ds01_spawner.services.metrics import TICKETS, WAIT_SECONDS

if TYPE_CHECKING:
    from ds01_spawner.hub.runtime import Runtime

log = logging.getLogger(__name__)
SECONDS = 2.0
LOOK_AHEAD_SECONDS = 5.0  # for so long all pages tell the same look ahead, unless the line changed
EVENTS = {
    "offered": "queue.offer",
    "lapsed": "queue.lapse",
    "withdrawn": "queue.withdraw",
    "dropped": "queue.leave",
}


@dataclass(frozen=True, slots=True)
class Place:
    """What people are told of a ticket. `held_until`: its devices are held for it, so long."""

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
        self._ahead: asyncio.Task[Mapping[str, Outlook]] | None = None
        self._ahead_until = 0.0
        self._preparing: dict[tuple[str, str], tuple[Request, asyncio.Task[None]]] = {}
        self._held: set[Hold] | None = None  # as far as it was told

    def soon(self) -> None:
        """Run it now: something was given back, or somebody came."""
        self._nudge.set()

    async def run_for_ever(self, settled: asyncio.Task[None]) -> None:
        """Run it when told to, and every other second while anybody waits."""
        await asyncio.wait([settled])
        with suppress(DS01Error):
            await self._tell_holds()
        loop, waiting = asyncio.get_running_loop(), True
        while True:
            timer = loop.call_later(SECONDS, self._nudge.set) if waiting else None
            try:
                await self._nudge.wait()
            finally:
                if timer is not None:
                    timer.cancel()
            self._nudge.clear()
            waiting = True  # as long as it is not known: what fails is tried again
            try:
                waiting = await self.run()
            except (DS01Error, EngineRefused) as error:
                log.warning("The line was not run: %s", error)
            except Exception:
                log.exception("The line was not run")

    async def run(self) -> bool:
        """Offer what there is; whether anybody waits."""
        runtime = self._runtime
        await self._tell_holds()
        if not await runtime.in_ledger(Ledger.tickets):
            TICKETS.set(0)
            return False
        snapshot = await runtime.inventory.snapshot(fresh=True)
        foreign: Mapping[str, str] = {}
        try:
            foreign = await runtime.reconciler.foreign_devices(snapshot)
        except (DS01Error, EngineRefused) as error:
            log.warning("Nobody is offered anything: %s", error)
            # Nobody could start now either: nobody shall lose an offer by that.
            snapshot = replace(snapshot, known=False)
        for action in await runtime.in_ledger(Ledger.run_line, snapshot, foreign):
            self._ahead = None
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

    async def _tell_holds(self) -> None:
        """Tell of what is kept after a stop, whoever stopped it; of this hub's and once."""
        runtime = self._runtime
        held = set(await runtime.in_ledger(Ledger.holds))
        known = held if self._held is None else self._held  # an earlier hub process told of them
        for hold in sorted(held - known, key=lambda hold: hold.device):
            if hold.hub == runtime.settings.hub_id:
                runtime.events.write(
                    "gpu.hold", hold.user, devices=[hold.device], until=hold.until.isoformat()
                )
        self._held = held

    # --- one server's place ------------------------------------------------------------------

    async def join(
        self, user: str, server: str, asked: Request, offer: Offer, options: Mapping[str, Any]
    ) -> None:
        """Take a place, and look at once whether it is its turn.

        Raises OptionsRefused where no GPU is asked for, and what `Ledger.take_ticket` does.
        """
        runtime, wanted = self._runtime, asked.wanted
        if not wanted.count:
            raise OptionsRefused([FieldProblem("gpus", "choose a GPU to wait for.")])
        request = LeaseRequest(
            runtime.settings.hub_id, user, server, wanted, offer.limits, asked.hours
        )
        snapshot = await runtime.inventory.snapshot()
        ticket = await runtime.in_ledger(Ledger.take_ticket, request, options, snapshot)
        runtime.events.write(
            "queue.join", user, server=server, ticket=ticket.id, gpus=wanted.count,
            kind=wanted.asked,
        )  # fmt: skip
        self._ahead = None
        self._prepare(user, server, asked, offer)
        with suppress(DS01Error, EngineRefused):  # it is run again in a moment
            await self.run()
        self.soon()

    def _prepare(self, user: str, server: str, asked: Request, offer: Offer) -> None:
        """Have the image when the turn comes: an offer is too short for a build.

        One build for each place: who asks for another environment gives up the one before.
        """
        self._preparing = {k: one for k, one in self._preparing.items() if not one[1].done()}
        before, task = self._preparing.get((user, server), (None, None))
        if before == asked:
            return
        if task is not None:
            task.cancel()
        task = self._runtime.keep(self._ready(asked, user, offer))
        self._preparing[user, server] = asked, task

    async def _ready(self, asked: Request, user: str, offer: Offer) -> None:
        with suppress(DS01Error, EngineRefused):  # the start tells of it, when it tries again
            runtime = self._runtime
            image = await runtime.images.ready(asked, user, offer, lambda _: None)
            await runtime.environments.note(user, asked, offer, image)

    async def leave(self, user: str, server: str) -> bool:
        """Give the place up. False: there was none."""
        runtime = self._runtime
        _, task = self._preparing.pop((user, server), (None, None))
        if task is not None:
            task.cancel()
        left = await runtime.in_ledger(Ledger.leave, runtime.settings.hub_id, user, server)
        if left:
            runtime.events.write("queue.leave", user, server=server, why="left")
            self._ahead = None
            self.soon()
        return left

    async def options(self, user: str, server: str) -> dict[str, Any] | None:
        """The options that were waited with; None: the server has no place."""
        hub = self._runtime.settings.hub_id
        return await self._runtime.in_ledger(Ledger.ticket_options, hub, user, server)

    async def promised(self, user: str) -> tuple[set[str], list[tuple[str, int, int, bool]]]:
        """The devices that are others' by an offer or a hold, and seats as `shared` has them."""
        runtime, me = self._runtime, (self._runtime.settings.hub_id, user)
        line = await runtime.in_ledger(Ledger.tickets)
        offers = [ticket.offer for ticket in line if ticket.offer and ticket.person != me]
        alone = {uuid for offer in offers if offer.seats == 1 for uuid in offer.devices}
        seats = [(u, x.seat, x.seats, False) for x in offers if x.seats > 1 for u in x.devices]
        kept = await runtime.in_ledger(Ledger.holds)
        return alone | {hold.device for hold in kept if (hold.hub, hold.user) != me}, seats

    async def place(
        self, user: str, server: str, offer: Offer, *, to_others: bool = False
    ) -> Place | None:
        """The place of a server whose page is open now; `offer` is its user's.

        `to_others`: it is somebody else who looks, which keeps no offer alive.
        """
        runtime, hub = self._runtime, self._runtime.settings.hub_id
        options = await self.options(user, server)
        if options is None:
            return None
        wanted = None
        with suppress(OptionsRefused):  # a start tells of it
            wanted = parse(options, offer).wanted
        if to_others:
            before = await runtime.in_ledger(Ledger.ticket_of, hub, user, server)
        else:
            before = await runtime.in_ledger(Ledger.asked, hub, user, server, offer.limits, wanted)
        if before is None:
            return None
        if before.lapses and not to_others:
            self.soon()  # it may have slept
        line = await self._look_ahead()
        if before.id not in line:  # another process took it for us
            self._ahead = None
            line = await self._look_ahead()
        if before.id not in line:  # its start has it, or it was dropped
            return None
        return _place(before, line[before.id], len(line), options)

    async def _look_ahead(self) -> Mapping[str, Outlook]:
        """The line as people see it, by ticket: once for all pages that ask in these seconds."""
        now = asyncio.get_running_loop().time()
        ahead = self._ahead
        over = ahead is not None and ahead.done() and (
            now >= self._ahead_until or ahead.cancelled() or ahead.exception() is not None
        )  # fmt: skip
        if ahead is None or over:
            ahead = self._ahead = self._runtime.keep(self._look())
            self._ahead_until = now + LOOK_AHEAD_SECONDS
        return await asyncio.shield(ahead)

    async def _look(self) -> Mapping[str, Outlook]:
        runtime = self._runtime
        snapshot = await runtime.inventory.snapshot()
        foreign: Mapping[str, str] = {}
        with suppress(DS01Error, EngineRefused):
            foreign = await runtime.reconciler.foreign_devices(snapshot)
        situation = await runtime.in_ledger(Ledger.situation, snapshot, foreign)
        # Beside the ledger's thread, which starts wait for.
        return {ticket.id: seen for ticket, seen in await asyncio.to_thread(situation.told)}


def _place(ticket: Ticket, seen: Outlook, of: int, options: Mapping[str, Any]) -> Place:
    held = ticket.offer.until if ticket.offer and ticket.offer.until > wiring.now() else None
    return Place(seen.position, of, seen.waits_for, seen.expected, held, options)


def told_of_place(place: Place) -> dict[str, Any]:
    """A place in the line as the form tells it: the sentences, and whether it can start now."""
    if place.held_until:
        until = place.held_until.strftime("%H:%M:%S UTC")
        text = f"It is your turn. The GPU is held for you until {until}; then the next is asked."
    elif place.waits_for == "quota":
        text = "Your other servers hold what you may have at once: stop one, and it is your turn."
    elif place.expected is None:
        text = "When it is your turn cannot be told now."
    else:
        when = place.expected.strftime("%Y-%m-%d %H:%M UTC")
        text = f"At the latest about {when}, if nobody stops earlier."
    where = f"You are number {place.position} of {place.of} in the line for GPUs."
    return {"where": where, "text": text, "now": bool(place.held_until)}
