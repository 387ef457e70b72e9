"""Leases as rows: what a lease is, and the ledger's statements about leases.

Each function works inside a transaction of `Ledger`.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from ds01_spawner.core.limits import Limits
from ds01_spawner.core.placement import Wanted
from ds01_spawner.errors import LeaseLost

State = Literal["reserved", "bound", "releasing"]
HISTORY = 10_000  # released leases that are remembered
_LONGEST_H = 876_000.0  # a century


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """What one start asks for: its devices, the user's limits, and the hours chosen, if any."""

    hub: str
    user: str
    server: str
    wanted: Wanted
    limits: Limits
    hours: float | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one server to run, from reservation to its container's removal.

    `since` is when it was reserved and, once bound, when the server started; `until` is set then,
    `hours` later. None for both: no end.
    """

    id: str
    generation: int
    hub: str
    user: str
    server: str
    state: State
    devices: tuple[str, ...]
    units: int
    incarnation: str
    since: datetime
    until: datetime | None = None
    container: str | None = None
    container_name: str = ""
    hours: float | None = None
    warned: bool = False  # whether its user was told of the end
    changed: datetime | None = None  # when it came into its state
    host: str = "local"


_SELECT = """
SELECT lease.*, (
    SELECT group_concat(device) FROM (
        SELECT device FROM lease_device WHERE lease = lease.id ORDER BY position
    )
) AS devices FROM lease
"""
_INSERT = """
INSERT INTO lease VALUES (
    :id, :generation, :hub, :user, :server, :state, :units, :since, :until, :hours, :warned,
    :changed, :incarnation, :container, :container_name, :request, :host
)
"""


def text_of(time: datetime) -> str:
    """A time as the ledger keeps it."""
    return time.isoformat(timespec="microseconds")


def until_of(since: datetime, hours: float | None) -> datetime | None:
    """When a lease of so many hours ends."""
    return None if hours is None else since + timedelta(hours=min(hours, _LONGEST_H))


def read(db: sqlite3.Connection, where: str, *values: str) -> tuple[Lease, ...]:
    """The live leases of a condition."""
    return tuple(_lease(row) for row in db.execute(_SELECT + where, values))


def read_one(db: sqlite3.Connection, lease_id: str) -> Lease | None:
    """A live lease."""
    found = read(db, " WHERE id = ?", lease_id)
    return found[0] if found else None


def read_reserved(db: sqlite3.Connection, lease_id: str, generation: int) -> Lease:
    """A lease that is still only reserved, else LeaseLost."""
    lease = read_one(db, lease_id)
    if lease is None or lease.generation != generation or lease.state != "reserved":
        raise LeaseLost(f"lease {lease_id} generation {generation} is not reserved but {lease}")
    return lease


def _lease(row: sqlite3.Row) -> Lease:
    values: dict[str, Any] = dict(row)
    del values["request"]
    values["devices"] = tuple(row["devices"].split(",")) if row["devices"] else ()
    for name in ("since", "until", "changed"):
        values[name] = datetime.fromisoformat(row[name]) if row[name] else None
    values["warned"] = bool(row["warned"])
    return Lease(**values)


def insert(db: sqlite3.Connection, lease: Lease, request: LeaseRequest | None) -> None:
    """Add a live lease with its devices. The database refuses a device that is held."""
    values = {name: getattr(lease, name) for name in Lease.__slots__ if name != "devices"}
    for name in ("since", "until", "changed"):
        values[name] = values[name] and text_of(values[name])
    db.execute(_INSERT, {**values, "request": _request_text(request)})
    db.executemany(
        "INSERT INTO lease_device VALUES (?, ?, ?, ?)",
        [(uuid, lease.id, position, lease.host) for position, uuid in enumerate(lease.devices)],
    )


def _request_text(request: LeaseRequest | None) -> str:
    if request is None:
        return "{}"
    wanted = request.wanted
    return json.dumps(
        {
            "count": wanted.count,
            "kind": wanted.kind,
            "architectures": sorted(wanted.architectures) if wanted.architectures else None,
            "hours": request.hours,
        }
    )


def update(db: sqlite3.Connection, lease: Lease) -> None:
    """Write what changes in the life of a lease."""
    db.execute(
        "UPDATE lease SET state = ?, container = ?, since = ?, until = ?, changed = ? WHERE id = ?",
        (
            lease.state, lease.container, text_of(lease.since),
            lease.until and text_of(lease.until), lease.changed and text_of(lease.changed),
            lease.id,
        ),
    )  # fmt: skip


def conflict(db: sqlite3.Connection, lease: Lease) -> str | None:
    """The live lease that has what this one claims."""
    row = db.execute(
        "SELECT id FROM lease WHERE generation = ? OR (hub = ? AND user = ? AND server = ?)",
        (lease.generation, lease.hub, lease.user, lease.server),
    ).fetchone()
    query = "SELECT lease FROM lease_device WHERE device = ?"
    found = [row, *(db.execute(query, (uuid,)).fetchone() for uuid in lease.devices)]
    return next((str(holder[0]) for holder in found if holder), None)


def delete(db: sqlite3.Connection, lease: Lease, now: datetime) -> None:
    """Take a lease away, its devices with it, and remember it for a while."""
    db.execute("DELETE FROM lease WHERE id = ?", (lease.id,))
    db.execute(
        "INSERT INTO history (lease, generation, hub, user, server, devices, units, since, until, "
        "released) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            lease.id, lease.generation, lease.hub, lease.user, lease.server,
            ",".join(lease.devices), lease.units, text_of(lease.since),
            lease.until and text_of(lease.until), text_of(now),
        ),
    )  # fmt: skip
    db.execute(
        "DELETE FROM history WHERE number <= (SELECT max(number) FROM history) - ?", (HISTORY,)
    )


def next_generation(db: sqlite3.Connection) -> int:
    """The next number of the one counter that all leases share."""
    db.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
    (value,) = db.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()
    return int(value)


def incarnation(db: sqlite3.Connection) -> str:
    """The latest life of the hub; empty before the first."""
    row = db.execute("SELECT id FROM incarnation ORDER BY number DESC LIMIT 1").fetchone()
    return str(row[0]) if row else ""
