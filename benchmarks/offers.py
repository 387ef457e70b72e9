"""From a release to the next offer: the line as the hub runs it, on a ledger as long as a lab's.

64 devices, all taken, 200 live leases, 50 who wait. A server gives its device back; the time ends
when the line tells of the offer. Engine and inventory answer at once: what a look at containers
and GPUs costs on a host comes on top.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from ds01_spawner.core.limits import Limits
from ds01_spawner.core.placement import Wanted
from ds01_spawner.hub.line import HubLine
from ds01_spawner.services.inventory.simulated import SimulatedInventory
from ds01_spawner.services.ledger import LeaseRequest, Ledger
from ds01_spawner.services.reconciler import Reconciler

T = TypeVar("T")
LIMITS = Limits(max_containers_per_user=None, max_gpu_equivalents=None)
LIVE, WAITING, PATIENCE_S = 200, 50, 60.0
HUB, HOURS = "hub", 8


def measure(folder: Path, gpus: str, rounds: int) -> list[float]:
    """Seconds from each of so many releases to the offer of what was given back."""
    ids = itertools.count()
    ledger = Ledger(
        folder / "offers.sqlite", simulated=True, now=_now, new_id=lambda: f"{next(ids)}"
    )
    with ThreadPoolExecutor(1) as thread:
        try:
            return asyncio.run(_Lab(ledger, thread, gpus).play(rounds))
        finally:
            ledger.close()


def _now() -> datetime:
    return datetime.now(timezone.utc)


class _Lab:
    """What `HubLine` asks of a hub, with servers that end when told to."""

    def __init__(self, ledger: Ledger, thread: ThreadPoolExecutor, gpus: str) -> None:
        self._ledger, self._thread = ledger, thread
        self.inventory = SimulatedInventory(gpus, "host")
        self.settings = SimpleNamespace(hub_id=HUB)
        self.events = self
        self.reconciler = Reconciler(
            self, self.in_ledger, hub=HUB, now=_now, simulated=True
        )  # type: ignore[arg-type] # fmt: skip
        self._containers: dict[str, dict[str, Any]] = {}
        self._offered: asyncio.Queue[str] = asyncio.Queue()
        self._line = HubLine(self)  # type: ignore[arg-type]

    async def play(self, rounds: int) -> list[float]:
        """Fill the host and the line, then end one server after the other."""
        snapshot = await self.inventory.snapshot()
        devices = len(snapshot.devices)
        self._ledger.begin_incarnation()
        for number in range(LIVE):
            await self._serve(f"user{number}", gpus=int(number < devices))
        for number in range(WAITING):
            self._ledger.take_ticket(_request(f"guest{number}"), {}, snapshot)
        settled = asyncio.ensure_future(asyncio.sleep(0))
        loop = asyncio.ensure_future(self._line.run_for_ever(settled))
        holders = [f"user{number}" for number in range(devices)]
        times = []
        for _ in range(rounds):
            user = holders.pop(0)
            lease = self._ledger.lease_of(HUB, user, "")
            assert lease is not None
            del self._containers[lease.container or ""]
            began = time.perf_counter()
            await self.in_ledger(Ledger.release, lease.id)
            self._line.soon()
            guest = await asyncio.wait_for(self._offered.get(), PATIENCE_S)
            times.append(time.perf_counter() - began)
            await self._serve(guest, gpus=1)
            holders.append(guest)
            self._ledger.take_ticket(_request(user), {}, snapshot)
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop
        return times

    async def _serve(self, user: str, gpus: int) -> None:
        snapshot = await self.inventory.snapshot()
        lease = self._ledger.reserve(_request(user, gpus), snapshot, None, f"ds01.{user}")
        container = f"container-{lease.id}"
        self._ledger.bind(lease.id, lease.generation, container)
        self._containers[container] = {
            "Id": container, "Names": [f"/{lease.container_name}"], "State": "running",
            "Created": int(lease.since.timestamp()),
            "Labels": {
                "ds01.hub": HUB, "ds01.user": user, "ds01.server": "", "ds01.lease": lease.id,
                "ds01.lease_generation": str(lease.generation), "ds01.units": str(lease.units),
                "ds01.gpu.uuids": ",".join(lease.devices),
            },
        }  # fmt: skip

    # --- what a hub has ----------------------------------------------------------------------

    async def in_ledger(self, method: Callable[..., T], *args: Any) -> T:
        """As the hub does: in the ledger's own thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: method(self._ledger, *args))

    def keep(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task."""
        return asyncio.ensure_future(coroutine)

    def write(self, event: str, user: str, **_: object) -> None:
        """An event: the offer is what is waited for."""
        if event == "queue.offer":
            self._offered.put_nowait(user)

    async def list_containers(self, labels: Mapping[str, Any], all: bool = True) -> Iterable[Any]:
        """The engine's answer."""
        return list(self._containers.values())


def _request(user: str, gpus: int = 1) -> LeaseRequest:
    return LeaseRequest(HUB, user, "", Wanted(gpus), LIMITS, HOURS)
