"""The phases of one start, each a step that can be undone.

`Start` carries what the phases learn; `DS01Spawner.start` says their order. Whatever happens, at
any line, `undo` leaves no container and no lease: what cannot be undone now, because the engine
does not answer, stays recorded in the ledger, and reconcile undoes it later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from ds01_spawner.core.container import ContainerPlan, create_body
from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.exemptions import exempt
from ds01_spawner.core.options import Offer, Request, parse, wants_gpu
from ds01_spawner.core.slugs import container_name
from ds01_spawner.errors import (
    DS01Error,
    EngineRefusal,
    LeaseLost,
    LimitNotApplied,
    NameTaken,
    ServerDied,
    ServerSilent,
)
from ds01_spawner.hub import containers, planning
from ds01_spawner.hub.planning import Asker
from ds01_spawner.hub.progress import Phase, ProgressLog
from ds01_spawner.hub.runtime import Runtime, told
from ds01_spawner.hub.turns import Turn
from ds01_spawner.services.engine import EngineConflict, EngineRefused
from ds01_spawner.services.images import ReadyImage
from ds01_spawner.services.ledger import Lease, LeaseRequest, Ledger
from ds01_spawner.services.metrics import PHASE_SECONDS

log = logging.getLogger(__name__)
PROBE_SECONDS = 0.02
LOOK_SECONDS = 0.5
ASKED: dict[Phase, str] = {  # of the engine, in each phase
    "resolve": "look at what you chose",
    "admit": "say what it has",
    "image": "prepare your environment",
    "lease": "say who uses which GPU",
    "create": "make your container",
    "start": "start your container",
    "ready": "say how your container is",
}


class Start:
    """One start of one server."""

    def __init__(self, runtime: Runtime, asker: Asker, progress: ProgressLog) -> None:
        self.runtime = runtime
        self.asker = asker
        self.progress = progress
        self.offer: Offer
        self.snapshot: Snapshot
        self.request: Request
        self.image: ReadyImage
        self.lease: Lease | None = None
        self.container: str = ""
        self._creating: asyncio.Task[str] | None = None
        self._leasing: asyncio.Task[Lease] | None = None
        self._turn = Turn(runtime.start_slots)

    @asynccontextmanager
    async def phase(self, name: Phase) -> AsyncIterator[None]:
        """Tell and time one phase; what the engine refuses in it becomes a sentence."""
        self.progress.phase(name)
        began = time.monotonic()
        outcome = "failed"
        try:
            yield
            outcome = "done"
        except EngineRefused as refused:
            raise EngineRefusal(ASKED[name], detail=refused.message) from refused
        finally:
            PHASE_SECONDS.labels(phase=name, outcome=outcome).observe(time.monotonic() - began)

    async def resolve(self) -> None:
        """The plan from the options, again: what was saved may be stale."""
        async with self.phase("resolve"):
            await self.runtime.ready()
            await self._look()
            if wants_gpu(self.asker.options, self.offer):  # the others do not wait for its answer
                await self.runtime.gpu_way.learn(self.snapshot)
                await self._look()
            self.request = parse(self.asker.options, self.offer)

    async def admit(self) -> None:
        """Refuse now what would be refused after a build: quota, capacity, disk."""
        async with self.phase("admit"):
            await self._end_leftover()
            await planning.enough_disk(self.runtime)
            self.snapshot = await self.runtime.inventory.snapshot(fresh=True)
            foreign = await self.runtime.reconciler.foreign_devices(self.snapshot)
            await self.runtime.in_ledger(
                Ledger.check, self._lease_request(), self.snapshot, foreign
            )

    async def prepare_image(self) -> None:
        """The derived image: there, or built, or joined while it is built."""
        async with self.phase("image"):
            user, runtime = self.asker.user, self.runtime
            self.image = await runtime.images.ready(
                self.request, user, self.offer, self.progress.build
            )
            await runtime.environments.note(user, self.request, self.offer, self.image)

    async def take_lease(self) -> None:
        """One transaction, or a refusal; a start never waits for a device."""
        async with self.phase("lease"):
            snapshot = await self.runtime.inventory.snapshot(fresh=True)
            foreign = await self.runtime.reconciler.foreign_devices(snapshot)
            self._leasing = self.runtime.keep(
                self.runtime.in_ledger(
                    Ledger.reserve,
                    self._lease_request(),
                    snapshot,
                    foreign,
                    container_name=self.name,
                )
            )
            self.lease = await asyncio.shield(self._leasing)
            self.snapshot = snapshot
            self._tell("gpu.allocate" if self.lease.devices else "container.lease")

    async def create(self) -> None:
        """The container, all limits in the call."""
        async with self.phase("create"):
            await planning.check_workspace(self.runtime, self.asker.prefix, self.asker.user)
            body = create_body(await self.plan())
            self._creating = self.runtime.keep(self._create(body))
            self.container = await asyncio.shield(self._creating)
            owner = await planning.account(self.runtime, self.asker.user)
            await containers.prepare_home(self.runtime, self.container, self.asker.user, owner)
            self._tell("container.create")

    async def start(self) -> None:
        """Start it in its turn, which ends when it answers."""
        lease = self._own_lease()
        async with self.phase("start"):
            await self._turn.begin()
            await self.runtime.in_ledger(Ledger.confirm, lease.id, lease.generation)
            await planning.check_devices(self.runtime, self.devices)
            await containers.start_container(self.runtime, self.container, self.devices)

    async def answers(self) -> tuple[str, int]:
        """Wait until the server answers; its address and port.

        Only then the lease is bound: until then its container is this start's alone, and nobody
        else removes it with its exit status and its last words.
        """
        lease = self._own_lease()
        async with self.phase("ready"):
            address = await containers.address(self.runtime, self.container)
            deadline = time.monotonic() + self.asker.ready_timeout
            look = time.monotonic() + LOOK_SECONDS
            while not await containers.http_answers(
                address, self.asker.port, self.asker.ready_path
            ):
                if time.monotonic() >= look:
                    await self._still_alive()
                    look = time.monotonic() + LOOK_SECONDS
                if time.monotonic() >= deadline:
                    tail = await containers.log_tail(self.runtime, self.container)
                    raise ServerSilent(self.asker.ready_timeout, tail)
                await asyncio.sleep(PROBE_SECONDS)
            self._turn.end()
            self.lease = await self.runtime.in_ledger(
                Ledger.bind, lease.id, lease.generation, self.container
            )
            self._tell("container.start")
            return address, self.asker.port

    # --- undoing -----------------------------------------------------------------------------

    async def undo(self, error: BaseException) -> None:
        """Remove the container, then release the lease. Called shielded, never raises."""
        self._turn.end()
        try:
            if self._leasing is not None:
                self.lease = await _quietly(self._leasing) or self.lease
            if self.lease is None:
                return
            # From now on reconcile may finish this, and so may the server's next start.
            await self.runtime.in_ledger(Ledger.releasing, self.lease.id)
            if self._creating is not None:
                # A create call that failed may have made it all the same.
                self.container = await _quietly(self._creating) or self.container
                await containers.remove(self.runtime, self.container or self.name, self.lease.id)
            given_up = keeps_no_place(error)
            await self.runtime.in_ledger(Ledger.release, self.lease.id, given_up=given_up)
            self.runtime.line.soon()
            self._tell("gpu.release" if self.lease.devices else "container.release")
        except (DS01Error, EngineRefused) as error:
            log.warning("Left to reconcile: %s", told(error))

    # --- parts -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The container's name."""
        return container_name(self.asker.prefix, self.asker.user, self.asker.server)

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices of the lease."""
        held = self.lease.devices if self.lease else ()
        return tuple(d for d in self.snapshot.devices if d.uuid in held)

    async def plan(self) -> ContainerPlan:
        """All that the create call says."""
        runtime, devices = self.runtime, self.devices
        return planning.container_plan(
            self.asker,
            self.request,
            planning.resources(self.offer.limits, self.request, runtime.capacity, runtime.settings),
            self.image,
            planning.Grant.of(self._own_lease(), devices),
            str(await planning.account(runtime, self.asker.user)),
            runtime.settings,
            runtime.gpu_way.choice.way,
        )

    def _own_lease(self) -> Lease:
        if self.lease is None:
            raise RuntimeError("this phase comes after the lease")
        return self.lease

    def _lease_request(self) -> LeaseRequest:
        return LeaseRequest(
            hub=self.runtime.settings.hub_id,
            user=self.asker.user,
            server=self.asker.server,
            wanted=self.request.wanted,
            limits=self.offer.limits,
            hours=self.request.hours,
            exempt=exempt(self.runtime.policy.current().exemptions, self.asker.user),
        )

    async def _look(self) -> None:
        asker = self.asker
        self.offer, self.snapshot = await self.runtime.offer(
            asker.user, asker.groups, asker.ceilings
        )

    async def _end_leftover(self) -> None:
        """End what an earlier start of this very server left: the hub says that none runs."""
        leases = await self.runtime.leases()
        hub = self.runtime.settings.hub_id
        for lease in leases:
            if (lease.hub, lease.user, lease.server) == (hub, self.asker.user, self.asker.server):
                container = lease.container or lease.container_name
                await containers.remove(self.runtime, container, lease.id)
                await self.runtime.in_ledger(Ledger.release, lease.id)

    async def _create(self, body: dict[str, Any]) -> str:
        engine = self.runtime.engine
        warnings: list[str] = []
        try:
            container = await engine.create_container(self.name, body, warnings.append)
        except EngineConflict:
            await self._make_way()
            container = await engine.create_container(self.name, body, warnings.append)
        if warnings:  # the engine takes what its kernel cannot do, and says so here alone
            raise LimitNotApplied(warnings)
        return container

    async def _make_way(self) -> None:
        """Remove the container that has the name, if it is this hub's and not a newer start's."""
        lease = self._own_lease()
        seen = await containers.inspect(self.runtime, self.name)
        if seen is None:
            return
        if (seen["Config"]["Labels"] or {}).get("ds01.hub") != self.runtime.settings.hub_id:
            raise NameTaken(self.name)
        await self.runtime.in_ledger(Ledger.confirm, lease.id, lease.generation)
        await containers.remove(self.runtime, seen["Id"])

    async def _still_alive(self) -> None:
        seen = await containers.inspect(self.runtime, self.container)
        state = seen["State"] if seen else {"Running": False, "ExitCode": None}
        if not state["Running"]:
            tail = await containers.log_tail(self.runtime, self.container)
            raise ServerDied(state.get("ExitCode"), bool(state.get("OOMKilled")), tail)

    def _tell(self, event: str) -> None:
        lease = self._own_lease()
        self.runtime.events.write(
            event,
            self.asker.user,
            server=self.asker.server,
            lease=lease.id,
            devices=list(lease.devices),
            container=self.container,
        )


def keeps_no_place(error: BaseException) -> bool:
    """Whether a start that ended so gives up the place in the line that it had.

    It was cancelled, refused, stopped from outside, or what its user has put there ends at once.
    """
    if not isinstance(error, DS01Error):
        return not isinstance(error, Exception)
    return error.status < 500 or isinstance(error, LeaseLost | ServerDied)


async def _quietly(task: Awaitable[Any]) -> Any:
    """What a task that was shielded from a cancel came to; None if it failed."""
    try:
        return await task
    except Exception:
        return None
