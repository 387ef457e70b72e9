"""What the hub sees of its servers' use: written down at each look, and kept for its pages."""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from ds01_spawner.hub.faults import HubFaults
from ds01_spawner.hub.losses import Losses
from ds01_spawner.services import wiring
from ds01_spawner.services.ledger import Lease, Ledger
from ds01_spawner.services.occupants import Processes
from ds01_spawner.services.use import shared_pids, uses_of

if TYPE_CHECKING:
    from ds01_spawner.hub.runtime import Runtime


class Watch:
    """The servers of one hub, as of the last look."""

    def __init__(self, runtime: Runtime, processes: Processes | None = None) -> None:
        self._runtime = runtime
        self._processes = processes or Processes()
        self._losses = Losses(runtime)
        self._faults = HubFaults(runtime)
        self._leases: dict[tuple[str, str], Lease] = {}
        self._looking = asyncio.Lock()

    def lease_of(self, user: str, server: str) -> Lease | None:
        """The lease of a server."""
        return self._leases.get((user, server))

    def note(self, lease: Lease) -> None:
        """What changed of a server since the last look."""
        self._leases[lease.user, lease.server] = lease

    async def begin(self) -> None:
        """Go on with what the last hub process knew."""
        await self._faults.begin()

    async def look(self) -> None:
        """Write down how GPUs are and are used, then do what is to do.

        An idle one may end its server, one that is lost does not. One look after the other, so
        that what is new is told once.
        """
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        runtime = self._runtime
        leases = await self._own_leases()
        snapshot = await runtime.inventory.snapshot()
        pids = shared_pids(leases, snapshot)
        occupants = await self._processes.look(pids)
        uses = uses_of(leases, snapshot, self._heard(), wiring.now(), occupants)
        if uses:
            await runtime.in_ledger(Ledger.note_use, uses)
        await self._faults.look(snapshot)
        await self._losses.look(leases, snapshot)
        await runtime.reconciler.run()
        self._leases = {(x.user, x.server): x for x in await self._own_leases()}

    async def _own_leases(self) -> list[Lease]:
        hub = self._runtime.settings.hub_id
        return [lease for lease in await self._runtime.leases() if lease.hub == hub]

    def _heard(self) -> dict[tuple[str, str], datetime]:
        """When the hub last heard of activity of each of its servers."""
        found = {}
        for key, spawner in self._runtime.servers.items():
            last = spawner.orm_spawner.last_activity if spawner.orm_spawner else None
            if last is not None:  # the hub's database keeps UTC without saying so
                found[key] = last.replace(tzinfo=timezone.utc)
        return found
