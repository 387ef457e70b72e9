"""What the ledger keeps of faults: devices that XIDs put out of use, whose programs faulted, and
servers that lost their devices.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from ds01_spawner.core.devices import Xid
from ds01_spawner.core.faults import FaultRule, Pause, pause
from ds01_spawner.errors import GpuPaused
from ds01_spawner.services import ledger_rows as rows
from ds01_spawner.services import ledger_tickets as tickets
from ds01_spawner.services.ledger_file import READ, LedgerFile
from ds01_spawner.services.ledger_rows import Lease, LeaseRequest, text_of

NONE_HELD = "no server that ran held it"
MANY_HELD = "several servers held it, and the driver does not tell whose program it was"


@dataclass(frozen=True, slots=True)
class Holder:
    """The server that had a device."""

    hub: str
    user: str
    server: str


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a program, and the server that answers for it; without one, why."""

    xid: Xid
    holder: Holder | None
    why: str = ""


class Faults(LedgerFile):
    """What goes wrong with devices, and for whom."""

    # --- devices that XIDs put out of use ----------------------------------------------------

    def remembered(self, boot: str) -> tuple[Xid, ...]:
        """What XIDs of this boot put out of use; of an earlier one they count no more.

        A boot resets every card, and what is still wrong then the first looks find. The rule by
        which devices come back without one is `core.health`'s, for as long as a hub runs.
        """
        with self._decision() as db:
            db.execute("DELETE FROM strike WHERE boot != ?", (boot,))
            found = db.execute("SELECT device, xid, since FROM strike ORDER BY device").fetchall()
            return tuple(Xid(uuid, xid, datetime.fromisoformat(at)) for uuid, xid, at in found)

    def note_struck(
        self, struck: Iterable[Xid], written: Collection[str], boot: str
    ) -> frozenset[str]:
        """Write down what is out of use now, in place of what this hub had `written`.

        Those of `written` that an admin has lifted since, which are not written again.
        """
        with self._decision() as db:
            found = {row[0] for row in db.execute("SELECT device FROM strike")}
            lifted = frozenset(written) - found
            now = {xid.device: xid for xid in struck if xid.device not in lifted}
            db.executemany(
                "INSERT OR REPLACE INTO strike VALUES (?, ?, ?, ?)",
                [(xid.device, xid.number, text_of(xid.at), boot) for xid in now.values()],
            )
            over = [(device,) for device in set(written) - now.keys()]
            db.executemany("DELETE FROM strike WHERE device = ?", over)
            return lifted

    # --- users whose programs fault ----------------------------------------------------------

    def note_faults(self, xids: Iterable[Xid]) -> tuple[Fault, ...]:
        """Write down faults of programs, each with who answers for it; those that are new.

        That is who had the device at the time, alone: where several did, nobody does. Who has to
        wait for it gives up their places in the line, and what is kept for them.
        """
        with self._decision() as db:
            now = self._now()
            oldest = now - 2 * self._fault_rule.window
            db.execute("DELETE FROM fault WHERE at <= ?", (text_of(oldest),))
            found = [
                _attributed(db, xid, now)
                for xid in xids
                if xid.at > oldest and not _is_known(db, xid)
            ]
            for fault in found:
                xid, holder = fault.xid, fault.holder
                who = (holder.hub, holder.user) if holder else ("", "")
                db.execute(
                    "INSERT INTO fault VALUES (?, ?, ?, ?, ?)",
                    (xid.device, xid.number, text_of(xid.at), *who),
                )
            for hub, user in {(f.holder.hub, f.holder.user) for f in found if f.holder}:
                if paused(db, hub, user, self._fault_rule, now):
                    db.execute("DELETE FROM ticket WHERE hub = ? AND user = ?", (hub, user))
                    tickets.forget_holds(db, hub, user)
            return tuple(found)

    def paused(self, hub: str, user: str) -> GpuPaused | None:
        """What keeps a user from GPUs, in words; None: nothing."""
        with self._transaction(READ) as db:
            found = paused(db, hub, user, self._fault_rule, self._now())
            return in_words(found, self._fault_rule) if found else None

    def pauses(self, hub: str) -> dict[str, Pause]:
        """The users of a hub who get no GPU now."""
        with self._transaction(READ) as db:
            query = "SELECT DISTINCT user FROM fault WHERE hub = ? ORDER BY user"
            users = [user for (user,) in db.execute(query, (hub,)).fetchall()]
            now = self._now()
            found = {user: paused(db, hub, user, self._fault_rule, now) for user in users}
            return {user: one for user, one in found.items() if one}

    def forgive(self, hub: str, user: str) -> bool:
        """Have nobody answer for a user's faults so far. False: the user was not kept from GPUs."""
        with self._decision() as db:
            was = paused(db, hub, user, self._fault_rule, self._now())
            db.execute(
                "UPDATE fault SET hub = '', user = '' WHERE hub = ? AND user = ?", (hub, user)
            )
            return was is not None

    # --- servers that lost their devices -----------------------------------------------------

    def note_losses(self, losses: Mapping[str, str | None]) -> tuple[Lease, ...]:
        """Write down why leases lost their devices, by their ids; None: they have them back.

        The leases that were not so before: whoever writes it first tells it.
        """
        with self._transaction() as db:
            changed = []
            for lease_id, why in losses.items():
                lease = rows.read_one(db, lease_id)
                if lease is None or lease.lost == why:
                    continue
                now = replace(lease, lost=why)
                rows.update(db, now)
                if (why is None) != (lease.lost is None):
                    changed.append(now)
            return tuple(changed)


def check_paused(
    db: sqlite3.Connection, request: LeaseRequest, rule: FaultRule, now: datetime
) -> None:
    """Refuse a GPU to who has to wait for it. Raises GpuPaused."""
    found = request.wanted.count and paused(db, request.hub, request.user, rule, now)
    if found:
        raise in_words(found, rule)


def paused(
    db: sqlite3.Connection, hub: str, user: str, rule: FaultRule, now: datetime
) -> Pause | None:
    """Whether a user gets no GPU now."""
    query = "SELECT at FROM fault WHERE hub = ? AND user = ?"
    times = [datetime.fromisoformat(at) for (at,) in db.execute(query, (hub, user))]
    return pause(times, rule, now)


def in_words(found: Pause, rule: FaultRule) -> GpuPaused:
    """The refusal of who has to wait."""
    return GpuPaused(found.faults, rule.hours, found.until)


def _is_known(db: sqlite3.Connection, xid: Xid) -> bool:
    query = "SELECT 1 FROM fault WHERE device = ? AND xid = ? AND at = ?"
    return db.execute(query, (xid.device, xid.number, text_of(xid.at))).fetchone() is not None


def _attributed(db: sqlite3.Connection, xid: Xid, now: datetime) -> Fault:
    """With who had the device then, also if their server is stopped by now.

    Who has it since a time to come, for the clock went back, may have had it then.
    """
    at, device = text_of(xid.at), xid.device
    query = (
        " WHERE (since <= ? OR since > ?) "
        "AND id IN (SELECT lease FROM lease_device WHERE device = ? OR card = ?)"
    )
    leases = rows.read(db, query, at, text_of(now), device, device)
    query = "SELECT hub, user, server, devices FROM history WHERE since <= ? AND released > ?"
    stopped = [
        Holder(hub, user, server)
        for hub, user, server, devices in db.execute(query, (at, at))
        if device in devices.split(",")
    ]
    if len(leases) + len(stopped) > 1:
        return Fault(xid, None, MANY_HELD)
    runs = [Holder(x.hub, x.user, x.server) for x in leases if x.state != "reserved"]
    found = [*runs, *stopped]
    return Fault(xid, found[0]) if found else Fault(xid, None, NONE_HELD)
