"""The devices as the line sees them: who has which until when, and what is reserved for whom.

A `Table` lives as long as one decision: `line` hands out on it, and moves it on in time to look
ahead. What fits is `placement`'s to say.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.lifetime import lasting
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.placement import Placed, Wanted, place, suited
from ds01_spawner.core.sharing import Shared, shared, units_of_seat
from ds01_spawner.core.tickets import Hold, Lease, Offer, Person, Rules, Ticket
from ds01_spawner.errors import DS01Error, GpuQuotaExceeded, NothingFree


@dataclass(frozen=True, slots=True)
class _Held:
    """What a lease, an offer or a hold has, and its end at the latest."""

    until: datetime
    devices: tuple[str, ...]
    person: Person
    server: str = ""
    units: int = 0
    kept: bool = False  # for a person after a stop: no server, and no part of their quota
    seat: int = 0
    seats: int = 1


@dataclass(frozen=True, slots=True)
class _Reserved:
    """What the first ticket of its kind will get, and when."""

    at: datetime
    devices: frozenset[str]
    suited: frozenset[str]  # all that would do for it


class Table:
    """The state of one decision, at `now`."""

    def __init__(
        self,
        snapshot: Snapshot,
        leases: Iterable[Lease],
        taken: Mapping[str, str],
        holds: Iterable[Hold],
        now: datetime,
        rules: Rules,
    ) -> None:
        self.now = now
        self._snapshot = snapshot
        self._rules = rules
        self._refusals: dict[tuple[Wanted, Limits, int], DS01Error | None] = {}
        self._suited: dict[tuple[Wanted, Limits], frozenset[str]] = {}
        self._reserved: list[_Reserved] = []
        self._in_vain: set[tuple[Wanted, Limits, int, float | None]] = set()
        held = [self._of_lease(lease) for lease in leases]
        alone = {device for one in held if one.seats == 1 for device in one.devices}
        self._elsewhere = {uuid: holder for uuid, holder in taken.items() if uuid not in alone}
        used = {device for one in held for device in one.devices} | self._elsewhere.keys()
        held += [
            _Held(hold.until, (hold.device,), (hold.hub, hold.user), kept=True)
            for hold in holds
            if hold.until > now and hold.device not in used
        ]
        self._set_held(held)

    def _of_lease(self, lease: Lease) -> _Held:
        hours = self._rules.ceiling_h if lease.hours is None else lease.hours
        until = lease.until or lease.since + timedelta(hours=hours)
        return _Held(
            until=max(until, self.now),  # one that is past its end is being ended
            devices=lease.devices,
            person=(lease.hub, lease.user),
            server=lease.server,
            units=lease.units,
            seat=lease.seat,
            seats=lease.seats,
        )

    def _set_held(self, held: list[_Held]) -> None:
        self._held = held
        self._of_person: dict[Person, list[_Held]] = defaultdict(list)
        for one in held:
            self._of_person[one.person].append(one)
        alone = {uuid: one.person[1] for one in held if one.seats == 1 for uuid in one.devices}
        self._taken = self._elsewhere | alone
        self._seated = [one for one in held if one.seats > 1]
        self._in_vain.clear()

    # --- what is so --------------------------------------------------------------------------

    def lost(self, offer: Offer) -> bool:
        """Whether a device of an offer cannot be had any more."""
        healthy = {d.uuid: d for d in self._snapshot.devices if d.healthy}
        leased = [held for held in self._held if not held.kept]
        alone = {uuid for held in leased if held.seats == 1 for uuid in held.devices}
        taken, sharing = alone | self._elsewhere.keys(), _sharing(leased)

        def is_lost(uuid: str) -> bool:
            if uuid not in healthy or {uuid, healthy[uuid].parent} & taken:
                return True
            now = sharing.get(uuid)
            return now is not None and (now.seats != offer.seats or offer.seat in now.taken)

        return any(is_lost(uuid) for uuid in offer.devices)

    def never(self, ticket: Ticket) -> DS01Error | None:
        """Why a ticket could not be served even on an empty host."""
        return self._refusal(ticket, 0)

    def at_quota(self, ticket: Ticket) -> bool:
        """Whether it is its own user's other servers that keep a ticket waiting."""
        servers: set[str] = set()
        units = 0
        for held in self._of_person.get(ticket.person, ()):
            if not held.kept:
                units += held.units
                servers.add(held.server)
        most = ticket.limits.max_containers_per_user
        if most is not None and len(servers - {ticket.server}) >= most:
            return True
        return isinstance(self._refusal(ticket, units), GpuQuotaExceeded)

    def suited(self, ticket: Ticket) -> frozenset[str]:
        """The devices that would do for a ticket, whoever has them."""
        key = ticket.wanted, ticket.limits
        if key not in self._suited:
            most, seats = ticket.limits.gpu_units, ticket.wanted.seats
            found = suited(self._snapshot, ticket.wanted, ticket.limits)
            self._suited[key] = frozenset(
                d.uuid for d in found if most is None or units_of_seat(d, seats) <= most
            )
        return self._suited[key]

    def _refusal(self, ticket: Ticket, units: int) -> DS01Error | None:
        key = ticket.wanted, ticket.limits, units
        if key not in self._refusals:
            self._refusals[key] = None
            try:
                place(self._snapshot, {}, ticket.wanted, ticket.limits, units)
            except NothingFree:
                pass  # one is not healthy now; that may change
            except DS01Error as error:
                self._refusals[key] = error
        return self._refusals[key]

    # --- handing out -------------------------------------------------------------------------

    def offer(self, ticket: Ticket) -> Offer | None:
        """The devices that a ticket can have now without taking what is reserved for another."""
        until = self.now + timedelta(seconds=self._rules.offer_s)
        kept = self._kept(ticket.person)
        placed = None
        if kept and ticket.wanted.seats == 1:  # theirs first, whatever is reserved
            devices = tuple(d for d in self._snapshot.devices if d.uuid in kept)
            placed = self._try(ticket, replace(self._snapshot, devices=devices))
        if placed is None:
            placed = self._beside_reserved(ticket, self._end(ticket, until), kept)
        if placed is None:
            return None
        given = tuple(device.uuid for device in placed.devices)
        return Offer(given, placed.units, until, placed.seat, placed.seats)

    def _beside_reserved(self, ticket: Ticket, end: datetime, kept: set[str]) -> Placed | None:
        # In a long line many want the same: what one did not get, the next will not.
        key = ticket.wanted, ticket.limits, self._units(ticket.person), ticket.hours
        if key in self._in_vain and not kept:
            return None
        barred = {uuid for r in self._reserved if end > r.at for uuid in r.devices - kept}
        placed = self._try(ticket, self._snapshot, barred)
        if placed is None:
            self._in_vain.add(key)
        return placed

    def _try(self, ticket: Ticket, snapshot: Snapshot, barred: Iterable[str] = ()) -> Placed | None:
        taken = self._taken_from(ticket.person) | dict.fromkeys(barred, "reserved")
        sharing = _sharing(self._seated, ticket.person)
        return _placed(snapshot, taken, ticket, self._units(ticket.person), sharing)

    def hand_out(self, ticket: Ticket, offer: Offer) -> None:
        """Count the devices of an offer as the ticket's, to the end of its server."""
        given = _Held(
            until=self._end(ticket, offer.until),
            devices=offer.devices,
            person=ticket.person,
            server=ticket.server,
            units=offer.units,
            seat=offer.seat,
            seats=offer.seats,
        )
        # What is kept for them stays so beside a seat: others sit down when that is taken up.
        if self._kept(ticket.person) and given.seats == 1:
            ended = {
                held for held in self._held if held.kept and set(held.devices) & set(offer.devices)
            }
            self._set_held([held for held in self._held if held not in ended])
        self._held.append(given)
        self._of_person[given.person].append(given)
        if given.seats > 1:
            self._seated.append(given)
        else:
            self._taken |= dict.fromkeys(given.devices, ticket.user)

    def reserve(self, ticket: Ticket) -> None:
        """Keep others from delaying a ticket that has to wait, if it is the first of its kind."""
        devices = self.suited(ticket)
        if any(devices & reserved.suited for reserved in self._reserved):
            return
        shadow = self._shadow(ticket)
        if shadow is None:
            return  # nobody can tell when; all others would wait with it for ever
        if self.now - ticket.since >= timedelta(hours=self._rules.strict_h):
            shadow = (self.now, devices)  # the ends of others may have moved time and again
        self._reserved.append(_Reserved(*shadow, devices))

    def _shadow(self, ticket: Ticket) -> tuple[datetime, frozenset[str]] | None:
        """When a ticket fits at the latest, with the ends of all that is held, and on what."""
        would_do, taken = self.suited(ticket), self._taken_from(ticket.person)
        units = self._units(ticket.person)
        ends = sorted(self._held, key=lambda held: held.until)
        holders = Counter(uuid for held in ends for uuid in held.devices)
        changed = False  # since the last try, on what would do
        for number, held in enumerate(ends, 1):
            for uuid in held.devices:
                holders[uuid] -= 1
                # A shared device is free when the last seat is; before, for who wants a seat.
                if not holders[uuid] and uuid not in self._elsewhere:
                    taken.pop(uuid, None)
                changed |= uuid in would_do and (ticket.wanted.seats > 1 or not holders[uuid])
            if held.person == ticket.person:
                units -= held.units
                changed = True
            if number < len(ends) and ends[number].until == held.until:
                continue  # more ends at the same time
            if changed and len(would_do - taken.keys()) >= ticket.wanted.count:
                changed = False
                sharing = _sharing(ends[number:], ticket.person)
                placed = _placed(self._snapshot, taken, ticket, units, sharing)
                if placed is not None:
                    return held.until, frozenset(device.uuid for device in placed.devices)
        return None

    def _end(self, ticket: Ticket, start: datetime) -> datetime:
        ceiling = self._rules.ceiling_h
        hours = lasting(ticket.hours, ticket.limits.max_runtime_h, ceiling)
        return start + timedelta(hours=ceiling if hours is None else hours)

    def _units(self, person: Person) -> int:
        return sum(held.units for held in self._of_person.get(person, ()))

    def _kept(self, person: Person) -> set[str]:
        """What is kept for a person after a stop."""
        own = self._of_person.get(person, ())
        return {uuid for held in own if held.kept for uuid in held.devices}

    def _taken_from(self, person: Person) -> dict[str, str]:
        """What a person cannot have: uuid -> who has it."""
        kept = self._kept(person)
        return {uuid: holder for uuid, holder in self._taken.items() if uuid not in kept}

    # --- looking ahead -----------------------------------------------------------------------

    def move_on(self) -> bool:
        """Go to the next end of what is held, and free it. False: nothing is held any more."""
        self._reserved.clear()
        if not self._held:
            return False
        self.now = min(held.until for held in self._held)
        self._set_held([held for held in self._held if held.until > self.now])
        return True


def _sharing(held: Iterable[_Held], asker: Person | None = None) -> dict[str, Shared]:
    """The devices that are shared, as `place` asks for them."""
    return shared(
        (uuid, one.seat, one.seats, one.person == asker)
        for one in held
        if one.seats > 1
        for uuid in one.devices
    )


def _placed(
    snapshot: Snapshot,
    taken: Mapping[str, str],
    ticket: Ticket,
    units: int,
    sharing: Mapping[str, Shared],
) -> Placed | None:
    try:
        return place(snapshot, taken, ticket.wanted, ticket.limits, units, sharing)
    except DS01Error:
        return None
