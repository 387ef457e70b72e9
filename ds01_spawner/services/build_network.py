"""The network of a build's steps: shut off but for the package indexes, or as the admin says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Protocol

from ds01_spawner.core.build_gate import FAILED, LABEL, READY, Door, bodies, proxy_arguments
from ds01_spawner.core.build_log import clean, is_disk_full
from ds01_spawner.errors import BuildNetworkUnusable, DiskFull, EngineUnavailable
from ds01_spawner.services.engine import Engine, EngineConflict, EngineNotFound, EngineRefused
from ds01_spawner.services.image_files import image_files

log = logging.getLogger(__name__)
READY_S = 30.0
GONE_S = 30.0
LOOK_S = 0.02
LINES = 20
COMMAND = "/command"  # the mark of a build by the command line, after its hub's


@dataclass(frozen=True, slots=True)
class Joined:
    """What a build call needs: the engine's word for the network, and build arguments."""

    network: str | None
    buildargs: Mapping[str, str]


class BuildNetwork(Protocol):
    """Where builds run."""

    def open(self, image: str) -> AbstractAsyncContextManager[Joined]:
        """A network for one build, guarded by containers of `image`, for as long as it is entered.

        Raises BuildNetworkUnusable, DiskFull and EngineUnavailable.
        """
        ...

    async def sweep(self) -> None:
        """Remove what builds of this process, or an earlier one, left. Raises EngineUnavailable."""
        ...


class SharedNetwork(BuildNetwork):
    """A network that exists (None: the engine's default), with the site's proxies."""

    def __init__(self, network: str | None, buildargs: Mapping[str, str]) -> None:
        self._joined = Joined(network, buildargs)

    def open(self, image: str) -> AbstractAsyncContextManager[Joined]:
        """That network."""
        return nullcontext(self._joined)

    async def sweep(self) -> None:
        """Nothing was made."""


class GatedNetwork(BuildNetwork):
    """For each build a network of its own, in which nothing but `doors` is reached.

    `seconds` is longer than any build: what nobody removed ends after it by itself. That of a
    command is left alone by its hub until then.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        hub: str,
        doors: Mapping[str, Door],
        seconds: int,
        new_id: Callable[[], str],
        of_command: bool = False,
    ) -> None:
        self._engine = engine
        self._hub, self._doors, self._seconds = hub, dict(doors), seconds
        self._mark = f"{hub}{COMMAND}" if of_command else hub
        self._new_id = new_id
        self._open: set[str] = set()  # by name
        self._lost: set[str] = set()  # ids of doors whose builds ended with the engine

    @asynccontextmanager
    async def open(self, image: str) -> AsyncIterator[Joined]:
        """Gate and door, made and removed."""
        name = f"ds01-build-{self._new_id()[:16]}"
        gate, door = f"{name}-gate", f"{name}-door"
        self._open |= {gate, door}
        making = asyncio.ensure_future(self._make(image, gate, door))
        try:
            try:
                id = await asyncio.shield(making)
            except asyncio.CancelledError:
                await asyncio.wait([making])  # what is being made can be removed only then
                raise
            try:
                yield Joined(f"container:{id}", proxy_arguments())
            except EngineRefused:
                await self._tell(gate)
                raise
            except EngineUnavailable:
                self._lost.add(id)
                raise
        finally:
            self._open -= {gate, door}
            await asyncio.shield(asyncio.gather(*(self._remove(name) for name in (gate, door))))

    async def _make(self, image: str, gate: str, door: str) -> str:
        """Make and start both; the id of the door, when the gate serves it."""
        script = image_files("gate")["gate.py"].decode()
        of_gate, of_door = bodies(image, self._mark, gate, script, self._doors, self._seconds)
        try:
            ids = [
                await self._engine.create_container(gate, of_gate),
                await self._engine.create_container(door, of_door),
            ]
            await asyncio.gather(*map(self._engine.start_container, ids))
            await asyncio.wait_for(self._until_ready(*ids), READY_S)
        except EngineRefused as refusal:
            kind = DiskFull if is_disk_full(refusal.message) else BuildNetworkUnusable
            raise kind(str(refusal)) from refusal
        except asyncio.TimeoutError as late:
            raise BuildNetworkUnusable(f"{door} was not ready after {READY_S:g} s") from late
        return ids[1]

    async def _until_ready(self, gate: str, door: str) -> None:
        while True:
            said = [await self._engine.logs(id, LINES) for id in (gate, door)]
            if READY in said[1].splitlines():
                return
            for text in said:
                if FAILED in text.splitlines():
                    raise BuildNetworkUnusable(text)
            await asyncio.sleep(LOOK_S)

    async def _tell(self, gate: str) -> None:
        """Put into the log what a build that failed was refused."""
        with suppress(EngineUnavailable, EngineRefused):
            for line in (await self._engine.logs(gate, LINES)).splitlines():
                log.info("%s: %s", gate, clean(line))

    async def _remove(self, container: str) -> None:
        """Remove one, and wait until it is gone; never raises: what is left is swept."""
        try:
            with suppress(EngineNotFound, EngineConflict):  # gone, or on its way
                await self._engine.remove_container(container, force=True, volumes=True)
            await self._engine.wait_removed(container, GONE_S)
        except (EngineUnavailable, EngineRefused) as error:
            log.warning("%s is to be removed later: %s", container, error)

    async def sweep(self) -> None:
        """Remove gates and doors whose builds have ended, and steps that lost their engine."""
        found = await self._engine.list_containers({LABEL: self._hub})
        commands = await self._engine.list_containers({LABEL: f"{self._hub}{COMMAND}"})
        found += [container for container in commands if container.get("State") == "exited"]
        # One that is half removed has no name any more.
        named = {c["Id"]: str((c.get("Names") or [c["Id"]])[0]).lstrip("/") for c in found}
        left = [id for id, name in named.items() if name not in self._open]
        left += await self._steps()
        await asyncio.gather(*map(self._remove, left))

    async def _steps(self) -> list[str]:
        """Steps that an engine ran when it was killed; only the door tells whose they are."""
        if not self._lost:
            return []
        found = await self._engine.list_containers({})
        modes = {c["Id"]: str((c.get("HostConfig") or {}).get("NetworkMode")) for c in found}
        steps = {id: mode.partition(":")[2] for id, mode in modes.items()}
        self._lost &= set(steps.values())
        return [id for id, door in steps.items() if door in self._lost]
