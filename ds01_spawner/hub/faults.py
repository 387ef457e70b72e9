"""What the driver reports of faults, taken into the ledger: it outlives the hub's process.

A device that an XID put out of use is so for the next hub process, too, until `core.health` says
that it is well, the host has booted, or an admin has uncordoned it. A program's fault is its
user's, where one user had the device.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ds01_spawner.core.devices import Snapshot, Xid
from ds01_spawner.services.inventory.base import boot_id
from ds01_spawner.services.ledger import Ledger

if TYPE_CHECKING:
    from ds01_spawner.hub.runtime import Runtime

log = logging.getLogger(__name__)


class HubFaults:
    """What one hub has written down of faults."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._boot = boot_id()
        self._struck: frozenset[str] = frozenset()  # as written
        self._noted: frozenset[Xid] = frozenset()

    async def begin(self) -> None:
        """Keep out of use what was so when the last hub process of this boot ended."""
        struck = await self._runtime.in_ledger(Ledger.remembered, self._boot)
        self._runtime.inventory.remember(struck)
        self._struck = frozenset(xid.device for xid in struck)

    async def look(self, snapshot: Snapshot) -> None:
        """Take in what is new; a snapshot that does not know tells nothing."""
        if not snapshot.known:
            return
        if snapshot.struck or self._struck:
            await self._strikes(snapshot)
        faults = frozenset(snapshot.faults)
        if faults - self._noted:
            await self._programs(faults - self._noted)
        self._noted = faults
        if snapshot.epoch:
            await self._epoch(snapshot)

    async def _epoch(self, snapshot: Snapshot) -> None:
        """Tell that the host has booted, or that its cards or their parts are others."""
        if await self._runtime.in_ledger(Ledger.note_epoch, snapshot.epoch):
            devices = [device.uuid for device in snapshot.devices]
            self._runtime.events.write("gpu.inventory", devices=devices, epoch=snapshot.epoch)
            log.info("The devices of this host have changed: %s", ", ".join(devices) or "none")

    async def _strikes(self, snapshot: Snapshot) -> None:
        runtime, before = self._runtime, self._struck
        lifted = await runtime.in_ledger(Ledger.note_struck, snapshot.struck, before, self._boot)
        if lifted:
            runtime.inventory.forgive(lifted)
        now = {xid.device: xid for xid in snapshot.struck if xid.device not in lifted}
        for device in now.keys() - before:
            why = f"the driver reported XID {now[device].number}"
            runtime.events.write("gpu.cordon", device=device, why=why)
        for device in before - now.keys():
            why = "an administrator lifted it" if device in lifted else "it is well again"
            runtime.events.write("gpu.uncordon", device=device, why=why)
        self._struck = frozenset(now)

    async def _programs(self, faults: frozenset[Xid]) -> None:
        runtime = self._runtime
        in_order = sorted(faults, key=lambda xid: (xid.at, xid.device, xid.number))
        for fault in await runtime.in_ledger(Ledger.note_faults, in_order):
            xid, holder = fault.xid, fault.holder
            runtime.events.write(
                "gpu.fault", holder.user if holder else "", device=xid.device, xid=xid.number,
                server=holder.server if holder else "", why=fault.why,
            )  # fmt: skip
