"""What else the ledger keeps: devices that an admin set aside, a drained host, built images."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ds01_spawner.services.ledger_file import READ, LedgerFile
from ds01_spawner.services.ledger_rows import text_of

CORDONED, STRUCK = "set aside by the administrator", "put out of use by XID"


@dataclass(frozen=True, slots=True)
class Cordon:
    """A device that is given to nobody until it is uncordoned; who has it keeps it.

    One that an XID put out of use is uncordoned by itself when it is well again.
    """

    device: str
    since: datetime
    why: str
    xid: int | None = None


class Marks(LedgerFile):
    """What is said of devices, of the host and of images, apart from leases."""

    # --- devices ---------------------------------------------------------------------------------

    def cordon(self, device: str, why: str) -> Cordon:
        """Give the device to nobody from now on; said again, the reason is the new one."""
        with self._decision() as db:
            made = Cordon(device, self._now(), why)
            db.execute(
                "INSERT INTO cordon VALUES (?, ?, ?) "
                "ON CONFLICT (device) DO UPDATE SET why = excluded.why",
                (made.device, text_of(made.since), made.why),
            )
            return made

    def uncordon(self, device: str) -> bool:
        """Give the device out again. False: it was not set aside."""
        with self._decision() as db:
            tables = ("cordon", "strike")
            gone = [db.execute(f"DELETE FROM {t} WHERE device = ?", (device,)) for t in tables]  # noqa: S608 - our own names
            return any(deleted.rowcount > 0 for deleted in gone)

    def cordons(self) -> tuple[Cordon, ...]:
        """The devices that are set aside, the longest first."""
        with self._transaction(READ) as db:
            rows = db.execute(
                "SELECT device, since, why, NULL FROM cordon UNION ALL "
                "SELECT device, since, 'the driver reported XID ' || xid, xid FROM strike "
                "ORDER BY since, device"
            ).fetchall()
            return tuple(
                Cordon(d, datetime.fromisoformat(at), why, xid) for d, at, why, xid in rows
            )

    # --- the host --------------------------------------------------------------------------------

    def drain(self, why: str) -> None:
        """Let no new server start, with a reason that its users read; servers that run go on."""
        with self._decision() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('drained', ?)", (why,))

    def resume(self) -> bool:
        """Let servers start again. False: they were not kept from it."""
        with self._decision() as db:
            return db.execute("DELETE FROM meta WHERE key = 'drained'").rowcount > 0

    def note_epoch(self, epoch: str) -> bool:
        """Remember what boot and devices the host has; whether they were others before."""
        with self._transaction(READ) as db:
            was = db.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
        if was is not None and was[0] == epoch:
            return False
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (epoch,))
            return was is not None

    def drained(self) -> str | None:
        """Why no new server starts; None: they do."""
        with self._transaction(READ) as db:
            return drained(db)

    # --- images ----------------------------------------------------------------------------------

    def image_of(self, recipe: str) -> str | None:
        """The id of the image that was built of a recipe; it may be gone from the engine."""
        with self._transaction(READ) as db:
            found = db.execute("SELECT id FROM image WHERE recipe = ?", (recipe,)).fetchone()
            return str(found[0]) if found else None

    def set_image(self, recipe: str, image: str) -> None:
        """Remember the image that was built of a recipe, in place of an earlier one."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO image VALUES (?, ?)", (recipe, image))


def drained(db: sqlite3.Connection) -> str | None:
    """Why no new server starts; None: they do."""
    row = db.execute("SELECT value FROM meta WHERE key = 'drained'").fetchone()
    return None if row is None else str(row[0])


def cordoned(db: sqlite3.Connection) -> Mapping[str, str]:
    """UUID -> who keeps it from being given out, for devices that are set aside."""
    struck = db.execute("SELECT device, xid FROM strike").fetchall()
    aside = db.execute("SELECT device FROM cordon").fetchall()
    return {d: f"{STRUCK} {xid}" for d, xid in struck} | {d: CORDONED for (d,) in aside}
