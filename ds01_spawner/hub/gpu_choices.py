"""The GPU part of the form: none, and each count and kind, with the reason where it is shut."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.options import Offer
from ds01_spawner.core.placement import SHARED, is_kind, of_kind
from ds01_spawner.core.sharing import Shared, Sharing, free_seats, units_of_seat
from ds01_spawner.core.units import UNITS_PER_GPU, format_size, gpueq_of_units

MAX_COUNT = 4
NONE = "0"
NO_SEAT = "All seats are taken at the moment; you can wait in line for one."
TAKEN = "Taken at the moment; you can wait in line for it."
RISK = (
    "Its memory is not protected: another may take it all, and a fault of one can end the work of "
    "all on this GPU."
)


@dataclass(frozen=True, slots=True)
class GpuChoice:
    """One choice: its value in the form, what it is called, and why it is shut ("": it is open)."""

    value: str
    title: str
    lines: tuple[str, ...]
    why: str = ""
    waits: bool = False  # it is taken, and can be waited for
    architectures: str = ""  # those of its devices, with spaces between; "": goes with all


def gpu_choices(
    offer: Offer,
    snapshot: Snapshot,
    *,
    taken: Collection[str],
    aside: Collection[str],
    own_units: int,
    shared: Mapping[str, Shared],
) -> list[GpuChoice]:
    """All choices of this host; `own_units` are held by the user's servers already.

    Nobody new gets onto a device of `taken`, and onto one of `shared` only with a seat. Of the
    `taken` ones, those `aside` do not come back by themselves.
    """
    choices = [GpuChoice(NONE, "No GPU", ("CPU only",))]
    if not snapshot.known:
        why = "The state of the GPUs is not known at the moment."
        return [*choices, GpuChoice("1:any", "1 GPU", (), why)]

    def add(value: str, title: str, devices: list[Device], count: int) -> None:
        free = [
            d for d in devices
            if d.healthy and d.uuid not in taken and d.uuid not in shared
            and d.architecture not in offer.shut
        ]  # fmt: skip
        archs = dict.fromkeys(d.architecture for d in devices if d.architecture)
        back = _back(devices, aside)
        why = _why_shut(offer, devices, len(free), back, count, own_units)
        choices.append(
            GpuChoice(value, title, _lines(devices, free), why, why == TAKEN, " ".join(archs))
        )

    whole = [d for d in snapshot.devices if d.whole]
    for count in range(1, min(len(whole), MAX_COUNT) + 1):
        add(f"{count}:full", "1 GPU" if count == 1 else f"{count} GPUs", whole, count)
    for profile in offer.profiles:
        slices = [d for d in snapshot.devices if d.profile == profile]
        add(f"1:{profile}", f"1 GPU slice {profile}", slices, 1)
    if offer.sharing is not None:
        choices += _seat(offer, offer.sharing, snapshot, taken, aside, shared, own_units)
    return choices


def _seat(
    offer: Offer,
    rule: Sharing,
    snapshot: Snapshot,
    taken: Collection[str],
    aside: Collection[str],
    shared: Mapping[str, Shared],
    own_units: int,
) -> list[GpuChoice]:
    """The choice of a seat, where there is a device for it."""
    devices = [d for d in snapshot.devices if is_kind(d, rule.gpu)]
    if not devices:
        return []
    usable = [d for d in devices if d.architecture not in offer.shut]
    free = free_seats(usable, taken, of_kind(shared, snapshot.devices, rule.gpu), rule)
    models = ", ".join(dict.fromkeys(d.name for d in devices))
    lines = (f"1 of {rule.seats} seats on {models}: {free} free", RISK)
    archs = dict.fromkeys(d.architecture for d in devices if d.architecture)
    why = _why_shut(offer, devices, free, _back(devices, aside), 1, own_units, rule.seats)
    why = NO_SEAT if why == TAKEN else why
    title, runs = "A seat on a shared GPU", " ".join(archs)
    return [GpuChoice(f"1:{SHARED}", title, lines, why, why == NO_SEAT, runs)]


def preselected_gpu(choices: list[GpuChoice], chosen: Mapping[str, Any], offer: Offer) -> str:
    """The value of the choice that was made, where it is open or can be waited for; else none."""
    count = chosen.get("gpus", offer.default_gpus if offer.has_gpus else 0)
    kind = chosen.get("gpu", "any")
    for choice in choices:
        of, _, what = choice.value.partition(":")
        would_do = kind == what or (kind == "any" and what != SHARED)
        if of == f"{count}" and would_do and (not choice.why or choice.waits):
            return choice.value
    return NONE


def _lines(devices: list[Device], free: list[Device]) -> tuple[str, ...]:
    """For each model: its name, its memory, and how many are free."""
    models = dict.fromkeys((d.name, d.memory) for d in devices)
    return tuple(
        f"{name}, {format_size(memory)}: {_count(free, name, memory)} of "
        f"{_count(devices, name, memory)} free"
        for name, memory in models
    )


def _count(devices: list[Device], name: str, memory: int) -> int:
    return sum((d.name, d.memory) == (name, memory) for d in devices)


def _back(devices: list[Device], aside: Collection[str]) -> int:
    return sum(d.healthy and d.uuid not in aside for d in devices)


def _why_shut(
    offer: Offer, devices: list[Device], free: int, back: int, count: int, own_units: int,
    seats: int = 1,
) -> str:  # fmt: skip
    """`free` of the devices are to be had now, `back` at some time."""
    limits = offer.limits
    units = min((units_of_seat(d, seats) for d in devices), default=UNITS_PER_GPU) * count
    if devices and devices[0].whole and not limits.allow_full_gpu and seats == 1:
        return "Your policy gives you slices, not whole GPUs."
    most = limits.max_gpu_slots_per_container
    if most is not None and count > most:
        return f"You may have at most {most} in one server."
    if limits.gpu_units is not None and own_units + units > limits.gpu_units:
        allowed, held = gpueq_of_units(limits.gpu_units), gpueq_of_units(own_units)
        holding = f", and your servers hold {held:g}" if own_units else ""
        return f"Your limit is {allowed:g} GPU{'' if allowed == 1 else 's'}{holding}."
    if free < count:
        for why in (offer.shut.get(d.architecture or "") for d in devices):
            if why:
                return why[0].upper() + why[1:]
        if back < count:
            return "Out of order, or set aside by the administrator."
        return TAKEN
    return ""
