"""devices + who holds them + a wish + limits -> the devices to give, or the reason why not.

Best fit, and the fullest card first, so that whole GPUs and large instances stay free for those
who need them: in a simulation on public traces, packing cut the wait for a whole GPU by up to
1.66 against spreading. Among cards that are equal in this, those that are linked to each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.links import Link, closest
from ds01_spawner.core.runs import Needs, runs
from ds01_spawner.core.sharing import Shared, open_to, units_of_seat
from ds01_spawner.core.units import format_gpu_memory, gpueq_of_units
from ds01_spawner.errors import (
    DevicesUnknown,
    FullGpuNotAllowed,
    GpuQuotaExceeded,
    NoDeviceFree,
    NoSeatFree,
    NoSuchDevice,
    NotEnoughDevices,
    SharedNotOffered,
    TooManyGpus,
)

GIB = 1 << 30
ANY, FULL, SHARED = "any", "full", "shared"


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many devices, of which kind: `any`, `full`, `shared` or a MIG profile.

    `needs` is what they must be to run the image, None: it does not care; `memory` the least that
    each must have, in bytes. Both are judged on the devices and the driver of the moment.
    With several `seats` it is one seat on one such device, of which at most `max_shared` are
    shared; `shared` itself as a kind is the wish for a seat where the policy has none.
    """

    count: int
    kind: str = ANY
    needs: Needs | None = None
    memory: int | None = None
    seats: int = 1
    max_shared: int | None = None

    @property
    def asked(self) -> str:
        """The kind as it was asked for."""
        return SHARED if self.seats > 1 else self.kind


@dataclass(frozen=True, slots=True)
class Placed:
    """The devices given, none for a server without a GPU; of a shared one, which of its seats."""

    devices: tuple[Device, ...] = ()
    seat: int = 0
    seats: int = 1

    @property
    def units(self) -> int:
        """The share of GPUs given, in units."""
        return sum(units_of_seat(device, self.seats) for device in self.devices)


def place(
    snapshot: Snapshot,
    taken: Mapping[str, str],
    wanted: Wanted,
    limits: Limits,
    held_units: int,
    sharing: Mapping[str, Shared] = MappingProxyType({}),
) -> Placed:
    """Choose the devices of one server; equal arguments give an equal answer.

    `taken` is uuid -> holder, of leases and of foreign holders; one that holds a card holds the
    card's instances. `sharing` are the devices on which there are seats, which only a wish for a
    seat gets. `held_units` is what the user's other servers have. Raises the refusals of
    `errors`: what can never be (no such device, not allowed) before what cannot be now.
    """
    if wanted.count <= 0:
        return Placed()
    _check_wish(wanted, limits)
    if not snapshot.known:
        raise DevicesUnknown("; ".join(snapshot.problems))
    fitting = sorted(suited(snapshot, wanted, limits), key=_size)
    left = None if limits.gpu_units is None else limits.gpu_units - held_units
    if left is not None:
        cheapest = Placed(tuple(fitting[: wanted.count]), seats=wanted.seats).units
        if cheapest > left:  # waiting for a device would not help
            raise _quota(limits, held_units, cheapest)
        fitting = [d for d in fitting if units_of_seat(d, wanted.seats) <= left]
    held = {*taken, *sharing}
    used = _used_of_cards(snapshot.devices, held)
    if wanted.seats > 1:
        return _seat(fitting, taken, of_kind(sharing, snapshot.devices, wanted.kind), wanted, used)
    free = [d for d in fitting if d.healthy and d.uuid not in held and d.parent not in held]
    if len(free) < wanted.count:
        raise NoDeviceFree(wanted.count, len(free), len(fitting))
    chosen = Placed(_choose(free, wanted.count, used, snapshot.links))
    if left is not None and chosen.units > left:
        raise _quota(limits, held_units, chosen.units)
    return chosen


def _seat(
    fitting: Iterable[Device],
    taken: Mapping[str, str],
    sharing: Mapping[str, Shared],
    wanted: Wanted,
    used: Mapping[str, int],
) -> Placed:
    """A seat beside others, else the first one of a device that nobody has."""
    begun, fresh = open_to(fitting, taken, sharing, wanted.seats, wanted.max_shared)

    def crowd(device: Device) -> tuple[bool, int, str]:
        now = sharing[device.uuid]
        return now.own, -len(now.taken), device.uuid

    if begun:
        device = min(begun, key=crowd)
        return Placed((device,), sharing[device.uuid].free, wanted.seats)
    if fresh:
        return Placed(_choose(fresh, 1, used, ()), 0, wanted.seats)
    raise NoSeatFree(wanted.seats)


def _check_wish(wanted: Wanted, limits: Limits) -> None:
    if wanted.kind == SHARED:
        raise SharedNotOffered
    most = limits.max_gpu_slots_per_container
    if most is not None and wanted.count > most:
        raise TooManyGpus(wanted.count, most)


def _quota(limits: Limits, held: int, asked: int) -> GpuQuotaExceeded:
    allowed = limits.gpu_units or 0
    return GpuQuotaExceeded(gpueq_of_units(held), gpueq_of_units(asked), gpueq_of_units(allowed))


def suited(snapshot: Snapshot, wanted: Wanted, limits: Limits) -> list[Device]:
    """The devices that would do, free or not; never fewer than wanted, or `place`'s refusal."""
    needs = wanted.needs
    runnable = [d for d in snapshot.devices if needs is None or runs(needs, d, snapshot)]
    least = (wanted.memory or 0) * wanted.seats
    fitting = [d for d in runnable if is_kind(d, wanted.kind, wanted.count) and d.memory >= least]
    whole_too = limits.allow_full_gpu or wanted.seats > 1  # a seat is no whole GPU
    allowed = [d for d in fitting if whole_too or not d.whole]
    profiles = dict.fromkeys(d.profile for d in runnable if d.profile)
    if (fitting and not allowed) or (wanted.kind == FULL and not whole_too):
        raise FullGpuNotAllowed(profiles)
    if not allowed:
        raise NoSuchDevice(_told(wanted), _kinds(runnable))
    if len(allowed) < wanted.count:
        raise NotEnoughDevices(wanted.count, len(allowed))
    return allowed


def is_kind(device: Device, kind: str, count: int = 1) -> bool:
    """Whether a device is of a kind, as one of so many for one server."""
    if kind == ANY:
        # A CUDA process sees one MIG instance however many there are (pytorch#130181), so several
        # are given only to who names their profile.
        return device.whole or count == 1
    return device.whole if kind == FULL else device.profile == kind


def of_kind(
    sharing: Mapping[str, Shared], devices: Iterable[Device], kind: str
) -> dict[str, Shared]:
    """The shared devices of a kind, and those that are not known now, which may be of it."""
    others = {d.uuid for d in devices if not is_kind(d, kind)}
    return {uuid: now for uuid, now in sharing.items() if uuid not in others}


def _told(wanted: Wanted) -> str:
    """The wish, for people."""
    kind = FULL if wanted.kind == ANY and wanted.count > 1 else wanted.kind
    return kind if wanted.memory is None else f"{kind} with {format_gpu_memory(wanted.memory)}"


def _kinds(devices: Iterable[Device]) -> tuple[str, ...]:
    """What there is, for people, each once."""
    return tuple(dict.fromkeys(d.profile or f"full ({d.name})" for d in devices))


def _size(device: Device) -> tuple[int, int]:
    # Instances of one profile differ by some MiB, which is no better fit.
    return device.units, device.memory // GIB


def _used_of_cards(devices: Iterable[Device], taken: Collection[str]) -> Counter[str]:
    """Units in use of each card that has instances."""
    used: Counter[str] = Counter()
    for device in devices:
        if device.parent and device.uuid in taken:
            used[device.parent] += device.units
    return used


def _choose(
    free: Sequence[Device], count: int, used: Mapping[str, int], links: Iterable[Link]
) -> tuple[Device, ...]:
    """The best fit; several of one model where one model has enough, the closest of equal ones."""

    def rank(device: Device) -> tuple[int, int, int]:
        return (*_size(device), -used.get(device.card, 0))

    ordered = sorted(free, key=lambda d: (rank(d), d.card, d.uuid))
    models = Counter(device.name for device in ordered)
    same = (d for d in ordered if models[d.name] >= count)
    model = next((d.name for d in same), None)
    candidates = [d for d in ordered if model is None or d.name == model]
    last = rank(candidates[count - 1])
    sure = {d.uuid for d in candidates if rank(d) < last}
    equal = [d.uuid for d in candidates if rank(d) == last]
    chosen = sure.union(
        closest(sure, equal, count - len(sure), links, {device.uuid for device in free})
    )
    return tuple(d for d in candidates if d.uuid in chosen)
