"""Leases as rows: what a lease is, and the ledger's statements about leases.

Each function works inside a transaction of `Ledger`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from ds01_spawner.core.exemptions import Exempt
from ds01_spawner.core.lifetime import End, Use, due, end_of
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.placement import Wanted
from ds01_spawner.core.sharing import Shared, shared
from ds01_spawner.errors import LeaseLost

State = Literal["reserved", "bound", "releasing"]
HISTORY = 10_000  # released leases that are remembered
JUST_RELEASED = "given back a moment ago"
MOMENT = timedelta(minutes=1)  # more than any look is old


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """What one start asks for: its devices, the user's limits and exemptions, the hours chosen."""

    hub: str
    user: str
    server: str
    wanted: Wanted
    limits: Limits
    hours: float | None = None
    exempt: Exempt = field(default_factory=Exempt)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one server to run, from reservation to its container's removal.

    `since` is when it was reserved and, once bound, when the server started; `until` is set then,
    `hours` later, or is the later end that an exemption gave. None for both: no end. With devices
    it also ends when it is idle for `idle_h` hours, but not before `keep_until`. `busy`, `heard`,
    `looked` and `used_h` are a `Use`.
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
    idle_h: float | None = None
    hold_h: float | None = None  # how long its devices are kept for its user when it is stopped
    keep_until: datetime | None = None
    busy: datetime | None = None
    heard: datetime | None = None
    looked: datetime | None = None
    used_h: float | None = None
    lost: str | None = None  # why its devices are not to be relied on any more, for people
    warned: datetime | None = None  # the end that its user was told of
    changed: datetime | None = None  # when it came into its state
    seat: int = 0
    seats: int = 1  # of its device, when that is shared
    cards: tuple[str, ...] = ()  # of its devices, in their order
    host: str = "local"

    @property
    def use(self) -> Use:
        """How it is used, as far as anybody looked."""
        since = self.since
        return Use(self.busy or since, self.heard or since, self.looked or since, self.used_h)

    @property
    def end(self) -> End | None:
        """When it ends as things are."""
        idle_h = self.idle_h if self.devices else None
        return end_of(self.until, idle_h, self.use, self.keep_until)

    def over(self, now: datetime) -> End | None:
        """The end that has come; of idleness only after its user was told."""
        return due(self.end, self.until, self.warned, now)


_TIMES = ("since", "until", "keep_until", "busy", "heard", "looked", "warned", "changed")
_OF_DEVICES = ("devices", "seat", "seats", "cards")
_COLUMNS = tuple(name for name in Lease.__slots__ if name not in _OF_DEVICES)
_SELECT = """
SELECT lease.*, (
    SELECT group_concat(device) FROM (
        SELECT device FROM lease_device WHERE lease = lease.id ORDER BY position
    )
) AS devices, (
    SELECT group_concat(card) FROM (
        SELECT card FROM lease_device WHERE lease = lease.id ORDER BY position
    )
) AS cards, (SELECT max(seat) FROM lease_device WHERE lease = lease.id) AS seat,
(SELECT max(seats) FROM lease_device WHERE lease = lease.id) AS seats FROM lease
"""
_INSERT = (
    f"INSERT INTO lease ({', '.join(_COLUMNS)}, request) "  # noqa: S608 - our own names
    f"VALUES ({', '.join(f':{name}' for name in _COLUMNS)}, :request)"
)


_CHANGING = (
    "state", "container", "since", "until", "keep_until", "busy", "heard", "looked", "used_h",
    "lost", "warned", "changed",
)  # fmt: skip
_UPDATE = (
    f"UPDATE lease SET {', '.join(f'{name} = :{name}' for name in _CHANGING)} "  # noqa: S608
    "WHERE id = :id"
)


def text_of(time: datetime) -> str:
    """A time as the ledger keeps it."""
    return time.isoformat(timespec="microseconds")


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
    for name in ("devices", "cards"):
        values[name] = tuple(row[name].split(",")) if row[name] else ()
    values["seat"], values["seats"] = row["seat"] or 0, row["seats"] or 1
    for name in _TIMES:
        values[name] = datetime.fromisoformat(row[name]) if row[name] else None
    return Lease(**values)


def _values(lease: Lease) -> dict[str, Any]:
    values = {name: getattr(lease, name) for name in _COLUMNS}
    for name in _TIMES:
        values[name] = values[name] and text_of(values[name])
    return values


def insert(db: sqlite3.Connection, lease: Lease, request: LeaseRequest | None) -> None:
    """Add a live lease with its devices. The database refuses a seat that is held."""
    db.execute(_INSERT, {**_values(lease), "request": _request_text(request)})
    db.executemany(
        "INSERT INTO lease_device VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (uuid, lease.seat, lease.seats, lease.id, position, card, lease.host)
            for position, (uuid, card) in enumerate(zip(lease.devices, lease.cards, strict=True))
        ],
    )


def _request_text(request: LeaseRequest | None) -> str:
    if request is None:
        return "{}"
    return json.dumps({**asdict(request.wanted), "hours": request.hours})


def update(db: sqlite3.Connection, lease: Lease) -> None:
    """Write what changes in the life of a lease."""
    db.execute(_UPDATE, _values(lease))


def held(db: sqlite3.Connection, request: LeaseRequest) -> tuple[dict[str, str], dict[str, Shared]]:
    """Of leases, and of offers to other servers: the devices that one has, and by whom.

    And those that are shared, as the asker has it.
    """
    query = (
        "SELECT device, seat, seats, lease, hub = :hub AND user = :user FROM lease_device "
        "JOIN lease ON lease.id = lease "
        "UNION ALL "
        "SELECT device, seat, seats, 'offered to ' || user, hub = :hub AND user = :user "
        "FROM ticket_device JOIN ticket ON ticket.id = ticket "
        "WHERE NOT (hub = :hub AND user = :user AND server = :server)"
    )
    asker = {"hub": request.hub, "user": request.user, "server": request.server}
    found = db.execute(query, asker).fetchall()
    alone = {device: who for device, _, seats, who, _ in found if seats == 1}
    return alone, shared((device, seat, seats, bool(own)) for device, seat, seats, _, own in found)


def conflict(db: sqlite3.Connection, lease: Lease) -> str | None:
    """The live lease that has what this one claims."""
    row = db.execute(
        "SELECT id FROM lease WHERE generation = ? OR (hub = ? AND user = ? AND server = ?)",
        (lease.generation, lease.hub, lease.user, lease.server),
    ).fetchone()
    query = "SELECT lease FROM lease_device WHERE device = ? AND (seat = ? OR seats != ?)"
    seats = ((uuid, lease.seat, lease.seats) for uuid in lease.devices)
    found = [row, *(db.execute(query, seat).fetchone() for seat in seats)]
    return next((str(holder[0]) for holder in found if holder), None)


def delete(db: sqlite3.Connection, lease: Lease, now: datetime) -> None:
    """Take a lease away, its devices with it, and remember it for a while."""
    db.execute("DELETE FROM lease WHERE id = ?", (lease.id,))
    db.execute(
        "INSERT INTO history (lease, generation, hub, user, server, devices, units, since, until, "
        "released, used_h) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            lease.id, lease.generation, lease.hub, lease.user, lease.server,
            ",".join(lease.devices), lease.units, text_of(lease.since),
            lease.until and text_of(lease.until), text_of(now), lease.used_h,
        ),
    )  # fmt: skip
    db.execute(
        "DELETE FROM history WHERE number <= (SELECT max(number) FROM history) - ?", (HISTORY,)
    )


def just_released(
    db: sqlite3.Connection, taken: datetime | None, now: datetime
) -> Mapping[str, str]:
    """Devices that came back after the host was looked at: whether they are clean is not known.

    Where others still have a seat, what one left behind cannot be told from what is theirs. The
    clock may go back after a release (it is in the future then, and no more than a moment of it
    counts) or after the look (what came back since may seem older than it).
    """
    if taken is None:
        return {}
    query = "SELECT devices FROM history WHERE released >= ? AND released <= ?"
    between = (taken, now + MOMENT) if taken <= now else (now - MOMENT, taken + MOMENT)
    released = db.execute(query, [text_of(time) for time in between])
    found = {uuid for (uuids,) in released for uuid in uuids.split(",")}
    shared = {device for (device,) in db.execute("SELECT device FROM lease_device WHERE seats > 1")}
    return dict.fromkeys(found - shared, JUST_RELEASED)


def next_generation(db: sqlite3.Connection) -> int:
    """The next number of the one counter that all leases share."""
    db.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
    (value,) = db.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()
    return int(value)


def incarnation(db: sqlite3.Connection) -> str:
    """The latest life of the hub; empty before the first."""
    row = db.execute("SELECT id FROM incarnation ORDER BY number DESC LIMIT 1").fetchone()
    return str(row[0]) if row else ""
