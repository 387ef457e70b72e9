"""Opening the ledger's file, so that whatever is wrong with it is said in words."""

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
from ds01_spawner.services import ledger_decided
from ds01_spawner.services.ledger_schema import APPLICATION_ID, TABLES, UPGRADES, VERSION

_RETRY_S = 0.001

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
            decided = path.with_name(ledger_decided.FILE)
            ledger_decided.put_back(connection, decided, simulated=simulated)
        for newer in range(version or VERSION, VERSION):
            _run(connection, UPGRADES[newer + 1])
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
    _run(connection, TABLES)
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
