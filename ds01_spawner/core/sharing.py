"""Seats: a device that several servers use at the same time, each with an equal part of it.

The driver lets their programs take turns (time-slicing). It protects nothing: one may take the
memory of all, and a fault of one can end the work of all. So a device is either shared or one
server's alone, never both, and in one way for as long as anybody has a seat on it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from ds01_spawner.core.devices import Device

MOST_SEATS = 48
JAX_PART = 95  # percent of its part that JAX takes: CUDA itself needs some memory beside it
_LABEL = re.compile(r"([1-9]\d?)/([1-9]\d?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sharing:
    """What the policy says: so many seats on each of at most so many devices of a kind."""

    seats: int
    gpu: str = "full"  # or `any`, or a MIG profile
    max_devices: int | None = None


@dataclass(frozen=True, slots=True)
class Shared:
    """A device that is shared: its seats, those that are taken, and whether the asker has one."""

    seats: int
    taken: frozenset[int] = field(default_factory=frozenset)
    own: bool = False

    @property
    def free(self) -> int:
        """The lowest seat that is free; `seats` where none is."""
        return min(set(range(self.seats + 1)) - self.taken)


def shared(rows: Iterable[tuple[str, int, int, bool]]) -> dict[str, Shared]:
    """The devices that are shared, by UUID; `rows` are (device, seat, seats, the asker's own)."""
    found: dict[str, Shared] = {}
    for device, seat, seats, own in rows:
        if seats > 1:
            known = found.get(device, Shared(seats))
            found[device] = Shared(seats, known.taken | {seat}, known.own or own)
    return found


def units_of_seat(device: Device, seats: int) -> int:
    """The share of GPU that one seat of a device is, in units, rounded down."""
    return device.units // seats


def open_to(
    devices: Iterable[Device],
    taken: Collection[str],
    sharing: Mapping[str, Shared],
    seats: int,
    max_devices: int | None,
) -> tuple[list[Device], list[Device]]:
    """The devices with a free seat: those that are shared so already, and those that may become so.

    `taken` are the devices that nobody new gets onto.
    """
    usable = [d for d in devices if d.healthy and d.uuid not in taken and d.parent not in taken]
    begun = [
        d for d in usable
        if (now := sharing.get(d.uuid)) and now.seats == seats and now.free < seats
    ]  # fmt: skip
    more = max_devices is None or len(sharing) < max_devices
    return begun, [d for d in usable if more and d.uuid not in sharing]


def free_seats(
    devices: Iterable[Device],
    taken: Collection[str],
    sharing: Mapping[str, Shared],
    rule: Sharing,
) -> int:
    """How many more seats there are on devices that would do; `taken` and `sharing` as above."""
    begun, fresh = open_to(devices, taken, sharing, rule.seats, rule.max_devices)
    most = len(fresh) if rule.max_devices is None else rule.max_devices - len(sharing)
    left = sum(rule.seats - len(sharing[device.uuid].taken) for device in begun)
    return left + rule.seats * min(len(fresh), max(most, 0))


def label(seat: int, seats: int) -> str:
    """A seat as a container's label tells it: the third of eight is `3/8`; empty: not shared."""
    return f"{seat + 1}/{seats}" if seats > 1 else ""


def read_label(text: str) -> tuple[int, int] | None:
    """(seat, seats) of a label, (0, 1) for a device that is not shared; None: it is no seat."""
    if not text:
        return 0, 1
    found = _LABEL.fullmatch(text)
    if not found or not 1 < int(found[2]) <= MOST_SEATS or int(found[1]) > int(found[2]):
        return None
    return int(found[1]) - 1, int(found[2])


def environment(seats: int) -> dict[str, str]:
    """What tells the frameworks of a server to keep to their part of a shared device's memory.

    JAX reads one; TensorFlow's makes it take only what it needs, without a bound. PyTorch has none:
    a notebook calls
    `torch.cuda.set_per_process_memory_fraction(float(os.environ["DS01_GPU_MEMORY_FRACTION"]))`.
    """
    if seats == 1:
        return {}
    return {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"0.{JAX_PART // seats:02d}",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "DS01_GPU_MEMORY_FRACTION": f"0.{10_000 // seats:04d}",
    }
