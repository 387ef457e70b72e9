"""A server that lost its GPU while it ran: its user is told on every page, the admin by an event.

It is not stopped for that: what is in its memory may be saved, and its files are its user's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.losses import SURE_AFTER, is_sure, suspected, why_lost
from ds01_spawner.services import wiring
from ds01_spawner.services.ledger import Lease, Ledger

if TYPE_CHECKING:
    from ds01_spawner.hub.runtime import Runtime

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loss:
    """A server whose GPU is not to be relied on, and why, for people."""

    server: str
    why: str

    @property
    def message(self) -> str:
        """The words for its user."""
        name = f" {self.server}" if self.server else ""
        return (
            f"The GPU of your server{name} cannot be relied on any more: {self.why}. Work on it "
            "fails or has failed. Save what you can, stop the server, and start it again to get "
            "another GPU; your files are kept, and the administrator sees this too."
        )


def loss_of(lease: Lease | None) -> Loss | None:
    """What to tell of a server's GPU; None while it is well."""
    if lease is None or lease.lost is None or lease.state != "bound":
        return None
    return Loss(lease.server, lease.lost)


class Losses:
    """The servers of one hub that lost their GPU, as far as looks at the devices tell."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._since: dict[str, datetime] = {}  # by lease: since when it looks lost

    async def look(self, leases: Iterable[Lease], snapshot: Snapshot) -> None:
        """Write down what is sure, and tell it once; a snapshot that does not know tells nothing.

        What is not sure yet is looked at again in a moment.
        """
        if not snapshot.known:
            return
        now = wiring.now()
        holding = [lease for lease in leases if lease.state == "bound" and lease.devices]
        why = {lease.id: why_lost(lease.devices, snapshot) for lease in holding}
        self._since = suspected(self._since, (id for id in why if why[id]), now)
        unsure = {id for id, since in self._since.items() if not is_sure(since, now)}
        losses = {lease.id: why[lease.id] or None for lease in holding if lease.id not in unsure}
        if any(lease.id in losses and lease.lost != losses[lease.id] for lease in holding):
            for lease in await self._runtime.in_ledger(Ledger.note_losses, losses):
                self._tell(lease)
        if any(lease.id in unsure and not lease.lost for lease in holding):
            loop = asyncio.get_running_loop()
            loop.call_later(SURE_AFTER.total_seconds(), self._runtime.reconcile_soon)

    def _tell(self, lease: Lease) -> None:
        what = "gpu.lost" if lease.lost else "gpu.regained"
        level = logging.WARNING if lease.lost else logging.INFO
        log.log(level, "%s: %s of %s: %s", what, lease.id, lease.user, lease.lost or "")
        self._runtime.events.write(
            what, lease.user, server=lease.server, lease=lease.id,
            devices=list(lease.devices), why=lease.lost or "",
        )  # fmt: skip
