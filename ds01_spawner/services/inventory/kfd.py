"""AMD's devices as the kernel's files tell of them; blocking, and without any library.

The driver's compute part (KFD) lists the GPUs as nodes of its topology, the graphics part (DRM)
has memory and load of each render node. A card that is set to compute partitions has a node for
each part, all at its one PCI address; only the first has the card's own files in DRM.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from ds01_spawner.core.architectures import gfx_of, of_gfx
from ds01_spawner.core.devices import Device, Process, Snapshot, Usage
from ds01_spawner.core.units import UNITS_PER_GPU
from ds01_spawner.services.inventory.base import boot_id

KFD = "sys/class/kfd/kfd"
_GROUP, _OTHERS = 0o060, 0o006  # may read and write
_GONE = (errno.ENOENT, errno.ENODEV, errno.ESRCH)
_PCI = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


@dataclass(frozen=True, slots=True)
class _Node:
    """A GPU of the topology: a card, or a part of one."""

    gpu_id: int  # KFD's own number of it
    unique_id: int  # 0: the card has none
    target: int
    minor: int  # of its render node
    domain: int
    location: int  # bus, device and function; which part of a card, above or in the function

    @property
    def slot(self) -> str:
        """Its PCI address but for the function, the same for all parts of a card."""
        bus, device = self.location >> 8 & 0xFF, self.location >> 3 & 0x1F
        return f"{self.domain:04x}:{bus:02x}:{device:02x}"

    @property
    def place(self) -> int:
        """Which part of its card, by any number; another for each."""
        return (self.location & 7) << 4 | self.location >> 28


def read(root: Path, taken: datetime) -> Snapshot:
    """The AMD devices of the host whose files are below `root`.

    No KFD: no devices, and sure of it. Raises OSError where its topology cannot be read.
    """
    try:
        (root / KFD).stat()
    except FileNotFoundError:
        return Snapshot(taken=taken)
    nodes: list[_Node] = []
    devices: list[Device] = []
    folders = (root / KFD / "topology/nodes").iterdir()
    for folder in sorted(folders, key=lambda folder: int(folder.name)):
        try:
            node = _node(folder)
        except OSError as error:
            devices.append(_unreadable(folder.name, error.strerror or str(error)))
        except (KeyError, ValueError) as error:
            devices.append(_unreadable(folder.name, f"unexpected content ({error})"))
        else:
            nodes += [node] if node else []
    usage: dict[str, Usage] = {}
    processes = _processes(root)
    for device, node in _devices(root, nodes):
        devices.append(device)
        using = None if processes is None else processes.get(node.gpu_id, ())
        usage[device.uuid] = replace(_usage(root, device, node), processes=using)
    return Snapshot(
        devices=tuple(devices),
        driver=" ".join(("amdgpu", _text(root / "sys/module/amdgpu/version"))).strip(),
        problems=tuple(f"{d.name} ({d.uuid}): {d.problem}" for d in devices if d.problem),
        taken=taken,
        epoch=_epoch(root, devices),
        usage=usage,
    )


def _node(folder: Path) -> _Node | None:
    """A node of the topology; None for one that only has processors."""
    lines = (line.split() for line in (folder / "properties").read_text().splitlines())
    facts = {line[0]: int(line[1]) for line in lines if len(line) == 2}
    if facts["simd_count"] == 0:
        return None
    return _Node(
        gpu_id=int((folder / "gpu_id").read_text()),
        unique_id=facts.get("unique_id", 0),
        target=facts["gfx_target_version"],
        minor=facts["drm_render_minor"],
        domain=facts.get("domain", 0),
        location=facts["location_id"],
    )


def _unreadable(number: str, why: str) -> Device:
    return Device(
        uuid=f"unknown-amd-{number}",
        kind="amd",
        name="AMD GPU",
        architecture=None,
        units=UNITS_PER_GPU,
        memory=0,
        healthy=False,
        problem=f"node {number} of the topology cannot be read: {why}",
    )


def _devices(root: Path, nodes: Iterable[_Node]) -> Iterator[tuple[Device, _Node]]:
    """The devices of the nodes, in the order of their PCI addresses.

    A UUID is `[ID.]CARD[.MODE AND PLACE]`: KFD's id of it is in front, where that is not the
    card's, for by that its users name it.
    """
    slots: defaultdict[str, list[_Node]] = defaultdict(list)
    for node in sorted(nodes, key=lambda node: (node.slot, node.minor)):
        slots[node.slot].append(node)
    cards = _cards(root, slots)
    # AMD's own tools number the cards of the driver, those that cannot compute among them.
    bound = {path.name for path in _listed(root / "sys/bus/pci/drivers/amdgpu")}
    order = sorted({name.rpartition(".")[0] for name in bound if _PCI.fullmatch(name)} | {*slots})
    for slot, parts in slots.items():
        folder, card = _folder(root, parts[0]), cards[slot]
        mode = _text(folder / "current_compute_partition").lower() or "part"
        for node in parts:
            device = replace(_device(root, node, folder), index=order.index(slot))
            own = f"0x{node.unique_id:016x}" if node.unique_id else card
            name = own if own == card else f"{own}.{card}"
            if len(parts) > 1:
                uuid = f"{name}.{mode}{node.place}"
                yield replace(_part(device, mode, len(parts)), uuid=uuid, parent=card), node
            else:
                yield replace(device, uuid=name, card_name=card if card != name else ""), node


def _part(device: Device, mode: str, parts: int) -> Device:
    """The device as one of so many equal parts of a card."""
    units, memory = UNITS_PER_GPU // parts, device.memory // parts
    return replace(device, units=units, memory=memory, profile=mode)


def _cards(root: Path, slots: Mapping[str, list[_Node]]) -> dict[str, str]:
    """A name for the card in each slot, the same however the card is divided.

    Of its unique id; of its place where it has none or has it with others. What KFD tells is the
    card's id or, with newer kernels, that of the part; DRM tells the card's.
    """
    ids = {
        slot: _told(_folder(root, parts[0]) / "unique_id", 16) or parts[0].unique_id
        for slot, parts in slots.items()
    }
    once = {own for own, times in Counter(ids.values()).items() if own and times == 1}
    return {s: f"0x{own:016x}" if own in once else f"pci-{s}" for s, own in ids.items()}


def _device(root: Path, node: _Node, card: Path) -> Device:
    """A device, still without its name among the others; `card` is the folder of its card."""
    gfx = gfx_of(node.target)
    files = ("/dev/kfd", f"/dev/dri/renderD{node.minor}")
    groups, problem = _groups(root, files)
    memory = _told(card / "mem_info_vram_total")
    if memory is None and not problem:
        problem = "the size of its memory cannot be read"
    return Device(
        uuid="",
        kind="amd",
        name=_text(card / "product_name") or f"AMD {gfx}",
        architecture=of_gfx(gfx),
        units=UNITS_PER_GPU,
        memory=memory or 0,
        healthy=not problem,
        problem=problem,
        nodes=files,
        groups=groups,
    )


def _groups(root: Path, files: Iterable[str]) -> tuple[tuple[int, ...], str]:
    """The groups that may open the files, never root's, and what is wrong with the files."""
    groups: set[int] = set()
    for name in files:
        try:
            file = (root / name.removeprefix("/")).stat()
        except OSError as error:
            return (), f"{name}: {error.strerror}"
        if file.st_gid and file.st_mode & _GROUP == _GROUP:
            groups.add(file.st_gid)
        elif file.st_mode & _OTHERS != _OTHERS:
            return (), f"{name}: only root may open it"
    return tuple(sorted(groups)), ""


# --- what they do -----------------------------------------------------------------------------


def _usage(root: Path, device: Device, node: _Node) -> Usage:
    """Load and memory in use, which only a whole card tells.

    What the driver keeps for itself is in it: there is no file that tells it apart.
    """
    if not device.whole:
        return Usage()
    folder = _folder(root, node)
    busy = _told(folder / "gpu_busy_percent")
    return Usage(
        utilization=None if busy is None else busy / 100,
        memory=_told(folder / "mem_info_vram_used"),
    )


def _processes(root: Path) -> dict[int, tuple[Process, ...]] | None:
    """The processes of each GPU, by KFD's number of it; None where that cannot be told.

    KFD lists who opened it with its memory on every GPU, of which most are not used: only memory
    or a queue is use.
    """
    found: defaultdict[int, list[Process]] = defaultdict(list)
    try:
        for folder in (root / KFD / "proc").iterdir():
            if folder.name.isdecimal():
                for gpu_id, memory in _use(folder).items():
                    found[gpu_id].append(Process(int(folder.name), memory))
    except (OSError, ValueError):
        return None
    return {gpu_id: tuple(sorted(of, key=lambda p: p.pid)) for gpu_id, of in found.items()}


def _use(process: Path) -> dict[int, int]:
    """What a process has on each GPU that it uses, in bytes; nothing if it has just ended."""
    use: dict[int, int] = {}
    for queue in _listed(process / "queues"):
        gpu_id = _unless_gone(queue / "gpuid")
        use.update({} if gpu_id is None else {gpu_id: 0})
    for file in _listed(process):
        if file.name.startswith("vram_") and (memory := _unless_gone(file)):
            use[int(file.name.removeprefix("vram_"))] = memory
    return use


# --- files ------------------------------------------------------------------------------------


def _folder(root: Path, node: _Node) -> Path:
    return root / f"sys/class/drm/renderD{node.minor}/device"


def _listed(folder: Path) -> list[Path]:
    """What is in a folder, nothing where it is gone."""
    try:
        return list(folder.iterdir())
    except OSError as error:
        if error.errno in _GONE:
            return []
        raise


def _unless_gone(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


def _told(file: Path, base: int = 10) -> int | None:
    """The number in a file; None where this card or kernel does not tell it."""
    try:
        return int(file.read_text(), base)
    except (OSError, ValueError):
        return None


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, ValueError):
        return ""


def _epoch(root: Path, devices: Iterable[Device]) -> str:
    boot = boot_id(root / "proc")
    names = ",".join(sorted(device.uuid for device in devices))
    return hashlib.sha256(f"{boot} {names}".encode()).hexdigest()[:16]
