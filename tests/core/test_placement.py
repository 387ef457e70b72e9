"""Which devices a start gets, and which sentence it gets instead."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.placement import Wanted, of_kind, place
from ds01_spawner.core.runs import Needs
from ds01_spawner.core.sharing import Shared
from ds01_spawner.core.units import units_of_profile
from ds01_spawner.errors import (
    DevicesUnknown,
    DS01Error,
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
MANY = Limits(max_gpu_equivalents=None, max_gpu_slots_per_container=None)


def full(uuid: str, name: str = "A100", memory: int = 40, arch: str = "CUDA_AMPERE") -> Device:
    return Device(uuid, "gpu", name, arch, 2520, memory * GIB)


def mig(uuid: str, parent: str, profile: str = "1g.10gb") -> Device:
    units, memory = units_of_profile(profile), int(profile[3:-2]) * GIB
    return Device(uuid, "mig", "H100", "CUDA_ADA", units, memory, profile=profile, parent=parent)


HOST = Snapshot(
    devices=(
        full("A1"),
        full("A2"),
        full("B1", memory=80),
        *(mig(f"M{i}", "H1") for i in range(1, 5)),
        mig("L1", "H1", "3g.40gb"),
        *(mig(f"N{i}", "H2") for i in range(1, 3)),
        full("OLD", name="P6000", arch="CUDA"),
    )
)
AMPERE = Needs(("CUDA_AMPERE",))
CHOICES = [
    # wanted, taken, limits, held units -> chosen
    ("none asked for", Wanted(0), "", MANY, 0, ""),
    ("any: the smallest that fits", Wanted(1), "", MANY, 0, "M1"),
    ("any: the fullest card first", Wanted(1), "N1", MANY, 0, "N2"),
    ("any: several are whole GPUs", Wanted(2), "", MANY, 0, "A1 A2"),
    ("full: the smaller memory first", Wanted(1, "full", AMPERE), "", MANY, 0, "A1"),
    ("full: the larger when it is all there is", Wanted(1, "full", AMPERE), "A1 A2", MANY, 0, "B1"),
    ("full: several of one model first", Wanted(3, "full"), "", MANY, 0, "A1 A2 B1"),
    ("several models when no model has enough", Wanted(4, "full"), "", MANY, 0, "A1 A2 OLD B1"),
    ("a profile by name", Wanted(1, "3g.40gb"), "", MANY, 0, "L1"),
    ("several slices, by name only", Wanted(3, "1g.10gb"), "N1", MANY, 0, "N2 M1 M2"),
    ("the image's architecture", Wanted(1, "any", Needs(("CUDA",))), "", MANY, 0, "OLD"),
    ("memory: the smallest that has enough", Wanted(1, memory=20 * GIB), "", MANY, 0, "L1"),
    ("memory: of whole ones", Wanted(1, "full", memory=80 * GIB), "", MANY, 0, "B1"),
    ("memory: each of several", Wanted(2, "any", AMPERE, 40 * GIB), "A1", MANY, 0, "A2 B1"),
    (
        "any: a slice where whole ones are not allowed",
        Wanted(1), "", replace(MANY, allow_full_gpu=False), 0, "M1",
    ),
    (
        "any: a slice fits a quota that no whole GPU fits",
        Wanted(1), "", replace(MANY, max_gpu_equivalents=1.0), 2160, "M1",
    ),
    (
        "a quota met exactly: seven sevenths are one",
        Wanted(1, "1g.10gb"), "", replace(MANY, max_gpu_equivalents=1.0), 2160, "M1",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "taken", "limits", "held", "chosen"),
    [pytest.param(*row[1:], id=row[0]) for row in CHOICES],
)
def test_choice(wanted: Wanted, taken: str, limits: Limits, held: int, chosen: str) -> None:
    placed = place(HOST, dict.fromkeys(taken.split(), "someone"), wanted, limits, held)
    assert [device.uuid for device in placed.devices] == chosen.split()


SLICES = "M1 M2 M3 M4 N1 N2 L1"
ONE = replace(MANY, max_gpu_equivalents=1.0)
REFUSALS = [
    ("a seat, and no rule for it", Wanted(1, "shared"), "", MANY, 0, SharedNotOffered, "shared"),
    ("more than a server may have", Wanted(2), "", Limits(), 0, TooManyGpus, "may have 1"),
    ("a profile that is not there", Wanted(1, "2g.20gb"), "", MANY, 0, NoSuchDevice, "3g.40gb"),
    (
        "an architecture that is not there",
        Wanted(1, "any", Needs(("ROCM6",))), "", MANY, 0, NoSuchDevice, "It has: none",
    ),
    ("memory that no device has", Wanted(1, memory=10**11), "", MANY, 0, NoSuchDevice,
     "of the kind any with 100 GB. It has: full (A100), 1g.10gb"),
    ("memory that too few have", Wanted(2, memory=80 * GIB), "", MANY, 0, NotEnoughDevices, "1"),
    (
        "a whole GPU that policy forbids",
        Wanted(1, "full"), "", replace(MANY, allow_full_gpu=False), 0, FullGpuNotAllowed, "1g.10gb",
    ),
    (
        "any, where only whole ones would do and policy forbids them",
        Wanted(1, "any", AMPERE), "", replace(MANY, allow_full_gpu=False), 0,
        FullGpuNotAllowed, "no slices",
    ),
    ("more than the host has", Wanted(9, "full"), "", MANY, 0, NotEnoughDevices, "has 4"),
    ("over quota", Wanted(1, "full"), "", ONE, 360, GpuQuotaExceeded, "hold 0.1429 of the 1 GPUs"),
    ("over quota by count", Wanted(2, "full"), "", ONE, 0, GpuQuotaExceeded, "asks for 2 more"),
    ("no GPU at all", Wanted(1), "", replace(MANY, max_gpu_equivalents=0.0), 0, GpuQuotaExceeded,
     "of the 0 GPUs"),
    ("all taken", Wanted(1, "full", AMPERE), "A1 A2 B1", MANY, 0, NoDeviceFree, "0 of the 3"),
    ("too few left", Wanted(2, "full", AMPERE), "A1 A2", MANY, 0, NoDeviceFree, "1 of the 3"),
    (
        "any: what fits the quota is taken; a whole one is free but does not fit it",
        Wanted(1), SLICES, ONE, 360, NoDeviceFree, "0 of the 7",
    ),
    ("a holder of the card has its slices", Wanted(1, "3g.40gb"), "H1", MANY, 0, NoDeviceFree,
     "0 of the 1"),
    # What can never be is said before what cannot be now.
    ("quota before capacity", Wanted(1, "full"), "A1 A2 B1 OLD", ONE, 2520, GpuQuotaExceeded, ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "taken", "limits", "held", "error", "words"),
    [pytest.param(*row[1:], id=row[0]) for row in REFUSALS],
)
def test_refusal(
    wanted: Wanted, taken: str, limits: Limits, held: int, error: type[DS01Error], words: str
) -> None:
    with pytest.raises(error) as caught:
        place(HOST, dict.fromkeys(taken.split(), "someone"), wanted, limits, held)
    assert words in str(caught.value)
    assert caught.value.status < 500


CU13 = Needs(("CUDA",), (13, 0))


def test_what_the_image_needs_is_judged_device_by_device() -> None:
    old = replace(full("A", "V100", arch="CUDA"), compute_capability=(7, 0))
    new = replace(full("B", "T4", memory=80, arch="CUDA"), compute_capability=(7, 5))
    mixed = Snapshot(devices=(old, new, full("C")))
    assert place(mixed, {}, Wanted(1), MANY, 0).devices == (old,)  # the best fit of all
    assert place(mixed, {}, Wanted(1, needs=CU13), MANY, 0).devices == (new,)
    with pytest.raises(NotEnoughDevices):
        place(mixed, {}, Wanted(2, needs=CU13), MANY, 0)


def test_the_driver_of_the_moment_decides() -> None:
    snapshot = Snapshot(devices=(full("A", arch="CUDA"),), cuda=(12, 4), driver="550.54.14")
    with pytest.raises(NoSuchDevice, match="It has: none"):
        place(snapshot, {}, Wanted(1, needs=CU13), MANY, 0)
    newer = replace(snapshot, cuda=(13, 0), driver="580.65.06")
    assert len(place(newer, {}, Wanted(1, needs=CU13), MANY, 0).devices) == 1


# Four cards of 40 GB in two linked pairs, and a pair of 80 GB.
LINKED = Snapshot(
    devices=(*(full(f"C{i}") for i in range(1, 5)), full("D1", memory=80), full("D2", memory=80)),
    links=(("C1", "C3", 9), ("C2", "C4", 9), ("C1", "C2", 1), ("C3", "C4", 1), ("D1", "D2", 9)),
)
LINKED_CHOICES = [
    # wanted, taken -> chosen
    ("one: the first, where all are missed alike", Wanted(1), "", "C1"),
    ("one: not of a whole pair", Wanted(1), "C1", "C3"),
    ("two: a pair", Wanted(2), "", "C1 C3"),
    ("two: the pair that is whole", Wanted(2), "C3", "C2 C4"),
    ("two: best fit before links", Wanted(2), "C1 C2", "C3 C4"),
    ("three: a pair and its neighbour", Wanted(3), "", "C1 C2 C3"),
    ("three: best fit first, then what goes with it", Wanted(3), "C1 C2 C4", "C3 D1 D2"),
    ("two of the larger ones", Wanted(2, memory=80 * GIB), "", "D1 D2"),
]


@pytest.mark.parametrize(
    ("wanted", "taken", "chosen"), [pytest.param(*row[1:], id=row[0]) for row in LINKED_CHOICES]
)
def test_linked_cards_go_together(wanted: Wanted, taken: str, chosen: str) -> None:
    for snapshot in (LINKED, replace(LINKED, devices=LINKED.devices[::-1])):
        placed = place(snapshot, dict.fromkeys(taken.split(), "someone"), wanted, MANY, 0)
        assert [device.uuid for device in placed.devices] == chosen.split()


def test_unknown_devices_grant_nothing() -> None:
    snapshot = Snapshot(devices=(full("A1"),), known=False, problems=("the driver hangs",))
    with pytest.raises(DevicesUnknown) as caught:
        place(snapshot, {}, Wanted(1), MANY, 0)
    assert caught.value.detail == "the driver hangs"
    assert place(snapshot, {}, Wanted(0), MANY, 0).devices == ()


def test_unhealthy_devices_are_never_given() -> None:
    sick = replace(full("A1"), healthy=False, problem="it is lost")
    with pytest.raises(NoDeviceFree):
        place(Snapshot(devices=(sick,)), {}, Wanted(1), MANY, 0)
    both = Snapshot(devices=(sick, full("A2")))
    assert place(both, {}, Wanted(1), MANY, 0).devices == (full("A2"),)


# --- seats ---------------------------------------------------------------------------------------

EIGHTH = Wanted(1, "full", AMPERE, seats=8)
BOTH = replace(EIGHTH, max_shared=2)


def seats(text: str, of: int = 8) -> dict[str, Shared]:
    """`A1:0,2 A2:1!`: the seats that are taken, `!` where the asker has one of them."""
    found = {}
    for word in text.split():
        uuid, _, taken = word.rstrip("!").partition(":")
        numbers = frozenset(int(number) for number in taken.split(","))
        found[uuid] = Shared(of, numbers, own=word.endswith("!"))
    return found


SEATS = [
    # wanted, shared, taken, limits, held units -> device:seat
    ("the first opens a device", EIGHTH, "", "", MANY, 0, "A1:0"),
    ("the second sits beside it", EIGHTH, "A2:0", "", MANY, 0, "A2:1"),
    ("the lowest seat that is free", EIGHTH, "A2:0,1,3", "", MANY, 0, "A2:2"),
    ("the fullest first", EIGHTH, "A1:0 A2:0,1", "", MANY, 0, "A2:2"),
    ("rather not where this user is", EIGHTH, "A1:0 A2:0,1!", "", MANY, 0, "A1:1"),
    ("but rather there than on a new one", EIGHTH, "A2:0,1!", "", MANY, 0, "A2:2"),
    ("a full one is followed by a new one", EIGHTH, "A1:0,1,2,3,4,5,6,7", "", MANY, 0, "A2:0"),
    ("not beside an exclusive lease", EIGHTH, "", "A1", MANY, 0, "A2:0"),
    ("nobody new on one that is set aside", EIGHTH, "A1:0", "A1", MANY, 0, "A2:0"),
    ("a slice has seats, too", Wanted(1, "1g.10gb", seats=4), "", "N1", MANY, 0, "N2:0"),
    ("a slice of the card that has seats", Wanted(1, "1g.10gb", seats=4), "N1:0,1,2,3", "", MANY, 0,
     "N2:0"),
    ("a seat is no whole GPU", EIGHTH, "", "", replace(MANY, allow_full_gpu=False), 0, "A1:0"),
    ("an eighth fits a quota of an eighth", EIGHTH, "", "",
     replace(MANY, max_gpu_equivalents=0.125), 0, "A1:0"),
    ("memory: its part of the device's", replace(EIGHTH, memory=6 * GIB), "", "", MANY, 0, "B1:0"),
    ("as many devices as may be shared", BOTH, "A1:0,1,2,3,4,5,6,7", "", MANY, 0, "A2:0"),
    ("of its kind: others were shared by an earlier rule", BOTH,
     "A1:0,1,2,3,4,5,6,7 N1:0 N2:0", "", MANY, 0, "A2:0"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "sharing", "taken", "limits", "held", "chosen"),
    [pytest.param(*row[1:], id=row[0]) for row in SEATS],
)
def test_a_seat(
    wanted: Wanted, sharing: str, taken: str, limits: Limits, held: int, chosen: str
) -> None:
    has, who = seats(sharing, wanted.seats), dict.fromkeys(taken.split(), "someone")
    for host in (HOST, replace(HOST, devices=HOST.devices[::-1])):
        placed = place(host, who, wanted, limits, held, has)
        (device,) = placed.devices
        assert f"{device.uuid}:{placed.seat}" == chosen
        assert (placed.seats, placed.units) == (wanted.seats, device.units // wanted.seats)


ALL_TAKEN = "A1:0,1,2,3,4,5,6,7 A2:0,1,2,3,4,5,6,7"
NO_SEAT = [
    ("all taken, and no other may be shared", BOTH, ALL_TAKEN, "", MANY, 0, NoSeatFree, "8 on"),
    ("one that is not known now may be of its kind", BOTH, "A1:0,1,2,3,4,5,6,7 X1:0", "", MANY, 0,
     NoSeatFree, ""),
    ("all taken, and the other is exclusive", EIGHTH, ALL_TAKEN, "B1", MANY, 0, NoSeatFree, ""),
    ("the host shares in another way", replace(BOTH, seats=4), "A1:0 A2:1", "", MANY, 0,
     NoSeatFree, "4 on each"),
    ("over quota", EIGHTH, "A1:0", "", ONE, 2300, GpuQuotaExceeded, "asks for 0.125 more"),
    ("memory that no part has", replace(EIGHTH, memory=11 * GIB), "", "", MANY, 0, NoSuchDevice,
     ""),
    ("no GPU in one server", EIGHTH, "", "", replace(MANY, max_gpu_slots_per_container=0), 0,
     TooManyGpus, ""),
    ("exclusive: a shared one is not free", Wanted(1, "full", AMPERE), "A1:0 A2:0", "B1", MANY, 0,
     NoDeviceFree, "0 of the 3"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "sharing", "taken", "limits", "held", "error", "words"),
    [pytest.param(*row[1:], id=row[0]) for row in NO_SEAT],
)
def test_no_seat(
    wanted: Wanted, sharing: str, taken: str, limits: Limits, held: int,
    error: type[DS01Error], words: str,
) -> None:  # fmt: skip
    with pytest.raises(error) as caught:
        place(HOST, dict.fromkeys(taken.split(), "x"), wanted, limits, held, seats(sharing))
    assert words in str(caught.value)
    assert caught.value.status < 500


PROFILES = ("1g.10gb", "2g.20gb", "3g.40gb")


@st.composite
def hosts(draw: st.DrawFn) -> tuple[Snapshot, dict[str, str]]:
    devices: list[Device] = []
    for card in range(draw(st.integers(0, 4))):
        profiles = draw(st.lists(st.sampled_from(PROFILES), max_size=3))
        devices += [mig(f"{card}.{i}", f"H{card}", p) for i, p in enumerate(profiles)]
        if not profiles:
            devices.append(full(f"G{card}", memory=draw(st.sampled_from([40, 80]))))
    healthy = [replace(d, healthy=draw(st.booleans())) for d in devices]
    taken = draw(st.sets(st.sampled_from([d.uuid for d in devices]))) if devices else set()
    return Snapshot(devices=tuple(healthy)), dict.fromkeys(taken, "someone")


@given(
    host=hosts(),
    count=st.integers(0, 4),
    kind=st.sampled_from(["any", "full", *PROFILES]),
    gpus=st.none() | st.floats(0, 4),
    slots=st.none() | st.integers(0, 4),
    whole=st.booleans(),
    held=st.integers(0, 2520),
)
def test_no_choice_breaks_a_limit(
    host: tuple[Snapshot, dict[str, str]],
    count: int,
    kind: str,
    gpus: float | None,
    slots: int | None,
    whole: bool,
    held: int,
) -> None:
    snapshot, taken = host
    limits = Limits(gpus, slots, allow_full_gpu=whole)
    try:
        placed = place(snapshot, taken, Wanted(count, kind), limits, held)
    except DS01Error:
        return
    chosen = placed.devices
    assert len(chosen) == len({d.uuid for d in chosen}) == count
    assert all(d.healthy and d.uuid not in taken for d in chosen)
    assert all(kind in ("any", "full", d.profile) for d in chosen)
    assert whole or not any(d.whole for d in chosen)
    assert slots is None or count <= slots or not count
    assert limits.gpu_units is None or not count or held + placed.units <= limits.gpu_units
    assert kind != "any" or count < 2 or all(d.whole for d in chosen)
    shuffled = Snapshot(devices=tuple(reversed(snapshot.devices)))
    assert place(shuffled, taken, Wanted(count, kind), limits, held) == placed


@given(host=hosts(), data=st.data())
def test_no_seat_is_given_twice_and_none_beside_an_exclusive_lease(
    host: tuple[Snapshot, dict[str, str]], data: st.DataObject
) -> None:
    snapshot, taken = host
    kinds = st.sampled_from(["any", "full", *PROFILES])
    wishes = st.builds(
        Wanted, st.just(1), kinds, seats=st.sampled_from([1, 2, 4]),
        max_shared=st.none() | st.integers(1, 3),
    )  # fmt: skip
    sharing: dict[str, Shared] = {}
    for wanted in data.draw(st.lists(wishes, max_size=12)):
        try:
            placed = place(snapshot, taken, wanted, MANY, 0, sharing)
        except DS01Error:
            continue
        (device,) = placed.devices
        assert device.healthy
        assert device.uuid not in taken
        before = sharing.get(device.uuid)
        if placed.seats == 1:
            assert before is None
            taken = {**taken, device.uuid: "exclusive"}
            continue
        now = before or Shared(placed.seats)
        assert now.seats == placed.seats
        assert placed.seat not in now.taken
        assert placed.seat < placed.seats
        sharing[device.uuid] = replace(now, taken=now.taken | {placed.seat})
        kind = of_kind(sharing, snapshot.devices, wanted.kind)
        assert before or wanted.max_shared is None or len(kind) <= wanted.max_shared
