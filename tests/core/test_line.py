"""Who is next in the line for GPUs, what it would cost others, and what people are told."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.line import Outlook, check_room, decide, outlook
from ds01_spawner.core.placement import Wanted
from ds01_spawner.core.tickets import (
    Action,
    Hold,
    Offer,
    Person,
    Rules,
    Ticket,
    Use,
    decayed,
    in_order,
)
from ds01_spawner.core.units import units_of_profile
from ds01_spawner.errors import (
    DS01Error,
    GpuQuotaExceeded,
    NoSuchDevice,
    NotEnoughDevices,
    TooManyServers,
    TooManyTickets,
)

NOW = datetime(2026, 1, 5, 12, tzinfo=timezone.utc)
GIB = 1 << 30
RULES = Rules()
MANY = Limits(max_gpu_equivalents=None, max_gpu_slots_per_container=None)
ONE = Limits(max_gpu_equivalents=1.0, max_gpu_slots_per_container=None)


@dataclass(frozen=True)
class Lease:
    user: str
    devices: tuple[str, ...]
    units: int
    until: datetime | None = None
    server: str = "s"
    hub: str = "hub"
    since: datetime = NOW - timedelta(hours=1)
    hours: float | None = None
    seat: int = 0
    seats: int = 1


def gpus(count: int) -> tuple[Device, ...]:
    return tuple(
        Device(f"G{i}", "gpu", "A100", "CUDA_AMPERE", 2520, 40 * GIB) for i in range(1, count + 1)
    )


def slices(count: int, profile: str = "1g.10gb") -> tuple[Device, ...]:
    units = units_of_profile(profile)
    return tuple(
        Device(f"M{i}", "mig", "H100", "CUDA_ADA", units, 10 * GIB, profile=profile, parent="H1")
        for i in range(1, count + 1)
    )


def host(*devices: Device) -> Snapshot:
    return Snapshot(devices=devices)


def at(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)


def ticket(
    user: str, count: int = 1, kind: str = "full", *, age: float = 0.0, hours: float | None = 4.0,
    **more: object,
) -> Ticket:  # fmt: skip
    wanted = Wanted(count, kind)
    made = Ticket(user, "hub", user, "s", wanted, MANY, at(-age), NOW, hours=hours)
    return replace(made, **more)  # type: ignore[arg-type]


def lease(user: str, devices: str, ends: float | None = 1.0, **more: object) -> Lease:
    uuids = tuple(devices.split())
    units = sum(360 if uuid.startswith("M") else 2520 for uuid in uuids)
    made = Lease(user, uuids, units, None if ends is None else at(ends))
    return replace(made, **more)  # type: ignore[arg-type]


def decided(
    tickets: Sequence[Ticket],
    leases: Sequence[Lease],
    snapshot: Snapshot,
    *,
    taken: Mapping[str, str] | None = None,
    usage: Mapping[Person, int] | None = None,
    holds: Sequence[Hold] = (),
    rules: Rules = RULES,
) -> tuple[Action, ...]:
    return decide(tickets, leases, snapshot, taken or {}, usage or {}, NOW, rules, holds)


def said(actions: Sequence[Action]) -> str:
    """`ada:G1` is an offer, `ada-gone` a ticket dropped, `ada~device_lost` one withdrawn."""
    marks = {"dropped": "-", "withdrawn": "~", "lapsed": "!", "passed": "+"}
    words = []
    for action in actions:
        if action.what == "offered":
            assert action.ticket.offer is not None
            offer = action.ticket.offer
            of = f".{offer.seat}/{offer.seats}" if offer.seats > 1 else ""
            words.append(f"{action.ticket.id}:{','.join(offer.devices)}{of}")
        else:
            words.append(f"{action.ticket.id}{marks[action.what]}{action.why}")
    return " ".join(words)


def seat(user: str, device: str, number: int, ends: float = 1.0, of: int = 2) -> Lease:
    return lease(user, device, ends, units=2520 // of, seat=number, seats=of)


def seated(user: str, of: int = 2, most: int | None = None, **more: object) -> Ticket:
    return ticket(user, wanted=Wanted(1, "full", seats=of, max_shared=most), **more)  # type: ignore[arg-type]


OFFERED = Offer(("G1",), 2520, at(0.01))
OFFERED_SEAT = Offer(("G1",), 1260, at(0.01), 1, 2)
LAPSED = Offer(("G1",), 2520, at(0))
TURNS = [
    # tickets, leases, host -> what happens
    ("nobody waits", [], [], host(*gpus(1)), ""),
    ("the oldest first", [ticket("b", age=1), ticket("a", age=2)], [], host(*gpus(1)), "a:G1"),
    ("as many as fit", [ticket("b", age=1), ticket("a", age=2)], [], host(*gpus(2)), "a:G1 b:G2"),
    (
        "the higher class first; who was older is counted as passed by",
        [ticket("b", priority=50), ticket("a", age=2)], [], host(*gpus(1)), "b:G1 a+",
    ),
    (
        "passed by too often: before every class",
        [ticket("b", priority=90), ticket("a", age=2, bypassed=20)], [], host(*gpus(1)), "a:G1",
    ),
    (
        "so is waiting for a day",
        [ticket("b", priority=90), ticket("a", age=24)], [], host(*gpus(1)), "a:G1",
    ),
    (
        "several devices have a head start",
        [ticket("a", age=2.5), ticket("b", 3, age=1)], [], host(*gpus(3)), "b:G1,G2,G3 a+",
    ),
    (
        "the first does not fit: who ends before it can start goes",
        [ticket("wide", 2, age=3), ticket("short", hours=1)],
        [lease("x", "G1", 2)], host(*gpus(2)), "short:G2",
    ),
    (
        "nor who would hold it up",
        [ticket("wide", 2, age=3), ticket("long", hours=4)], [lease("x", "G1", 2)], host(*gpus(2)),
        "",
    ),
    (
        "who fits beside what it will get goes, however long",
        [ticket("wide", 3, age=3), ticket("long", hours=24)],
        [lease("x", "G1 G2", 1)], host(*gpus(4)), "long:G4",
    ),
    (
        "no chosen hours count to the ceiling",
        [ticket("wide", 2, age=3), ticket("open", hours=None)], [lease("x", "G1", 60)],
        host(*gpus(2)), "",
    ),
    (
        "a lease without an end counts to the ceiling",
        [ticket("wide", 2, age=3), ticket("long", hours=24)], [lease("x", "G1", None)],
        host(*gpus(2)), "long:G2",
    ),
    (
        "waiting for very long: nothing at its cost, however short",
        [ticket("wide", 2, age=72), ticket("short", hours=1)], [lease("x", "G1", 2)],
        host(*gpus(2)), "",
    ),
    (
        "other devices are other lines",
        [ticket("full", age=80), ticket("slice", kind="1g.10gb", hours=24)], [lease("x", "G1", 2)],
        host(*gpus(1), *slices(1)), "slice:M1",
    ),
    (
        "each kind has a first one with a reservation",
        [
            ticket("full", 2, age=5), ticket("small", 2, "1g.10gb", age=4),
            ticket("late", kind="1g.10gb", hours=24),
        ],
        [lease("x", "G1", 2), lease("y", "M1", 2)], host(*gpus(2), *slices(2)), "",
    ),
    (
        "a user at their quota stands in nobody's way",
        [ticket("a", age=5, limits=ONE), ticket("b")], [lease("a", "G1", 2, server="other")],
        host(*gpus(2)), "b:G2",
    ),
    (
        "nor one with as many servers as they may have",
        [ticket("a", age=5, limits=replace(MANY, max_containers_per_user=1)), ticket("b")],
        [lease("a", "", 2, server="other")], host(*gpus(1)), "b:G1",
    ),
    (
        "the server that waits is not one too many",
        [ticket("a", limits=replace(MANY, max_containers_per_user=1))], [lease("a", "", 2)],
        host(*gpus(1)), "a:G1",
    ),
    (
        "an offer counts against the quota",
        [ticket("a", age=1, limits=ONE), replace(ticket("b", limits=ONE), user="a", server="t")],
        [], host(*gpus(2)), "a:G1",
    ),
    ("an offer holds its devices", [ticket("a", offer=OFFERED), ticket("b")], [], host(*gpus(1)),
     ""),
    (
        "not taken up: to the end, and the next is asked",
        [ticket("a", age=2, offer=LAPSED), ticket("b", age=1)], [], host(*gpus(1)),
        "a!not_taken_up b:G1",
    ),
    (
        "not taken up again: dropped",
        [ticket("a", age=2, offer=LAPSED, lapses=1), ticket("b")], [], host(*gpus(1)),
        "a-not_taken_up b:G1",
    ),
    (
        "no offer while nobody has come back",
        [ticket("a", age=1, lapses=1, asked=at(-1)), ticket("b")], [], host(*gpus(1)), "b:G1",
    ),
    ("who came back has a turn", [ticket("a", age=1, lapses=1)], [], host(*gpus(1)), "a:G1"),
    (
        "an offer whose device is gone is made anew",
        [ticket("a", offer=replace(OFFERED, devices=("G7",)))], [], host(*gpus(1)),
        "a~device_lost a:G1",
    ),
    (
        "the clock went back: an offer is held no longer than any",
        [ticket("a", offer=replace(OFFERED, until=at(1))), ticket("b", asked=at(1))], [],
        host(*gpus(1)), "a~clock_set_back a:G1",
    ),
    ("not asked for in a day", [ticket("a", asked=at(-24))], [], host(*gpus(1)), "a-gone"),
    ("the kind is gone", [ticket("a", kind="7g.80gb")], [], host(*gpus(1)), "a-no_such_device"),
    (
        "the quota will never do",
        [ticket("a", 2, limits=ONE)], [], host(*gpus(2)), "a-gpu_quota",
    ),
    (
        "policy's hours are the end of who chose none",
        [
            ticket("wide", 2, age=3),
            ticket("open", hours=None, limits=replace(MANY, max_runtime_h=1)),
        ],
        [lease("x", "G1", 2)], host(*gpus(2)), "open:G2",
    ),
    (
        "seats, one after the other, and one server that is alone",
        [seated("a", age=3), seated("b", age=2), ticket("c", age=1), seated("d")], [],
        host(*gpus(3)), "a:G1.0/2 b:G1.1/2 c:G2 d:G3.0/2",
    ),
    ("a seat beside others", [seated("a")], [seat("x", "G1", 1)], host(*gpus(1)), "a:G1.0/2"),
    (
        "all seats are taken",
        [seated("a")], [seat("x", "G1", 0), seat("y", "G1", 1)], host(*gpus(1)), "",
    ),
    (
        "as many devices as may be shared",
        [seated("a", most=1)], [seat("x", "G1", 0), seat("y", "G1", 1)], host(*gpus(2)), "",
    ),
    (
        "who waits for a seat holds up nobody on other devices",
        [seated("a", age=2, most=1), ticket("b")], [seat("x", "G1", 0), seat("y", "G1", 1)],
        host(*gpus(2)), "b:G2",
    ),
    (
        "no seat on what is reserved for one server alone",
        [ticket("alone", age=2), seated("long", hours=4)], [seat("x", "G1", 0)], host(*gpus(1)), "",
    ),
    (
        "but one that ends before",
        [ticket("alone", age=2), seated("short", hours=1)], [seat("x", "G1", 0, ends=2)],
        host(*gpus(1)), "short:G1.1/2",
    ),
    (
        "no GPU alone where a seat becomes free for who came before",
        [seated("a", age=2, hours=4), ticket("b", 2, hours=4)],
        [seat("x", "G1", 0), seat("y", "G1", 1), lease("z", "G2", 3)], host(*gpus(2)), "",
    ),
    (
        "no seat on what is out of order",
        [seated("a")], [seat("x", "G1", 0)], host(replace(gpus(1)[0], healthy=False)), "",
    ),
    ("an offer of a seat holds that alone", [seated("a", offer=OFFERED_SEAT), seated("b")], [],
     host(*gpus(1)), "b:G1.0/2"),
    (
        "an offered seat that another has is made anew",
        [seated("a", offer=OFFERED_SEAT)], [seat("x", "G1", 1)], host(*gpus(1)),
        "a~device_lost a:G1.0/2",
    ),
    (
        "so is one on a device that is not shared in this way any more",
        [seated("a", offer=OFFERED_SEAT)], [seat("x", "G1", 3, of=4)], host(*gpus(2)),
        "a~device_lost a:G2.0/2",
    ),
    (
        "a seat counts its part against the quota",
        [seated("a", age=1, limits=replace(ONE, max_gpu_equivalents=0.5)),
         replace(seated("b", limits=replace(ONE, max_gpu_equivalents=0.5)), user="a", server="t")],
        [], host(*gpus(1)), "a:G1.0/2",
    ),
    (
        "what will never end holds up nobody",
        [ticket("a", 2, age=1), ticket("b")], [],
        host(gpus(1)[0], replace(gpus(2)[1], healthy=False)),
        "b:G1",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("tickets", "leases", "snapshot", "expected"),
    [pytest.param(*case[1:], id=case[0]) for case in TURNS],
)
def test_what_happens_to_the_line(
    tickets: list[Ticket], leases: list[Lease], snapshot: Snapshot, expected: str
) -> None:
    assert said(decided(tickets, leases, snapshot)) == expected


def test_an_unknown_host_takes_back_offers_and_nothing_else() -> None:
    waiting = [ticket("a", offer=LAPSED, lapses=1), ticket("b", asked=at(-48))]
    actions = decided(waiting, [], replace(host(*gpus(1)), known=False))
    assert said(actions) == "a~devices_unknown"
    assert actions[0].ticket == replace(waiting[0], offer=None)


def test_a_lapse_begins_a_new_age() -> None:
    (lapse, _) = decided([ticket("a", age=2, offer=LAPSED, bypassed=9), ticket("b")], [],
                         host(*gpus(1)))  # fmt: skip
    assert lapse.ticket == ticket("a", lapses=1, asked=NOW)
    assert lapse.ticket.asleep
    assert not lapse.ticket.asked_for(at(0.1)).asleep


def test_a_lapse_is_behind_everybody_also_when_the_clock_went_back() -> None:
    line = [ticket("a", age=-2, offer=LAPSED), ticket("b", age=-3), ticket("c", age=-1)]
    lapse, *_ = decided(line, [], host(*gpus(1)))
    assert said([lapse]) == "a!not_taken_up"
    assert lapse.ticket.since > line[1].since
    assert lapse.ticket.asleep
    assert not lapse.ticket.asked_for(NOW).asleep


def test_foreign_holders_are_respected_and_nobody_waits_for_them() -> None:
    line = [ticket("wide", 2, age=3), ticket("b")]
    assert said(decided(line, [], host(*gpus(2)), taken={"G1": "someone"})) == "b:G2"
    shares = [seated("a")], [seat("x", "G1", 0)], host(*gpus(1))
    assert said(decided(*shares, taken={"G1": "someone"})) == ""


@pytest.mark.parametrize(
    ("owner", "until", "expected"),
    [
        ("someone", 1, "a:G2"),
        ("someone", 0, "a:G1 b:G2"),  # it is over
        ("b", 1, "a:G2 b:G1"),  # theirs, and nobody else's
    ],
)
def test_a_hold_keeps_a_device_for_its_user(owner: str, until: float, expected: str) -> None:
    holds = [Hold("G1", "hub", owner, at(until))]
    line = [ticket("a", age=1), ticket("b")]
    assert said(decided(line, [], host(*gpus(2)), holds=holds)) == expected


def test_nobody_sits_down_on_what_is_kept_before_its_user_does() -> None:
    holds = [Hold("G1", "hub", "b", at(1))]
    line = [seated("b", age=2), seated("c", age=1)]
    assert said(decided(line, [], host(*gpus(1)), holds=holds)) == "b:G1.0/2"


def test_what_was_kept_for_a_user_goes_before_a_better_fit() -> None:
    holds = [Hold("G2", "hub", "b", at(1))]
    assert said(decided([ticket("b")], [], host(*gpus(2)), holds=holds)) == "b:G2"


def test_what_was_kept_for_a_user_is_what_they_get_whatever_is_reserved() -> None:
    line = [ticket("wide", 3, age=3), ticket("b", hours=24)]
    holds = [Hold("G2", "hub", "b", at(1))]
    assert said(decided(line, [lease("x", "G1", 2)], host(*gpus(3)), holds=holds)) == "b:G2"


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ({"a": 0, "b": 0}, "a b"),
        ({"a": 5, "b": 0}, "b a"),  # 0.5 h later, and only 0.25 h older
        ({"a": 2, "b": 0}, "a b"),
        ({"a": 1000, "b": 900}, "a b"),  # both have the most of it
    ],
)
def test_recent_use_is_hours_in_the_line(used: dict[str, int], expected: str) -> None:
    usage = {("hub", user): hours * 2520 for user, hours in used.items()}
    line = [ticket("b", limits=ONE), ticket("a", age=0.25, limits=ONE)]
    assert " ".join(one.id for one in in_order(line, usage, 2520, NOW, RULES)) == expected


def test_use_over_quota_is_what_counts() -> None:
    usage = {("hub", "a"): 8 * 2520, ("hub", "b"): 4 * 2520}
    line = [ticket("a", limits=replace(ONE, max_gpu_equivalents=4.0)), ticket("b", limits=ONE)]
    assert [one.id for one in in_order(line, usage, 4 * 2520, NOW, RULES)] == ["a", "b"]


@pytest.mark.parametrize(
    ("uses", "expected"),
    [
        ([], 0),
        ([Use(2520, 4, NOW)], 10080),
        ([Use(2520, 4, at(-168))], 5040),
        ([Use(2520, 4, at(-336)), Use(360, 1, NOW)], 2520 + 360),
        ([Use(2520, 4, at(5))], 10080),  # a clock that went back
        ([Use(2520, -4, NOW), Use(360, 1, NOW)], 360),  # in the middle of it
    ],
)
def test_use_is_forgotten_by_halves(uses: list[Use], expected: int) -> None:
    assert decayed(uses, NOW) == expected


# What people are told: tickets, leases, host -> user, what they wait for, in how many hours.
OUTLOOKS = [
    ("free now", [ticket("a")], [], host(*gpus(1)), [("a", "devices", 0)]),
    (
        "one after the other, each to the end of their hours",
        [ticket("a", age=2, hours=4), ticket("b", age=1)], [lease("x", "G1", 1)], host(*gpus(1)),
        [("a", "devices", 1), ("b", "devices", 5 + 1 / 30)],
    ),
    (
        "who can go beside the first is told so",
        [ticket("wide", 2, age=3), ticket("short", hours=1)], [lease("x", "G1", 2)],
        host(*gpus(2)), [("wide", "devices", 2), ("short", "devices", 0)],
    ),
    (
        "at quota: when the own server ends",
        [ticket("a", limits=ONE)], [lease("a", "G1", 3, server="other")], host(*gpus(2)),
        [("a", "quota", 3)],
    ),
    (
        "a seat: when the first of all ends, and beside others then",
        [seated("a", age=2), seated("b", age=1)], [seat("x", "G1", 0, 1), seat("y", "G1", 1, 3)],
        host(*gpus(1)), [("a", "devices", 1), ("b", "devices", 3)],
    ),
    ("past its end: any moment", [ticket("a")], [lease("x", "G1", -1)], host(*gpus(1)),
     [("a", "devices", 0)]),
    ("an offer", [ticket("a", offer=OFFERED)], [], host(*gpus(1)), [("a", "start", 0)]),
    (
        "who let one lapse and came back",
        [ticket("a", age=1, lapses=1)], [], host(*gpus(1)), [("a", "devices", 0)],
    ),
    (
        "who let one lapse has to come back",
        [ticket("a", lapses=1, asked=at(-1))], [], host(*gpus(1)), [("a", "return", None)],
    ),
    (
        "a device that may never come back",
        [ticket("a", 2)], [], host(gpus(1)[0], replace(gpus(2)[1], healthy=False)),
        [("a", "devices", None)],
    ),
    ("not known", [ticket("a")], [], replace(host(*gpus(1)), known=False),
     [("a", "devices", None)]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("tickets", "leases", "snapshot", "expected"),
    [pytest.param(*case[1:], id=case[0]) for case in OUTLOOKS],
)
def test_what_people_are_told(
    tickets: list[Ticket],
    leases: list[Lease],
    snapshot: Snapshot,
    expected: list[tuple[str, str, float | None]],
) -> None:
    found = outlook(tickets, leases, snapshot, {}, {}, NOW, RULES)
    assert [one.position for one in found] == list(range(1, len(found) + 1))
    assert [
        (one.ticket, one.waits_for, None if one.expected is None else one.expected) for one in found
    ] == [(id, why, None if hours is None else at(hours)) for id, why, hours in expected]


# --- properties ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    tickets: tuple[Ticket, ...]
    leases: tuple[Lease, ...]
    holds: tuple[Hold, ...]
    snapshot: Snapshot
    taken: Mapping[str, str]
    usage: Mapping[Person, int]


USERS = ["ada", "bob", "cy", "dee"]


@st.composite
def wishes(draw: st.DrawFn) -> Wanted:
    kind = draw(st.sampled_from(["any", "full", "1g.10gb"]))
    if draw(st.integers(0, 2)):
        return Wanted(draw(st.integers(1, 3)), kind)
    return Wanted(1, kind, seats=draw(st.sampled_from([2, 4])), max_shared=draw(
        st.none() | st.integers(1, 2)
    ))  # fmt: skip


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    devices = (*gpus(draw(st.integers(1, 5))), *slices(draw(st.integers(0, 3))))
    healthy = tuple(replace(d, healthy=draw(st.integers(0, 9)) > 0) for d in devices)
    uuids = [d.uuid for d in devices]
    dice = draw(st.randoms(use_true_random=False))
    dice.shuffle(uuids)
    leases = tuple(
        lease(draw(st.sampled_from(USERS)), uuid, draw(st.none() | st.integers(-2, 30)),
              server=f"l{number}")
        for number, uuid in enumerate(uuids[: draw(st.integers(0, len(uuids)))])
    )  # fmt: skip
    rest = uuids[len(leases) :]
    leases = tuple(
        replace(one, units=one.units // 2, seat=draw(st.integers(0, 1)), seats=2)
        if draw(st.integers(0, 3)) == 0 else one
        for one in leases
    )  # fmt: skip
    hours = st.integers(-30, 0)
    limits = {
        user: Limits(draw(st.sampled_from([0.5, 1.0, 3.0, None])), draw(st.sampled_from([1, None])))
        for user in USERS
    }
    tickets = []
    for number in range(draw(st.integers(0, 6))):
        offer = None
        if rest and draw(st.integers(0, 3)) == 0:
            uuid = rest.pop()
            units = 360 if uuid.startswith("M") else 2520
            offer = Offer((uuid,), units, at(draw(st.integers(-1, 1)) / 60))
        user = draw(st.sampled_from(USERS))
        made = Ticket(
            f"t{number}", "hub", user, f"s{number}", draw(wishes()), limits[user],
            at(draw(hours)), at(draw(hours)), draw(st.sampled_from([1, 10, 90])),
            draw(st.none() | st.integers(1, 24)), offer, draw(st.integers(0, 1)),
            draw(st.sampled_from([0, 19, 20])),
        )  # fmt: skip
        tickets.append(made)
    holds = tuple(
        Hold(uuid, "hub", draw(st.sampled_from(USERS)), at(draw(st.integers(-1, 2))))
        for uuid in rest[: draw(st.integers(0, 1))]
    )
    taken = dict.fromkeys(rest[1 : 1 + draw(st.integers(0, 1))], "someone")
    usage = {("hub", user): draw(st.integers(0, 100_000)) for user in USERS}
    return Scene(tuple(tickets), leases, holds, Snapshot(devices=healthy), taken, usage)


def of_scene(scene: Scene) -> tuple[Action, ...]:
    return decided(
        scene.tickets, scene.leases, scene.snapshot,
        taken=scene.taken, usage=scene.usage, holds=scene.holds,
    )  # fmt: skip


def after(tickets: Sequence[Ticket], actions: Sequence[Action]) -> list[Ticket]:
    """The line when the actions are done."""
    line = {one.id: one for one in tickets}
    for action in actions:
        if action.what == "dropped":
            del line[action.ticket.id]
        else:
            line[action.ticket.id] = action.ticket
    return list(line.values())


@given(scene=scenes())
def test_no_device_is_promised_twice_and_no_limit_is_broken(scene: Scene) -> None:
    line = after(scene.tickets, of_scene(scene))
    has = [(uuid, one.seat, one.seats) for one in scene.leases for uuid in one.devices]
    offers = [(uuid, one.offer) for one in line if one.offer for uuid in one.offer.devices]
    offered = [uuid for uuid, _ in offers]
    has += [(uuid, offer.seat, offer.seats) for uuid, offer in offers]
    assert len({(uuid, number) for uuid, number, _ in has}) == len(has)
    assert len({(uuid, seats) for uuid, _, seats in has}) == len({uuid for uuid, _, _ in has})
    assert all(number < seats for _, number, seats in has)
    healthy = {d.uuid for d in scene.snapshot.devices if d.healthy}
    assert healthy.issuperset(offered)
    assert not scene.taken.keys() & set(offered)
    held = {hold.device: hold.user for hold in scene.holds if hold.until > NOW}
    for one in line:
        if one.offer is None:
            continue
        assert one.offer.until > NOW
        if one.id not in {old.id for old in scene.tickets if old.offer}:
            assert all(held.get(uuid, one.user) == one.user for uuid in one.offer.devices)
            units = sum(old.units for old in scene.leases if old.user == one.user)
            units += sum(t.offer.units for t in line if t.offer and t.user == one.user)
            assert one.limits.gpu_units is None or units <= one.limits.gpu_units


@given(scene=scenes(), seed=st.integers(0, 99))
def test_equal_input_gives_equal_output_in_whatever_order_it_comes(scene: Scene, seed: int) -> None:
    dice = random.Random(seed)

    def shuffled(values: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(dice.sample(values, len(values)))

    other = Scene(
        shuffled(scene.tickets), shuffled(scene.leases), shuffled(scene.holds),  # type: ignore[arg-type]
        Snapshot(devices=shuffled(scene.snapshot.devices)),  # type: ignore[arg-type]
        dict(sorted(scene.taken.items(), reverse=True)),
        dict(sorted(scene.usage.items(), reverse=True)),
    )  # fmt: skip
    assert of_scene(other) == of_scene(scene)
    assert told(other) == told(scene)


def told(scene: Scene) -> tuple[Outlook, ...]:
    return outlook(
        scene.tickets, scene.leases, scene.snapshot, scene.taken, scene.usage, NOW, RULES,
        scene.holds,
    )  # fmt: skip


@given(scene=scenes(), leaves=st.integers(0, 5))
def test_who_leaves_makes_nobody_s_place_worse(scene: Scene, leaves: int) -> None:
    def places(tickets: Sequence[Ticket]) -> dict[str, int]:
        found = outlook(tickets, scene.leases, scene.snapshot, {}, scene.usage, NOW, RULES)
        return {one.ticket: one.position for one in found}

    before = places(scene.tickets)
    rest = [one for number, one in enumerate(scene.tickets) if number != leaves]
    assert all(position <= before[id] for id, position in places(rest).items())


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 3),
    priority=st.sampled_from([1, 10]),
    overrun=st.sampled_from([0.5, 1.0, 1.5]),
)
@settings(max_examples=25, deadline=None)
def test_nobody_waits_for_ever(seed: int, count: int, priority: int, overrun: float) -> None:
    """However many come later with more right, and even where leases end later than they said."""
    dice = random.Random(seed)
    snapshot, now, longest = host(*gpus(3)), NOW, 4
    line = {"t": ticket("t", count, priority=priority, hours=longest)}
    running: dict[str, tuple[Lease, datetime]] = {}
    number = 0
    while "t" in line:
        assert now < at(72), "it waits for ever"
        running = {id: one for id, one in running.items() if one[1] > now}
        while len(line) < 6:
            number += 1
            line[f"n{number}"] = replace(
                ticket(f"n{number}", dice.randint(1, 3), hours=dice.randint(1, longest)),
                since=now, priority=dice.choice([1, 10, 90]),
            )  # fmt: skip
        waiting = [replace(one, asked=now) for one in line.values()]
        leases = [one for one, _ in running.values()]
        for action in decide(waiting, leases, snapshot, {}, {}, now, RULES):
            line[action.ticket.id] = action.ticket
            if action.what == "offered" and action.ticket.offer:
                new = line.pop(action.ticket.id)
                hours = timedelta(hours=new.hours or 0)
                offer = action.ticket.offer
                held = Lease(new.user, offer.devices, offer.units, now + hours)
                running[new.id] = held, now + hours * overrun
        now += timedelta(minutes=30)


def test_what_was_kept_and_is_in_use_by_others_is_not_offered() -> None:
    kept = [Hold("G1", "hub", "ada", at(1))]
    assert said(decided([ticket("ada")], [], host(*gpus(1)), holds=kept)) == "ada:G1"
    taken = {"G1": "a container of somebody"}
    assert said(decided([ticket("ada")], [], host(*gpus(1)), holds=kept, taken=taken)) == ""


def test_a_shared_device_is_free_when_the_last_of_its_seats_is() -> None:
    seats = [
        lease("eve", "G1", ends=1.0, units=315, seats=8),
        lease("bob", "G1", ends=5.0, units=315, seat=1, seats=8),
    ]
    line = [ticket("a", 2, age=2), ticket("b", age=1, hours=4.0)]
    # a can begin when bob has ended, not when eve has, so b delays nobody.
    assert said(decided(line, seats, host(*gpus(2)))) == "b:G2"


@pytest.mark.parametrize(
    ("wanted", "limits", "running", "waiting", "refused"),
    [
        (Wanted(1, "full"), ONE, [], [], None),
        (Wanted(1, "full"), ONE, [lease("a", "G1")], [], GpuQuotaExceeded),
        (Wanted(1, "full"), ONE, [], [ticket("a")], TooManyTickets),
        (Wanted(1, "full", seats=2), ONE, [seat("a", "G1", 0)], [], None),
        (Wanted(1, "full", seats=2), ONE, [seat("a", "G1", 0)], [seated("a")], TooManyTickets),
        (Wanted(1, "1g.10gb"), ONE, [], [ticket("a", kind="1g.10gb")], None),
        (Wanted(1, "full"), MANY, [lease("a", "G1")], [ticket("a")], None),
        (Wanted(1, "full"), replace(MANY, max_containers_per_user=2), [lease("a", "G1")], [], None),
        (
            Wanted(1, "full"), replace(MANY, max_containers_per_user=2), [lease("a", "G1")],
            [ticket("a")], TooManyTickets,
        ),
        (Wanted(1, "full"), replace(MANY, max_containers_per_user=0), [], [], TooManyServers),
        (Wanted(1, "full"), ONE, [], [ticket("a", kind="7g.80gb")], None),  # which can never be
        (Wanted(1, "7g.80gb"), ONE, [], [], NoSuchDevice),
        (Wanted(3, "full"), MANY, [], [], NotEnoughDevices),
    ],
)  # fmt: skip
def test_how_much_one_may_wait_for(
    wanted: Wanted,
    limits: Limits,
    running: list[Lease],
    waiting: list[Ticket],
    refused: type[DS01Error] | None,
) -> None:
    snapshot = host(*gpus(2), *slices(2))
    with nullcontext() if refused is None else pytest.raises(refused):
        check_room(wanted, limits, running, waiting, snapshot)
