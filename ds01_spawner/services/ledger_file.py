"""The ledger's file, opened: one transaction a call, and an error in words for whatever fails."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from ds01_spawner.core.faults import FaultRule
from ds01_spawner.errors import DS01Error, LedgerUnusable
from ds01_spawner.services import ledger_decided
from ds01_spawner.services.ledger_opening import identity, in_words, open_ledger, patiently

log = logging.getLogger(__name__)
GPU_CEILING_H = 72.0
HOLD_CEILING_H = 1.0
BUSY_TIMEOUT_S = 5.0
READ, WRITE = "BEGIN", "BEGIN IMMEDIATE"  # a reader waits for no writer


class LedgerFile:
    """The file behind `Ledger`. Any thread may call; each call is one transaction.

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
        hold_ceiling_h: float = HOLD_CEILING_H,
        fault_rule: FaultRule = FaultRule(),  # noqa: B008 - frozen
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self._path = path
        self._simulated = simulated
        self._now = now
        self._new_id = new_id
        self._ceiling_h = gpu_ceiling_h
        self._busy_s = busy_timeout_s
        self._hold_ceiling_h = hold_ceiling_h
        self._fault_rule = fault_rule
        self._lock = threading.Lock()
        self._db = open_ledger(path, simulated=simulated, now=now(), busy_timeout_s=busy_timeout_s)
        self._db.row_factory = sqlite3.Row
        self._file = identity(path)

    def close(self) -> None:
        """Close the file; the ledger cannot be used after."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self, begin: str = WRITE) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if identity(self._path) != self._file:
                # Writing on into a deleted file would grant what the next opener grants again.
                raise LedgerUnusable(
                    self._path, "it was moved or deleted while in use", "Restart the hub."
                )
            try:
                patiently(self._db, begin, self._busy_s)
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

    @contextmanager
    def _decision(self) -> Iterator[sqlite3.Connection]:
        """A transaction that decides what labels do not tell: then it is written beside, too."""
        with self._transaction() as db:
            yield db
        try:
            # Gathered under the ledger's lock: of several processes the last to write has it all.
            with self._transaction() as db:
                decided = ledger_decided.gather(db, simulated=self._simulated, now=self._now())
                file = self._path.with_name(ledger_decided.FILE)
                ledger_decided.write(file, decided, self._path)
        except (DS01Error, OSError) as error:  # the ledger has it; the next decision tries again
            log.warning("What was decided is not written beside the ledger: %s", error)
