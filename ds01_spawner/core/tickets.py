"""What the line for GPUs consists of, and its order. `line` decides who is next.

Everything here is plain data, as the ledger keeps it; times are aware, shares in units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, Protocol

from ds01_spawner.core.limits import Limits
from ds01_spawner.core.placement import Wanted
from ds01_spawner.core.policy_schema import PRIORITY

TICK = timedelta(microseconds=1)  # the least that the ledger tells apart
Person = tuple[str, str]  # hub and user: two hubs on one ledger count their users apart
What = Literal["offered", "passed", "lapsed", "withdrawn", "dropped"]
WaitsFor = Literal["devices", "quota", "return", "start"]


@dataclass(frozen=True, slots=True)
class Offer:
    """Devices that are held for a ticket until a time; a start takes exactly these.

    Of a shared one it is one of its `seats`, as in a lease.
    """

    devices: tuple[str, ...]
    units: int
    until: datetime
    seat: int = 0
    seats: int = 1


@dataclass(frozen=True, slots=True)
class Ticket:
    """A place in the line, for one server of one user.

    `limits` are the user's now, not those of the day the ticket was taken. `since` is what its
    age counts from, `asked` when its page was last open. `hours` are those that the user chose,
    if any. The rest is written by `decide` alone.
    """

    id: str
    hub: str
    user: str
    server: str
    wanted: Wanted
    limits: Limits
    since: datetime
    asked: datetime
    priority: int = PRIORITY
    hours: float | None = None
    offer: Offer | None = None
    lapses: int = 0  # offers that were not taken up
    bypassed: int = 0  # younger tickets that went before it to what would have done for it

    @property
    def person(self) -> Person:
        """Whose it is."""
        return self.hub, self.user

    @property
    def asleep(self) -> bool:
        """Whether it let an offer lapse and has not been asked for since."""
        return self.lapses > 0 and self.asked <= self.since

    def anew(self, now: datetime) -> Ticket:
        """The ticket for a hub that begins: nobody loses a place or an offer by its absence."""
        return replace(self, offer=None, asked=max(self.asked, now))

    def asked_for(self, now: datetime) -> Ticket:
        """The ticket with its page open now: awake, also when the clock went back."""
        return replace(self, asked=max(now, self.since + TICK) if self.lapses else now)


class Lease(Protocol):
    """What the line has to know of a lease; the ledger's have it."""

    @property
    def hub(self) -> str: ...  # noqa: D102
    @property
    def user(self) -> str: ...  # noqa: D102
    @property
    def server(self) -> str: ...  # noqa: D102
    @property
    def devices(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def units(self) -> int: ...  # noqa: D102
    @property
    def since(self) -> datetime: ...  # noqa: D102
    @property
    def until(self) -> datetime | None: ...  # noqa: D102
    @property
    def hours(self) -> float | None: ...  # noqa: D102
    @property
    def seat(self) -> int: ...  # noqa: D102
    @property
    def seats(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Hold:
    """A device kept for its user after a stop (`gpu_hold_after_stop_h`): nobody else gets it."""

    device: str
    hub: str
    user: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers of the line; docs/line.md has what they were chosen by."""

    offer_s: float = 120.0  # how long devices are held for a ticket
    ceiling_h: float = 72.0  # the end of a lease that has none
    handicap_per_h: float = 0.1  # hours later in the line for each recent hour of one's quota
    handicap_h: float = 2.0  # the most of it
    head_start_h: float = 1.0  # hours earlier for each device beyond the first
    urgent_h: float = 24.0  # from this age on a ticket is before every class
    max_bypasses: int = 20  # as it is from so many that went before it on
    strict_h: float = 72.0  # from this age on nothing is started at its cost, however short
    max_lapses: int = 2  # then it is dropped
    gone_h: float = 24.0  # not asked for so long: dropped
    max_tickets: int = 3  # of one user


@dataclass(frozen=True, slots=True)
class Action:
    """What becomes of a ticket: write `ticket` back, or delete it where it is dropped.

    `why` is the code of an error of `errors`, or `gone`, `not_taken_up`, `device_lost`,
    `clock_set_back`.
    """

    what: What
    ticket: Ticket
    why: str = ""


@dataclass(frozen=True, slots=True)
class Use:
    """GPU time of one person: so many units for so many hours, up to `when`."""

    units: int
    hours: float
    when: datetime


def behind(tickets: Iterable[Ticket], now: datetime) -> datetime:
    """From when who comes now counts: after all who wait, also when the clock went back."""
    return max([now, *(ticket.since + TICK for ticket in tickets if ticket.since > now)])


def decayed(uses: Iterable[Use], now: datetime, half_life_h: float = 168.0) -> int:
    """Recent use in unit-hours; what is one half-life old counts half (Slurm's fair share)."""
    hours = timedelta(hours=1)
    return sum(
        round(
            use.units
            * max(0.0, use.hours)
            * 0.5 ** (max(0.0, (now - use.when) / hours) / half_life_h)
        )
        for use in uses
    )


def in_order(
    tickets: Iterable[Ticket],
    usage: Mapping[Person, int],
    units: int,
    now: datetime,
    rules: Rules,
) -> list[Ticket]:
    """The line, first first: by priority class, and in it by turn.

    The turn is the time of coming, later for who used much of late and earlier for who wants
    several devices: both by hours and not by rank, so that nobody who comes later than these
    hours goes before. Who waits for long, or was passed by often, is before every class.
    `usage` is `decayed` by person; `units` are the host's, the quota of who has none. A ticket's
    place depends on no other's: who leaves makes nobody's worse.
    """

    def rank(ticket: Ticket) -> tuple[int, datetime, str]:
        quota = ticket.limits.gpu_units or units or 1
        used_h = usage.get(ticket.person, 0) / quota
        later = min(rules.handicap_h, rules.handicap_per_h * used_h)
        sooner = rules.head_start_h * (ticket.wanted.count - 1)
        waited = now - ticket.since >= timedelta(hours=rules.urgent_h)
        urgent = waited or ticket.bypassed >= rules.max_bypasses
        turn = ticket.since + timedelta(hours=later - sooner)
        return -101 if urgent else -ticket.priority, turn, ticket.id

    return sorted(tickets, key=rank)
