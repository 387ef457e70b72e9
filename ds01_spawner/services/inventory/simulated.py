"""Made-up devices for demonstrations and tests; used only where the configuration asks for them."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, replace

from ds01_spawner.core.architectures import of_compute_capability, of_gfx
from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.units import MIG_SLICES_PER_GPU, UNITS_PER_GPU, units_of_profile
from ds01_spawner.errors import SimulationRefused
from ds01_spawner.services.inventory.base import WithoutXids

GIB = 1 << 30
MAX_DEVICES = 1024
_NAMESPACE = uuid.UUID("6f1b7a52-3f0c-5d84-9a6e-0d5501d50100")
_CARDS = re.compile(r"(\d{1,3})x([A-Za-z0-9]+)(?:-(\d{1,4})GB)?(?::mig=([^:]+))?")
_INSTANCES = re.compile(r"(\d)x(\dg\.(\d{1,4})gb)")


@dataclass(frozen=True, slots=True)
class _Model:
    name: str
    memory: int  # GiB, where the description says none
    chip: tuple[int, int] | str  # compute capability, or the gfx name of an AMD chip
    mig: bool = False


MODELS = {
    "P100": _Model("Tesla P100-PCIE", 16, (6, 0)),
    "V100": _Model("Tesla V100-SXM2", 32, (7, 0)),
    "T4": _Model("Tesla T4", 16, (7, 5)),
    "A100": _Model("NVIDIA A100-SXM4", 40, (8, 0), mig=True),
    "A40": _Model("NVIDIA A40", 48, (8, 6)),
    "RTX3090": _Model("NVIDIA GeForce RTX 3090", 24, (8, 6)),
    "L4": _Model("NVIDIA L4", 24, (8, 9)),
    "L40S": _Model("NVIDIA L40S", 48, (8, 9)),
    "RTX4090": _Model("NVIDIA GeForce RTX 4090", 24, (8, 9)),
    "H100": _Model("NVIDIA H100", 80, (9, 0), mig=True),
    "H200": _Model("NVIDIA H200", 141, (9, 0), mig=True),
    "B200": _Model("NVIDIA B200", 180, (10, 0), mig=True),
    "RTX5090": _Model("NVIDIA GeForce RTX 5090", 32, (12, 0)),
    "MI100": _Model("AMD Instinct MI100", 32, "gfx908"),
    "MI210": _Model("AMD Instinct MI210", 64, "gfx90a"),
    "MI300X": _Model("AMD Instinct MI300X", 192, "gfx942"),
    "RX7900XTX": _Model("AMD Radeon RX 7900 XTX", 24, "gfx1100"),
}


class SimulatedInventory(WithoutXids):
    """Devices from a description: `2xA100-40GB,1xH100-80GB:mig=7x1g.10gb,1xMI210`.

    Several sizes of MIG instances are joined with a plus: `mig=3x1g.10gb+2x2g.20gb`. UUIDs are
    made from `host`, the model and the place in the description, so they are the same each time.
    Each maker's cards are numbered from 0, as their drivers do. AMD's have no device files: no
    container gets any. Raises SimulationRefused.
    """

    def __init__(self, description: str, host: str) -> None:
        self._snapshot = Snapshot(devices=_devices(description, host), simulated=True)

    async def snapshot(self, *, fresh: bool = False) -> Snapshot:
        """The same devices each time."""
        return self._snapshot

    async def close(self) -> None:
        """Nothing to end."""


def _devices(description: str, host: str) -> tuple[Device, ...]:
    devices: list[Device] = []
    cards: list[Device] = []
    for part in description.split(","):
        match = _CARDS.fullmatch(part.strip())
        if not match:
            raise SimulationRefused(part.strip(), "it is not COUNTxMODEL-MEMORYGB")
        count, model, memory, instances = match.groups()
        if model not in MODELS:
            raise SimulationRefused(model, f"the models are {', '.join(MODELS)}")
        for _ in range(int(count)):
            card = _card(host, len(cards), MODELS[model], int(memory or MODELS[model].memory))
            card = replace(card, index=sum(other.kind == card.kind for other in cards))
            cards.append(card)
            devices += _instances(card, MODELS[model], instances) if instances else [card]
            if len(devices) > MAX_DEVICES:
                raise SimulationRefused(description, f"it has more than {MAX_DEVICES} devices")
    return tuple(devices)


def _card(host: str, place: int, model: _Model, memory: int) -> Device:
    made = uuid.uuid5(_NAMESPACE, f"{host}/{place}/{model.name}/{memory}")
    if isinstance(model.chip, str):
        return Device(
            uuid=f"0x{made.hex[:16]}",
            kind="amd",
            name=model.name,
            architecture=of_gfx(model.chip),
            units=UNITS_PER_GPU,
            memory=memory * GIB,
        )
    return Device(
        uuid=f"GPU-{made}",
        kind="gpu",
        name=f"{model.name}-{memory}GB",
        architecture=of_compute_capability(model.chip),
        units=UNITS_PER_GPU,
        memory=memory * GIB,
        compute_capability=model.chip,
    )


def _instances(card: Device, model: _Model, description: str) -> list[Device]:
    """The MIG instances of a card; the card itself can then not be given out."""
    if not model.mig:
        raise SimulationRefused(description, f"{model.name} has no MIG instances")
    devices: list[Device] = []
    for part in description.split("+"):
        match = _INSTANCES.fullmatch(part)
        if not match or not 1 <= int(match[2][0]) <= MIG_SLICES_PER_GPU:
            raise SimulationRefused(part, "it is not COUNTxPROFILE, such as 7x1g.10gb")
        count, profile, memory = match.groups()
        for _ in range(int(count)):
            made = uuid.uuid5(_NAMESPACE, f"{card.uuid}/{len(devices)}/{profile}")
            devices.append(
                Device(
                    uuid=f"MIG-{made}",
                    kind="mig",
                    name=card.name,
                    architecture=card.architecture,
                    units=units_of_profile(profile),
                    memory=int(memory) * GIB,
                    profile=profile,
                    parent=card.uuid,
                    index=card.index,
                    compute_capability=card.compute_capability,
                )
            )
    if (
        sum(d.units for d in devices) > UNITS_PER_GPU
        or sum(d.memory for d in devices) > card.memory
    ):
        raise SimulationRefused(description, f"they do not fit on one {card.name}")
    return devices
