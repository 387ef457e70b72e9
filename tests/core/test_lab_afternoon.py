"""A lab afternoon on a simulated clock: 30 students, 4 GPUs, 90 minutes, and nobody shares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

import pytest

from ds01_spawner.core import lifetime
from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.line import decide, outlook
from ds01_spawner.core.placement import Wanted
from ds01_spawner.core.tickets import Rules, Ticket, Use, decayed

BEGAN = datetime(2026, 1, 5, 14, tzinfo=timezone.utc)
LESSON = timedelta(minutes=90)
TURN = timedelta(minutes=10)  # what the policy gives at a time
STEP = timedelta(seconds=10)
CLICK = timedelta(seconds=20)  # from an offer to its start, where the page is open
IDLE = timedelta(minutes=4)  # what the policy allows
WARN = timedelta(minutes=15)  # the hub's setting; of so short an idle time it is half of that
WORK = timedelta(minutes=1)  # what those do who walk away then
DOWN = timedelta(minutes=2)  # from a hub's death to the next one's start
GPUS = Snapshot(
    devices=tuple(
        Device(f"G{i}", "gpu", "A100", "CUDA_AMPERE", 2520, 40 << 30) for i in range(1, 5)
    )
)
RULES = Rules()
IDLE_H = IDLE / timedelta(hours=1)


@dataclass(frozen=True)
class Lease:
    hub: str
    user: str
    server: str
    devices: tuple[str, ...]
    units: int
    since: datetime
    until: datetime
    use: lifetime.Use
    keep_until: datetime | None = None
    warned: datetime | None = None
    hours: float | None = None
    seat: int = 0
    seats: int = 1

    @property
    def end(self) -> lifetime.End | None:
        return lifetime.end_of(self.until, IDLE_H, self.use, self.keep_until)


class Lab:
    """Students who click once, start when they have an offer, and come again after their turn.

    The `absent` do not look at their page any more, the `walkers` work for a minute and leave their
    server. What is kept from step to step is what the ledger keeps: a hub has nothing else.
    """

    def __init__(
        self,
        students: int,
        absent: frozenset[str] = frozenset(),
        walkers: frozenset[str] = frozenset(),
        *,
        again: bool = False,
    ) -> None:
        self.now = BEGAN
        self.absent = absent
        self.walkers = walkers
        self.again = again
        self.ended: dict[str, tuple[Lease, lifetime.End, datetime]] = {}  # and when it was found
        self.coming = [(BEGAN + i * STEP, f"s{i:02}") for i in range(students)]
        self.line: dict[str, Ticket] = {}
        self.leases: list[Lease] = []
        self.uses: dict[tuple[str, str], list[Use]] = {}
        self.first_turn: dict[str, datetime] = {}
        self.told: dict[str, datetime | None] = {}
        self.dropped: list[str] = []
        self.idle = 0  # steps of devices without a lease while somebody waited

    def play(self, until: datetime) -> None:
        while self.now < until:
            self.step()
            self.now += STEP

    def step(self) -> None:
        self.leases = [lease for lease in map(self.look, self.leases) if not self.over(lease)]
        arrived = [user for when, user in self.coming if when <= self.now]
        self.coming = [(when, user) for when, user in self.coming if when > self.now]
        for user in arrived:
            self.line[user] = Ticket(
                user, "hub", user, "", Wanted(1), Limits(), self.now, self.now,
                hours=TURN / timedelta(hours=1),
            )  # fmt: skip
        for ticket in list(self.line.values()):
            if ticket.offer and ticket.user not in self.absent:
                self.take_up(ticket)
            elif ticket.user not in self.absent:
                self.line[ticket.id] = replace(ticket, asked=self.now)
        self.decide()
        for user in arrived:
            self.told.setdefault(user, self.expected(user))
        if any(not ticket.asleep for ticket in self.line.values()):
            self.idle += 4 - len(self.leases)

    def look(self, lease: Lease) -> Lease:
        """See whether its device computes, and tell its user of an end that is near."""
        works = lease.user not in self.walkers or self.now <= lease.since + WORK
        busy = self.now if works else lease.use.busy
        lease = replace(lease, use=lifetime.look(lease.use, busy, busy, self.now))
        end = lifetime.to_tell(
            lease.end, lease.until, lease.warned, IDLE_H, WARN, self.now, lease.since
        )
        if end is not None:
            lease = replace(lease, warned=end.at, keep_until=end.at)
        return lease

    def over(self, lease: Lease) -> bool:
        """Whether it is at its end, and ended then."""
        end = lifetime.due(lease.end, lease.until, lease.warned, self.now)
        if end is None:
            return False
        self.ended.setdefault(lease.user, (lease, end, self.now))
        hours = (self.now - lease.since) / timedelta(hours=1)
        self.uses.setdefault((lease.hub, lease.user), []).append(Use(lease.units, hours, self.now))
        if self.again:
            self.coming.append((self.now, lease.user))
        return True

    def restart(self) -> None:
        """The hub dies, and another begins with what is in the ledger."""
        self.now += DOWN
        self.line = {id: ticket.anew(self.now) for id, ticket in self.line.items()}

    def take_up(self, ticket: Ticket) -> None:
        assert ticket.offer is not None
        offered = ticket.offer.until - timedelta(seconds=RULES.offer_s)
        if self.now - offered < CLICK:
            return
        held = {uuid for lease in self.leases for uuid in lease.devices}
        assert not held & set(ticket.offer.devices)
        del self.line[ticket.id]
        self.first_turn.setdefault(ticket.user, self.now)
        use = lifetime.Use(self.now, self.now, self.now)
        self.leases.append(Lease(
            "hub", ticket.user, "", ticket.offer.devices, 2520, self.now, self.now + TURN, use
        ))  # fmt: skip

    def decide(self) -> None:
        usage = {person: decayed(uses, self.now) for person, uses in self.uses.items()}
        waiting = list(self.line.values())
        for action in decide(waiting, self.leases, GPUS, {}, usage, self.now, RULES):
            if action.what == "dropped":
                del self.line[action.ticket.id]
                self.dropped.append(f"{action.ticket.id} {action.why}")
            else:
                self.line[action.ticket.id] = action.ticket

    def expected(self, user: str) -> datetime | None:
        found = outlook(self.line.values(), self.leases, GPUS, {}, {}, self.now, RULES)
        return next(one.expected for one in found if one.ticket == user)


@pytest.mark.parametrize("again", [False, True])
def test_everybody_has_had_a_turn(again: bool) -> None:
    lab = Lab(30, again=again)
    lab.play(BEGAN + LESSON)
    assert len(lab.first_turn) == 30
    order = list(lab.first_turn)
    assert order == sorted(order), "those who came first went first"


def test_everybody_was_told_when_and_it_was_true() -> None:
    lab = Lab(30)
    lab.play(BEGAN + LESSON)
    for user, turn in lab.first_turn.items():
        told = lab.told[user]
        assert told is not None
        assert abs(turn - told) <= timedelta(minutes=15)
        assert turn <= told + timedelta(minutes=2)


def test_offers_that_are_not_taken_up_move_on() -> None:
    absent = frozenset({"s03", "s10", "s17"})
    lab = Lab(30, absent)
    lab.play(BEGAN + LESSON)
    assert lab.first_turn.keys() == {f"s{i:02}" for i in range(30)} - absent
    # Each was asked once, and is not asked again before the page is open again.
    assert {id: one.lapses for id, one in lab.line.items()} == dict.fromkeys(absent, 1)
    assert not any(one.offer for one in lab.line.values())
    # Nothing stood idle for longer than it takes to click, or for an offer to lapse.
    lapses = len(absent) * (timedelta(seconds=RULES.offer_s) + STEP)
    assert lab.idle * STEP <= len(lab.first_turn) * (CLICK + STEP) + lapses


def test_who_comes_back_is_asked_again() -> None:
    lab = Lab(6, frozenset({"s00"}))
    lab.play(BEGAN + timedelta(minutes=5))
    assert "s00" not in lab.first_turn
    lab.absent = frozenset()
    lab.play(BEGAN + timedelta(minutes=25))
    assert "s00" in lab.first_turn
    assert not lab.dropped


def test_who_walks_away_gives_way_and_who_works_does_not() -> None:
    walkers = frozenset({"s01", "s05", "s12", "s20"})
    lab = Lab(30, walkers=walkers)
    lab.play(BEGAN + LESSON)
    assert len(lab.first_turn) == 30
    for user, (lease, end, found) in lab.ended.items():
        had = found - lease.since
        if user in walkers:
            assert (end.kind, lease.warned) == ("idle", end.at)
            assert IDLE <= had - WORK <= IDLE + STEP
        else:
            assert (end.kind, had) == ("time", TURN)
    assert lab.ended.keys() >= walkers


@pytest.mark.parametrize("minute", [7, 30, 48])
def test_a_hub_that_dies_on_such_a_day_costs_its_own_time_and_no_turn(minute: int) -> None:
    absent, walkers = frozenset({"s03", "s17"}), frozenset({"s01", "s12", "s20"})
    lab = Lab(30, absent, walkers)
    lab.play(BEGAN + timedelta(minutes=minute))
    while not any(ticket.offer and ticket.user not in absent for ticket in lab.line.values()):
        lab.play(lab.now + STEP)
    before, held = lab.line, lab.leases
    lab.restart()
    lapses = {id: ticket.lapses for id, ticket in before.items()}
    assert {id: ticket.lapses for id, ticket in lab.line.items()} == lapses
    assert lab.leases == held
    assert not any(ticket.offer for ticket in lab.line.values())
    lab.play(BEGAN + LESSON)
    assert lab.first_turn.keys() == {f"s{i:02}" for i in range(30)} - absent
    assert [*lab.first_turn] == sorted(lab.first_turn), "those who came first went first"
    assert not any(ticket.lapses for user, ticket in lab.line.items() if user not in absent)
    assert all(dropped.split()[0] in absent for dropped in lab.dropped)
    for user, (lease, end, found) in lab.ended.items():
        assert found - end.at <= DOWN, "found at its end, or when there was a hub again"
        most = WORK + IDLE if user in walkers else TURN
        assert most - STEP <= end.at - lease.since <= most + STEP
    assert lab.ended.keys() >= walkers
