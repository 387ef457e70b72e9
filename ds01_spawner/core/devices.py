"""What an inventory tells: the devices of a host, or that it does not know.

Filled by `services/inventory`, read by placement, ledger, form and command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Kind = Literal["gpu", "mig", "amd"]


@dataclass(frozen=True, slots=True)
class Device:
    """One allocatable GPU or part of one. A card that is given out in parts is never a Device."""

    uuid: str
    kind: Kind
    name: str  # "NVIDIA A100-SXM4-40GB"
    architecture: str | None  # an AIME class such as CUDA_AMPERE; None: no image runs on it
    units: int  # 2520 = one whole GPU
    memory: int  # bytes
    profile: str | None = None  # "1g.10gb" of a MIG instance, "cpx" of an AMD partition
    parent: str | None = None  # the card that it is a part of
    index: int = 0  # for people only; it may change at a reboot
    compute_capability: tuple[int, int] | None = None
    healthy: bool = True
    problem: str = ""  # why it is not healthy, for people
    nodes: tuple[str, ...] = ()  # device files that a container needs of it; AMD's
    groups: tuple[int, ...] = ()  # gids that may open them
    card_name: str = ""  # of its card, where neither its UUID nor its parent is that
    host: str = "local"

    @property
    def card(self) -> str:
        """The card that it is or is a part of: the same name however the card is divided."""
        return self.card_name or self.parent or self.uuid

    @property
    def whole(self) -> bool:
        """Whether this is a whole GPU."""
        return self.parent is None


@dataclass(frozen=True, slots=True)
class Process:
    """A process that uses a device: its id on the host, and its memory there in bytes."""

    pid: int
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a device does at the moment; None: it cannot tell.

    `utilization` is the share of the last moment in which it computed, 0 to 1; `memory` is in use,
    in bytes, without what the driver keeps for itself.
    """

    utilization: float | None = None
    memory: int | None = None
    processes: tuple[Process, ...] | None = None


@dataclass(frozen=True, slots=True)
class Xid:
    """What NVIDIA's driver reported of a device or a card: its number, and when (UTC)."""

    device: str
    number: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The devices at one moment.

    `known` is False when the inventory could not tell (a hanging or broken driver): then nothing
    new is granted, and nothing that runs is touched. A host that is known to have no GPU has
    `known` True and no devices.
    """

    devices: tuple[Device, ...] = ()
    known: bool = True
    simulated: bool = False
    driver: str | None = None
    cuda: tuple[int, int] | None = None  # the driver's own CUDA version
    problems: tuple[str, ...] = ()
    taken: datetime | None = None  # when the host was asked; None for made-up devices
    epoch: str = ""  # changes with the host's boot and with the set of devices
    usage: Mapping[str, Usage] = field(default_factory=dict)  # by UUID; of real devices
    # How close two cards are, the more the closer: (UUID, UUID, score), each pair once.
    links: tuple[tuple[str, str, int], ...] = ()
    struck: tuple[Xid, ...] = ()  # what keeps devices or cards out of use, one of each
    faults: tuple[Xid, ...] = ()  # of programs, the latest, each as long as it may be asked for

    @property
    def nvidia(self) -> tuple[Device, ...]:
        """NVIDIA's among the devices: which way they get into containers, the engine decides."""
        return tuple(device for device in self.devices if device.kind != "amd")

    @property
    def architectures(self) -> tuple[str, ...]:
        """The architectures of the devices, each once, in the order of the devices."""
        found = (d.architecture for d in self.devices if d.architecture)
        return tuple(dict.fromkeys(found))
