"""The ledger: one transaction per decision, refused by the database where Python would err."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.exemptions import Exempt
from ds01_spawner.core.lifetime import End, Use
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.placement import Wanted, place
from ds01_spawner.core.runs import Needs
from ds01_spawner.errors import (
    DeviceHeld,
    Draining,
    GpuQuotaExceeded,
    LeaseLost,
    LedgerBusy,
    LedgerUnusable,
    NoDeviceFree,
    NoSeatFree,
    SurvivingLease,
    TooManyServers,
)
from ds01_spawner.services import ledger_rows
from ds01_spawner.services.inventory.simulated import SimulatedInventory
from ds01_spawner.services.ledger import Lease, LeaseRequest, Ledger

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
GPUS = 4


def snapshot(count: int = GPUS, simulated: bool = True) -> Snapshot:
    devices = (
        Device(f"GPU-{i}", "gpu", "A100", "CUDA_AMPERE", 2520, 40 << 30) for i in range(count)
    )
    return Snapshot(devices=tuple(devices), simulated=simulated)


def request(
    user: str = "ada", server: str = "", gpus: int = 1, limits: Limits | None = None,
    hours: float | None = None,
) -> LeaseRequest:  # fmt: skip
    return LeaseRequest("hub", user, server, Wanted(gpus), limits or Limits(), hours)


class Clock:
    """A time that moves when told to."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def pass_(self, **by: float) -> None:
        self.time += timedelta(**by)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture
def opened(path: Path, clock: Clock) -> Iterator[Callable[..., Ledger]]:
    """Opens the ledger, as often as a test likes."""
    ids = itertools.count()
    ledgers: list[Ledger] = []

    def open_(simulated: bool = True, busy_timeout_s: float = 5) -> Ledger:
        ledger = Ledger(
            path, simulated=simulated, now=clock, new_id=lambda: f"id{next(ids)}",
            busy_timeout_s=busy_timeout_s,
        )  # fmt: skip
        ledgers.append(ledger)
        return ledger

    yield open_
    for ledger in ledgers:
        ledger.close()


@pytest.fixture
def ledger(opened: Callable[..., Ledger]) -> Ledger:
    ledger = opened()
    ledger.begin_incarnation()
    return ledger


# --- the life of a lease -------------------------------------------------------------------------


def test_a_lease_from_reservation_to_release(ledger: Ledger, clock: Clock) -> None:
    reserved = ledger.reserve(request(hours=2), snapshot(), container_name="ds01.ada")
    assert (reserved.state, reserved.devices, reserved.units) == ("reserved", ("GPU-0",), 2520)
    assert (reserved.since, reserved.until, reserved.hours) == (START, None, 2)
    assert reserved.incarnation == ledger.incarnation()
    clock.pass_(minutes=3)
    ledger.confirm(reserved.id, reserved.generation)
    bound = ledger.bind(reserved.id, reserved.generation, "c0ffee")
    assert (bound.state, bound.container) == ("bound", "c0ffee")
    assert bound.since == clock.time
    assert bound.until == clock.time + timedelta(hours=2)
    assert ledger.leases() == (bound,) == (ledger.lease_of("hub", "ada", ""),)
    ledger.releasing(bound.id)
    assert ledger.leases()[0].state == "releasing"
    assert ledger.release(bound.id)
    assert not ledger.release(bound.id)
    assert ledger.leases() == ()
    assert ledger.lease_of("hub", "ada", "") is None
    assert ledger.released([bound.id, "unheard of"]) == {bound.id}


def test_a_lease_without_devices_counts_as_a_server(ledger: Ledger) -> None:
    lease = ledger.reserve(request(gpus=0), Snapshot(known=False))
    assert (lease.devices, lease.units, lease.hours) == ((), 0, None)
    with pytest.raises(TooManyServers, match="1 of 1"):
        ledger.reserve(
            request(server="b", gpus=0, limits=Limits(max_containers_per_user=1)), snapshot()
        )


def test_a_lease_remembers_what_its_devices_had_to_be(ledger: Ledger, path: Path) -> None:
    wanted = Wanted(1, "full", Needs(("CUDA_AMPERE",), (12, 8), (8, 0)), 20 * 10**9)
    ledger.reserve(replace(request(hours=2), wanted=wanted), snapshot())
    with closing(sqlite3.connect(path)) as db:
        ((text,),) = db.execute("SELECT request FROM lease").fetchall()
    assert json.loads(text) == {
        "count": 1,
        "kind": "full",
        "needs": {
            "architectures": ["CUDA_AMPERE"],
            "cuda": [12, 8],
            "compute_capability": [8, 0],
        },
        "memory": 20 * 10**9,
        "seats": 1,
        "max_shared": None,
        "hours": 2,
    }


def test_check_says_what_reserve_would_and_reserves_nothing(ledger: Ledger) -> None:
    assert ledger.check(request(), snapshot()).units == 2520
    assert ledger.leases() == ()
    ledger.reserve(request(), snapshot())
    with pytest.raises(GpuQuotaExceeded):
        ledger.check(request(server="b"), snapshot())


def test_quota_is_over_all_servers_of_a_user_on_a_hub(ledger: Ledger) -> None:
    ledger.reserve(request(), snapshot())
    with pytest.raises(GpuQuotaExceeded):
        ledger.reserve(request(server="b"), snapshot())
    other_hub = replace(request(server="b"), hub="other")
    assert ledger.reserve(other_hub, snapshot()).devices == ("GPU-1",)


def test_an_earlier_server_of_the_same_name_is_in_the_way(ledger: Ledger) -> None:
    first = ledger.reserve(request(), snapshot())
    with pytest.raises(SurvivingLease, match="being started"):
        ledger.reserve(request(), snapshot())
    ledger.releasing(first.id)
    with pytest.raises(SurvivingLease, match="being stopped"):
        ledger.reserve(request(), snapshot())


def test_foreign_holders_count(ledger: Ledger) -> None:
    foreign = {f"GPU-{i}": "container theirs" for i in range(GPUS)}
    with pytest.raises(NoDeviceFree):
        ledger.reserve(request(), snapshot(), foreign)
    del foreign["GPU-2"]
    assert ledger.reserve(request(), snapshot(), foreign).devices == ("GPU-2",)


@pytest.mark.parametrize(
    ("policy", "chosen", "gpus", "hours"),
    [
        pytest.param(None, None, 0, None, id="nobody says, no GPU: no end"),
        pytest.param(None, None, 1, 72, id="nobody says, a GPU: the admin's ceiling"),
        pytest.param(None, 100, 1, 72, id="the user's hours do not lift the ceiling"),
        pytest.param(96, None, 1, 96, id="the policy's own number does"),
        pytest.param(24, 4, 1, 4, id="the shorter of the two"),
        pytest.param(4, 24, 0, 4, id="the policy holds without a GPU too"),
    ],
)
def test_when_a_lease_ends(
    ledger: Ledger, policy: float | None, chosen: float | None, gpus: int, hours: float | None
) -> None:
    limits = Limits(max_runtime_h=policy)
    lease = ledger.reserve(request(gpus=gpus, limits=limits, hours=chosen), snapshot())
    assert lease.hours == hours
    until = ledger.bind(lease.id, lease.generation, "c").until
    assert until == (None if hours is None else START + timedelta(hours=hours))


def test_absurd_hours_are_no_crash(ledger: Ledger) -> None:
    lease = ledger.reserve(request(limits=Limits(max_runtime_h=1e300)), snapshot())
    assert ledger.bind(lease.id, lease.generation, "c").until is not None


def test_an_exemption_puts_the_end_off_to_its_own(ledger: Ledger, clock: Clock) -> None:
    day = timedelta(days=1)
    limits = Limits(max_runtime_h=6, idle_timeout_h=1, max_containers_per_user=None)

    def bound(server: str, hours: float | None = None, gpus: int = 0, **until: datetime) -> Lease:
        asked = replace(request("ada", server, gpus, limits, hours), exempt=Exempt(**until))
        lease = ledger.reserve(asked, snapshot())
        clock.pass_(minutes=1)
        return ledger.bind(lease.id, lease.generation, server)

    assert bound("later", runtime=START + day).until == START + day
    assert bound("earlier", runtime=START + timedelta(hours=1)).until == clock.time + timedelta(
        hours=6
    )
    assert bound("chosen", hours=2, runtime=START + day).until == clock.time + timedelta(hours=2)
    assert bound("past", runtime=START, idle=START).until == clock.time + timedelta(hours=6)
    idle = bound("gpu", gpus=1, idle=START + day)
    assert (idle.until, idle.keep_until) == (clock.time + timedelta(hours=6), START + day)
    assert bound("no gpu", idle=START + day).keep_until is None


def test_the_fence(ledger: Ledger) -> None:
    lease = ledger.reserve(request(), snapshot())
    for wrong in ((lease.id, lease.generation + 1), ("unheard of", lease.generation)):
        with pytest.raises(LeaseLost):
            ledger.confirm(*wrong)
        with pytest.raises(LeaseLost):
            ledger.bind(*wrong, "c")
    ledger.releasing(lease.id)
    with pytest.raises(LeaseLost):
        ledger.confirm(lease.id, lease.generation)
    ledger.release(lease.id)
    again = ledger.reserve(request(), snapshot())
    assert again.generation > lease.generation
    with pytest.raises(LeaseLost):
        ledger.bind(lease.id, lease.generation, "c")


def test_the_end_of_a_lease_can_be_moved(ledger: Ledger) -> None:
    lease = ledger.reserve(request(hours=2), snapshot())
    bound = ledger.bind(lease.id, lease.generation, "c")
    assert bound.end
    ledger.mark_warned(lease.id, bound.end)
    assert ledger.leases()[0].warned == bound.end.at
    assert ledger.leases()[0].end == bound.end
    moved = ledger.set_until(lease.id, START + timedelta(hours=9))
    assert ledger.leases() == (moved,)
    assert moved.end
    assert moved.end.at == START + timedelta(hours=9) != moved.warned
    ledger.mark_warned(lease.id, End(START + timedelta(hours=8), "time"))  # decided before
    assert ledger.leases()[0].until == moved.end.at
    late = End(START + timedelta(hours=9, minutes=15), "time")
    ledger.mark_warned(lease.id, late)
    assert ledger.leases()[0].end == late
    with pytest.raises(LeaseLost):
        ledger.set_until("unheard of", START)


def test_a_lease_with_devices_ends_when_it_is_idle(ledger: Ledger, clock: Clock) -> None:
    limits = Limits(idle_timeout_h=1)
    lease = ledger.reserve(request(limits=limits), snapshot())
    bound = ledger.bind(lease.id, lease.generation, "c")
    assert bound.end == End(START + timedelta(hours=1), "idle")
    clock.pass_(minutes=30)
    use = Use(clock.time, START, clock.time, 0.25)
    ledger.note_use({lease.id: use, "gone": use})
    (used,) = ledger.leases()
    assert used.use == use
    assert used.end == End(START + timedelta(hours=1.5), "idle")
    ledger.mark_warned(lease.id, End(START + timedelta(hours=2), "idle"))
    assert ledger.leases()[0].end == End(START + timedelta(hours=2), "idle")
    kept = ledger.keep(lease.id, START + timedelta(hours=5))
    assert kept.end == End(START + timedelta(hours=5), "idle")
    without = ledger.reserve(request(server="cpu", gpus=0, limits=limits), snapshot())
    assert ledger.bind(without.id, without.generation, "d").end is None


def test_what_was_promised_is_not_taken_back(ledger: Ledger, clock: Clock) -> None:
    lease = ledger.reserve(request(limits=Limits(idle_timeout_h=1)), snapshot())
    ledger.bind(lease.id, lease.generation, "c")
    late = START + timedelta(hours=5)
    ledger.keep(lease.id, late)
    ledger.mark_warned(lease.id, End(START + timedelta(hours=1), "idle"))  # decided before
    assert ledger.keep(lease.id, START + timedelta(hours=2)).keep_until == late


def test_an_end_that_was_put_off_does_not_come(ledger: Ledger) -> None:
    lease = ledger.reserve(request(hours=1), snapshot())
    due = START + timedelta(hours=1)
    ledger.bind(lease.id, lease.generation, "c")
    ledger.set_until(lease.id, START + timedelta(hours=2))
    assert not ledger.releasing(lease.id, due)
    assert ledger.leases()[0].state == "bound"
    assert ledger.releasing(lease.id, START + timedelta(hours=2))
    assert ledger.leases()[0].state == "releasing"
    assert ledger.releasing("unheard of", due)


# --- what an admin sets --------------------------------------------------------------------------


def test_a_device_that_is_set_aside_is_given_to_nobody(ledger: Ledger, clock: Clock) -> None:
    ledger.cordon("GPU-0", "a fan rattles")
    clock.pass_(hours=1)
    assert ledger.cordon("GPU-0", "two fans rattle").why == "two fans rattle"
    (cordon,) = ledger.cordons()
    assert (cordon.device, cordon.since, cordon.why) == ("GPU-0", START, "two fans rattle")
    assert ledger.reserve(request(), snapshot(2)).devices == ("GPU-1",)
    with pytest.raises(NoDeviceFree):
        ledger.reserve(request("bob"), snapshot(2))
    assert ledger.uncordon("GPU-0")
    assert not ledger.uncordon("GPU-0")
    assert ledger.reserve(request("bob"), snapshot(2)).devices == ("GPU-0",)


def test_who_has_a_device_that_is_set_aside_keeps_it(ledger: Ledger) -> None:
    lease = ledger.reserve(request(), snapshot())
    ledger.cordon(lease.devices[0], "")
    assert ledger.bind(lease.id, lease.generation, "c").devices == lease.devices


def test_a_drained_host_starts_nothing_new(ledger: Ledger) -> None:
    lease = ledger.reserve(request(), snapshot())
    ledger.drain("new disks at noon")
    assert ledger.drained() == "new disks at noon"
    with pytest.raises(Draining, match="new disks at noon"):
        ledger.reserve(request("bob", gpus=0), snapshot())
    ledger.bind(lease.id, lease.generation, "c")  # a start that had begun goes on
    assert ledger.resume()
    assert not ledger.resume()
    assert ledger.drained() is None
    ledger.reserve(request("bob", gpus=0), snapshot())


def test_a_device_just_given_back_waits_for_a_look_at_the_host(
    ledger: Ledger, clock: Clock
) -> None:
    lease = ledger.reserve(request(), snapshot(1))
    before = replace(snapshot(1), taken=clock.time)
    clock.pass_(seconds=3)
    ledger.release(lease.id)
    with pytest.raises(NoDeviceFree):
        ledger.reserve(request("bob"), before)
    clock.pass_(seconds=1)
    ledger.reserve(request("bob"), replace(snapshot(1), taken=clock.time))


@pytest.mark.parametrize("back_before", [False, True])
def test_so_it_does_when_the_clock_goes_back(
    ledger: Ledger, clock: Clock, back_before: bool
) -> None:
    lease = ledger.reserve(request(), snapshot(1))
    before = replace(snapshot(1), taken=clock.time)
    for part in ["back", "release"] if back_before else ["release", "back"]:
        clock.pass_(seconds=3)
        if part == "release":
            ledger.release(lease.id)
        else:
            clock.pass_(hours=-1)
    with pytest.raises(NoDeviceFree):
        ledger.reserve(request("bob"), before)
    clock.pass_(seconds=1)  # and then a look is enough: it does not wait for that time to come
    ledger.reserve(request("bob"), replace(snapshot(1), taken=clock.time))


# --- seats ---------------------------------------------------------------------------------------


def test_the_database_refuses_a_seat_twice_and_two_ways_of_sharing(
    ledger: Ledger, path: Path
) -> None:
    lease = ledger.reserve(request(), snapshot())
    rows = [
        ("GPU-0", 0, 1, "taken already"),
        ("GPU-0", 1, 4, "a seat beside an exclusive lease"),
        ("GPU-1", 4, 4, "there is no fifth seat"),
    ]
    with closing(sqlite3.connect(path)) as db:
        seated = "INSERT INTO lease_device VALUES ('GPU-2', ?, 4, ?, 0, 'GPU-2', 'local')"
        db.execute(seated, (1, lease.id))
        rows += [("GPU-2", 1, 4, "taken already"), ("GPU-2", 0, 1, "exclusive beside a seat")]
        for device, seat, seats, why in rows:
            with pytest.raises(sqlite3.IntegrityError):
                db.execute(
                    "INSERT INTO lease_device VALUES (?, ?, ?, ?, 1, 'GPU-2', 'local')",
                    (device, seat, seats, lease.id),
                )
                pytest.fail(why)
        db.execute(seated, (0, lease.id))


def seat(
    user: str, seats: int = 8, server: str = "", max_shared: int | None = None
) -> LeaseRequest:
    wanted = Wanted(1, "full", seats=seats, max_shared=max_shared)
    return LeaseRequest("hub", user, server, wanted, Limits())


def test_a_class_shares_four_gpus(ledger: Ledger) -> None:
    """30 students at once, and two more; the next is told that there is no seat left."""
    given = [ledger.reserve(seat(f"user{n}"), snapshot()) for n in range(32)]
    taken = {(lease.devices, lease.seat) for lease in given}
    assert taken == {((f"GPU-{gpu}",), number) for gpu in range(4) for number in range(8)}
    assert {(lease.seats, lease.units) for lease in given} == {(8, 315)}
    assert ledger.leases() == tuple(given)
    with pytest.raises(NoSeatFree, match="with 8 on each"):
        ledger.reserve(seat("late"), snapshot())
    with pytest.raises(NoDeviceFree):
        ledger.reserve(request("eve"), snapshot())
    ledger.release(given[11].id)
    again = ledger.reserve(seat("late"), snapshot())
    assert (again.devices, again.seat) == (given[11].devices, given[11].seat)


def test_seats_and_exclusive_leases_keep_apart(ledger: Ledger) -> None:
    first = ledger.reserve(seat("ada", max_shared=1), snapshot(2))
    alone = ledger.reserve(request("bob"), snapshot(2))
    assert {*first.devices} | {*alone.devices} == {"GPU-0", "GPU-1"}
    with pytest.raises(NoSeatFree):
        ledger.reserve(seat("eve", seats=4), snapshot(2))  # in another way
    ledger.release(alone.id)
    with pytest.raises(NoSeatFree):
        ledger.reserve(seat("eve", seats=4, max_shared=1), snapshot(2))
    ledger.release(first.id)
    assert ledger.reserve(seat("eve", seats=4, max_shared=1), snapshot(2)).seats == 4


def test_a_seat_counts_as_its_part_against_the_quota(ledger: Ledger) -> None:
    tight = replace(seat("ada"), limits=Limits(max_gpu_equivalents=0.25))
    ledger.reserve(tight, snapshot())
    ledger.reserve(replace(tight, server="two"), snapshot())
    with pytest.raises(GpuQuotaExceeded, match=r"hold 0\.25 of the 0\.25"):
        ledger.reserve(replace(tight, server="three"), snapshot())


def test_a_seat_beside_others_needs_no_new_look_at_the_host(ledger: Ledger, clock: Clock) -> None:
    mine = ledger.reserve(seat("ada"), snapshot(1))
    ledger.reserve(seat("bob"), snapshot(1))
    seen = replace(snapshot(1), taken=clock.time)
    clock.pass_(seconds=3)
    ledger.release(mine.id)
    assert ledger.reserve(seat("eve"), seen).seat == mine.seat
    ledger.cordon("GPU-0", "a fan rattles")
    with pytest.raises(NoSeatFree):
        ledger.reserve(seat("dan"), seen)


def test_lost_seats_come_back_to_where_they_were(ledger: Ledger) -> None:
    for number in (2, 0):
        found = lost(id=f"L{number}", generation=100 + number, user=f"user{number}",
                     units=315, seat=number, seats=8)  # fmt: skip
        assert ledger.adopt(found).seat == number
    for more in ({"seat": 2, "seats": 8}, {"seat": 1, "seats": 4}, {}):
        with pytest.raises(DeviceHeld):
            ledger.adopt(lost(id="X", generation=200, user="eve", **more))
    assert ledger.reserve(seat("eve"), snapshot()).seat == 1


# --- adoption, incarnations, uids ----------------------------------------------------------------


def lost(**changes: object) -> Lease:
    lease = Lease(
        id="lost", generation=7_000_000_000, hub="hub", user="bob", server="", state="bound",
        devices=("GPU-1",), units=2520, incarnation="earlier", since=START,
        until=START + timedelta(hours=1), container="c1", container_name="ds01.bob", hours=1.0,
    )  # fmt: skip
    changed = replace(lease, **changes)  # type: ignore[arg-type]
    return replace(changed, cards=changed.devices)


def test_a_lost_lease_is_put_back_once(ledger: Ledger) -> None:
    adopted = ledger.adopt(lost())
    assert adopted == ledger.adopt(lost()) == ledger.leases()[0]
    assert adopted.incarnation == ledger.incarnation()
    assert ledger.reserve(request(), snapshot()).generation == lost().generation + 1
    assert ledger.reserve(request("eve"), snapshot()).devices == ("GPU-2",)


@pytest.mark.parametrize(
    "held", [{"devices": ("GPU-0",)}, {"user": "ada"}, {"generation": int(START.timestamp()) + 1}]
)
def test_a_lost_lease_is_refused_where_another_has_its_place(
    ledger: Ledger, held: dict[str, object]
) -> None:
    holder = ledger.reserve(request(), snapshot())
    with pytest.raises(DeviceHeld, match=holder.id):
        ledger.adopt(lost(**held))
    assert ledger.leases() == (holder,)


def test_a_lost_lease_with_devices_ends_even_when_its_labels_do_not_say(ledger: Ledger) -> None:
    adopted = ledger.adopt(lost(until=None, hours=None))
    assert adopted.until == START + timedelta(hours=72)


def test_a_new_ledger_counts_above_an_old_one(opened: Callable[..., Ledger], clock: Clock) -> None:
    old = opened().reserve(request(), snapshot()).generation
    clock.pass_(seconds=5)
    assert old == int(START.timestamp()) + 1 < int(clock.time.timestamp())


def test_each_life_of_the_hub_has_its_name(opened: Callable[..., Ledger]) -> None:
    ledger = opened()
    assert ledger.incarnation() == ""
    names = [ledger.begin_incarnation() for _ in range(150)]
    assert len(set(names)) == 150
    assert opened().incarnation() == names[-1]


def test_the_image_of_a_recipe_is_the_last_one_built(opened: Callable[..., Ledger]) -> None:
    ledger = opened()
    assert ledger.image_of("a" * 64) is None
    ledger.set_image("a" * 64, "sha256:1")
    ledger.set_image("b" * 64, "sha256:2")
    ledger.set_image("a" * 64, "sha256:3")
    assert opened().image_of("a" * 64) == "sha256:3"


def test_history_is_bounded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_rows, "HISTORY", 3)
    ids = []
    for _ in range(5):
        ids.append(ledger.reserve(request(), snapshot()).id)
        ledger.release(ids[-1])
    assert ledger.released(ids) == set(ids[2:])


# --- the file ------------------------------------------------------------------------------------


def test_only_its_owner_reads_the_file(path: Path, opened: Callable[..., Ledger]) -> None:
    opened().begin_incarnation()
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    opened()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_real_and_simulated_devices_never_mix(opened: Callable[..., Ledger]) -> None:
    ledger = opened(simulated=False)
    with pytest.raises(LedgerUnusable, match="real GPUs and this hub has simulated ones"):
        opened(simulated=True)
    with pytest.raises(LedgerUnusable, match="other kind"):
        ledger.reserve(request(), snapshot(simulated=True))
    assert ledger.leases() == ()


def test_a_ledger_of_the_first_version_is_brought_up_to_date(
    path: Path, opened: Callable[..., Ledger]
) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.executescript((Path(__file__).parent / "ledger-1.sql").read_text())
    for ledger in (opened(), opened()):  # the second time nothing is to do
        ada, bob = ledger.leases()
        assert (ada.user, ada.state, ada.devices) == ("ada", "bound", ("GPU-0", "GPU-1"))
        assert ada.warned == ada.until == START + timedelta(hours=2)
        assert (ada.container, ada.container_name, ada.seats) == ("c0ffee", "ds01.ada", 1)
        assert (bob.user, bob.state, bob.devices, bob.warned) == ("bob", "reserved", (), None)
        assert ledger.released(["id3", bob.id]) == {"id3"}
        assert ledger.image_of("recipe") == "sha256:1"
        assert ledger.incarnation() == "id0"
    with pytest.raises(NoDeviceFree):
        ledger.reserve(request("eve"), snapshot(2))
    assert ledger.reserve(request("eve"), snapshot(3)).generation > bob.generation


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    db.close()


def _anothers(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE recipes (name)")
    db.close()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_newer, "version 99"),
        (_anothers, "another program's"),
        (lambda path: path.write_bytes(b"not a database" * 100), "damaged"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be opened"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_words(
    path: Path, opened: Callable[..., Ledger], spoil: Callable[[Path], object], words: str
) -> None:
    opened().close()
    spoil(path)
    with pytest.raises(LedgerUnusable, match=words) as caught:
        opened()
    assert caught.value.next_step


def test_a_ledger_that_was_taken_away_grants_nothing(
    path: Path, ledger: Ledger, opened: Callable[..., Ledger]
) -> None:
    path.rename(path.with_name("moved"))
    with pytest.raises(LedgerUnusable, match="moved or deleted"):
        ledger.reserve(request(), snapshot())
    opened().reserve(request(), snapshot())
    with pytest.raises(LedgerUnusable, match="moved or deleted"):
        ledger.reserve(request("bob"), snapshot())


def test_a_busy_ledger_grants_nothing(path: Path, opened: Callable[..., Ledger]) -> None:
    ledger = opened(busy_timeout_s=0.01)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerBusy):
        ledger.reserve(request(), snapshot())
    other.execute("ROLLBACK")
    other.close()
    assert ledger.leases() == ()
    assert ledger.reserve(request(), snapshot()).devices == ("GPU-0",)


def test_the_database_itself_refuses_a_second_grant(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = ledger.reserve(request(), snapshot())
    monkeypatch.setattr(  # a choice that forgets what is taken
        "ds01_spawner.services.ledger.place",
        lambda snapshot, _taken, *rest: place(snapshot, {}, *rest),
    )
    with pytest.raises(LedgerBusy) as caught:
        ledger.reserve(request("bob"), snapshot(1))
    assert "UNIQUE" in caught.value.detail
    assert ledger.leases() == (lease,)


# --- races ---------------------------------------------------------------------------------------


def test_threads_that_race_get_disjoint_devices(opened: Callable[..., Ledger]) -> None:
    ledgers = [opened() for _ in range(4)]
    users = 24
    barrier = threading.Barrier(users)

    def start(number: int) -> tuple[str, ...]:
        barrier.wait()
        try:
            ledger = ledgers[number % len(ledgers)]
            return ledger.reserve(request(f"user{number}"), snapshot(10)).devices
        except NoDeviceFree:
            return ()

    with ThreadPoolExecutor(users) as pool:
        got = [device for devices in pool.map(start, range(users)) for device in devices]
    assert sorted(got) == sorted(f"GPU-{i}" for i in range(10))
    assert len(ledgers[0].leases()) == 10


WORKER = """
import itertools, os, sys
from datetime import datetime, timezone
from pathlib import Path
from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.placement import Wanted
from ds01_spawner.errors import NoDeviceFree
from ds01_spawner.services.ledger import LeaseRequest, Ledger

path, rounds = Path(sys.argv[1]), int(sys.argv[2])
ids = itertools.count()
ledger = Ledger(path, simulated=True, now=lambda: datetime.now(timezone.utc),
                new_id=lambda: f"{os.getpid()}-{next(ids)}")
devices = tuple(Device(f"GPU-{i}", "gpu", "A100", None, 2520, 1 << 30) for i in range(4))
snapshot = Snapshot(devices=devices, simulated=True)
print("ready", flush=True)
sys.stdin.readline()
kept = 0
for number in itertools.count() if rounds < 0 else range(rounds):
    user = f"{os.getpid()}-{number}"
    try:
        lease = ledger.reserve(LeaseRequest("hub", user, "", Wanted(1), Limits()), snapshot)
    except NoDeviceFree:
        continue
    ledger.confirm(lease.id, lease.generation)
    ledger.bind(lease.id, lease.generation, user)
    print(lease.id, *lease.devices, flush=True)
    if rounds < 0:
        ledger.releasing(lease.id)
        ledger.release(lease.id)
"""


@pytest.fixture
def worker(path: Path) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Starts a process that reserves; with a negative number of rounds also releases, for ever."""
    processes: list[subprocess.Popen[str]] = []

    def start(rounds: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(path), str(rounds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


def test_processes_that_race_get_disjoint_devices(
    opened: Callable[..., Ledger], worker: Callable[[int], subprocess.Popen[str]]
) -> None:
    ledger = opened()
    processes = [worker(4) for _ in range(3)]
    for process in processes:
        _go(process)
    lines = [line for p in processes for line in p.communicate(timeout=60)[0].splitlines()]
    assert [process.returncode for process in processes] == [0, 0, 0]
    got = [line.split()[1] for line in lines]
    assert sorted(got) == ["GPU-0", "GPU-1", "GPU-2", "GPU-3"]
    assert sorted(device for lease in ledger.leases() for device in lease.devices) == sorted(got)


def test_among_busy_processes_everybody_gets_a_turn(
    opened: Callable[..., Ledger], worker: Callable[[int], subprocess.Popen[str]]
) -> None:
    ledger = opened()
    processes = [worker(-1) for _ in range(3)]  # they grant and free without a pause
    readers = [threading.Thread(target=_read_all, args=[process]) for process in processes]
    for process, reader in zip(processes, readers, strict=True):
        _go(process)
        reader.start()
    for _ in range(100):
        ledger.release(ledger.reserve(request(gpus=0), snapshot()).id)
    for process, reader in zip(processes, readers, strict=True):
        process.kill()
        reader.join()


def _read_all(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    for _ in process.stdout:
        pass


def _killed_in_the_middle(
    rounds: int, opened: Callable[..., Ledger], worker: Callable[[int], subprocess.Popen[str]]
) -> None:
    """Kill a process that grants and frees; what it leaves is whole, and can be freed."""
    ledger = opened()
    for number in range(rounds):
        process = worker(-1)
        _go(process)
        assert process.stdout
        for _ in range(1 + number % 7):  # so that each is killed at another place
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        left = ledger.leases()
        assert len(left) <= 1  # it works on one at a time
        assert all(lease.devices and lease.units == 2520 for lease in left)
        for lease in left:
            assert ledger.release(lease.id)
        assert ledger.check(request(), snapshot()).units == 2520


def test_a_killed_process_leaves_a_whole_ledger(
    opened: Callable[..., Ledger], worker: Callable[[int], subprocess.Popen[str]]
) -> None:
    _killed_in_the_middle(8, opened, worker)


@pytest.mark.long
def test_a_process_killed_many_times_leaves_a_whole_ledger(
    opened: Callable[..., Ledger], worker: Callable[[int], subprocess.Popen[str]]
) -> None:
    _killed_in_the_middle(1000, opened, worker)


# --- a host of both makers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needs", "kinds"),
    [
        (Needs(("ROCM6",)), {"amd"}),
        (Needs(("CUDA_AMPERE", "CUDA_ADA")), {"gpu", "mig"}),
    ],
)
async def test_no_lease_has_a_device_of_the_other_maker(
    ledger: Ledger, needs: Needs, kinds: set[str]
) -> None:
    description = "1xA100-40GB,1xMI210,1xH100-80GB:mig=2x1g.10gb,1xRX7900XTX"
    host = await SimulatedInventory(description, "host").snapshot()
    theirs = {device.uuid for device in host.devices if device.kind in kinds}
    assert 0 < len(theirs) < len(host.devices)
    for number in range(len(theirs)):
        asked = LeaseRequest("hub", f"user{number}", "", Wanted(1, "any", needs), Limits())
        ledger.reserve(asked, host)
    assert sorted(uuid for lease in ledger.leases() for uuid in lease.devices) == sorted(theirs)
    with pytest.raises(NoDeviceFree):
        ledger.reserve(LeaseRequest("hub", "late", "", Wanted(1, "any", needs), Limits()), host)


def test_on_a_full_disk_nothing_is_given_out_and_nothing_is_lost(tmp_path: Path) -> None:
    """Told by `full_disk`, which may mount a disk to fill: in a namespace of its own."""
    may = ["--mount"] if os.geteuid() == 0 else ["--mount", "--user", "--map-root-user"]
    command = ["unshare", *may, sys.executable, "-m", "tests.services.full_disk", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert list(tmp_path.iterdir()) == [], "the disk was this test's own"
