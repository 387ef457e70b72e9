"""What all servers of one hub share, and the loops that keep it true.

One per hub process. It starts when the hub does (`ds01_spawner.configure`), and no lease is given
before those of earlier hub processes are settled.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from jupyterhub.app import JupyterHub

from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.limits import Effective, HostCapacity, effective
from ds01_spawner.core.options import Offer
from ds01_spawner.errors import DS01Error, EngineUnavailable, FieldProblem
from ds01_spawner.hub.line import HubLine
from ds01_spawner.hub.offers import Ceilings, offer_of
from ds01_spawner.hub.watch import Watch
from ds01_spawner.services import wiring
from ds01_spawner.services.engine import Engine, EngineRefused
from ds01_spawner.services.environments import Environments
from ds01_spawner.services.images import Images
from ds01_spawner.services.injection import GpuWay
from ds01_spawner.services.ledger import Lease, Ledger
from ds01_spawner.services.metrics import DEVICES, LEASES, RECONCILE_ACTIONS
from ds01_spawner.services.reconcile import EVENT_OF_ACTION, Action, Rules
from ds01_spawner.services.reconciler import Reconciler
from ds01_spawner.services.settings import Settings

if TYPE_CHECKING:
    from ds01_spawner.hub.spawner import DS01Spawner

log = logging.getLogger(__name__)
T = TypeVar("T")
CHANGES = frozenset({"start", "die", "destroy"})  # somebody else may start a container, too
AGAIN_SECONDS = (0.3, 1.5)  # after an end, for the engine's list has it later than its events
RETRY_SECONDS = 2.0
SETTLE_SECONDS = 20.0


class Runtime:
    """The shared parts of one hub."""

    _one: Runtime | None = None

    @classmethod
    def of(cls, settings: Settings) -> Runtime:
        """The runtime of this process, made at the first call."""
        if cls._one is None:
            cls._one = cls(settings)
        return cls._one

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.began = wiring.now()
        self.catalog = wiring.catalog_file(settings)
        self.policy = wiring.policy_file(settings)
        self.events = wiring.event_file(settings)
        self.engine = wiring.engine(settings)
        self.inventory = wiring.inventory(settings, self.reconcile_soon)
        self.gpu_way = GpuWay(self.engine, settings.gpu_injection, settings.hub_id, wiring.new_id)
        self.images = Images(self.engine, settings, self.in_ledger)
        self.environments = Environments(
            self.engine, self.in_ledger, settings.hub_id, self.images.builds
        )
        self._ledger = wiring.ledger(settings)
        self._uids = wiring.uids(settings)
        self._ledger_thread = ThreadPoolExecutor(1, thread_name_prefix="ds01-ledger")
        self.reconciler = Reconciler(
            self.engine,
            self.in_ledger,
            hub=settings.hub_id,
            now=wiring.now,
            simulated=settings.simulated,
            on_event=self._acted,
            known_servers=self._known_servers,
            rules=Rules(warn_before=timedelta(minutes=settings.warn_before_minutes)),
        )
        self.start_slots = asyncio.Semaphore(settings.start_concurrency or os.cpu_count() or 1)
        self.servers: dict[tuple[str, str], DS01Spawner] = {}  # those that the hub has running
        # Starts that an earlier hub process began and nobody ended, for their users.
        self.broken_off: dict[tuple[str, str], str] = {}
        self.watch = Watch(self)
        self.line = HubLine(self)
        # What was posted last and is shown again: the server, its options, what is wrong with them.
        self.rejected: dict[str, tuple[str, dict[str, Any] | None, tuple[FieldProblem, ...]]] = {}
        self.done: dict[str, str] = {}  # by user: what a button of the form did, told once
        self.capacity: HostCapacity | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._settled: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Future[None] | None = None
        self._why_unsettled: Exception = EngineUnavailable("it has not been asked yet")
        self._nudge = asyncio.Event()
        self._asked_hub = False

    # --- its life ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the loops, once, from the hub's event loop."""
        if self._settled is None:
            self._settled = self.keep(self._settle())
            self.keep(self._watch_engine())
            self.keep(self._reconcile_forever(self._settled))
            self.keep(self.line.run_for_ever(self._settled))

    async def end(self) -> None:
        """End the loops and close what is open; servers go on."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.inventory.close()
        await self.engine.close()
        self._ledger_thread.shutdown()
        self._ledger.close()
        Runtime._one = None

    async def ready(self) -> None:
        """Wait until the leases of earlier hub processes are settled.

        Raises what they wait for: EngineUnavailable while the engine has not answered yet.
        """
        self.begin()
        settled = self._settled
        if settled is not None and not settled.done():
            await asyncio.wait([settled], timeout=SETTLE_SECONDS)
        if settled is None or not settled.done():
            raise self._why_unsettled
        settled.result()
        if not self._asked_hub and self._known_servers() is not None:
            # Only now it can be told which servers an earlier hub started and did not write down.
            await self.reconciler.run()
            self._asked_hub = True

    async def _settle(self) -> None:
        begun = ""
        while True:
            try:
                begun = begun or await self.in_ledger(Ledger.begin_incarnation)
                await self.watch.begin()
                await self._learn_host(again=True)
                await network_of(self.engine, self.settings)
                await self.reconciler.run()
                self._sweep_soon()
                return
            except (DS01Error, EngineRefused) as error:
                self._why_unsettled = error
                log.warning("Not ready to start servers yet: %s", told(error))
            except Exception as error:
                self._why_unsettled = EngineUnavailable(f"the first reconciliation: {error!r}")
                log.exception("Not ready to start servers yet")
            await asyncio.sleep(RETRY_SECONDS)

    async def _learn_host(self, *, again: bool) -> Snapshot:
        """What the host has, and whether devices get into containers; `again`: ask anew."""
        info = await self.engine.info()
        snapshot = await self.inventory.snapshot()
        units = sum(device.units for device in snapshot.devices)
        self.capacity = HostCapacity(
            cpus=float(info["NCPU"]),
            memory=int(info["MemTotal"]),
            gpus_units=units if snapshot.known else None,
        )
        await self.gpu_way.learn(snapshot, again=again)
        return snapshot

    async def _watch_engine(self) -> None:
        """Look as soon as one of our containers starts or ends; the timer is the fallback."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                stream = await self.engine.events({"ds01.hub": self.settings.hub_id})
                async with aclosing(stream):
                    if self._settled is not None and self._settled.done():
                        await self._learn_host(again=True)  # it may be another one now
                    self.reconcile_soon()  # what happened while nobody listened
                    async for event in stream:
                        if event.get("Action") in CHANGES:
                            self.reconcile_soon()
                        if event.get("Action") == "die":
                            for seconds in AGAIN_SECONDS:
                                loop.call_later(seconds, self.reconcile_soon)
            except (DS01Error, EngineRefused):
                pass  # who needs the engine says so
            except Exception:
                log.exception("The engine's events cannot be watched")
            await asyncio.sleep(RETRY_SECONDS)

    async def _reconcile_forever(self, settled: asyncio.Task[None]) -> None:
        await asyncio.wait([settled])
        while True:
            # Not wait_for: up to Python 3.11 it loses a cancel that comes with the nudge.
            # Until the hub can tell which servers it has, what an earlier one left is not known.
            wait = self.settings.reconcile_interval if self._asked_hub else RETRY_SECONDS
            timer = asyncio.get_running_loop().call_later(wait, self._nudge.set)
            try:
                await self._nudge.wait()
            finally:
                timer.cancel()
            self._nudge.clear()
            try:
                asked = self._known_servers() is not None
                await self.watch.look()
                self._asked_hub |= asked
                self.line.soon()
                await self._measure()
                self._sweep_soon()
            except (DS01Error, EngineRefused) as error:
                log.warning("Reconciliation put off: %s", told(error))
            except Exception:
                log.exception("Reconciliation failed")

    def _sweep_soon(self) -> None:
        """Remove what builds left, beside all else: the engine may take long over it."""
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = self.keep(self._sweep())

    async def _sweep(self) -> None:
        try:
            await self.images.sweep()
        except (DS01Error, EngineRefused) as error:
            log.warning("What builds left is to be removed later: %s", told(error))

    async def _measure(self) -> None:
        snapshot = await self._learn_host(again=False)
        leases = await self.leases()
        held = {uuid for lease in leases for uuid in lease.devices}
        states = ["held" if d.uuid in held else "free" if d.healthy else "unhealthy"
                  for d in snapshot.devices]  # fmt: skip
        for state in ("held", "free", "unhealthy"):
            DEVICES.labels(state=state).set(states.count(state))
        for state in ("reserved", "bound", "releasing"):
            LEASES.labels(state=state).set(sum(lease.state == state for lease in leases))

    def _acted(self, action: Action) -> None:
        """Tell what the reconciler did, and have the hub look at the server."""
        RECONCILE_ACTIONS.labels(action=action.action).inc()
        lease = action.lease
        self.events.write(
            EVENT_OF_ACTION[action.action], lease.user if lease else "",
            object=action.object, why=action.why,
        )  # fmt: skip
        log.info("Reconcile: %s %s: %s", action.action, action.object, action.why)
        spawner = self.servers.get((lease.user, lease.server)) if lease else None
        if spawner is not None and action.action in ("remove", "release"):
            self.keep(spawner.poll_and_notify())

    def _known_servers(self) -> set[tuple[str, str]] | None:
        """The servers that the hub has as running; None until it has read its database."""
        if not JupyterHub.initialized() or JupyterHub.instance().http_server is None:
            return None
        return set(self.servers)

    def reconcile_soon(self) -> None:
        """Have the next reconciliation now."""
        self._nudge.set()

    def keep(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that is not lost, and that goes on when who waits for it is cancelled."""
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def in_ledger(self, method: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a method of the ledger in its own thread: one transaction, never on the loop.

        A cancelled caller does not undo it: who takes a lease shields the call.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._ledger_thread, lambda: method(self._ledger, *args, **kwargs)
        )

    async def uid_of(self, user: str) -> int:
        """The user's number of the hub's own range."""
        first, last = self.settings.uid_range
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._ledger_thread, self._uids.uid_of, user, (first, last)
        )

    # --- what it knows -----------------------------------------------------------------------

    def effective(self, user: str, groups: tuple[str, ...]) -> Effective:
        """The user's limits, now."""
        return effective(self.policy.current(), user, groups, self.capacity)

    async def offer(
        self, user: str, groups: tuple[str, ...], ceilings: Ceilings
    ) -> tuple[Offer, Snapshot]:
        """What this user may choose among, now, and the devices it was made from."""
        snapshot = await self.inventory.snapshot()
        offer = offer_of(
            self.settings,
            self.catalog.current(),
            self.policy.current(),
            self.effective(user, groups),
            ceilings,
            groups,
            snapshot,
            self.gpu_way.choice,
        )
        return offer, snapshot

    async def leases(self) -> tuple[Lease, ...]:
        """All live leases of the ledger."""
        return await self.in_ledger(Ledger.leases)

    def notices(self) -> tuple[str, ...]:
        """What everyone should know before they choose."""
        return tuple(text for text in (self.settings.demo_notice, self.catalog.banner) if text)


async def network_of(engine: Engine, settings: Settings) -> str:
    """See that the servers' network is there; the host's address in it."""
    return await engine.ensure_network(
        settings.network,
        subnet=settings.network_subnet,
        labels={"ds01.hub": settings.hub_id},
        icc=False,
    )


def told(error: BaseException) -> str:
    """An error for the log, with its detail."""
    detail = getattr(error, "detail", "")
    return f"{error} ({detail})" if detail else str(error)
