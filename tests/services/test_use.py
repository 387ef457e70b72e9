"""How servers with devices are used, from leases, devices and what the hub heard."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from ds01_spawner.core.devices import Process, Snapshot, Usage
from ds01_spawner.core.lifetime import Use
from ds01_spawner.services.ledger import Lease
from ds01_spawner.services.occupants import Occupant
from ds01_spawner.services.use import shared_pids, uses_of

NOW = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
ADA = ("ada", "")


def lease(**more: Any) -> Lease:
    values: dict[str, Any] = {
        "id": "L", "generation": 7, "hub": "hub", "user": "ada", "server": "", "state": "bound",
        "devices": ("GPU-a",), "units": 2520, "incarnation": "i", "since": NOW - HOUR,
        "looked": NOW - MINUTE,
    }  # fmt: skip
    return Lease(**{**values, **more})


def seen(utilization: float | None, **more: Any) -> Snapshot:
    return Snapshot(usage={"GPU-a": Usage(utilization)}, **more)


def test_a_device_that_computes_is_in_use_now() -> None:
    uses = uses_of([lease()], seen(0.6), {}, NOW)
    assert uses == {"L": Use(NOW, NOW - HOUR, NOW, 0.6 / 60)}


def test_an_idle_one_is_in_use_no_longer_than_it_was() -> None:
    told = {ADA: NOW - 5 * MINUTE}
    uses = uses_of([lease(busy=NOW - 9 * MINUTE)], seen(0.0), told, NOW)
    assert uses == {"L": Use(NOW - 9 * MINUTE, NOW - 5 * MINUTE, NOW, 0.0)}


def test_of_unknown_devices_nothing_is_held_against_a_server() -> None:
    for snapshot in (seen(0.0, known=False), Snapshot(), seen(None)):
        assert uses_of([lease()], snapshot, {}, NOW)["L"].busy == NOW - HOUR + MINUTE


def test_made_up_devices_are_used_as_long_as_the_hub_hears() -> None:
    made_up = Snapshot(simulated=True)
    assert uses_of([lease()], made_up, {ADA: NOW}, NOW) == {"L": Use(NOW, NOW, NOW)}
    idle = Use(NOW - HOUR, NOW - HOUR, NOW)
    assert uses_of([lease()], made_up, {ADA: NOW - 2 * HOUR}, NOW) == {"L": idle}


def test_only_servers_that_run_with_devices_are_looked_at() -> None:
    others = [lease(state="reserved"), lease(state="releasing"), lease(devices=(), units=0)]
    assert uses_of(others, seen(0.9), {ADA: NOW}, NOW) == {}


def seat(user: str, **more: Any) -> Lease:
    """The lease of one of eight on the device."""
    return lease(id=user, user=user, container=f"c-{user}", units=315, seats=8, **more)


def together(utilization: float | None, pids: tuple[int, ...] | None = (1, 2)) -> Snapshot:
    processes = None if pids is None else tuple(Process(pid) for pid in pids)
    return Snapshot(usage={"GPU-a": Usage(utilization, processes=processes)})


BY = {1: Occupant("c-ada"), 2: Occupant("c-eve")}


def test_a_shared_device_computes_for_who_has_a_process_there() -> None:
    seats = [seat("ada"), seat("bob")]
    uses = uses_of(seats, together(0.6), {}, NOW, BY)
    assert (uses["ada"].busy, uses["ada"].hours) == (NOW, 0.6 / 8 / 60)
    assert (uses["bob"].busy, uses["bob"].hours) == (NOW - HOUR, 0.0)
    assert uses_of(seats, together(0.0), {}, NOW, BY)["ada"].busy == NOW - HOUR
    alone = uses_of([lease()], together(0.6, ()), {}, NOW)
    assert alone["L"].busy == NOW  # who has it alone needs no process to be seen


def test_a_seat_of_which_it_cannot_be_told_is_not_idle() -> None:
    for snapshot in (together(0.6, None), together(0.6, (3,)), Snapshot()):
        use = uses_of([seat("ada")], snapshot, {}, NOW, BY)["ada"]
        assert use.busy == NOW - HOUR + MINUTE
    for utilization in (0.6, None):  # an instance that does not tell is used by its processes
        known = uses_of([seat("ada")], together(utilization, (1, 3)), {}, NOW, BY)["ada"]
        assert known.busy == NOW


def test_only_of_shared_devices_the_processes_are_looked_up() -> None:
    assert shared_pids([lease()], together(0.6)) == set()
    assert shared_pids([lease(), seat("ada", devices=("GPU-b",))], together(0.6)) == set()
    assert shared_pids([seat("ada"), seat("bob")], together(0.6)) == {1, 2}
    assert shared_pids([seat("ada")], together(0.6, None)) == set()
