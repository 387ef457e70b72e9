"""Every difference between leases and containers, and what is done about it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from ds01_spawner.core.lifetime import End
from ds01_spawner.services.ledger import Lease
from ds01_spawner.services.reconcile import Situation, decide
from ds01_spawner.services.seen import Seen

NOW = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
NEW, OLD = "this life", "an earlier life"


def lease(state: str = "bound", incarnation: str = NEW, **more: Any) -> Lease:
    values: dict[str, Any] = {
        "id": "L", "generation": 7, "hub": "hub", "user": "ada", "server": "",
        "state": state, "devices": ("GPU-a",), "units": 2520, "incarnation": incarnation,
        "since": NOW - 2 * MINUTE, "changed": NOW - MINUTE, "container_name": "ds01.ada",
        "container": "c1" if state != "reserved" else None,
    }  # fmt: skip
    return Lease(**{**values, **more})


def container(state: str = "running", id: str = "c1", name: str = "ds01.ada", **more: str) -> Seen:
    labels = {
        "ds01.hub": "hub", "ds01.user": "ada", "ds01.server": "", "ds01.lease": "L",
        "ds01.lease_generation": "7", "ds01.units": "2520", "ds01.gpu.uuids": "GPU-a",
        "ds01.hours": "4", "ds01.simulated": "false",
    }  # fmt: skip
    labels.update({f"ds01.{key.replace('__', '.')}": value for key, value in more.items()})
    return Seen(id, name, state, labels, NOW - 2 * MINUTE)


def decided(leases: list[Lease], containers: list[Seen], **more: Any) -> list[str]:
    situation = Situation("hub", NOW, NEW, tuple(leases), **more)
    return [f"{a.action} {a.object}" for a in decide(situation, containers)]


LATE, SOON = NOW - 2 * HOUR, NOW + 5 * MINUTE
IDLE = {"idle_h": 2, "since": SOON - 2 * HOUR}
REMOVE = ["remove ds01.ada", "release L"]
END = ["stop ds01.ada", *REMOVE]
APART = ["release L", "remove ds01.ada"]
ANEW = ["release M", "adopt L"]
WINDOWS = [
    # what happened, lease, container, done
    # --- a start
    ("being made", lease("reserved"), None, []),
    ("being made, container there", lease("reserved"), container("created"), []),
    ("being made, started, not yet bound", lease("reserved"), container(), []),
    ("hub died after the reservation", lease("reserved", OLD), None, ["release L"]),
    ("hub died after create", lease("reserved", OLD), container("created"), REMOVE),
    ("hub died after start", lease("reserved", OLD), container(), REMOVE),
    ("start failed", lease("reserved", OLD), container("exited"), REMOVE),
    ("left behind without a crash", lease("reserved", changed=LATE), None, ["release L"]),
    ("left behind with a container", lease("reserved", changed=LATE), container(), REMOVE),
    # --- a server
    ("runs", lease(), container(), []),
    ("runs since an earlier life", lease(incarnation=OLD), container(), []),
    ("paused", lease(), container("paused"), []),
    ("no GPU", lease(devices=(), units=0), container(gpu__uuids="", units="0"), []),
    ("removed by hand", lease(), None, ["release L"]),
    ("ended by itself or by hand", lease(), container("exited"), REMOVE),
    ("bound, yet never started", lease(), container("created"), REMOVE),
    ("dead", lease(), container("dead"), REMOVE),
    ("on its way out", lease(), container("removing"), []),
    ("another container took the name", lease(), container(id="c2"), APART),
    # --- a stop
    ("being stopped", lease("releasing"), container(), []),
    ("being removed", lease("releasing"), container("removing"), []),
    ("hub died before the stop", lease("releasing", OLD), container(), END),
    ("hub died before the removal", lease("releasing", OLD), container("exited"), REMOVE),
    ("hub died before the release", lease("releasing", OLD), None, ["release L"]),
    ("left in the middle of a stop", lease("releasing", changed=LATE), container(), END),
    # --- its time
    ("time left", lease(until=NOW + HOUR), container(), []),
    ("almost over", lease(until=NOW + 15 * MINUTE), container(), ["warn L"]),
    ("almost over, and told", lease(until=SOON, warned=SOON), container(), []),
    ("almost over, told of an earlier end", lease(until=SOON, warned=NOW), container(), ["warn L"]),
    ("over", lease(until=NOW, warned=NOW), container(), END),
    ("over for long", lease(until=LATE, warned=LATE), container(), END),
    ("over for long, not told", lease(until=LATE), container(), ["warn L"]),
    ("over for long, told of an earlier end", lease(until=LATE, warned=LATE - HOUR), container(),
     ["warn L"]),
    ("in use", lease(idle_h=2, busy=NOW), container(), []),
    ("idle for a while", lease(idle_h=2, busy=LATE + HOUR, since=LATE), container(), []),
    ("idle, to be told", lease(**IDLE), container(), ["warn L"]),
    ("idle, and told", lease(**IDLE, warned=SOON), container(), []),
    ("idle for too long", lease(idle_h=1, since=NOW - HOUR, warned=NOW), container(), END),
    ("idle for too long, not told", lease(idle_h=1, since=LATE), container(), ["warn L"]),
    ("idle, but kept", lease(idle_h=1, since=LATE, keep_until=NOW + HOUR), container(), []),
    ("idle without a GPU", lease(devices=(), units=0, idle_h=1, since=LATE), container(), []),
    ("over while stopped", lease(until=LATE), container("exited"), REMOVE),
    # --- no lease
    ("made after the start was given up", None, container("created"), ["remove ds01.ada"]),
    ("ended, nobody's", None, container("exited"), ["remove ds01.ada"]),
    ("the ledger was lost", None, container(), ["adopt L"]),
    ("no lease, on its way out", None, container("removing"), []),
    ("of an earlier number", lease(), container(lease_generation="6"), APART),
    ("labels incomplete", None, container(units=""), ["remove ds01.ada"]),
    ("labels not ours to read", None, container(hours="soon"), ["remove ds01.ada"]),
    ("nor this one", None, container(idle_hours="never"), ["remove ds01.ada"]),
    ("nor how long it is kept", None, container(hold_hours="-1"), ["remove ds01.ada"]),
    ("nor of a time", None, container(exempt_until="tomorrow"), ["remove ds01.ada"]),
    ("there is no such day", None, container(exempt_idle_until="2026-02-30T00:00:00+00:00"),
     ["remove ds01.ada"]),
    ("of no time zone", None, container(exempt_until="2026-02-03T00:00:00"), ["remove ds01.ada"]),
    ("GPUs of the other kind", None, container(simulated="true"), ["remove ds01.ada"]),
    (
        "its GPU was given out since",
        lease("reserved", id="M", user="bob", generation=9), container(), ["remove ds01.ada"],
    ),
    (
        "its server was started again since",
        lease("reserved", id="M", devices=(), generation=9), container(), ["remove ds01.ada"],
    ),
    (
        "its number was given out since",
        lease("reserved", id="M", user="bob", devices=()), container(), ["remove ds01.ada"],
    ),
    # --- the ledger is an old copy: its lease has no container
    (
        "its server was started again after the copy",
        lease(incarnation=OLD, id="M", generation=3, container="c0"), container(), ANEW,
    ),
    (
        "its GPU was given out again after the copy",
        lease(incarnation=OLD, id="M", user="bob", generation=3, container="c0"), container(), ANEW,
    ),
    (
        "copied in the middle of a start",
        lease("reserved", OLD, id="M", user="bob", generation=3), container(), ANEW,
    ),
    (
        "another hub's lease has its GPU",
        lease(hub="other", id="M", generation=3, container="c0"), container(), ["remove ds01.ada"],
    ),
    # --- not ours
    ("another hub's", None, container(hub="other"), []),
    ("no server", None, container(lease=""), []),
    ("another hub's lease", lease("reserved", OLD, hub="other"), None, []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("held", "seen", "done"), [pytest.param(*row[1:], id=row[0]) for row in WINDOWS]
)
def test_window(held: Lease | None, seen: Seen | None, done: list[str]) -> None:
    assert decided([held] if held else [], [seen] if seen else []) == done


def test_who_is_told_late_has_the_time_all_the_same() -> None:
    for idle_h, minutes in ((2, 15), (0.2, 6)):
        held = lease(idle_h=idle_h, since=LATE - HOUR)
        (action,) = decide(Situation("hub", NOW, NEW, (held,)), [container()])
        assert action.end == End(NOW + minutes * MINUTE, "idle")


@pytest.mark.parametrize(
    ("held", "end"),
    [
        pytest.param({"until": LATE}, 15, id="over"),
        pytest.param({"until": NOW + 9 * MINUTE}, 15, id="to be told minutes ago"),
        pytest.param({"until": NOW + 10 * MINUTE}, 10, id="told in time, nearly"),
        pytest.param({"until": NOW + MINUTE, "since": NOW - MINUTE}, 1, id="ran for minutes only"),
        pytest.param({"until": NOW + MINUTE, "warned": NOW}, 1, id="put off when it was told"),
        pytest.param({"until": LATE, "idle_h": 1}, 15, id="over, and idle"),
    ],
)
def test_whose_time_ended_while_nobody_could_tell_has_the_time_all_the_same(
    held: dict[str, Any], end: int
) -> None:
    running = lease(**{"since": LATE - 3 * HOUR, **held})
    (action,) = decide(Situation("hub", NOW, NEW, (running,)), [container()])
    assert (action.action, action.end) == ("warn", End(NOW + end * MINUTE, "time"))


def test_a_ghost_of_a_released_lease_is_removed_though_it_runs() -> None:
    assert decided([], [container()], released={"L"}) == ["remove ds01.ada"]


def test_only_the_first_of_two_that_claim_the_same_is_adopted() -> None:
    first = container()
    second = replace(container(id="c2", name="copy"), created=NOW)
    assert decided([], [second, first]) == ["adopt L", "remove copy"]
    other = replace(
        container(id="c2", name="ds01.bob", lease="M", user="bob", lease_generation="8"),
        created=NOW,
    )
    assert decided([], [other, first]) == ["adopt L", "remove ds01.bob"]


@pytest.mark.parametrize(
    ("incarnation", "known", "done"),
    [
        pytest.param(OLD, {("ada", "")}, [], id="the hub knows it"),
        pytest.param(OLD, set(), END, id="the hub died before it wrote it down"),
        pytest.param(OLD, None, [], id="the hub was not asked"),
        pytest.param(NEW, set(), [], id="being started: the hub does not know it yet"),
    ],
)
def test_a_server_that_no_user_can_reach_ends(
    incarnation: str, known: set[tuple[str, str]] | None, done: list[str]
) -> None:
    assert decided([lease(incarnation=incarnation)], [container()], known=known) == done


def neighbour(seat: str, **more: str) -> Seen:
    """Another's container, on the same device."""
    return container(user="bob", lease="M", lease_generation="8", gpu__seat=seat, id="c2",
                     name="ds01.bob", **more)  # fmt: skip


def test_seats_of_one_device_are_adopted_side_by_side() -> None:
    first = container(gpu__seat="3/8", units="315")
    assert decided([], [first, neighbour("1/8")]) == ["adopt L", "adopt M"]
    for other in ("3/8", "1/4", ""):
        assert decided([], [first, neighbour(other)]) == ["adopt L", "remove ds01.bob"]
    live = lease(seat=2, seats=8)
    assert decided([live], [first, neighbour("1/8")]) == ["adopt M"]
    assert decided([live], [first, neighbour("3/8")]) == ["remove ds01.bob"]
    (action,) = decide(Situation("hub", NOW, NEW, ()), [first])
    assert action.lease
    assert (action.lease.seat, action.lease.seats, action.lease.units) == (2, 8, 315)


@pytest.mark.parametrize("seat", ["9/8", "0/8", "1/1", "1/49", "1/", "one of 8", "01/8"])
def test_what_is_no_seat_cannot_be_adopted(seat: str) -> None:
    assert decided([], [container(gpu__seat=seat)]) == ["remove ds01.ada"]


def test_a_seat_is_on_one_device() -> None:
    several = container(gpu__seat="1/8", gpu__uuids="GPU-a,GPU-b")
    assert decided([], [several]) == ["remove ds01.ada"]


def test_nothing_is_adopted_that_the_hub_does_not_know() -> None:
    assert decided([], [container()], known=set()) == ["remove ds01.ada"]
    assert decided([], [container()], known={("ada", "")}) == ["adopt L"]


def test_an_adopted_lease_is_what_the_labels_say() -> None:
    told = container(gpu__uuids="GPU-a,GPU-b", idle_hours="0.5", hold_hours="0.25")
    (action,) = decide(Situation("hub", NOW, NEW, ()), [told])
    adopted = action.lease
    assert adopted
    assert (adopted.id, adopted.generation, adopted.state) == ("L", 7, "bound")
    assert (adopted.devices, adopted.units) == (("GPU-a", "GPU-b"), 2520)
    assert (adopted.container, adopted.container_name) == ("c1", "ds01.ada")
    assert adopted.until == NOW - 2 * MINUTE + 4 * HOUR
    assert adopted.end == End(NOW + HOUR / 2, "idle")
    assert adopted.hold_h == 0.25


def test_an_adopted_lease_is_as_exempt_as_it_was() -> None:
    until, kept = NOW + 30 * HOUR, NOW + 20 * HOUR
    told = container(
        gpu__uuids="GPU-a", idle_hours="0.5",
        exempt_until=until.isoformat(), exempt_idle_until=kept.isoformat(),
    )  # fmt: skip
    (action,) = decide(Situation("hub", NOW, NEW, ()), [told])
    assert action.lease
    assert (action.lease.until, action.lease.keep_until) == (until, kept)
    earlier = container(exempt_until=(NOW + HOUR).isoformat())
    (action,) = decide(Situation("hub", NOW, NEW, ()), [earlier])
    assert action.lease
    assert action.lease.until == NOW - 2 * MINUTE + 4 * HOUR


def test_an_adopted_lease_whose_time_is_over_leaves_time_for_a_warning() -> None:
    (action,) = decide(Situation("hub", NOW, NEW, ()), [container(hours="0.01")])
    assert action.lease
    assert action.lease.until == NOW + 30 * MINUTE


def test_each_action_says_why() -> None:
    for _, held, seen, _ in WINDOWS:
        situation = Situation("hub", NOW, NEW, (held,) if held else ())
        assert all(action.why for action in decide(situation, [seen] if seen else []))
