"""The devices of the NVIDIA driver, asked in a process of its own, with a deadline.

NVML is never called on the way of a start or on the event loop: a driver call can hang for ever.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ds01_spawner.core.architectures import of_compute_capability
from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.units import MIG_SLICES_PER_GPU, UNITS_PER_GPU

PROBE = Path(__file__).with_name("probe.py")
DEADLINE_S = 10.0
FRESH_S = 5.0
BACKOFF_S = (2.0, 60.0)  # after the first failure, and at most; doubled between
TERMINATE_S = 1.0
MAX_DETAIL = 300
_PROFILE = re.compile(r"\bMIG (\S+)$")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Instance(_Strict):
    uuid: str
    name: str
    memory: int
    slices: int


class _Card(_Strict):
    index: int
    uuid: str | None = None
    name: str = "GPU"
    memory: int | None = None
    capability: tuple[int, int] | None = None
    mig: bool = False
    mig_pending: bool = False
    instances: tuple[_Instance, ...] = ()
    error: str = ""


class _Answer(_Strict):
    library: bool
    error: str = ""
    driver: str | None = None
    cuda: int | None = None  # 1000 * major + 10 * minor
    cards: tuple[_Card, ...] = ()


class NvmlInventory:
    """The inventory of a host with, perhaps, an NVIDIA driver.

    No driver library: known, no devices. A library whose driver hangs, is not loaded or does not
    match: not known, so nothing is granted and nothing that runs is touched. Answers are kept for
    `fresh_s`; callers at the same time share one probe; failures are repeated ever more slowly.
    """

    def __init__(
        self,
        *,
        deadline_s: float = DEADLINE_S,
        fresh_s: float = FRESH_S,
        backoff_s: tuple[float, float] = BACKOFF_S,
        monotonic: Callable[[], float] = time.monotonic,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._deadline_s = deadline_s
        self._fresh_s = fresh_s
        self._backoff_s = backoff_s
        self._monotonic = monotonic
        self._environment = environment
        self._last: Snapshot | None = None
        self._ask_again = 0.0
        self._failures = 0
        self._asking: asyncio.Task[Snapshot] | None = None
        self._stuck: asyncio.subprocess.Process | None = None

    async def snapshot(self) -> Snapshot:
        """The devices now, at most `fresh_s` old."""
        if self._last is not None and self._monotonic() < self._ask_again:
            return self._last
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        # Whoever gives up waiting does not take the answer from the others.
        return await asyncio.shield(self._asking)

    async def _ask(self) -> Snapshot:
        snapshot = await self._probe()
        if snapshot.known:
            self._failures = 0
            wait = self._fresh_s
        else:
            first, most = self._backoff_s
            wait = min(most, first * 2.0 ** min(self._failures, 16))
            self._failures += 1
        self._last = snapshot
        self._ask_again = self._monotonic() + wait
        return snapshot

    async def _probe(self) -> Snapshot:
        if self._stuck is not None and self._stuck.returncode is None:
            return _unknown("an earlier question to the NVIDIA driver still hangs")
        self._stuck = None
        try:
            # By its path: importing the package would cost each probe the time to load the hub.
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(PROBE),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=dict(self._environment if self._environment is not None else os.environ),
            )
        except OSError as error:
            return _unknown(f"the NVIDIA driver cannot be asked ({error})")
        try:
            out, err = await asyncio.wait_for(process.communicate(), self._deadline_s)
        except asyncio.TimeoutError:
            await self._give_up(process)
            return _unknown(f"the NVIDIA driver did not answer within {self._deadline_s:g} s")
        except asyncio.CancelledError:
            await self._give_up(process)
            raise
        if process.returncode != 0:
            words = err.decode("utf-8", "replace").strip()[-MAX_DETAIL:]
            return _unknown(f"asking the NVIDIA driver failed ({process.returncode}): {words}")
        return _read(out)

    async def _give_up(self, process: asyncio.subprocess.Process) -> None:
        # Asked once to end and then left alone: killing clients of a hanging driver again and
        # again has frozen cards (dcgm-exporter#84). No other probe starts before it is gone.
        self._stuck = process
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), TERMINATE_S)


def _unknown(problem: str, driver: str | None = None) -> Snapshot:
    return Snapshot(known=False, driver=driver, problems=(problem,))


def _read(out: bytes) -> Snapshot:
    lines = out.decode("utf-8", "replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    try:
        answer = _Answer.model_validate_json(last)
    except ValidationError:
        return _unknown(f"the answer about the NVIDIA driver cannot be read: {last[:MAX_DETAIL]!r}")
    if not answer.library:
        return Snapshot(problems=("there is no NVIDIA driver on this host",))
    if answer.error:
        return _unknown(f"the NVIDIA driver says: {answer.error}")
    devices: list[Device] = []
    problems: list[str] = []
    for card in answer.cards:
        found, problem = _devices(card)
        devices += found
        problems += [problem] if problem else []
    return Snapshot(
        devices=tuple(devices),
        driver=answer.driver,
        cuda=None if answer.cuda is None else (answer.cuda // 1000, answer.cuda % 1000 // 10),
        problems=tuple(problems),
    )


def _devices(card: _Card) -> tuple[list[Device], str]:
    """The devices of a card, and what is wrong with it."""
    whole = Device(
        uuid=card.uuid or f"unknown-{card.index}",
        kind="gpu",
        name=card.name,
        architecture=of_compute_capability(card.capability) if card.capability else None,
        units=UNITS_PER_GPU,
        memory=card.memory or 0,
        index=card.index,
        compute_capability=card.capability,
    )
    who = f"GPU {card.index} ({card.name})"
    if card.error or card.uuid is None:
        return [_sick(whole, f"{who}: {card.error or 'it has no UUID'}")], f"{who}: {card.error}"
    pending = f"{who}: its MIG mode changes at the next reset" if _changing(card) else ""
    if not card.mig:
        return [_sick(whole, pending) if pending else whole], pending
    if not card.instances:
        return [], f"{who}: MIG is on and it has no instances, so nothing of it can be given out"
    instances = [_instance(whole, instance) for instance in card.instances]
    return [_sick(d, pending) if pending else d for d in instances], pending


def _changing(card: _Card) -> bool:
    return card.mig != card.mig_pending


def _sick(device: Device, problem: str) -> Device:
    return replace(device, healthy=False, problem=problem)


def _instance(card: Device, instance: _Instance) -> Device:
    match = _PROFILE.search(instance.name)
    profile = match[1] if match else f"{instance.slices}g"
    device = replace(
        card,
        uuid=instance.uuid,
        kind="mig",
        memory=instance.memory,
        profile=profile,
        parent=card.uuid,
        units=UNITS_PER_GPU * instance.slices // MIG_SLICES_PER_GPU,
    )
    if 1 <= instance.slices <= MIG_SLICES_PER_GPU:
        return device
    return _sick(device, f"MIG instance {instance.uuid}: it has {instance.slices} slices")
