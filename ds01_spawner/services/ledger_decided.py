"""What was decided since servers were made, in a file beside the ledger: labels cannot tell it.

Ends that were moved, devices set aside, faults, a drain. It is written whole after each such
decision, and read only by who makes a ledger anew: beside one that is there it says nothing new.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from ds01_spawner.core.faults import APART
from ds01_spawner.errors import DecisionsUnread
from ds01_spawner.services.ledger_rows import Lease, text_of

log = logging.getLogger(__name__)
# Of no name that who deletes `ledger.sqlite*` deletes, too.
FILE, UNREAD = "decided.json", "decided.json.unread"
MAX_BYTES = 16 << 20
TO_BE_LOOKED_AT = "which GPUs were set aside is not known, and an administrator has to look at it"
XidNumber = Annotated[int, Field(ge=0, lt=1 << 31)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class MovedEnd(_Part):
    """Until when a lease runs, and until when it counts as used."""

    lease: str
    until: AwareDatetime | None
    keep_until: AwareDatetime | None


class SetAside(_Part):
    """A device that an admin set aside."""

    device: str
    since: AwareDatetime
    why: str


class Struck(_Part):
    """A device that an XID put out of use, in one boot of the host."""

    device: str
    xid: XidNumber
    since: AwareDatetime
    boot: str


class Faulted(_Part):
    """A fault that a user answers for."""

    device: str
    xid: XidNumber
    at: AwareDatetime
    hub: str
    user: str


class Decided(_Part):
    """The file."""

    v: Literal[1] = 1
    simulated: bool
    drained: str | None
    ends: tuple[MovedEnd, ...]
    aside: tuple[SetAside, ...]
    struck: tuple[Struck, ...]
    faults: tuple[Faulted, ...]


# --- the file --------------------------------------------------------------------------------


def read(file: Path, *, simulated: bool) -> Decided | None:
    """What the file says of these devices; None where there is none. Raises DecisionsUnread."""
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise DecisionsUnread(file, "it is too large")
        decided = Decided.model_validate_json(text)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DecisionsUnread(file, error.strerror or "it cannot be opened") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DecisionsUnread(file, f"{where}: {first['msg']}" if where else first["msg"]) from None
    if decided.simulated != simulated:
        raise DecisionsUnread(file, "it is of the other kind of GPUs, simulated or real")
    return decided


def write(file: Path, decided: Decided, ledger: Path) -> None:
    """Have the file say this, whatever crashes; it is whose the ledger is. OSError.

    What cannot be read is kept aside for the admin.
    """
    try:
        if read(file, simulated=decided.simulated) == decided:
            return
    except DecisionsUnread:
        file.replace(file.with_name(UNREAD))
    new = file.with_name(f"{file.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    with os.fdopen(os.open(new, flags, 0o600), "w", encoding="utf-8") as opened:
        owner = ledger.stat()
        if owner.st_uid != os.geteuid():  # an admin's command, run as root
            os.fchown(opened.fileno(), owner.st_uid, owner.st_gid)
        opened.write(decided.model_dump_json(indent=1))
        opened.flush()
        os.fsync(opened.fileno())
    new.replace(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# --- from the ledger, and into a new one -------------------------------------------------------


def gather(db: sqlite3.Connection, *, simulated: bool, now: datetime) -> Decided:
    """What the ledger has of it now; what is over is forgotten."""
    db.execute(
        "DELETE FROM moved_end WHERE ifnull(until, '') <= :now AND ifnull(keep_until, '') <= :now",
        {"now": text_of(now)},
    )
    ends = db.execute(
        "SELECT id, until, keep_until FROM lease WHERE state != 'reserved' "
        "AND coalesce(until, keep_until) IS NOT NULL UNION SELECT * FROM moved_end ORDER BY 1"
    )
    drained = db.execute("SELECT value FROM meta WHERE key = 'drained'").fetchone()
    cordons = db.execute("SELECT device, since, why FROM cordon ORDER BY device")
    strikes = db.execute("SELECT device, xid, since, boot FROM strike ORDER BY device")
    return Decided(
        simulated=simulated,
        drained=None if drained is None else drained[0],
        ends=tuple(MovedEnd(lease=x, until=_time(u), keep_until=_time(k)) for x, u, k in ends),
        aside=tuple(SetAside(device=d, since=_at(at), why=why) for d, at, why in cordons),
        struck=tuple(Struck(device=d, xid=x, since=_at(at), boot=b) for d, x, at, b in strikes),
        faults=tuple(_faults(db)),
    )


def _faults(db: sqlite3.Connection) -> Iterator[Faulted]:
    """Those that count: of one crash the driver may report thousands."""
    last: Faulted | None = None
    query = (
        "SELECT device, xid, at, hub, user FROM fault WHERE user != '' "
        "ORDER BY hub, user, at, device, xid"
    )
    for device, xid, at, hub, user in db.execute(query):
        fault = Faulted(device=device, xid=xid, at=_at(at), hub=hub, user=user)
        if last and (last.hub, last.user) == (hub, user) and fault.at - last.at < APART:
            continue
        yield fault
        last = fault


def put_back(db: sqlite3.Connection, file: Path, *, simulated: bool) -> None:
    """Put into a ledger that is being made what was decided before the last one was lost.

    What cannot be read may have set devices aside: then no server starts until an admin has
    looked, and those that run go on.
    """
    try:
        decided = read(file, simulated=simulated)
    except DecisionsUnread as error:
        log.error("%s", error)
        db.execute("INSERT INTO meta VALUES ('drained', ?)", (TO_BE_LOOKED_AT,))
        return
    if decided is None:
        return
    if decided.drained is not None:
        db.execute("INSERT INTO meta VALUES ('drained', ?)", (decided.drained,))
    rows: dict[str, list[tuple[str | int | None, ...]]] = {
        "moved_end": [(x.lease, _text(x.until), _text(x.keep_until)) for x in decided.ends],
        "cordon": [(x.device, _text(x.since), x.why) for x in decided.aside],
        "strike": [(x.device, x.xid, _text(x.since), x.boot) for x in decided.struck],
        "fault": [(x.device, x.xid, _text(x.at), x.hub, x.user) for x in decided.faults],
    }
    for table, values in rows.items():
        for row in values:
            places = ", ".join("?" * len(row))
            db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({places})", row)  # noqa: S608 - our own names


def with_moved_end(db: sqlite3.Connection, lease: Lease) -> Lease:
    """A lease that is put back from labels, with the end that it had; it is never sooner."""
    query = "SELECT until, keep_until FROM moved_end WHERE lease = ?"
    row = db.execute(query, (lease.id,)).fetchone()
    if row is None:
        return lease
    db.execute("DELETE FROM moved_end WHERE lease = ?", (lease.id,))
    return replace(
        lease,
        until=_later(lease.until, _time(row[0])),
        keep_until=_later(lease.keep_until, _time(row[1])),
    )


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((time for time in (one, other) if time), default=None)


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _time(text: str | None) -> datetime | None:
    return _at(text) if text else None


def _text(time: datetime | None) -> str | None:
    return None if time is None else text_of(time.astimezone(timezone.utc))
