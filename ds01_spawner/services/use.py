"""How servers with devices are used: (leases, devices, what the hub heard, now) -> new facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType

from ds01_spawner.core.devices import Snapshot, Usage
from ds01_spawner.core.lifetime import Use, computes, gpu_hours, look
from ds01_spawner.services.ledger_rows import Lease
from ds01_spawner.services.occupants import Occupant


def uses_of(
    leases: Iterable[Lease],
    snapshot: Snapshot,
    heard: Mapping[tuple[str, str], datetime],
    now: datetime,
    occupants: Mapping[int, Occupant] = MappingProxyType({}),
) -> dict[str, Use]:
    """The use of each server that runs with devices, by its lease's id, after a look now.

    `heard` is when the hub last heard of activity of a (user, server). Made-up devices do not
    compute: there, what the hub hears stands for it. `occupants` are the processes on shared
    devices, by pid: what such a device does, it does for who has a process there.
    """
    found = {}
    for lease in leases:
        if lease.state != "bound" or not lease.devices:
            continue
        told = heard.get((lease.user, lease.server))
        usages = [snapshot.usage.get(uuid) if snapshot.known else None for uuid in lease.devices]
        if lease.seats > 1:
            usages = [_of_seat(lease, usage, occupants) for usage in usages]
        busy = told or lease.use.heard
        use = look(
            lease.use, busy if snapshot.simulated else _last_busy(lease.use, usages, now), told, now
        )
        shares = [(lease.units // len(usages), usage) for usage in usages]
        found[lease.id] = replace(use, hours=gpu_hours(lease.use, shares, now))
    return found


def shared_pids(leases: Iterable[Lease], snapshot: Snapshot) -> set[int]:
    """The processes on devices that are shared: those whose containers `uses_of` asks about."""
    devices = {uuid for lease in leases if lease.seats > 1 for uuid in lease.devices}
    usages = [snapshot.usage[uuid] for uuid in devices if uuid in snapshot.usage]
    return {process.pid for usage in usages for process in usage.processes or ()}


def _of_seat(lease: Lease, usage: Usage | None, occupants: Mapping[int, Occupant]) -> Usage | None:
    """What a shared device does for one of its seats; None: it cannot be told."""
    if usage is None or usage.processes is None:
        return None
    seen = [occupants.get(process.pid) for process in usage.processes]
    if any(occupant is not None and occupant.container == lease.container for occupant in seen):
        return usage
    # One that is not to be seen may be anybody's.
    return None if None in seen else Usage(utilization=0.0, processes=())


def _last_busy(use: Use, usages: Iterable[Usage | None], now: datetime) -> datetime | None:
    """When the devices last computed, as of now; None: it cannot be told."""
    state = computes(usages)
    return None if state is None else now if state else use.busy
