"""The line for GPUs in the ledger: tickets, offers, and a start's turn. `core.line` decides.

Several processes may run the line of one file: each time is one transaction, and the tables keep
a device from being in two offers, or in an offer and a lease.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.lifetime import lasting
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.line import Outlook, check_room, decide, outlook, withdraw
from ds01_spawner.core.placement import Placed, Wanted, place
from ds01_spawner.core.sharing import Shared
from ds01_spawner.core.tickets import Action, Hold, Rules, Ticket, behind
from ds01_spawner.errors import (
    Draining,
    LedgerUnusable,
    NothingFree,
    OthersWait,
    SurvivingLease,
    TooManyTickets,
)
from ds01_spawner.services import ledger_rows as rows
from ds01_spawner.services import ledger_tickets as tickets
from ds01_spawner.services.ledger_faults import check_paused
from ds01_spawner.services.ledger_file import READ, LedgerFile
from ds01_spawner.services.ledger_marks import cordoned, drained
from ds01_spawner.services.ledger_rows import LeaseRequest

COMER = "~"  # the ticket of who has none, behind every other where all else is equal


@dataclass(frozen=True, slots=True)
class Situation:
    """The line at one moment, and all that `core.line` asks for."""

    tickets: tuple[Ticket, ...]
    leases: tuple[rows.Lease, ...]
    snapshot: Snapshot
    taken: Mapping[str, str]
    usage: Mapping[tuple[str, str], int]
    now: datetime
    rules: Rules
    holds: tuple[Hold, ...]
    drained: bool

    def decide(self) -> tuple[Action, ...]:
        """What becomes of the tickets."""
        if self.drained:
            return withdraw(self.tickets, Draining.code)
        return decide(
            self.tickets, self.leases, self.snapshot, self.taken, self.usage, self.now, self.rules,
            self.holds,
        )  # fmt: skip

    def told(self) -> tuple[tuple[Ticket, Outlook], ...]:
        """The line as people see it, first first. A long one takes a tenth of a second."""
        found = {ticket.id: ticket for ticket in self.tickets}
        line = outlook(
            self.tickets, self.leases, self.snapshot, self.taken, self.usage, self.now, self.rules,
            self.holds,
        )  # fmt: skip
        return tuple((found[seen.ticket], seen) for seen in line)


class Line(LedgerFile):
    """Who waits for devices, and what is promised to whom."""

    # --- a place in it -----------------------------------------------------------------------

    def take_ticket(
        self, request: LeaseRequest, options: Mapping[str, Any], snapshot: Snapshot
    ) -> Ticket:
        """A place in the line for one server; asked again for the same devices, the old one.

        With all that one waits for and runs, nobody may have more than their limits: a place kept
        beside a running server would be a turn saved up. Raises TooManyTickets, TooManyServers,
        SurvivingLease, Draining, GpuPaused, and `place`'s refusal of what could not be had on a
        host where nobody else is either.
        """
        with self._transaction() as db:
            self._check_kind(snapshot)
            why = drained(db)
            if why is not None:
                raise Draining(why)
            check_paused(db, request, self._fault_rule, self._now())
            leases = rows.read(db, " WHERE hub = ? AND user = ?", request.hub, request.user)
            for lease in leases:
                if lease.server == request.server:
                    raise SurvivingLease(lease.server, lease.state)
            now = self._now()
            own = tickets.read(db, " WHERE hub = ? AND user = ?", request.hub, request.user)
            old = next((ticket for ticket in own if ticket.server == request.server), None)
            running = [lease for lease in leases if lease.state != "releasing"]
            waiting = [ticket for ticket in own if ticket is not old]
            check_room(request.wanted, request.limits, running, waiting, snapshot)
            if old is not None and old.wanted == request.wanted:
                same = replace(old.asked_for(now), limits=request.limits, hours=request.hours)
                if _is_longer(request, old):
                    same = replace(same, offer=None)
                tickets.update(db, same)
                tickets.set_options(db, same, options)
                return same
            if old is not None:
                tickets.delete(db, old)
            elif len(own) >= self._rules.max_tickets:
                raise TooManyTickets(len(own))
            ticket = _ticket(self._new_id(), request, behind(tickets.read(db), now))
            tickets.insert(db, ticket, options)
            return ticket

    def leave(self, hub: str, user: str, server: str) -> bool:
        """Give up a place, and what was offered with it. False: there was none."""
        with self._transaction() as db:
            return tickets.delete_of(db, hub, user, server)

    def asked(
        self, hub: str, user: str, server: str, limits: Limits, wanted: Wanted | None = None
    ) -> Ticket | None:
        """The ticket of a server whose page is open now, with its user's limits of now.

        `wanted` is what its options mean now, where they still mean something: the policy's seats
        may have changed, or what an image runs on. It keeps its place.
        """
        if self.ticket_of(hub, user, server) is None:  # most servers have none
            return None
        with self._transaction() as db:
            ticket = tickets.read_of(db, hub, user, server)
            if ticket is not None:
                ticket = ticket.asked_for(self._now())
                ticket = replace(ticket, limits=limits, priority=limits.priority)
                if wanted is not None and wanted.count and wanted != ticket.wanted:
                    ticket = replace(ticket, wanted=wanted, offer=None)
                tickets.update(db, ticket)
            return ticket

    def ticket_of(self, hub: str, user: str, server: str) -> Ticket | None:
        """The ticket of a server, looked at by others than its user."""
        with self._transaction(READ) as db:
            return tickets.read_of(db, hub, user, server)

    def ticket_options(self, hub: str, user: str, server: str) -> dict[str, Any] | None:
        """The options that the ticket of a server was taken with; None: it has no ticket."""
        with self._transaction(READ) as db:
            ticket = tickets.read_of(db, hub, user, server)
            return None if ticket is None else tickets.options_of(db, ticket)

    # --- all of it ---------------------------------------------------------------------------

    def tickets(self) -> tuple[Ticket, ...]:
        """All tickets, the oldest first."""
        with self._transaction(READ) as db:
            return tickets.read(db, " ORDER BY since, id")

    def holds(self) -> tuple[Hold, ...]:
        """The devices that are kept after a stop."""
        with self._transaction(READ) as db:
            return tickets.holds(db, self._now())

    def situation(self, snapshot: Snapshot, foreign: Mapping[str, str] | None = None) -> Situation:
        """The line and what it waits for, to be looked at outside the ledger."""
        with self._transaction(READ) as db:
            return self._situation(db, tickets.read(db), snapshot, foreign or {})

    def run_line(
        self, snapshot: Snapshot, foreign: Mapping[str, str] | None = None
    ) -> tuple[Action, ...]:
        """Offer what there is to those whose turn it is, and end what is over; what was done."""
        with self._transaction() as db:
            self._check_kind(snapshot)
            line = tickets.read(db)
            if not line:
                return ()
            tickets.end_holds(db, self._now())
            actions = self._situation(db, line, snapshot, foreign or {}).decide()
            for action in actions:
                if action.what == "dropped":
                    tickets.delete(db, action.ticket)
                else:
                    tickets.update(db, action.ticket)
            return actions

    # --- inside ------------------------------------------------------------------------------

    @property
    def _rules(self) -> Rules:
        return Rules(ceiling_h=self._ceiling_h)

    def _check_kind(self, snapshot: Snapshot) -> None:
        if snapshot.devices and snapshot.simulated != self._simulated:
            raise LedgerUnusable(
                self._path, "it was asked for devices of the other kind", "Restart the hub."
            )

    def _situation(
        self,
        db: sqlite3.Connection,
        line: tuple[Ticket, ...],
        snapshot: Snapshot,
        foreign: Mapping[str, str],
    ) -> Situation:
        now, leases, aside, closed = self._now(), rows.read(db, ""), cordoned(db), drained(db)
        # One that is set aside comes back to nobody when its lease ends, as one that is broken.
        devices = tuple(
            replace(device, healthy=False)
            if {device.uuid, device.parent} & aside.keys()
            else device
            for device in snapshot.devices
        )
        return Situation(
            tickets=line,
            leases=leases,
            snapshot=replace(snapshot, devices=devices, known=snapshot.known and closed is None),
            taken={**foreign, **rows.just_released(db, snapshot.taken, now)},
            usage=tickets.usage(db, {ticket.person for ticket in line}, leases, now),
            now=now,
            rules=self._rules,
            holds=tickets.holds(db, now),
            drained=closed is not None,
        )

    def _in_turn(
        self,
        db: sqlite3.Connection,
        request: LeaseRequest,
        snapshot: Snapshot,
        foreign: Mapping[str, str],
        taken: Mapping[str, str],
        sharing: Mapping[str, Shared],
        units: int,
    ) -> Placed:
        """What a start gets while others wait: what its ticket was offered, or its turn now.

        `taken`, `sharing` and `units` are `place`'s.
        """
        now, line = self._now(), tickets.read(db)
        own = next((t for t in line if (*t.person, t.server) == _server(request)), None)
        others = [ticket for ticket in line if ticket is not own]
        units += sum(t.offer.units for t in others if t.offer and t.person == _server(request)[:2])

        def placed(only: Collection[str] | None = None) -> Placed:
            barred = [d.uuid for d in snapshot.devices if only is not None and d.uuid not in only]
            free = {**dict.fromkeys(barred, "not offered"), **taken}
            return place(snapshot, free, request.wanted, request.limits, units, sharing)

        mine = own if own is not None and own.wanted == request.wanted else None
        if mine is not None and mine.offer is not None and mine.offer.until > now:
            if not _is_longer(request, mine):
                with suppress(NothingFree):
                    return placed(mine.offer.devices)
            mine = replace(mine, offer=None)
        try:
            placed()
        except NothingFree as full:
            raise full.beside(len(others)) from None
        comer = _ticket(COMER, request, behind(others, now))
        if mine is not None and mine.offer is None:
            comer = replace(mine.asked_for(now), limits=request.limits, hours=request.hours)
        standing = (*(_standing(ticket, now, self._rules) for ticket in others), comer)
        for action in self._situation(db, standing, snapshot, foreign).decide():
            if action.what == "offered" and action.ticket.id == comer.id and action.ticket.offer:
                with suppress(NothingFree):  # of an offer that ends when the line is run
                    return placed(action.ticket.offer.devices)
        raise OthersWait(len(others))


def _is_longer(request: LeaseRequest, ticket: Ticket) -> bool:
    """Whether a start would keep its devices for longer than it was said when they were offered."""
    chosen, policy = (request.hours, ticket.hours), request.limits.max_runtime_h
    now, then = (lasting(hours, policy, None) for hours in chosen)
    return then is not None and (now is None or now > then)


def _server(request: LeaseRequest) -> tuple[str, str, str]:
    return request.hub, request.user, request.server


def _ticket(ticket_id: str, request: LeaseRequest, since: datetime) -> Ticket:
    return Ticket(
        ticket_id, *_server(request), request.wanted, request.limits, since, since,
        request.limits.priority, request.hours,
    )  # fmt: skip


def _standing(ticket: Ticket, now: datetime, rules: Rules) -> Ticket:
    """A start ends nobody's offer: one that is over stands until the line is run."""
    if ticket.offer is None:
        return ticket
    until = max(ticket.offer.until, now + timedelta(seconds=1))
    until = min(until, now + timedelta(seconds=rules.offer_s))
    return replace(ticket, offer=replace(ticket.offer, until=until))
