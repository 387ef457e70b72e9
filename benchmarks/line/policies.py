"""The policies side by side: the shipped one, and those that it has to beat.

Each is asked whenever something changed, and says who starts now, on what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.line import decide
from ds01_spawner.core.placement import Wanted, place, suited
from ds01_spawner.core.tickets import Action, Lease, Offer, Person, Rules, Ticket
from ds01_spawner.errors import DS01Error, GpuQuotaExceeded

Choose = Callable[[Snapshot, Mapping[str, str], Ticket, int], tuple[str, ...] | None]


@dataclass(frozen=True, slots=True)
class Moment:
    """What a policy may know."""

    tickets: Sequence[Ticket]
    leases: Sequence[Lease]
    snapshot: Snapshot
    usage: Callable[[Person], int]
    now: datetime


Policy = Callable[[Moment], Sequence[Action]]


def shipped(rules: Rules) -> Policy:
    """The product's own decision, with these rules."""

    def policy(at: Moment) -> Sequence[Action]:
        usage = {person: at.usage(person) for person in {t.person for t in at.tickets}}
        return decide(at.tickets, at.leases, at.snapshot, {}, usage, at.now, rules)

    return policy


def in_turn(choose: Choose, *, passes: str = "") -> Policy:
    """First come first served: who cannot start holds up all that came later.

    `passes` are those whom it does not hold up: "others", on devices that it does not wait for,
    or "all".
    """

    def policy(at: Moment) -> Sequence[Action]:
        taken = {uuid: lease.user for lease in at.leases for uuid in lease.devices}
        units: dict[str, int] = {}
        for lease in at.leases:
            units[lease.user] = units.get(lease.user, 0) + lease.units
        sizes = {device.uuid: device.units for device in at.snapshot.devices}
        barred: set[str] = set()
        in_vain: set[tuple[Wanted, Limits, int]] = set()  # what nobody gets any more now
        actions = []
        for ticket in sorted(at.tickets, key=lambda t: (t.since, t.id)):
            held = units.get(ticket.user, 0)
            key = ticket.wanted, ticket.limits, held
            if key in in_vain or _quota_is_full(at.snapshot, ticket, held):
                continue  # as in the shipped policy, who is at their quota holds up nobody
            devices = choose(at.snapshot, taken | dict.fromkeys(barred, "others"), ticket, held)
            if devices is None:
                if not passes:
                    break
                would_do = suited(at.snapshot, ticket.wanted, ticket.limits)
                in_vain.add(key)
                barred |= {d.uuid for d in would_do} if passes == "others" else set()
                continue
            share = sum(sizes[uuid] for uuid in devices)
            taken |= dict.fromkeys(devices, ticket.user)
            units[ticket.user] = held + share
            actions.append(Action("offered", _with_offer(ticket, devices, share, at.now)))
        return actions

    return policy


def best_fit(
    snapshot: Snapshot, taken: Mapping[str, str], ticket: Ticket, held: int
) -> tuple[str, ...] | None:
    """The product's own placement."""
    try:
        placed = place(snapshot, taken, ticket.wanted, ticket.limits, held)
    except DS01Error:
        return None
    return tuple(device.uuid for device in placed.devices)


def first_fit(
    snapshot: Snapshot, taken: Mapping[str, str], ticket: Ticket, held: int
) -> tuple[str, ...] | None:
    """The first free devices by number."""
    return _first(_free(snapshot, taken, ticket), ticket)


def spread(
    snapshot: Snapshot, taken: Mapping[str, str], ticket: Ticket, held: int
) -> tuple[str, ...] | None:
    """Free devices of the card that is used least."""
    cards = {device.uuid: device.parent or device.uuid for device in snapshot.devices}
    used = [cards[uuid] for uuid in taken if uuid in cards]
    free = _free(snapshot, taken, ticket)
    return _first(sorted(free, key=lambda device: used.count(cards[device.uuid])), ticket)


def policies(rules: Rules) -> dict[str, Policy]:
    """By name, the one to be compared with first."""
    return {
        "fcfs": in_turn(first_fit),
        "fcfs by kind": in_turn(first_fit, passes="others"),
        "best fit": in_turn(best_fit, passes="others"),
        "spread": in_turn(spread, passes="others"),
        "who fits": in_turn(best_fit, passes="all"),
        "shipped": shipped(rules),
    }


def _free(snapshot: Snapshot, taken: Mapping[str, str], ticket: Ticket) -> list[Device]:
    would_do = suited(snapshot, ticket.wanted, ticket.limits)
    return [device for device in would_do if device.uuid not in taken]


def _first(free: Sequence[Device], ticket: Ticket) -> tuple[str, ...] | None:
    if len(free) < ticket.wanted.count:
        return None
    return tuple(device.uuid for device in free[: ticket.wanted.count])


def _quota_is_full(snapshot: Snapshot, ticket: Ticket, held: int) -> bool:
    if not held:
        return False
    try:
        place(snapshot, {}, ticket.wanted, ticket.limits, held)
    except GpuQuotaExceeded:
        return True
    return False


def _with_offer(ticket: Ticket, devices: tuple[str, ...], units: int, now: datetime) -> Ticket:
    return replace(ticket, offer=Offer(devices, units, now))
