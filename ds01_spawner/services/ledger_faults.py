"""What the ledger keeps of faults: servers that lost their devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ds01_spawner.services import ledger_rows as rows
from ds01_spawner.services.ledger_file import LedgerFile
from ds01_spawner.services.ledger_rows import Lease


class Faults(LedgerFile):
    """What goes wrong with devices, and for whom."""

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
