"""Containers as the engine tells them: what they are to us, and which GPUs they hold.

A container that names a device holds it also while stopped: the engine gives it the same device
again at the next start, and asks nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal

from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.sharing import read_label

Json = Mapping[str, Any]
Maker = Literal["nvidia", "amd", "either"]  # either: of whose driver the engine has
ALIVE = ("running", "paused", "restarting")
_DEVICE_NODE = re.compile(r"/dev/nvidia(\d+)")
_RENDER_NODE = re.compile(r"/dev/dri/renderD\d+")
_INDEX = re.compile(r"(\d{1,4})(?::\d+)?")
_RANGE = re.compile(r"(\d{1,4})-(\d{1,4})")  # AMD's
_UUID = re.compile(r"(?:GPU|MIG)-.+")
_AMD_UUID = re.compile(r"0x[0-9a-f]{1,16}", re.IGNORECASE)
_OLD_MIG = re.compile(r"MIG-(GPU-[^/]+)/.+")  # drivers before 470
# A vendor may have kinds below its domain, such as NVIDIA's management.nvidia.com/gpu.
_CDI: Mapping[str, Maker] = {"nvidia.com": "nvidia", "amd.com": "amd"}
_VISIBLE: Mapping[Maker, str] = {"nvidia": "NVIDIA_VISIBLE_DEVICES", "amd": "AMD_VISIBLE_DEVICES"}
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
        return _parts(text)

    @property
    def cards(self) -> tuple[str, ...]:
        """The cards of those devices; each its own where the labels do not say."""
        return _parts(self.labels.get("ds01.gpu.cards", "")) or self.devices

    @property
    def seat(self) -> tuple[int, int] | None:
        """The seat on its device, of how many; (0, 1) where it has it alone, None: not legible."""
        return read_label(self.labels.get("ds01.gpu.seat", ""))

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
    """The GPUs that a container was given: by UUID, device file or index, or every one."""

    uuids: frozenset[str] = field(default_factory=frozenset)
    nodes: frozenset[str] = field(default_factory=frozenset)  # AMD's render nodes
    indices: frozenset[tuple[Maker, int]] = field(default_factory=frozenset)
    every: frozenset[Maker] = field(default_factory=frozenset)

    def holds(self, device: Device, nvidia: bool = True) -> bool:
        """Whether the device is among them; who has a card has its parts.

        `nvidia`: whether this host has NVIDIA devices. A request that names no maker is for
        them, and for AMD's only where there are none (engines from 29.3 on).
        """
        makers: set[Maker] = {"amd"} if device.kind == "amd" else {"nvidia", "either"}
        if not nvidia:
            makers.add("either")
        names = (device.uuid, device.parent or device.uuid)
        return (
            not makers.isdisjoint(self.every)
            or not self.nodes.isdisjoint(device.nodes)
            or any(maker in makers and _is(index, device) for maker, index in self.indices)
            or any(name.startswith(uuid) for uuid in self.uuids for name in names)
        )


def _is(index: int, device: Device) -> bool:
    # AMD's tools number the parts of cards in an order of their own: a number may be any part.
    return index == device.index or (device.kind == "amd" and not device.whole)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


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

    Where that cannot be understood it holds every GPU of that maker: better one too few free than
    one given out twice (DS01 saw nothing in `--gpus all` and gave those GPUs to the next user).
    """
    host = inspected.get("HostConfig") or {}
    references: list[tuple[Maker, str]] = []
    by_environment = _readers(str(host.get("Runtime") or ""))
    for request in host.get("DeviceRequests") or []:
        maker, names = _asked(request)
        references += names
        if maker and not names:
            by_environment |= {"nvidia", "amd"} if maker == "either" else {maker}
    environment = (inspected.get("Config") or {}).get("Env") or []
    for maker in by_environment:
        references += [(maker, name) for name in _values(environment, _VISIBLE[maker])]
    paths = {str(device.get("PathOnHost")).rstrip("/") for device in host.get("Devices") or []}
    references += [("nvidia", node[1]) for path in paths if (node := _DEVICE_NODE.fullmatch(path))]
    nodes = {path for path in paths if _RENDER_NODE.fullmatch(path)}
    # All of /dev/dri, as AMD's and AIME's own commands give it, or a part that names no device.
    if any(path == "/dev/dri" or path.startswith("/dev/dri/") for path in paths - nodes):
        references.append(("amd", "all"))
    return _holding(references, nodes)


def _readers(runtime: str) -> set[Maker]:
    """The makers whose variable a runtime may read; of an unknown one, any."""
    if runtime in _PLAIN_RUNTIMES:
        return set()
    named: set[Maker] = {maker for maker in _VISIBLE if runtime.startswith(maker)}
    return named or {*_VISIBLE}


def _asked(request: Json) -> tuple[Maker | None, list[tuple[Maker, str]]]:
    """Whose GPUs a device request is for, None for no GPU, and which it names."""
    driver, count = str(request.get("Driver") or ""), request.get("Count") or 0
    capabilities = {name for group in request.get("Capabilities") or [] for name in group}
    ids = [str(id) for id in request.get("DeviceIDs") or []]
    if driver == "cdi":
        vendors = [(id.partition("/")[0], id) for id in ids]
        return None, [
            (maker, id)
            for vendor, id in vendors
            for domain, maker in _CDI.items()
            if f".{vendor}".endswith(f".{domain}")
        ]
    maker: Maker
    if driver.startswith("nvidia") or "nvidia" in capabilities:
        maker = "nvidia"
    elif driver.startswith("amd") or "amd" in capabilities:
        maker = "amd"
    elif "gpu" in capabilities:
        maker = "either"
    else:
        return None, []
    names = ids or (["all"] if count < 0 else [str(index) for index in range(count)])
    return maker, [(maker, name) for name in names]


def _values(environment: Iterable[str], variable: str) -> list[str]:
    values = [v for entry in environment for n, _, v in (entry.partition("="),) if n == variable]
    return values[-1].split(",") if values else []


def _holding(references: Iterable[tuple[Maker, str]], nodes: Iterable[str]) -> Holding:
    uuids: set[str] = set()
    indices: set[tuple[Maker, int]] = set()
    every: set[Maker] = set()
    for maker, reference in references:
        name = reference.rpartition("=")[2].strip()  # CDI: nvidia.com/gpu=GPU-...
        old, span = _OLD_MIG.fullmatch(name), _RANGE.fullmatch(name)
        if name in ("", "void", "none"):
            continue
        if index := _INDEX.fullmatch(name):
            indices.add((maker, int(index[1])))
        elif span:
            indices |= {(maker, index) for index in range(int(span[1]), int(span[2]) + 1)}
        elif _AMD_UUID.fullmatch(name):
            uuids.add(f"0x{int(name, 16):016x}")
        elif _UUID.fullmatch(name):
            uuids.add(old[1] if old else name)
        else:
            every.add(maker)
    return Holding(frozenset(uuids), frozenset(nodes), frozenset(indices), frozenset(every))


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
    nvidia = any(device.kind != "amd" for device in snapshot.devices)
    for container, what in held:
        for device in snapshot.devices:
            if what.holds(device, nvidia):
                found.setdefault(device.uuid, container.who)
    return found
