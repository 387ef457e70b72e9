"""The ledger's file: its tables, and opening it so that whatever is wrong is said in words.

The invariants are in the tables: a seat of a device is the primary key of its grant, so that the
database itself refuses to give it out twice (a device that is not shared has one seat); rows of a
lease are deleted when it is released.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path

from ds01_spawner.errors import LedgerBusy, LedgerUnusable

APPLICATION_ID = 0x44533031  # "DS01"
VERSION = 2
_RETRY_S = 0.001

_LEASES = """
CREATE TABLE lease (
    id TEXT PRIMARY KEY,
    generation INTEGER NOT NULL UNIQUE,
    hub TEXT NOT NULL,
    user TEXT NOT NULL,
    server TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'bound', 'releasing')),
    units INTEGER NOT NULL CHECK (units >= 0),
    since TEXT NOT NULL,
    until TEXT,
    hours REAL,
    idle_h REAL,
    hold_h REAL,
    keep_until TEXT,
    busy TEXT,
    heard TEXT,
    looked TEXT,
    used_h REAL,
    lost TEXT,
    warned TEXT,
    changed TEXT,
    incarnation TEXT NOT NULL,
    container TEXT,
    container_name TEXT NOT NULL,
    request TEXT NOT NULL,
    host TEXT NOT NULL,
    UNIQUE (hub, user, server)
);
CREATE TABLE lease_device (
    device TEXT NOT NULL,
    seat INTEGER NOT NULL,
    seats INTEGER NOT NULL,
    lease TEXT NOT NULL REFERENCES lease (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    card TEXT NOT NULL,
    host TEXT NOT NULL,
    PRIMARY KEY (device, seat),
    CHECK (seat >= 0 AND seat < seats)
);
CREATE TRIGGER one_way_of_sharing BEFORE INSERT ON lease_device
WHEN EXISTS (SELECT 1 FROM lease_device WHERE device = NEW.device AND seats != NEW.seats)
BEGIN SELECT RAISE(ABORT, 'a device is shared in one way'); END;
CREATE INDEX lease_device_of_lease ON lease_device (lease);
"""
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE incarnation (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, started TEXT NOT NULL
);
CREATE TABLE history (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    lease TEXT NOT NULL,
    generation INTEGER NOT NULL,
    hub TEXT NOT NULL,
    user TEXT NOT NULL,
    server TEXT NOT NULL,
    devices TEXT NOT NULL,
    units INTEGER NOT NULL,
    since TEXT NOT NULL,
    until TEXT,
    released TEXT NOT NULL
);
CREATE INDEX history_of_lease ON history (lease);
CREATE TABLE image (recipe TEXT PRIMARY KEY, id TEXT NOT NULL);
"""
_MARKS = """
CREATE TABLE cordon (device TEXT PRIMARY KEY, since TEXT NOT NULL, why TEXT NOT NULL);
ALTER TABLE history ADD COLUMN used_h REAL;
CREATE INDEX history_by_release ON history (released);
CREATE INDEX history_of_user ON history (hub, user, released);
"""
# What is offered to a ticket is nobody else's until the offer ends, which the tables see to.
_LINE = """
CREATE TABLE ticket (
    id TEXT PRIMARY KEY,
    hub TEXT NOT NULL,
    user TEXT NOT NULL,
    server TEXT NOT NULL,
    wish TEXT NOT NULL,
    options TEXT NOT NULL,
    hours REAL,
    since TEXT NOT NULL,
    asked TEXT NOT NULL,
    lapses INTEGER NOT NULL,
    bypassed INTEGER NOT NULL,
    offer_until TEXT,
    offer_units INTEGER,
    host TEXT NOT NULL,
    UNIQUE (hub, user, server),
    CHECK ((offer_until IS NULL) = (offer_units IS NULL))
);
CREATE TABLE ticket_device (
    device TEXT NOT NULL,
    seat INTEGER NOT NULL,
    seats INTEGER NOT NULL,
    ticket TEXT NOT NULL REFERENCES ticket (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    host TEXT NOT NULL,
    PRIMARY KEY (device, seat),
    CHECK (seat >= 0 AND seat < seats)
);
CREATE INDEX ticket_device_of_ticket ON ticket_device (ticket);
CREATE TABLE hold (
    device TEXT PRIMARY KEY,
    hub TEXT NOT NULL,
    user TEXT NOT NULL,
    until TEXT NOT NULL,
    host TEXT NOT NULL
);
CREATE TRIGGER an_offer_is_kept BEFORE INSERT ON lease_device
WHEN EXISTS (
    SELECT 1 FROM ticket_device
    WHERE device = NEW.device AND (seat = NEW.seat OR seats != NEW.seats)
)
BEGIN SELECT RAISE(ABORT, 'the device is offered to a ticket'); END;
CREATE TRIGGER no_offer_of_a_lease BEFORE INSERT ON ticket_device
WHEN EXISTS (
    SELECT 1 FROM lease_device
    WHERE device = NEW.device AND (seat = NEW.seat OR seats != NEW.seats)
)
BEGIN SELECT RAISE(ABORT, 'the device is in a lease'); END;
CREATE TRIGGER one_way_of_offering BEFORE INSERT ON ticket_device
WHEN EXISTS (SELECT 1 FROM ticket_device WHERE device = NEW.device AND seats != NEW.seats)
BEGIN SELECT RAISE(ABORT, 'a device is shared in one way'); END;
"""
# What XIDs put out of use, in which boot; and faults of programs, with who answers for them.
_FAULTS = """
CREATE TABLE strike (
    device TEXT PRIMARY KEY, xid INTEGER NOT NULL, since TEXT NOT NULL, boot TEXT NOT NULL
);
CREATE TABLE fault (
    device TEXT NOT NULL,
    xid INTEGER NOT NULL,
    at TEXT NOT NULL,
    hub TEXT NOT NULL,
    user TEXT NOT NULL,
    PRIMARY KEY (device, xid, at)
);
CREATE INDEX fault_of_user ON fault (hub, user);
"""
_LEASES_ASIDE = """
ALTER TABLE lease RENAME TO lease_1;
ALTER TABLE lease_device RENAME TO device_1;
DROP INDEX lease_device_of_lease;
"""
_LEASES_BACK = """
INSERT INTO lease SELECT id, generation, hub, user, server, state, units, since, until, hours,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, CASE warned WHEN 1 THEN until END, changed,
    incarnation, container, container_name, request, host FROM lease_1;
INSERT INTO lease_device SELECT device, 0, 1, lease, position, device, host FROM device_1;
DROP TABLE device_1;
DROP TABLE lease_1;
"""
_UPGRADES = {  # what makes version N of version N - 1
    2: (_LEASES_ASIDE, _LEASES, _LEASES_BACK, _MARKS, _LINE, _FAULTS),
}

# Closing any descriptor of a file drops the process's locks on it (POSIX), SQLite's too; so the
# file is touched outside SQLite only when it is made, one opener at a time.
_opening = threading.Lock()


def open_ledger(
    path: Path, *, simulated: bool, now: datetime, busy_timeout_s: float
) -> sqlite3.Connection:
    """A connection to the ledger, made (mode 0600) where there is none.

    Raises LedgerUnusable for a file that is not ours, newer, damaged, unreadable, of the other
    kind of devices or on a disk without WAL, and LedgerBusy when it stays locked.
    """
    with _opening:
        try:
            prepare_file(path)
            connection = sqlite3.connect(
                path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise LedgerUnusable(
                path,
                f"it cannot be opened ({error})",
                "Run this as the user of the hub, and see that the folder is its own.",
            ) from error
        try:
            _set_up(connection, path, simulated, now, busy_timeout_s)
        except sqlite3.Error as error:
            connection.close()
            raise in_words(error, path) from error
        except BaseException:
            connection.close()
            raise
    return connection


def count_leases(path: Path, *, simulated: bool) -> int:
    """How many leases a ledger has, changing and making nothing.

    Raises LedgerUnusable and LedgerBusy as opening it would.
    """
    # With a log beside it somebody may be writing; without, not even SQLite's own files are made.
    written = path.with_name(f"{path.name}-wal").exists()
    uri = f"{path.absolute().as_uri()}?{'mode=ro' if written else 'immutable=1'}"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            if _version(connection, path) is None:
                return 0
            _check_kind(connection, path, simulated)
            return int(connection.execute("SELECT count(*) FROM lease").fetchone()[0])
    except sqlite3.Error as error:
        raise in_words(error, path) from error


def identity(path: Path) -> tuple[int, int] | None:
    """Which file it is; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def in_words(error: sqlite3.Error, path: Path) -> LedgerBusy | LedgerUnusable:
    """The error for people: busy, full or failing disks pass; a damaged file does not."""
    if isinstance(error, sqlite3.OperationalError | sqlite3.IntegrityError):
        return LedgerBusy(f"{path}: {error}")
    return LedgerUnusable(
        path,
        f"it is damaged or no ledger ({error})",
        "Move it away and restart the hub: leases of running servers are put back from the "
        "labels of their containers.",
    )


def prepare_file(path: Path) -> None:
    """Make the file and its folder where there is none; no one else may read it. OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)


def _set_up(
    connection: sqlite3.Connection, path: Path, simulated: bool, now: datetime, busy_s: float
) -> None:
    _use_wal(connection, path, busy_s)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    patiently(connection, "BEGIN IMMEDIATE", busy_s)
    try:
        version = _version(connection, path)
        if version is None:
            _create(connection, simulated, now)
        for newer in range(version or VERSION, VERSION):
            _run(connection, "".join(_UPGRADES[newer + 1]))
        if version != VERSION:  # writing it again would need room on the disk
            connection.execute(f"PRAGMA user_version={VERSION}")
        _check_kind(connection, path, simulated)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def patiently(connection: sqlite3.Connection, statement: str, busy_s: float) -> sqlite3.Cursor:
    """Run a statement that takes a lock, and wait for it so long; the file is asked often.

    SQLite's own waiting asks ever more seldom: among several busy processes one would never get
    its turn. For the switch to WAL it does not wait at all.
    """
    connection.execute("PRAGMA busy_timeout=0")
    try:
        deadline = time.monotonic() + busy_s
        while True:
            try:
                return connection.execute(statement)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() >= deadline:
                    raise
                time.sleep(_RETRY_S)
    finally:
        connection.execute(f"PRAGMA busy_timeout={round(1000 * busy_s)}")


def _use_wal(connection: sqlite3.Connection, path: Path, busy_s: float) -> None:
    (mode,) = patiently(connection, "PRAGMA journal_mode=WAL", busy_s).fetchone()
    if mode != "wal":
        raise LedgerUnusable(
            path,
            "its file system does not support it",
            "Put data_dir on a local disk, never on a network one.",
        )


def _version(connection: sqlite3.Connection, path: Path) -> int | None:
    """The version of the tables; None where there are none yet."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables and version == 0:
        return None
    if application != APPLICATION_ID:
        raise LedgerUnusable(path, "it is another program's database", "Set another data_dir.")
    if version > VERSION:
        raise LedgerUnusable(
            path,
            f"a newer ds01_spawner made it (version {version}, this one knows {VERSION})",
            "Install the newer ds01_spawner again.",
        )
    return int(version)


def _create(connection: sqlite3.Connection, simulated: bool, now: datetime) -> None:
    _run(connection, _LEASES + _TABLES + _MARKS + _LINE + _FAULTS)
    # Counting from the clock keeps numbers of a lost ledger, still on containers, below ours.
    meta = {"simulated": str(int(simulated)), "generation": str(int(now.timestamp()))}
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Run the statements in the transaction that is open, which `executescript` would end."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""


def _check_kind(connection: sqlite3.Connection, path: Path, simulated: bool) -> None:
    (value,) = connection.execute("SELECT value FROM meta WHERE key = 'simulated'").fetchone()
    if value != str(int(simulated)):
        is_, not_ = ("simulated", "real") if value == "1" else ("real", "simulated")
        raise LedgerUnusable(
            path,
            f"it keeps {is_} GPUs and this hub has {not_} ones, which never mix",
            "Give each its own data_dir.",
        )
