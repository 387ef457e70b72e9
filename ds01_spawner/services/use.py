"""How servers with devices are used: (leases, devices, what the hub heard, now) -> new facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from ds01_spawner.core.devices import Snapshot, Usage
from ds01_spawner.core.lifetime import Use, computes, gpu_hours, look
from ds01_spawner.services.ledger_rows import Lease


def uses_of(
    leases: Iterable[Lease],
    snapshot: Snapshot,
    heard: Mapping[tuple[str, str], datetime],
    now: datetime,
) -> dict[str, Use]:
    """The use of each server that runs with devices, by its lease's id, after a look now.

    `heard` is when the hub last heard of activity of a (user, server). Made-up devices do not
    compute: there, what the hub hears stands for it.
    """
    found = {}
    for lease in leases:
        if lease.state != "bound" or not lease.devices:
            continue
        told = heard.get((lease.user, lease.server))
        usages = [snapshot.usage.get(uuid) if snapshot.known else None for uuid in lease.devices]
        busy = told or lease.use.heard
        use = look(
            lease.use, busy if snapshot.simulated else _last_busy(lease.use, usages, now), told, now
        )
        shares = [(lease.units // len(usages), usage) for usage in usages]
        found[lease.id] = replace(use, hours=gpu_hours(lease.use, shares, now))
    return found


def _last_busy(use: Use, usages: Iterable[Usage | None], now: datetime) -> datetime | None:
    """When the devices last computed, as of now; None: it cannot be told."""
    state = computes(usages)
    return None if state is None else now if state else use.busy
