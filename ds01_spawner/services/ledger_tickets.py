"""The line as rows: tickets with what is offered to them, and devices that are kept after a stop.

Each function works inside a transaction of `Ledger`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict

from ds01_spawner.core.limits import Limits
from ds01_spawner.core.placement import Wanted
from ds01_spawner.core.tickets import Hold, Offer, Person, Rules, Ticket, Use, decayed
from ds01_spawner.services.ledger_rows import Lease, LeaseRequest, text_of

REMEMBERED = timedelta(weeks=5)  # of earlier use; what is older counts nearly nothing
HOUR = timedelta(hours=1)
_SELECT = """
SELECT ticket.*, (
    SELECT group_concat(device) FROM (
        SELECT device FROM ticket_device WHERE ticket = ticket.id ORDER BY position
    )
) AS devices, (SELECT max(seat) FROM ticket_device WHERE ticket = ticket.id) AS seat,
(SELECT max(seats) FROM ticket_device WHERE ticket = ticket.id) AS seats FROM waiting AS ticket
"""
_UPDATE = """
UPDATE ticket SET wish = :wish, hours = :hours, since = :since, asked = :asked, lapses = :lapses,
    bypassed = :bypassed, offer_until = :offer_until, offer_units = :offer_units WHERE id = :id
"""
_INSERT = """
INSERT INTO ticket VALUES (:id, :hub, :user, :server, :wish, :options, :hours, :since, :asked,
    :lapses, :bypassed, :offer_until, :offer_units, 'local', NULL)
"""
_OF_SERVER = " WHERE hub = ? AND user = ? AND server = ?"


class Wish(BaseModel):
    """What a ticket keeps of its start: unknown keys are refused, in the parts too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wanted: Wanted
    limits: Limits


# --- tickets -------------------------------------------------------------------------------------


def read(db: sqlite3.Connection, where: str = "", *values: str) -> tuple[Ticket, ...]:
    """The tickets of a condition."""
    return tuple(_ticket(row) for row in db.execute(_SELECT + where, values))


def read_of(db: sqlite3.Connection, hub: str, user: str, server: str) -> Ticket | None:
    """The ticket of a server."""
    found = read(db, _OF_SERVER, hub, user, server)
    return found[0] if found else None


def options_of(db: sqlite3.Connection, ticket: Ticket) -> dict[str, Any]:
    """The options that it was taken with."""
    (text,) = db.execute("SELECT options FROM ticket WHERE id = ?", (ticket.id,)).fetchone()
    options = json.loads(text)
    return options if isinstance(options, dict) else {}


def insert(db: sqlite3.Connection, ticket: Ticket, options: Mapping[str, Any]) -> None:
    """Add a ticket."""
    db.execute(_INSERT, {**_values(ticket), "options": json.dumps(options)})


def set_options(db: sqlite3.Connection, ticket: Ticket, options: Mapping[str, Any]) -> None:
    """Have a ticket start with other options of the same wish."""
    db.execute("UPDATE ticket SET options = ? WHERE id = ?", (json.dumps(options), ticket.id))


def update(db: sqlite3.Connection, ticket: Ticket) -> None:
    """Write a ticket back, and what it is offered. The database refuses a device of another's."""
    db.execute(_UPDATE, _values(ticket))
    db.execute("DELETE FROM ticket_device WHERE ticket = ?", (ticket.id,))
    if ticket.offer is not None:
        offer = ticket.offer
        db.executemany(
            "INSERT INTO ticket_device VALUES (?, ?, ?, ?, ?, 'local')",
            [
                (uuid, offer.seat, offer.seats, ticket.id, position)
                for position, uuid in enumerate(offer.devices)
            ],
        )


def delete(db: sqlite3.Connection, ticket: Ticket) -> None:
    """Take a ticket out of the line, and what it was offered with it."""
    db.execute("DELETE FROM ticket WHERE id = ?", (ticket.id,))


def delete_of(db: sqlite3.Connection, hub: str, user: str, server: str) -> bool:
    """Take away the ticket of a server, also while that starts. False: it did not wait."""
    waits = read_of(db, hub, user, server) is not None
    query = "DELETE FROM ticket WHERE hub = ? AND user = ? AND server = ?"
    db.execute(query, (hub, user, server))
    return waits


def withdraw(db: sqlite3.Connection, lease: Lease) -> None:
    """Take what a lease was found to have from whom it is promised to."""
    for device in lease.devices:
        of_seat = "SELECT ticket FROM ticket_device WHERE device = ? AND (seat = ? OR seats != ?)"
        for (ticket,) in db.execute(of_seat, (device, lease.seat, lease.seats)).fetchall():
            db.execute(
                "UPDATE ticket SET offer_until = NULL, offer_units = NULL WHERE id = ?", (ticket,)
            )
            db.execute("DELETE FROM ticket_device WHERE ticket = ?", (ticket,))
        db.execute("DELETE FROM hold WHERE device = ?", (device,))


def taken_up(db: sqlite3.Connection, lease: Lease) -> None:
    """A server starts: its ticket waits no more, and what was kept for its user is used.

    Who takes none of what was kept for them, but something else, wants that no more.
    """
    server = (lease.hub, lease.user, lease.server)
    query = (
        "UPDATE ticket SET lease = ?, offer_until = NULL, offer_units = NULL "
        "WHERE hub = ? AND user = ? AND server = ?"
    )
    db.execute(query, (lease.id, *server))
    of_lease = "SELECT id FROM ticket WHERE lease = ?"
    db.execute(f"DELETE FROM ticket_device WHERE ticket IN ({of_lease})", (lease.id,))  # noqa: S608
    if lease.devices and not has_kept(db, lease):
        forget_holds(db, lease.hub, lease.user)
    db.executemany("DELETE FROM hold WHERE device = ?", [(device,) for device in lease.devices])


def done(db: sqlite3.Connection, lease: Lease) -> None:
    """The server runs, or its start was given up: its ticket has done its work."""
    db.execute("DELETE FROM ticket WHERE lease = ?", (lease.id,))


def waits_again(db: sqlite3.Connection, lease: Lease, now: datetime, rules: Rules) -> None:
    """A start failed: its ticket has its old place again, as if its page had been open.

    That counts as an offer that lapsed, so that who fails again and again holds up nobody.
    """
    db.execute(
        "UPDATE ticket SET lease = NULL, asked = ?, lapses = lapses + 1 "
        "WHERE lease = ? AND lapses + 1 < ? "
        "AND (SELECT count(*) FROM waiting WHERE hub = ? AND user = ?) < ?",
        (text_of(now), lease.id, rules.max_lapses, lease.hub, lease.user, rules.max_tickets),
    )
    done(db, lease)


def has_kept(db: sqlite3.Connection, lease: Lease) -> bool:
    """Whether a lease has a device that was kept for its user."""
    query = "SELECT 1 FROM hold WHERE hub = ? AND user = ? AND device = ?"
    return any(
        db.execute(query, (lease.hub, lease.user, device)).fetchone() for device in lease.devices
    )


def forget_holds(db: sqlite3.Connection, hub: str, user: str) -> None:
    """Keep nothing for a user any more."""
    db.execute("DELETE FROM hold WHERE hub = ? AND user = ?", (hub, user))


def others_wait(db: sqlite3.Connection, hub: str, user: str) -> bool:
    """Whether anybody but this user is in the line."""
    query = "SELECT EXISTS (SELECT 1 FROM waiting WHERE NOT (hub = ? AND user = ?))"
    return bool(db.execute(query, (hub, user)).fetchone()[0])


def begin_anew(db: sqlite3.Connection, now: datetime) -> None:
    """Have nobody lose a place or an offer by the time in which there was no hub."""
    for ticket in read(db, ""):
        update(db, ticket.anew(now))


def _ticket(row: sqlite3.Row) -> Ticket:
    wish = Wish.model_validate_json(row["wish"])
    offer = None
    if row["offer_until"]:
        devices = tuple((row["devices"] or "").split(","))
        until = datetime.fromisoformat(row["offer_until"])
        offer = Offer(devices, row["offer_units"], until, row["seat"], row["seats"])
    return Ticket(
        id=row["id"],
        hub=row["hub"],
        user=row["user"],
        server=row["server"],
        wanted=wish.wanted,
        limits=wish.limits,
        since=datetime.fromisoformat(row["since"]),
        asked=datetime.fromisoformat(row["asked"]),
        priority=wish.limits.priority,
        hours=row["hours"],
        offer=offer,
        lapses=row["lapses"],
        bypassed=row["bypassed"],
    )


def _values(ticket: Ticket) -> dict[str, Any]:
    return {
        "id": ticket.id,
        "hub": ticket.hub,
        "user": ticket.user,
        "server": ticket.server,
        "wish": Wish(wanted=ticket.wanted, limits=ticket.limits).model_dump_json(),
        "hours": ticket.hours,
        "since": text_of(ticket.since),
        "asked": text_of(ticket.asked),
        "lapses": ticket.lapses,
        "bypassed": ticket.bypassed,
        "offer_until": ticket.offer and text_of(ticket.offer.until),
        "offer_units": ticket.offer and ticket.offer.units,
    }


# --- devices that are kept for somebody ----------------------------------------------------------


def any_wait(db: sqlite3.Connection, now: datetime) -> bool:
    """Whether a start has to look who waits, or for whom something is kept."""
    query = "SELECT EXISTS (SELECT 1 FROM waiting) OR EXISTS (SELECT 1 FROM hold WHERE until > ?)"
    return bool(db.execute(query, (text_of(now),)).fetchone()[0])


def kept(db: sqlite3.Connection, request: LeaseRequest, now: datetime) -> dict[str, str]:
    """UUID -> for whom a device is kept after a stop that this start cannot have."""
    found = db.execute(
        "SELECT device, user FROM hold WHERE until > ? AND NOT (hub = ? AND user = ?)",
        (text_of(now), request.hub, request.user),
    )
    return {row[0]: f"kept for {row[1]}" for row in found}


def hold(db: sqlite3.Connection, lease: Lease, now: datetime) -> None:
    """Keep the devices of a server that was stopped for its user, as long as its lease says.

    One that never ran, or whose time was over, keeps nothing.
    """
    over = lease.end is not None and lease.end.at <= now
    if lease.hold_h and lease.container is not None and not over:
        until = text_of(now + timedelta(hours=lease.hold_h))
        db.executemany(
            "INSERT OR REPLACE INTO hold VALUES (?, ?, ?, ?, ?)",
            [(device, lease.hub, lease.user, until, lease.host) for device in lease.devices],
        )


def end_holds(db: sqlite3.Connection, now: datetime) -> None:
    """Forget what is kept no longer: a clock that goes back shall not keep it again."""
    db.execute("DELETE FROM hold WHERE until <= ?", (text_of(now),))


def holds(db: sqlite3.Connection, now: datetime) -> tuple[Hold, ...]:
    """The devices that are kept after a stop."""
    found = db.execute("SELECT * FROM hold WHERE until > ? ORDER BY device", (text_of(now),))
    return tuple(
        Hold(row["device"], row["hub"], row["user"], datetime.fromisoformat(row["until"]))
        for row in found
    )


# --- what they used ------------------------------------------------------------------------------


def usage(
    db: sqlite3.Connection, people: Iterable[Person], leases: Iterable[Lease], now: datetime
) -> dict[Person, int]:
    """The recent use of GPUs of each, running servers included, in unit-hours."""
    uses: dict[Person, list[Use]] = {person: [] for person in people}
    for lease in leases:
        if (lease.hub, lease.user) in uses:
            uses[lease.hub, lease.user].append(Use(lease.units, (now - lease.since) / HOUR, now))
    query = (
        "SELECT units, since, released FROM history "
        "WHERE hub = ? AND user = ? AND released > ? AND units > 0"
    )
    for person, found in uses.items():
        for units, since, released in db.execute(query, (*person, text_of(now - REMEMBERED))):
            end = datetime.fromisoformat(released)
            found.append(Use(units, (end - datetime.fromisoformat(since)) / HOUR, end))
    return {person: decayed(found, now) for person, found in uses.items()}
