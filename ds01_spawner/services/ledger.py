"""Leases in SQLite: who runs what, and who holds which device. One transaction per decision.

It fails closed: what cannot be read or written grants nothing. Several processes may use one
file (hub, command line); a second hub on the same file counts its own users apart.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.lifetime import End, Use, after_hours, lasting
from ds01_spawner.core.placement import Placed, place
from ds01_spawner.errors import (
    DeviceHeld,
    Draining,
    LeaseLost,
    SurvivingLease,
    TooManyServers,
)
from ds01_spawner.services import ledger_rows as rows
from ds01_spawner.services import ledger_tickets as tickets
from ds01_spawner.services.ledger_decided import with_moved_end
from ds01_spawner.services.ledger_faults import Faults, check_paused, paused
from ds01_spawner.services.ledger_file import READ
from ds01_spawner.services.ledger_images import OwnImages
from ds01_spawner.services.ledger_line import Line
from ds01_spawner.services.ledger_marks import Marks, cordoned, drained
from ds01_spawner.services.ledger_rows import Lease, LeaseRequest, State

__all__ = ["Lease", "LeaseRequest", "Ledger", "State"]

INCARNATIONS = 100


class Ledger(Marks, Faults, Line, OwnImages):
    """The leases of one file."""

    # --- incarnations ------------------------------------------------------------------------

    def begin_incarnation(self) -> str:
        """Start a new life of the hub; what earlier lives only reserved is theirs no more.

        Offers that nobody could take up meanwhile are made anew.
        """
        with self._decision() as db:
            incarnation = self._new_id()
            started = rows.text_of(self._now())
            db.execute(
                "INSERT INTO incarnation (id, started) VALUES (?, ?)", (incarnation, started)
            )
            db.execute(
                "DELETE FROM incarnation WHERE number <= (SELECT max(number) FROM incarnation) - ?",
                (INCARNATIONS,),
            )
            tickets.begin_anew(db, self._now())
            return incarnation

    def incarnation(self) -> str:
        """The latest incarnation of the hub; empty before the first."""
        with self._transaction(READ) as db:
            return rows.incarnation(db)

    # --- the life of a lease -----------------------------------------------------------------

    def check(
        self, request: LeaseRequest, snapshot: Snapshot, foreign: Mapping[str, str] | None = None
    ) -> Placed:
        """What `reserve` would give now, or its refusal; nothing is reserved."""
        with self._transaction(READ) as db:
            return self._choose(db, request, snapshot, foreign or {})

    def reserve(
        self,
        request: LeaseRequest,
        snapshot: Snapshot,
        foreign: Mapping[str, str] | None = None,
        container_name: str = "",
    ) -> Lease:
        """Choose the devices and reserve them, with every quota checked, in one transaction.

        `foreign` is uuid -> holder of devices in use outside the ledger. Raises SurvivingLease,
        TooManyServers, GpuPaused and the refusals of `place`.
        """
        with self._transaction() as db:
            placed = self._choose(db, request, snapshot, foreign or {})
            now = self._now()
            hours, exempt = self._hours(request, placed), request.exempt.at(now)
            lease = Lease(
                id=self._new_id(),
                generation=rows.next_generation(db),
                hub=request.hub,
                user=request.user,
                server=request.server,
                state="reserved",
                devices=tuple(device.uuid for device in placed.devices),
                cards=tuple(device.card for device in placed.devices),
                units=placed.units,
                incarnation=rows.incarnation(db),
                since=now,
                changed=now,
                container_name=container_name,
                hours=hours,
                # Hours that the user chose are no limit of the policy's.
                until=exempt.runtime if hours is not None and request.hours is None else None,
                keep_until=exempt.idle if placed.devices else None,
                idle_h=request.limits.idle_timeout_h if placed.devices else None,
                hold_h=self._hold_h(request) if placed.devices and placed.seats == 1 else None,
                seat=placed.seat,
                seats=placed.seats,
            )
            if tickets.has_kept(db, lease) and tickets.others_wait(db, lease.hub, lease.user):
                lease = replace(lease, hold_h=None)  # kept again, others would never have a turn
            tickets.taken_up(db, lease)
            rows.insert(db, lease, request)
            return lease

    def confirm(self, lease_id: str, generation: int) -> Lease:
        """The fence before a container is started: LeaseLost unless it is still reserved."""
        with self._transaction(READ) as db:
            return rows.read_reserved(db, lease_id, generation)

    def bind(self, lease_id: str, generation: int, container: str) -> Lease:
        """The container runs: the lease's clock starts. LeaseLost unless it was reserved."""
        with self._transaction() as db:
            lease = rows.read_reserved(db, lease_id, generation)
            since = self._now()
            until = after_hours(since, lease.hours)
            until = until and max(until, lease.until or until)
            bound = replace(
                lease, state="bound", container=container, since=since, until=until, changed=since
            )
            rows.update(db, bound)
            tickets.done(db, bound)
            return bound

    def releasing(self, lease_id: str, due: datetime | None = None) -> bool:
        """The server is being ended: from now on reconcile may finish it. Nothing if it is gone.

        With `due`, the end for which it is, only if that has not been put off since: else False.
        """
        with self._transaction() as db:
            lease = rows.read_one(db, lease_id)
            if lease is None or lease.state == "releasing":
                return True
            if due is not None and (lease.end is None or lease.end.at > due):
                return False
            rows.update(db, replace(lease, state="releasing", changed=self._now()))
            return True

    def release(self, lease_id: str, *, given_up: bool = False) -> bool:
        """Free the lease and its devices; only after its container is gone. False: it was free.

        The ticket of a start that failed waits again, but where it is `given_up`.
        """
        with self._transaction() as db:
            lease = rows.read_one(db, lease_id)
            if lease is not None:
                now = self._now()
                rows.delete(db, lease, now)
                tickets.end_holds(db, now)
                if given_up:
                    tickets.done(db, lease)
                tickets.waits_again(db, lease, now, self._rules)
                if not paused(db, lease.hub, lease.user, self._fault_rule, now):
                    tickets.hold(db, lease, now)
            return lease is not None

    def adopt(self, lease: Lease) -> Lease:
        """Put back a lease read from a container's labels, after the ledger was lost.

        Raises DeviceHeld when a device, its server or its generation is another live lease's.
        """
        with self._transaction() as db:
            known = rows.read_one(db, lease.id)
            if known is not None:
                return known
            holder = rows.conflict(db, lease)
            if holder:
                raise DeviceHeld(lease.id, holder)
            now, lease = self._now(), with_moved_end(db, lease)
            until = lease.until
            if until is None and lease.devices:
                until = after_hours(now, self._ceiling_h)
            adopted = replace(lease, incarnation=rows.incarnation(db), until=until, changed=now)
            tickets.withdraw(db, lease)
            tickets.taken_up(db, lease)
            tickets.done(db, lease)
            rows.insert(db, adopted, None)
            db.execute(
                "UPDATE meta SET value = max(CAST(value AS INTEGER), ?) WHERE key = 'generation'",
                (lease.generation,),
            )
            return adopted

    def set_until(self, lease_id: str, until: datetime) -> Lease:
        """Move the end of a lease. LeaseLost where it is gone."""
        with self._decision() as db:
            moved = replace(_live(db, lease_id), until=until)
            rows.update(db, moved)
            return moved

    def keep(self, lease_id: str, until: datetime) -> Lease:
        """Count it as used until then at least. LeaseLost where it is gone or being ended."""
        with self._decision() as db:
            lease = _live(db, lease_id)
            if lease.state == "releasing":
                raise LeaseLost(f"lease {lease_id} is being released")
            return _kept(db, lease, until)

    def note_use(self, uses: Mapping[str, Use]) -> None:
        """Write down how leases are used, by their ids; of those that are gone nothing."""
        with self._transaction() as db:
            for lease_id, use in uses.items():
                lease = rows.read_one(db, lease_id)
                if lease is not None:
                    rows.update(db, replace(
                        lease, busy=use.busy, heard=use.heard, looked=use.looked, used_h=use.hours
                    ))  # fmt: skip

    def mark_warned(self, lease_id: str, end: End) -> None:
        """Remember that the user was told of this end; of a later one they are told anew.

        It does not end earlier, idle or not, nor when its time was over before.
        """
        with self._transaction() as db:
            lease = rows.read_one(db, lease_id)
            if lease is not None:
                until = lease.until
                if until is not None and end.kind == "time":
                    until = max(until, end.at)
                _kept(db, replace(lease, warned=end.at, until=until), end.at)

    # --- reading -----------------------------------------------------------------------------

    def leases(self) -> tuple[Lease, ...]:
        """All live leases, the oldest first."""
        with self._transaction(READ) as db:
            return rows.read(db, " ORDER BY generation")

    def lease_of(self, hub: str, user: str, server: str) -> Lease | None:
        """The live lease of a server."""
        with self._transaction(READ) as db:
            found = rows.read(db, " WHERE hub = ? AND user = ? AND server = ?", hub, user, server)
            return found[0] if found else None

    def released(self, lease_ids: Iterable[str]) -> frozenset[str]:
        """Those of the leases that this ledger had and released (as far back as it remembers)."""
        with self._transaction(READ) as db:
            query = "SELECT 1 FROM history WHERE lease = ?"
            return frozenset(id for id in lease_ids if db.execute(query, (id,)).fetchone())

    # --- inside ------------------------------------------------------------------------------

    def _choose(
        self,
        db: sqlite3.Connection,
        request: LeaseRequest,
        snapshot: Snapshot,
        foreign: Mapping[str, str],
    ) -> Placed:
        """The decision: number of servers, quota and devices, on what is so in this transaction."""
        self._check_kind(snapshot)
        why = drained(db)
        if why is not None:
            raise Draining(why)
        check_paused(db, request, self._fault_rule, self._now())
        own = rows.read(db, " WHERE hub = ? AND user = ?", request.hub, request.user)
        _check_servers(own, request)
        held, sharing = rows.held(db, request)
        back = rows.just_released(db, snapshot.taken, self._now())
        kept = tickets.kept(db, request, self._now())
        taken = {**foreign, **back, **cordoned(db), **kept, **held}
        units = sum(lease.units for lease in own)
        if request.wanted.count and tickets.any_wait(db, self._now()):
            return self._in_turn(db, request, snapshot, foreign, taken, sharing, units)
        return place(snapshot, taken, request.wanted, request.limits, units, sharing)

    def _hold_h(self, request: LeaseRequest) -> float:
        policy = request.limits.gpu_hold_after_stop_h
        return self._hold_ceiling_h if policy is None else min(policy, self._hold_ceiling_h)

    def _hours(self, request: LeaseRequest, placed: Placed) -> float | None:
        ceiling = self._ceiling_h if placed.devices else None
        return lasting(request.hours, request.limits.max_runtime_h, ceiling)


def _live(db: sqlite3.Connection, lease_id: str) -> Lease:
    lease = rows.read_one(db, lease_id)
    if lease is None:
        raise LeaseLost(f"lease {lease_id} is not live")
    return lease


def _kept(db: sqlite3.Connection, lease: Lease, until: datetime) -> Lease:
    """Write the lease, kept until then at least: nobody takes back what was promised."""
    kept = replace(lease, keep_until=max(until, lease.keep_until or until))
    rows.update(db, kept)
    return kept


def _check_servers(own: tuple[Lease, ...], request: LeaseRequest) -> None:
    for lease in own:
        if lease.server == request.server:
            raise SurvivingLease(lease.server, lease.state)
    most = request.limits.max_containers_per_user
    if most is not None and len(own) + 1 > most:
        raise TooManyServers(len(own), most)
