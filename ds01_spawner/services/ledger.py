"""Leases in SQLite: who runs what, and who holds which device. One transaction per decision.

It fails closed: what cannot be read or written grants nothing. Several processes may use one
file (hub, command line); a second hub on the same file counts its own users apart.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.placement import Placed, place
from ds01_spawner.errors import (
    DeviceHeld,
    LeaseLost,
    LedgerUnusable,
    SurvivingLease,
    TooManyServers,
)
from ds01_spawner.services import ledger_rows as rows
from ds01_spawner.services.ledger_rows import Lease, LeaseRequest, State
from ds01_spawner.services.ledger_schema import identity, in_words, open_ledger

__all__ = ["Lease", "LeaseRequest", "Ledger", "State"]

GPU_CEILING_H = 72.0
BUSY_TIMEOUT_S = 5.0
INCARNATIONS = 100
READ, WRITE = "BEGIN", "BEGIN IMMEDIATE"  # a reader waits for no writer


class Ledger:
    """The ledger of one file. Any thread may call; each call is one transaction.

    Every call raises LedgerBusy when the file stays locked or cannot be written, LedgerUnusable
    when it was moved away or is damaged.
    """

    def __init__(
        self,
        path: Path,
        *,
        simulated: bool,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
        gpu_ceiling_h: float = GPU_CEILING_H,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self._path = path
        self._simulated = simulated
        self._now = now
        self._new_id = new_id
        self._ceiling_h = gpu_ceiling_h
        self._lock = threading.Lock()
        self._db = open_ledger(path, simulated=simulated, now=now(), busy_timeout_s=busy_timeout_s)
        self._db.row_factory = sqlite3.Row
        self._file = identity(path)

    def close(self) -> None:
        """Close the file; the ledger cannot be used after."""
        with self._lock:
            self._db.close()

    # --- incarnations ------------------------------------------------------------------------

    def begin_incarnation(self) -> str:
        """Start a new life of the hub; what earlier lives only reserved is theirs no more."""
        with self._transaction() as db:
            incarnation = self._new_id()
            started = rows.text_of(self._now())
            db.execute(
                "INSERT INTO incarnation (id, started) VALUES (?, ?)", (incarnation, started)
            )
            db.execute(
                "DELETE FROM incarnation WHERE number <= (SELECT max(number) FROM incarnation) - ?",
                (INCARNATIONS,),
            )
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
        TooManyServers and the refusals of `place`.
        """
        with self._transaction() as db:
            placed = self._choose(db, request, snapshot, foreign or {})
            now = self._now()
            lease = Lease(
                id=self._new_id(),
                generation=rows.next_generation(db),
                hub=request.hub,
                user=request.user,
                server=request.server,
                state="reserved",
                devices=tuple(device.uuid for device in placed.devices),
                units=placed.units,
                incarnation=rows.incarnation(db),
                since=now,
                changed=now,
                container_name=container_name,
                hours=self._hours(request, placed),
            )
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
            until = rows.until_of(since, lease.hours)
            bound = replace(
                lease, state="bound", container=container, since=since, until=until, changed=since
            )
            rows.update(db, bound)
            return bound

    def releasing(self, lease_id: str) -> None:
        """The server is being ended: from now on reconcile may finish it. Nothing if it is gone."""
        with self._transaction() as db:
            lease = rows.read_one(db, lease_id)
            if lease is not None and lease.state != "releasing":
                rows.update(db, replace(lease, state="releasing", changed=self._now()))

    def release(self, lease_id: str) -> bool:
        """Free the lease and its devices; only after its container is gone. False: it was free."""
        with self._transaction() as db:
            lease = rows.read_one(db, lease_id)
            if lease is not None:
                rows.delete(db, lease, self._now())
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
            now = self._now()
            until = lease.until
            if until is None and lease.devices:
                until = rows.until_of(now, self._ceiling_h)
            adopted = replace(lease, incarnation=rows.incarnation(db), until=until, changed=now)
            rows.insert(db, adopted, None)
            db.execute(
                "UPDATE meta SET value = max(CAST(value AS INTEGER), ?) WHERE key = 'generation'",
                (lease.generation,),
            )
            return adopted

    def set_until(self, lease_id: str, until: datetime) -> None:
        """Move the end of a lease; its user is told anew. LeaseLost where it is gone."""
        with self._transaction() as db:
            changed = db.execute(
                "UPDATE lease SET until = ?, warned = 0 WHERE id = ?",
                (rows.text_of(until), lease_id),
            )
            if not changed.rowcount:
                raise LeaseLost(f"lease {lease_id} is not live")

    def mark_warned(self, lease_id: str) -> None:
        """Remember that the user was told of the end."""
        with self._transaction() as db:
            db.execute("UPDATE lease SET warned = 1 WHERE id = ?", (lease_id,))

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

    # --- images ------------------------------------------------------------------------------

    def image_of(self, recipe: str) -> str | None:
        """The id of the image that was built of a recipe; it may be gone from the engine."""
        with self._transaction(READ) as db:
            found = db.execute("SELECT id FROM image WHERE recipe = ?", (recipe,)).fetchone()
            return str(found[0]) if found else None

    def set_image(self, recipe: str, image: str) -> None:
        """Remember the image that was built of a recipe, in place of an earlier one."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO image VALUES (?, ?)", (recipe, image))

    # --- inside ------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, begin: str = WRITE) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if identity(self._path) != self._file:
                # Writing on into a deleted file would grant what the next opener grants again.
                raise LedgerUnusable(
                    self._path, "it was moved or deleted while in use", "Restart the hub."
                )
            try:
                self._db.execute(begin)
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                finally:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
            except sqlite3.ProgrammingError:
                raise
            except sqlite3.Error as error:
                raise in_words(error, self._path) from error

    def _choose(
        self,
        db: sqlite3.Connection,
        request: LeaseRequest,
        snapshot: Snapshot,
        foreign: Mapping[str, str],
    ) -> Placed:
        """The decision: number of servers, quota and devices, on what is so in this transaction."""
        if snapshot.devices and snapshot.simulated != self._simulated:
            raise LedgerUnusable(
                self._path, "it was asked for devices of the other kind", "Restart the hub."
            )
        own = rows.read(db, " WHERE hub = ? AND user = ?", request.hub, request.user)
        _check_servers(own, request)
        held = dict(db.execute("SELECT device, lease FROM lease_device").fetchall())
        units = sum(lease.units for lease in own)
        return place(snapshot, {**foreign, **held}, request.wanted, request.limits, units)

    def _hours(self, request: LeaseRequest, placed: Placed) -> float | None:
        policy = request.limits.max_runtime_h
        if policy is None and placed.devices:
            policy = self._ceiling_h
        return min((h for h in (policy, request.hours) if h is not None), default=None)


def _check_servers(own: tuple[Lease, ...], request: LeaseRequest) -> None:
    for lease in own:
        if lease.server == request.server:
            raise SurvivingLease(lease.server, lease.state)
    most = request.limits.max_containers_per_user
    if most is not None and len(own) + 1 > most:
        raise TooManyServers(len(own), most)
