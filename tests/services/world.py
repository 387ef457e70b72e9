"""A hub in small: ledger, reconciler and a clock, on the fake engine."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.exemptions import Exempt
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.placement import Wanted
from ds01_spawner.core.sharing import label
from ds01_spawner.services.engine import Json, Labels
from ds01_spawner.services.ledger import Lease, LeaseRequest, Ledger
from ds01_spawner.services.reconcile import Action
from ds01_spawner.services.reconciler import Reconciler
from tests.fakes.engine import FakeEngine

T = TypeVar("T")
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
IMAGE = "image:1"


class DatedEngine(FakeEngine):
    """Its list tells when each container was made by the host's clock, as an engine's does."""

    clock: Callable[[], datetime] = staticmethod(lambda: START)

    def _now(self) -> str:
        return self.clock().isoformat()

    async def list_containers(self, labels: Labels, all: bool = True) -> list[Json]:
        listed = await super().list_containers(labels, all)
        made = {id: datetime.fromisoformat(c["Created"])
                for id, c in self.containers.items()}  # fmt: skip
        return [{**c, "Created": int(made[c["Id"]].timestamp())} for c in listed]


@dataclass
class World:
    """One hub with its ledger and engine, and a clock."""

    engine: DatedEngine
    path: Path
    snapshot: Snapshot

    def __post_init__(self) -> None:
        self.time = START
        self.set_back = timedelta()
        self.boots = 1
        self.engine.clock = lambda: self.time
        self.ids = itertools.count()
        self.told: list[Action] = []
        self.known: set[tuple[str, str]] | None = None
        self.copy = self.path.parent.with_suffix(".copy")
        self.engine.add_image(IMAGE)
        self.begin()

    def begin(self) -> None:
        """A hub starts: its ledger, a new life, a new reconciler."""
        self.ledger = self.open_ledger()
        self.ledger.begin_incarnation()
        self.reconciler = Reconciler(
            self.engine, self.in_ledger, hub="hub", now=lambda: self.time, simulated=True,
            on_event=self.told.append, known_servers=lambda: self.known,
        )  # fmt: skip

    def open_ledger(self) -> Ledger:
        """The ledger, opened once more."""
        return Ledger(
            self.path, simulated=True, now=lambda: self.time, new_id=lambda: f"id{next(self.ids)}"
        )

    def copy_ledger(self) -> None:
        """Put a copy aside, as a backup does."""
        with (
            closing(sqlite3.connect(self.path)) as ledger,
            closing(sqlite3.connect(self.copy)) as copy,
        ):
            ledger.backup(copy)

    def kill_hub(self, lose_ledger: bool = False, old_ledger: bool = False) -> None:
        """The hub dies and starts again; its ledger may be the copy then, if there is one."""
        self.ledger.close()
        if old_ledger and self.copy.exists():
            for file in self.path.parent.iterdir():
                file.unlink()
            shutil.copy(self.copy, self.path)
        if lose_ledger:
            for file in self.path.parent.iterdir():
                file.unlink()
        self.time += timedelta(seconds=30)
        self.begin()

    @property
    def known_time(self) -> datetime:
        """A time that never goes back."""
        return self.time + self.set_back

    def set_clock_back(self, by: timedelta) -> None:
        """Somebody sets the clock of the host."""
        self.time -= by
        self.set_back += by

    def look(self) -> None:
        """Look at the devices, which takes a second."""
        self.time += timedelta(seconds=1)
        self.snapshot = replace(self.snapshot, taken=self.time)

    def reboot(self) -> None:
        """The host boots: nothing runs, and the engine starts nothing again."""
        self.boots += 1
        for id, found in self.engine.containers.items():
            if found["State"]["Running"]:
                self.engine.exit(id, 255)

    async def in_ledger(self, method: Callable[..., T], *args: Any) -> T:
        return method(self.ledger, *args)

    def reserve(
        self, user: str, gpus: int = 1, foreign: Any = None, server: str = "",
        limits: Limits | None = None, kind: str = "any", seats: int = 1,
        hours: float | None = 4, exempt: Exempt | None = None,
    ) -> Lease:  # fmt: skip
        wanted = Wanted(gpus, kind, seats=seats)
        limits = limits or Limits()
        exempt = exempt or Exempt()
        request = LeaseRequest("hub", user, server, wanted, limits, hours, exempt)
        name = f"ds01.{user}" + (f".{server}" if server else "")
        return self.ledger.reserve(request, self.snapshot, foreign, name)

    def body(self, lease: Lease) -> Json:
        """The create call of a server, its labels those that the ledger is rebuilt from."""
        labels = {
            "ds01.hub": "hub", "ds01.user": lease.user, "ds01.server": lease.server,
            "ds01.lease": lease.id, "ds01.lease_generation": str(lease.generation),
            "ds01.units": str(lease.units), "ds01.gpu.seat": label(lease.seat, lease.seats),
            "ds01.gpu.uuids": ",".join(lease.devices),
            "ds01.gpu.cards": ",".join(lease.cards),
            "ds01.hours": "" if lease.hours is None else f"{lease.hours:g}",
            "ds01.idle_hours": "" if lease.idle_h is None else f"{lease.idle_h:g}",
            "ds01.exempt_until": lease.until.isoformat() if lease.until else "",
            "ds01.exempt_idle_until": lease.keep_until.isoformat() if lease.keep_until else "",
            "ds01.simulated": "true",
        }  # fmt: skip
        return {"Image": IMAGE, "Labels": labels, "HostConfig": {"NetworkMode": "none"}}

    async def create(self, lease: Lease) -> str:
        return await self.engine.create_container(lease.container_name, self.body(lease))

    async def serve(self, user: str, seats: int = 1) -> Lease:
        """A server that runs, with a device or a seat on one."""
        lease = self.reserve(user, seats=seats)
        container = await self.create(lease)
        await self.engine.start_container(container)
        return self.ledger.bind(lease.id, lease.generation, container)

    async def foreign(self, name: str, **request: Any) -> str:
        """Another's container; with a request for devices, it was given them."""
        host = {"Runtime": "runc", "NetworkMode": "none"}
        if request:
            request = {"Driver": "nvidia", "Capabilities": [["gpu"]], **request}
            host["DeviceRequests"] = [request]
        body = {"Image": IMAGE, "HostConfig": host, "Labels": {"aime.mlc.USER": "eve"}}
        return await self.engine.create_container(name, body)

    async def run(self, dry_run: bool = False) -> list[str]:
        return [f"{a.action} {a.object}" for a in await self.reconciler.run(dry_run)]
