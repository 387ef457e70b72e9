"""What an inventory tells: the devices of a host, or that it does not know.

Filled by `services/inventory`, read by placement, ledger, form and command line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["gpu", "mig", "amd"]


@dataclass(frozen=True, slots=True)
class Device:
    """One allocatable GPU or MIG instance. The parent of MIG instances is never a Device."""

    uuid: str
    kind: Kind
    name: str  # "NVIDIA A100-SXM4-40GB"
    architecture: str | None  # an AIME class such as CUDA_AMPERE; None: no image runs on it
    units: int  # 2520 = one whole GPU
    memory: int  # bytes
    profile: str | None = None  # "1g.10gb" of a MIG instance
    parent: str | None = None  # UUID of the card of a MIG instance
    index: int = 0  # for people only; it may change at a reboot
    compute_capability: tuple[int, int] | None = None
    healthy: bool = True
    problem: str = ""  # why it is not healthy, for people
    host: str = "local"

    @property
    def whole(self) -> bool:
        """Whether this is a whole GPU."""
        return self.kind != "mig"


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

    @property
    def architectures(self) -> tuple[str, ...]:
        """The architectures of the devices, each once, in the order of the devices."""
        found = (d.architecture for d in self.devices if d.architecture)
        return tuple(dict.fromkeys(found))
