"""Asks the engine how NVIDIA devices get into containers; `core.gpu_way` decides."""

from __future__ import annotations

import asyncio
import io
import logging
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.gpu_way import (
    NOT_ASKED,
    Choice,
    EngineFacts,
    Setting,
    choose,
    facts_of,
    judge,
    trial,
)
from ds01_spawner.services.engine import Engine, EngineNotFound, EngineRefused, Json

log = logging.getLogger(__name__)
PREFIX = "ds01-probe"
LABEL = "ds01.probe"  # which hub asks
TRIAL_S = 30.0  # an engine may be slow, and whoever asks for a GPU waits for it
HOLD_S = 10.0  # a problem stands for so long before the next start asks again
_FILES = {"Dockerfile": b"FROM scratch\nCOPY empty /\n", "empty": b""}


class GpuWay:
    """The way of one hub's NVIDIA devices, kept true."""

    def __init__(
        self, engine: Engine, setting: Setting, hub: str, new_id: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.choice: Choice = NOT_ASKED
        self._engine, self._setting, self._hub, self._new_id = engine, setting, hub, new_id
        self._clock = clock
        self._of: Sequence[str] | None = None
        self._asked = 0.0  # by the clock
        self._asking = asyncio.Lock()

    async def learn(self, snapshot: Snapshot, *, again: bool = False) -> None:
        """Ask the engine, if there is a reason: other devices, an old problem, or `again`.

        It may take TRIAL_S, and as long for each `again` before it. Raises EngineUnavailable;
        then, as with devices that are not known, nothing changes.
        """
        uuids = _uuids(snapshot)
        async with self._asking:
            old = self.choice.problem and self._clock() >= self._asked + HOLD_S
            if not snapshot.known or not (again or old or uuids != self._of):
                return
            before = self.choice
            self.choice = way = await proven(
                self._engine, self._setting, snapshot, self._hub, self._new_id
            )
            self._of, self._asked = uuids, self._clock()
        if way != before and uuids:
            log.info("NVIDIA devices get into containers by %s: %s.", way.way, way.why)
            if way.problem:
                log.warning("No GPU is given out: %s. %s", way.problem, way.fix)


async def engine_facts(engine: Engine) -> EngineFacts:
    """What the engine tells of itself. Raises EngineUnavailable."""
    return facts_of(await engine.version(), await engine.info())


async def chosen(engine: Engine, setting: Setting, snapshot: Snapshot) -> Choice:
    """The way by what the engine tells, which changes nothing. Raises EngineUnavailable."""
    return choose(await engine_facts(engine), setting, _uuids(snapshot))


async def proven(
    engine: Engine, setting: Setting, snapshot: Snapshot, hub: str, new_id: Callable[[], str]
) -> Choice:
    """The way, and whether the engine can go it. Raises EngineUnavailable.

    Where the host has NVIDIA devices, a container is made that the engine must refuse to start,
    from an image with nothing in it; both are removed again, as is what a killed `hub` left or
    an engine that took longer than TRIAL_S made after all.
    """
    choice = await chosen(engine, setting, snapshot)
    uuids = _uuids(snapshot)
    if not uuids or choice.problem:
        return choice
    tried = _tried(engine, trial(choice.way, uuids), new_id(), {LABEL: hub})
    try:
        refusal = await asyncio.wait_for(tried, TRIAL_S)
    except EngineRefused as refused:
        refusal = refused.message
    except asyncio.TimeoutError:
        refusal = f"nothing within {TRIAL_S:g} s"
    return judge(choice, setting, uuids, refusal)


def _uuids(snapshot: Snapshot) -> Sequence[str]:
    """Of what can be given out: a lost card, which CDI may not know, is no matter of the others."""
    return [] if snapshot.simulated else [d.uuid for d in snapshot.nvidia if d.healthy]


async def _tried(engine: Engine, request: Json, id: str, labels: Mapping[str, str]) -> str:
    await _remove(engine, labels)
    refusal = await _refusal(engine, request, id, labels)
    await _remove(engine, labels)
    return refusal


async def _refusal(engine: Engine, request: Json, id: str, labels: Mapping[str, str]) -> str:
    """What the engine says to a container with this device request; empty if it starts it."""
    image = f"{PREFIX}:{id}"
    await engine.build(
        _context(), tag=image, labels=labels, buildargs={}, memory=None, cpus=None,
        network="none", on_line=lambda line: None,
    )  # fmt: skip
    body = {
        "Image": image,
        "Cmd": ["nothing"],  # which the image does not have, should it ever come that far
        "Labels": dict(labels),
        "HostConfig": {"NetworkMode": "none", "DeviceRequests": [request]},
    }
    container = await engine.create_container(f"{PREFIX}-{id}", body)
    try:
        await engine.start_container(container)
    except EngineRefused as refused:
        return refused.message
    return ""


async def _remove(engine: Engine, labels: Mapping[str, str]) -> None:
    for container in await engine.list_containers(labels):
        with suppress(EngineNotFound):
            await engine.remove_container(container["Id"], force=True)
    for image in await engine.list_images(labels):
        for name in image["RepoTags"] or [image["Id"]]:
            with suppress(EngineNotFound):
                await engine.remove_image(name)


def _context() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as context:
        for name, content in _FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            context.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
