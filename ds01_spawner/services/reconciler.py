"""Makes ledger and engine agree: looks at both, asks `reconcile.decide`, and does it."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Protocol, TypeVar

from ds01_spawner.core.devices import Snapshot
from ds01_spawner.errors import DS01Error, StillThere
from ds01_spawner.services.engine import Engine, EngineConflict, EngineNotFound, EngineRefused
from ds01_spawner.services.ledger import Lease, Ledger
from ds01_spawner.services.occupants import Baselines, Processes, Tenants, divided_anew, outsiders
from ds01_spawner.services.reconcile import Action, Rules, Situation, decide, ending
from ds01_spawner.services.seen import Holding, Seen, holders, holding, keeps_devices, seen

log = logging.getLogger(__name__)
T = TypeVar("T")
GONE_S = 60.0
AT_ONCE = 8


class InLedger(Protocol):
    """Runs a method of the ledger where the ledger may be used."""

    def __call__(self, method: Callable[..., T], *args: Any) -> Awaitable[T]:
        """`await in_ledger(Ledger.release, lease_id)`."""
        ...


def _ignore(_action: Action) -> None:
    pass


class Reconciler:
    """The reconciler of one hub on one engine.

    `known_servers` are the (user, server) that the hub has as running, None while it cannot say;
    `stop_server` ends a server the hub's way, where the engine's stop would not do. `on_event` is
    called after each action done.
    """

    def __init__(
        self,
        engine: Engine,
        in_ledger: InLedger,
        *,
        hub: str,
        now: Callable[[], datetime],
        simulated: bool,
        on_event: Callable[[Action], None] = _ignore,
        known_servers: Callable[[], Container[tuple[str, str]] | None] = lambda: None,
        stop_server: Callable[[Lease], Awaitable[None]] | None = None,
        rules: Rules = Rules(),  # noqa: B008 - frozen
        stop_seconds: int = 10,
        processes: Processes | None = None,
    ) -> None:
        self._engine = engine
        self._in_ledger = in_ledger
        self._hub = hub
        self._now = now
        self._simulated = simulated
        self._on_event = on_event
        self._known_servers = known_servers
        self._stop_server = stop_server
        self._rules = rules
        self._stop_seconds = stop_seconds
        self._processes = processes or Processes()
        self._baselines = Baselines()
        self._one = asyncio.Lock()
        self._looks = asyncio.Semaphore(AT_ONCE)
        self._doings = asyncio.Semaphore(AT_ONCE)  # apart, for a stop takes its time
        self._holdings: dict[str, Holding] = {}

    async def run(self, dry_run: bool = False) -> tuple[Action, ...]:
        """Do what is to do, or with `dry_run` only tell it; the actions done.

        Raises EngineUnavailable, LedgerBusy or LedgerUnusable, and then decides nothing.
        """
        async with self._one:
            actions = await self._decide()
            return actions if dry_run else await self._do_all(actions)

    async def end(self, lease: Lease, why: str) -> tuple[Action, ...]:
        """End one server from outside; the actions done.

        The start of a lease that is only reserved is stopped at its next step, and undoes itself.
        """
        await self._in_ledger(Ledger.releasing, lease.id)
        if lease.state == "reserved":
            return ()
        found = await self._list({"ds01.hub": self._hub, "ds01.lease": lease.id})
        return await self._do_all(ending(lease, found[0] if found else None, why))

    async def foreign_devices(self, snapshot: Snapshot) -> Mapping[str, str]:
        """Of each device that is in use outside the ledger: by whom.

        By containers of others and by ours that have no live lease, whatever they do there; by
        leases of what its card was divided into before; by processes of anybody else; and by
        nobody, where memory was not given back.
        """
        if not snapshot.devices:
            return {}
        leases = await self._in_ledger(Ledger.leases)
        by_label = {(lease.id, lease.generation): lease for lease in leases}
        containers = await self._list({})
        live: dict[str, tuple[str, ...]] = {}  # by container: an image can have our labels, too
        for container in containers:
            lease = by_label.get((container.lease, container.generation or 0))
            if lease is not None and lease.container in (None, container.id):
                live[container.id] = lease.devices
        tenants = Tenants(
            devices={c.id: live.get(c.id, ()) for c in containers},
            names={c.id: c.who for c in containers},
            leased={uuid for lease in leases for uuid in lease.devices},
        )
        strays = [c for c in containers if c.id not in live]
        ours = [
            c for c in strays
            if c.labels.get("ds01.hub") == self._hub
            and (c.lease, c.generation or 0) not in by_label
        ]  # fmt: skip
        others = [c for c in strays if c not in ours and keeps_devices(c)]
        held = [(c, Holding(frozenset(c.devices))) for c in ours]
        found = holders([*held, *await self._look_at(others)], snapshot)
        displaced = divided_anew(snapshot, leases)
        return {**await self._outsiders(snapshot, tenants), **displaced, **found}

    async def _outsiders(self, snapshot: Snapshot, tenants: Tenants) -> Mapping[str, str]:
        pids = {p.pid for usage in snapshot.usage.values() for p in usage.processes or ()}
        occupants = await self._processes.look(pids)
        return outsiders(snapshot, occupants, tenants, self._baselines)

    # --- looking -----------------------------------------------------------------------------

    async def _decide(self) -> tuple[Action, ...]:
        """What to do on both sides of the look at the containers.

        A start or stop goes on meanwhile. What was not so before the look (a lease bound since)
        or is not so after it (a lease reserved since) is left to the next time.
        """
        before = await self._in_ledger(Ledger.leases)
        containers = await self._list({"ds01.hub": self._hub})
        first = decide(await self._situation(before, containers), containers)
        if not first:
            return ()
        after = await self._in_ledger(Ledger.leases)
        second = decide(await self._situation(after, containers), containers)
        return tuple(action for action in second if action in first)

    async def _situation(self, leases: tuple[Lease, ...], containers: Iterable[Seen]) -> Situation:
        live = {lease.id for lease in leases}
        unknown = [c.lease for c in containers if c.lease and c.lease not in live]
        return Situation(
            hub=self._hub,
            now=self._now(),
            incarnation=await self._in_ledger(Ledger.incarnation),
            leases=leases,
            released=await self._in_ledger(Ledger.released, unknown) if unknown else frozenset(),
            known=self._known_servers(),
            simulated=self._simulated,
            rules=self._rules,
        )

    async def _list(self, labels: Mapping[str, str | None]) -> list[Seen]:
        return [seen(entry) for entry in await self._engine.list_containers(labels, all=True)]

    async def _look_at(self, containers: Iterable[Seen]) -> list[tuple[Seen, Holding]]:
        """What containers hold. It cannot change, so each is asked about once."""
        known, containers = self._holdings, list(containers)
        held = await asyncio.gather(*(self._holding(c, known.get(c.id)) for c in containers))
        found = [(c, what) for c, what in zip(containers, held, strict=True) if what is not None]
        self._holdings = {c.id: what for c, what in found}
        return found

    async def _holding(self, container: Seen, known: Holding | None) -> Holding | None:
        if known is not None:
            return known
        async with self._looks:
            try:
                return holding(await self._engine.inspect_container(container.id))
            except EngineNotFound:  # gone since the list
                return None

    # --- doing -------------------------------------------------------------------------------

    async def _do_all(self, actions: Iterable[Action]) -> tuple[Action, ...]:
        """Do the actions: those on one server in order, servers side by side.

        Leases are put back at the end, when what stands in their way was released.
        """
        chains: dict[tuple[bool, str], list[Action]] = {}
        for action in actions:
            key = action.lease.id if action.lease else action.container
            chains.setdefault((action.action == "adopt", key), []).append(action)
        done: list[Action] = []
        for last in (False, True):
            now = [self._do_chain(chain) for (adopt, _), chain in chains.items() if adopt == last]
            done += itertools.chain(*await asyncio.gather(*now))
        return tuple(done)

    async def _do_chain(self, chain: Iterable[Action]) -> list[Action]:
        done: list[Action] = []
        async with self._doings:
            for action in chain:
                try:
                    if not await self._do(action):
                        break
                except (DS01Error, EngineRefused) as error:
                    detail = getattr(error, "detail", "") or error
                    log.warning("%s of %s put off: %s", action.action, action.object, detail)
                    break
                done.append(action)
                self._on_event(action)
        return done

    async def _do(self, action: Action) -> bool:
        """Do one action; False when it turned out not to be so."""
        lease = action.lease
        if lease is not None and action.action in ("stop", "remove", "release"):
            # A start that still hangs somewhere is refused at its next step.
            due = action.end.at if action.end else None
            if not await self._in_ledger(Ledger.releasing, lease.id, due):
                return False
        if action.action == "stop":
            await self._stop(action)
        elif action.action == "remove":
            await self._remove(action.container)
        elif lease is None:
            return False
        elif action.action == "release":
            return await self._is_gone(lease) and await self._in_ledger(Ledger.release, lease.id)
        elif action.action == "adopt":
            await self._in_ledger(Ledger.adopt, lease)
        elif action.end is not None:
            await self._in_ledger(Ledger.mark_warned, lease.id, action.end)
        return True

    async def _stop(self, action: Action) -> None:
        if self._stop_server is not None and action.lease is not None:
            await self._stop_server(action.lease)
            return
        with suppress(EngineNotFound):
            await self._engine.stop_container(action.container, self._stop_seconds)

    async def _remove(self, container: str) -> None:
        with suppress(EngineNotFound, EngineConflict):  # gone, or on its way
            await self._engine.remove_container(container, force=True, volumes=True)
        if not await self._engine.wait_removed(container, GONE_S):
            raise StillThere(container)

    async def _is_gone(self, lease: Lease) -> bool:
        """Whether the engine has no container of this lease, by id and by name."""
        for name in filter(None, (lease.container, lease.container_name)):
            try:
                found = await self._engine.inspect_container(name)
            except EngineNotFound:
                continue
            labels = (found.get("Config") or {}).get("Labels") or {}
            if found.get("Id") == lease.container or labels.get("ds01.lease") == lease.id:
                return False
        return True
