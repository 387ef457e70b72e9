"""Who is next: tickets + leases + devices -> offers, and what else becomes of tickets.

In the order of `tickets.in_order`, with EASY backfill (Lifka 1995): the first ticket that does
not fit has the devices reserved that it will get, from the known ends of leases; others start
only beside these, or end before. A ticket that waits for its own user's quota holds up nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.line_table import Table
from ds01_spawner.core.placement import Wanted, place
from ds01_spawner.core.tickets import (
    Action,
    Hold,
    Lease,
    Person,
    Rules,
    Ticket,
    WaitsFor,
    behind,
    in_order,
)
from ds01_spawner.errors import DS01Error, NothingFree, TooManyServers, TooManyTickets


@dataclass(frozen=True, slots=True)
class Outlook:
    """What can be told of a ticket: its place from 1 on, and when it would start.

    The time is when it starts if everybody stays to the end of their lease and nobody comes
    before it, so mostly it is sooner. None: it cannot be told.
    """

    ticket: str
    position: int
    waits_for: WaitsFor
    expected: datetime | None


def check_room(
    wanted: Wanted,
    limits: Limits,
    running: Collection[Lease],
    waiting: Collection[Ticket],
    snapshot: Snapshot,
) -> None:
    """Whether a user may wait with one more server, beside their own that run and that wait.

    Raises TooManyServers, TooManyTickets, and `place`'s refusal of what could not be had on a
    host where nobody else is.
    """
    most, allowed = limits.max_containers_per_user, limits.gpu_units
    if most is not None and len(running) >= most:
        raise TooManyServers(len(running), most)
    held = sum(lease.units for lease in running)
    units = held + _least(wanted, limits, held, snapshot)
    for ticket in waiting:
        with suppress(DS01Error):  # what can never be is dropped when the line is run
            units += _least(ticket.wanted, limits, 0, snapshot)
    over = allowed is not None and units > allowed
    if over or (most is not None and len(running) + len(waiting) >= most):
        raise TooManyTickets(len(waiting))


def _least(wanted: Wanted, limits: Limits, held: int, snapshot: Snapshot) -> int:
    """The units that a wish takes on an empty host."""
    try:
        return place(snapshot, {}, wanted, limits, held).units
    except NothingFree:  # one is not healthy now; that may change
        return 0


def decide(
    tickets: Iterable[Ticket],
    leases: Iterable[Lease],
    snapshot: Snapshot,
    taken: Mapping[str, str],
    usage: Mapping[Person, int],
    now: datetime,
    rules: Rules,
    holds: Iterable[Hold] = (),
) -> tuple[Action, ...]:
    """What is to be done now, in order; to be asked again whenever something changed.

    `taken` is uuid -> holder of what is in use beside the leases (foreign holders). A start
    outside the line would jump it: it takes a ticket, and starts if that is offered at once.
    """
    if not snapshot.known:
        return withdraw(tickets, "devices_unknown")
    table = Table(snapshot, leases, taken, holds, now, rules)
    actions: list[Action] = []
    line: list[Ticket] = []
    tickets = sorted(tickets, key=_age)
    end = behind(tickets, now)
    for ticket in tickets:
        action = _settled(table, ticket, rules, end)
        if action is not None:
            actions.append(action)
        if action is None or action.what != "dropped":
            line.append(ticket if action is None else action.ticket)
    for ticket in line:
        if ticket.offer:
            table.hand_out(ticket, ticket.offer)
    order = in_order(_waiting(line), usage, _units(snapshot), now, rules)
    served, waiting = _serve(table, order)
    actions += [Action("offered", ticket) for ticket in served]
    return (*actions, *_passed(table, order, served, waiting))


def withdraw(tickets: Iterable[Ticket], why: str) -> tuple[Action, ...]:
    """Take back all offers while nobody could take one up: nobody shall lose one by that."""
    return tuple(
        Action("withdrawn", replace(ticket, offer=None), why)
        for ticket in sorted(tickets, key=_age)
        if ticket.offer
    )


def outlook(
    tickets: Iterable[Ticket],
    leases: Iterable[Lease],
    snapshot: Snapshot,
    taken: Mapping[str, str],
    usage: Mapping[Person, int],
    now: datetime,
    rules: Rules,
    holds: Iterable[Hold] = (),
) -> tuple[Outlook, ...]:
    """The line as people see it, first first; the arguments are those of `decide`."""
    line = in_order(tickets, usage, _units(snapshot), now, rules)
    waits: dict[str, WaitsFor] = dict.fromkeys((ticket.id for ticket in line), "devices")
    expected: dict[str, datetime] = {}
    if snapshot.known:
        table = Table(snapshot, leases, taken, holds, now, rules)
        for ticket in line:
            waits[ticket.id] = _waits_for(table, ticket)
            if ticket.offer:
                table.hand_out(ticket, ticket.offer)
                expected[ticket.id] = now
        expected |= _play(table, [t for t in _waiting(line) if table.never(t) is None])
    return tuple(
        Outlook(ticket.id, position, waits[ticket.id], expected.get(ticket.id))
        for position, ticket in enumerate(line, 1)
    )


def _waits_for(table: Table, ticket: Ticket) -> WaitsFor:
    if ticket.offer:
        return "start"
    if ticket.asleep:
        return "return"
    return "quota" if table.at_quota(ticket) else "devices"


def _play(table: Table, line: list[Ticket]) -> dict[str, datetime]:
    """When each of the line is served if everything ends as late as it may."""
    found: dict[str, datetime] = {}
    while line:
        served, _ = _serve(table, line)
        found.update((ticket.id, table.now) for ticket in served)
        line = [ticket for ticket in line if ticket.id not in found]
        if not table.move_on():
            break
    return found


def _age(ticket: Ticket) -> tuple[datetime, str]:
    return ticket.since, ticket.id


def _units(snapshot: Snapshot) -> int:
    return sum(device.units for device in snapshot.devices)


def _waiting(line: Iterable[Ticket]) -> list[Ticket]:
    return [ticket for ticket in line if not ticket.offer and not ticket.asleep]


def _settled(table: Table, ticket: Ticket, rules: Rules, end: datetime) -> Action | None:
    """What a ticket has come to without any turn of others; `end` is that of the line."""
    never = table.never(ticket)
    if never is not None:
        return Action("dropped", ticket, never.code)
    lost = ticket.offer is not None and table.lost(ticket.offer)
    if ticket.offer and not lost and ticket.offer.until > table.now:
        if ticket.offer.until - table.now <= timedelta(seconds=rules.offer_s):
            return None
        return Action("withdrawn", replace(ticket, offer=None), "clock_set_back")
    if table.now - ticket.asked >= timedelta(hours=rules.gone_h):
        return Action("dropped", ticket, "gone")
    if ticket.offer is None:
        return None
    if lost:
        return Action("withdrawn", replace(ticket, offer=None), "device_lost")
    if ticket.lapses + 1 >= rules.max_lapses:
        return Action("dropped", ticket, "not_taken_up")
    # To the end, and out of the turns until its page is open again.
    lapsed = replace(ticket, offer=None, lapses=ticket.lapses + 1, since=end, bypassed=0)
    return Action("lapsed", lapsed, "not_taken_up")


def _serve(table: Table, line: Iterable[Ticket]) -> tuple[list[Ticket], list[Ticket]]:
    """Give what there is in the order of the line; who got an offer, and who still waits."""
    served: list[Ticket] = []
    waiting: list[Ticket] = []
    for ticket in line:
        if table.at_quota(ticket):
            continue
        offer = table.offer(ticket)
        if offer is None:
            table.reserve(ticket)
            waiting.append(ticket)
        else:
            table.hand_out(ticket, offer)
            served.append(replace(ticket, offer=offer))
    return served, waiting


def _passed(
    table: Table, order: Sequence[Ticket], served: Sequence[Ticket], waiting: Iterable[Ticket]
) -> list[Action]:
    """The older tickets that others went before. Backfill passes nobody: it delays nobody."""
    places = {ticket.id: place for place, ticket in enumerate(order)}
    actions = []
    for ticket in waiting:
        suited = table.suited(ticket)
        times = sum(
            _age(other) > _age(ticket)
            and places[other.id] < places[ticket.id]
            and other.offer is not None
            and not suited.isdisjoint(other.offer.devices)
            for other in served
        )
        if times:
            passed = replace(ticket, bypassed=ticket.bypassed + times)
            actions.append(Action("passed", passed))
    return actions
