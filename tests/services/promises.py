"""What a server's user was promised of its time, kept apart from the ledger and checked against it.

`known` is time as the hub could know it: the clock's, and all by which that was set back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ds01_spawner.core.exemptions import Exempt
from ds01_spawner.services.ledger import Lease
from ds01_spawner.services.reconcile import Action
from tests.services.world import World

UNSEEN, NOTICE = timedelta(minutes=5), timedelta(minutes=15)
ALMOST = timedelta(seconds=1)  # the engine tells whole seconds


@dataclass
class Promise:
    """What is known of one lease: by the clock `ends` and `exempt`, the rest in known time."""

    begun: datetime
    looked: datetime
    ends: datetime  # the latest that it may have
    exempt: Exempt
    moved: bool = False  # an admin set its end
    vague: bool = False  # what was known of its use is lost, or not told by the clock
    kept: datetime | None = None  # by the clock: it counts as used until then
    warned: datetime | None = None  # by the clock: the latest end that its user was told of
    idle: timedelta = timedelta()  # for how long it was seen to be
    told: datetime | None = None  # a reconcile has found it idle for too long


@dataclass
class Promises:
    """Those of all leases of a history. Everybody has `hours`, and `idle` ones of idleness."""

    world: World
    hours: timedelta
    idle: timedelta
    of: dict[str, Promise] = field(default_factory=dict)

    # --- what happens ----------------------------------------------------------------------------

    def reserved(self, lease: Lease, exempt: Exempt) -> None:
        """A start has its lease, and its user these exemptions."""
        now, known = self.world.time, self.world.known_time
        lasts = [end if end and end > now else None for end in (exempt.runtime, exempt.idle)]
        exempt = Exempt(runtime=lasts[0], idle=lasts[1])
        ends = max(now + self.hours, exempt.runtime or now)
        self.of[lease.id] = Promise(known, known, ends, exempt)

    def begins(self, lease: Lease) -> None:
        """Its container is made or runs: its hours may count from here."""
        promise = self.of[lease.id]
        promise.looked = self.world.known_time
        promise.ends = max(promise.ends, self.world.time + self.hours)

    def moves(self, lease: Lease, until: datetime) -> None:
        """An admin sets its end."""
        promise = self.of[lease.id]
        promise.moved, promise.ends = True, max(promise.ends, until)

    def keeps(self, lease: Lease, until: datetime) -> None:
        """Its user pressed the button."""
        promise = self.of[lease.id]
        promise.kept, promise.told = max(until, promise.kept or until), None

    def looks(self, leases: Iterable[Lease], busy: bool | None) -> None:
        """Somebody looked whether devices compute; of longer times before, nobody knows."""
        for lease in leases:
            promise, known = self.of[lease.id], self.world.known_time
            gap, promise.looked = known - promise.looked, known
            if busy is False and gap <= UNSEEN:
                promise.idle += gap
                continue
            promise.told = None
            if busy:
                promise.idle = timedelta()

    def clock_went_back(self) -> None:
        """Who is idle may have the same time again, and the end that they were told of."""
        self.use_is_lost()
        for promise in self.of.values():
            if promise.warned:
                promise.kept = max(promise.warned, promise.kept or promise.warned)

    def use_is_lost(self) -> None:
        """Nobody knows any more how servers were used, or what was known is old."""
        for promise in self.of.values():
            promise.idle, promise.told, promise.vague = timedelta(), None, True

    # --- what must hold --------------------------------------------------------------------------

    def check(self, done: Iterable[Action], runs: Collection[Lease]) -> None:
        """After a reconcile: nobody's server ended too early, and none is there too long."""
        for action in done:
            if action.action == "adopt" and action.lease:
                promise = self.of[action.lease.id]
                promise.ends = max(promise.ends, self.world.time + 2 * NOTICE)
            elif action.action == "warn" and action.lease and action.end:
                promise, at = self.of[action.lease.id], action.end.at
                promise.warned = max(at, promise.warned or at)
                if action.end.kind == "time":  # who is told late has the time all the same
                    assert at <= max(promise.ends, self.world.time + NOTICE)
                    promise.ends = max(promise.ends, at)
            elif action.action == "stop" and action.lease and action.end:
                self._not_too_early(action.lease, action.end.kind)
        for lease in runs:
            self._not_too_long(lease)

    def _not_too_early(self, lease: Lease, why: str) -> None:
        promise, now, known = self.of[lease.id], self.world.time, self.world.known_time
        if why == "time":
            assert lease.warned is not None, "told before"
            if not promise.moved:
                assert known - promise.begun >= self.hours - ALMOST
                assert now >= (promise.exempt.runtime or now)
            return
        assert lease.end
        assert lease.warned == lease.end.at <= now, "told before, and then late"
        assert now >= (promise.exempt.idle or now)
        if not promise.vague:
            assert now >= (promise.kept or now)
            assert promise.idle + (known - promise.looked) >= self.idle

    def _not_too_long(self, lease: Lease) -> None:
        """No server is there after its end, nor one that is idle a notice after it was told."""
        promise, now, known = self.of[lease.id], self.world.time, self.world.known_time
        assert now < promise.ends
        kept = [until for until in (promise.kept, promise.exempt.idle) if until and until > now]
        if not lease.devices or kept or promise.idle < self.idle:
            promise.told = None
        elif promise.told is None:
            promise.told = known
        else:
            assert known - promise.told < NOTICE
