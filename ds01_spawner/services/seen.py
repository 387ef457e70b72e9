"""Containers as the engine tells them: what they are to us, and which GPUs they hold.

A container that names a device holds it also while stopped: the engine gives it the same device
again at the next start, and asks nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ds01_spawner.core.devices import Device, Snapshot

Json = Mapping[str, Any]
ALIVE = ("running", "paused", "restarting")
_DEVICE_NODE = re.compile(r"/dev/nvidia(\d+)")
_INDEX = re.compile(r"(\d+)(?::\d+)?")
_UUID = re.compile(r"(?:GPU|MIG)-.+")
_OLD_MIG = re.compile(r"MIG-(GPU-[^/]+)/.+")  # drivers before 470
_CDI = "nvidia.com/"
# Runtimes that do not read NVIDIA_VISIBLE_DEVICES, which every CUDA image sets to "all".
_PLAIN_RUNTIMES = ("runc", "crun", "io.containerd.runc.v2")
_DS01_LABELS = ("ds01.", "aime.mlc")


@dataclass(frozen=True, slots=True)
class Seen:
    """A container in the engine's list."""

    id: str
    name: str
    state: str  # created, running, paused, restarting, removing, exited, dead
    labels: Mapping[str, str]
    created: datetime

    @property
    def alive(self) -> bool:
        """Whether its processes exist."""
        return self.state in ALIVE

    @property
    def lease(self) -> str:
        """The lease it was made for; empty for a container that is no server of ours."""
        return self.labels.get("ds01.lease", "")

    @property
    def generation(self) -> int | None:
        """The number of that lease."""
        return number(self.labels.get("ds01.lease_generation", ""))

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that its labels name."""
        text = self.labels.get("ds01.gpu.uuids") or self.labels.get("ds01.gpu.uuid") or ""
        return tuple(part.strip() for part in text.split(",") if part.strip())

    @property
    def simulated(self) -> bool:
        """Whether those devices are made up."""
        return self.labels.get("ds01.simulated") == "true"

    @property
    def who(self) -> str:
        """Its name and, where labels tell it, its user; for the admin."""
        user = self.labels.get("ds01.user") or self.labels.get("aime.mlc.USER")
        return f"container {self.name}" + (f" of {user}" if user else "")


@dataclass(frozen=True, slots=True)
class Holding:
    """The GPUs that a container was given: by UUID, by index, or every one."""

    uuids: frozenset[str] = field(default_factory=frozenset)
    indices: frozenset[int] = field(default_factory=frozenset)
    every: bool = False

    def holds(self, device: Device) -> bool:
        """Whether the device is among them; who has a card has its instances."""
        names = (device.uuid, device.parent or device.uuid)
        return (
            self.every
            or device.index in self.indices
            or any(name.startswith(uuid) for uuid in self.uuids for name in names)
        )


def number(text: str) -> int | None:
    """A whole number in a label."""
    return int(text) if text.isascii() and text.isdigit() else None


def seen(listed: Json) -> Seen:
    """A container from an entry of the engine's list."""
    names = listed.get("Names") or [listed["Id"]]
    return Seen(
        id=listed["Id"],
        name=str(names[0]).lstrip("/"),
        state=str(listed.get("State", "")).lower(),
        labels=listed.get("Labels") or {},
        created=datetime.fromtimestamp(listed.get("Created") or 0, timezone.utc),
    )


def holding(inspected: Json) -> Holding:
    """The GPUs that a container was given, from what the engine tells of it.

    Where that cannot be understood it holds every GPU: better one too few free than one given
    out twice (DS01 saw nothing in `--gpus all` and gave those GPUs to the next user).
    """
    host = inspected.get("HostConfig") or {}
    references: list[str] = []
    by_environment = str(host.get("Runtime") or "") not in _PLAIN_RUNTIMES
    for request in host.get("DeviceRequests") or []:
        if not _asks_for_gpus(request):
            continue
        ids, count = request.get("DeviceIDs") or [], request.get("Count") or 0
        references += ids or (["all"] if count < 0 else [str(index) for index in range(count)])
        by_environment = by_environment or (not ids and not count)
    if by_environment:
        references += _visible_devices((inspected.get("Config") or {}).get("Env") or [])
    for device in host.get("Devices") or []:
        node = _DEVICE_NODE.fullmatch(str(device.get("PathOnHost")))
        references += [node[1]] if node else []
    return _holding(references)


def _asks_for_gpus(request: Json) -> bool:
    driver = str(request.get("Driver") or "")
    capabilities = {name for group in request.get("Capabilities") or [] for name in group}
    if driver == "cdi":
        return any(str(id).startswith(_CDI) for id in request.get("DeviceIDs") or [])
    return driver.startswith("nvidia") or bool({"gpu", "nvidia"} & capabilities)


def _visible_devices(environment: Iterable[str]) -> list[str]:
    name = "NVIDIA_VISIBLE_DEVICES="
    values = [entry.removeprefix(name) for entry in environment if entry.startswith(name)]
    return values[-1].split(",") if values else []


def _holding(references: Iterable[str]) -> Holding:
    uuids: set[str] = set()
    indices: set[int] = set()
    every = False
    for reference in references:
        name = reference.rpartition("=")[2].strip()  # CDI: nvidia.com/gpu=GPU-...
        index, old = _INDEX.fullmatch(name), _OLD_MIG.fullmatch(name)
        if name in ("", "void", "none"):
            continue
        if index:
            indices.add(int(index[1]))
        elif _UUID.fullmatch(name):
            uuids.add(old[1] if old else name)
        else:
            every = True
    return Holding(frozenset(uuids), frozenset(indices), every)


def keeps_devices(container: Seen) -> bool:
    """Whether a container that is not ours keeps the GPUs it names.

    DS01 and AIME count their stopped containers until they remove them; another's stopped
    container may lie about for months.
    """
    theirs = any(label.startswith(_DS01_LABELS) for label in container.labels)
    return container.alive or container.state == "created" or theirs


def holders(held: Iterable[tuple[Seen, Holding]], snapshot: Snapshot) -> dict[str, str]:
    """Of each device that one of these containers holds: by whom."""
    found: dict[str, str] = {}
    for container, what in held:
        for device in snapshot.devices:
            if what.holds(device):
                found.setdefault(device.uuid, container.who)
    return found
