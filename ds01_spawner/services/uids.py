"""The user numbers that the hub gave out: one per name, for ever.

In a file of its own, apart from the ledger: a ledger can be moved away and made anew from what
runs, but who gives these out anew gives somebody's files to another.
"""

from __future__ import annotations

import pwd
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from ds01_spawner.errors import UidsExhausted, UidsUnusable
from ds01_spawner.services.ledger_opening import prepare_file

APPLICATION_ID = 0x44533032  # "DS02"; the ledger's is "DS01"
VERSION = 1
BUSY_TIMEOUT_S = 5.0
RESTORE = (
    "Put it back from a backup. A new one would give people the numbers of others, and with them "
    "their files."
)


def is_taken(uid: int) -> bool:
    """Whether an account of the host has the uid."""
    with suppress(KeyError):
        pwd.getpwuid(uid)
        return True
    return False


class Uids:
    """The numbers of one file, made (mode 0600) where there is none.

    Any thread and process may call. All raises UidsUnusable when the file cannot be read or
    written, is not ours, or was moved away since; then nobody gets a number.
    """

    def __init__(
        self,
        path: Path,
        *,
        taken: Callable[[int], bool] = is_taken,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self._path = path
        self._taken = taken
        self._busy_s = busy_timeout_s
        try:
            prepare_file(path)
        except OSError as error:
            why = f"it cannot be opened ({error.strerror})"
            raise UidsUnusable(path, why, "See that the folder is the hub's own.") from error
        with self._transaction() as db:
            (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if not tables:
                db.execute("CREATE TABLE uid (name TEXT PRIMARY KEY, uid INTEGER NOT NULL UNIQUE)")
                db.execute(f"PRAGMA application_id={APPLICATION_ID}")
                db.execute(f"PRAGMA user_version={VERSION}")
            self._check(db)

    def uid_of(self, name: str, uids: tuple[int, int]) -> int:
        """The uid of a name: one for ever, never another's nor an account's of the host.

        `uids` are the first and the last to give out; UidsExhausted when none is left.
        """
        with self._transaction() as db:
            self._check(db)
            known = db.execute("SELECT uid FROM uid WHERE name = ?", (name,)).fetchone()
            if known:
                return int(known[0])
            first, last = uids
            query = "SELECT max(uid) FROM uid WHERE uid BETWEEN ? AND ?"
            (used,) = db.execute(query, uids).fetchone()
            free = range(first if used is None else int(used) + 1, last + 1)
            uid = next((uid for uid in free if not self._taken(uid)), None)
            if uid is None:
                raise UidsExhausted(first, last)
            db.execute("INSERT INTO uid VALUES (?, ?)", (name, uid))
            return uid

    def _check(self, db: sqlite3.Connection) -> None:
        """Refuse a file that is not ours, or that was emptied."""
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise UidsUnusable(self._path, "it is another program's, or was emptied", RESTORE)
        if version > VERSION:
            why = f"a newer ds01_spawner made it (version {version}, this one knows {VERSION})"
            raise UidsUnusable(self._path, why, "Install the newer ds01_spawner again.")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # Opened for each call, and never made here: a file that was moved away is told, not missed.
        try:
            uri = f"{self._path.absolute().as_uri()}?mode=rw"
            connect = sqlite3.connect(uri, uri=True, timeout=self._busy_s, isolation_level=None)
            with closing(connect) as db:
                db.execute("PRAGMA synchronous=FULL")
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                    db.execute("COMMIT")
                finally:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if not self._path.exists():
                why = "it was moved or deleted while in use"
                raise UidsUnusable(self._path, why, RESTORE) from error
            next_step = "Try again in a minute; if it stays so, tell the administrator."
            raise UidsUnusable(self._path, str(error), next_step) from error
        except sqlite3.DatabaseError as error:
            raise UidsUnusable(self._path, f"it is damaged ({error})", RESTORE) from error
