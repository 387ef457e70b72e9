"""The line in the ledger: what is promised to whom, over several processes and crashes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ds01_spawner.core.exemptions import Exempt
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.placement import Wanted
from ds01_spawner.core.runs import Needs
from ds01_spawner.core.tickets import Offer
from ds01_spawner.errors import (
    Draining,
    GpuQuotaExceeded,
    LedgerBusy,
    NoDeviceFree,
    NoSeatFree,
    NoSuchDevice,
    OthersWait,
    SurvivingLease,
    TooManyServers,
    TooManyTickets,
)
from ds01_spawner.services import ledger_tickets
from ds01_spawner.services.ledger import Lease, LeaseRequest, Ledger
from tests.services.test_ledger import START, Clock, clock, ledger, opened, path, request, snapshot

__all__ = ["clock", "ledger", "opened", "path"]

KEPT = Limits(gpu_hold_after_stop_h=0.5)
OPTIONS = {"framework": "Pytorch", "gpus": 1}


def wait(ledger: Ledger, user: str, gpus: int = 1, server: str = "", **more: Any) -> str:
    return ledger.take_ticket(request(user, server, gpus, **more), OPTIONS, snapshot(4)).id


def run(ledger: Ledger, gpus: int = 1) -> list[str]:
    """Run the line; what is told."""
    told = []
    for action in ledger.run_line(snapshot(gpus)):
        offer = action.ticket.offer
        got = ",".join(offer.devices) if offer else ""
        told.append(f"{action.ticket.user} {action.what} {got or action.why}".strip())
    return told


def serve(ledger: Ledger, user: str, gpus: int = 1, limits: Limits | None = None) -> Lease:
    """A server that runs on a host of so many GPUs."""
    lease = ledger.reserve(request(user, limits=limits), snapshot(gpus))
    return ledger.bind(lease.id, lease.generation, f"c-{user}")


# --- a place in the line -------------------------------------------------------------------------


def test_a_ticket_is_kept_as_it_was_taken(
    ledger: Ledger, clock: Clock, opened: Callable[..., Ledger]
) -> None:
    needs = Needs(("CUDA_AMPERE",), (12, 8), (8, 0))
    wish = LeaseRequest(
        "hub", "ada", "two", Wanted(2, "any", needs, 16 << 30),
        Limits(max_gpu_equivalents=None, max_gpu_slots_per_container=2, priority=50), 3.5,
    )  # fmt: skip
    taken = ledger.take_ticket(wish, OPTIONS, snapshot())
    assert (taken.wanted, taken.limits, taken.hours) == (wish.wanted, wish.limits, 3.5)
    assert (taken.since, taken.asked, taken.priority) == (clock.time, clock.time, 50)
    restarted = opened()
    restarted.begin_incarnation()
    assert restarted.tickets() == (taken,)
    assert restarted.ticket_options("hub", "ada", "two") == OPTIONS
    assert restarted.ticket_options("hub", "ada", "") is None


def test_who_asks_again_for_the_same_keeps_the_place(ledger: Ledger, clock: Clock) -> None:
    first = wait(ledger, "ada")
    clock.pass_(minutes=5)
    assert wait(ledger, "ada") == first
    (ticket,) = ledger.tickets()
    assert ticket.since < ticket.asked == clock.time
    more = Limits(max_gpu_slots_per_container=2, max_gpu_equivalents=2)
    assert wait(ledger, "ada", 2, limits=more) != first
    (ticket,) = ledger.tickets()
    assert (ticket.since, ticket.wanted.count) == (clock.time, 2)


def test_an_open_page_brings_the_limits_of_now(ledger: Ledger, clock: Clock) -> None:
    wait(ledger, "ada")
    clock.pass_(minutes=5)
    asked = ledger.asked("hub", "ada", "", Limits(priority=80))
    assert asked is not None
    assert (asked.asked, asked.limits.priority, asked.priority) == (clock.time, 80, 80)
    assert ledger.tickets() == (asked,)
    assert ledger.asked("hub", "bob", "", Limits()) is None


def test_what_a_policy_makes_of_a_wish_keeps_its_place(ledger: Ledger, clock: Clock) -> None:
    ledger.take_ticket(seat("ada"), OPTIONS, snapshot(1))
    before = clock.time
    assert run(ledger) == ["ada offered GPU-0"]
    clock.pass_(seconds=5)
    now = seat("ada", seats=4).wanted
    asked = ledger.asked("hub", "ada", "", Limits(), now)
    assert asked is not None
    assert (asked.since, asked.wanted, asked.offer) == (before, now, None)
    assert run(ledger) == ["ada offered GPU-0"]
    assert ledger.reserve(seat("ada", seats=4), snapshot(1)).seats == 4


def test_tickets_of_one_user_are_bounded(ledger: Ledger) -> None:
    much = Limits(max_gpu_equivalents=None, max_containers_per_user=None)
    for server in ("", "two", "three"):
        wait(ledger, "ada", server=server, limits=much)
    with pytest.raises(TooManyTickets, match="3 of your servers"):
        wait(ledger, "ada", server="four", limits=much)
    assert ledger.leave("hub", "ada", "two")
    assert not ledger.leave("hub", "ada", "two")
    wait(ledger, "ada", server="four", limits=much)


@pytest.mark.parametrize(
    ("limits", "at_once"),
    [
        (Limits(), 1),
        (Limits(max_gpu_equivalents=2), 2),
        (Limits(max_gpu_equivalents=None, max_containers_per_user=2), 2),
    ],
)
def test_nobody_waits_for_more_than_they_may_have_at_once(
    ledger: Ledger, limits: Limits, at_once: int
) -> None:
    """Who could would have the next turns, too, before all who came after the first of them."""
    servers = ["", "two"][:at_once]
    for server in servers:
        wait(ledger, "ada", server=server, limits=limits)
    with pytest.raises(TooManyTickets, match=f"{at_once} of your servers"):
        wait(ledger, "ada", server="more", limits=limits)
    lease = ledger.reserve(request("ada", limits=limits), snapshot(4))
    with pytest.raises((TooManyTickets, GpuQuotaExceeded)):
        wait(ledger, "ada", server="more", limits=limits)
    ledger.releasing(lease.id)
    wait(ledger, "ada", server="more", limits=limits)


def test_who_has_as_many_servers_as_they_may_does_not_wait(ledger: Ledger) -> None:
    one = Limits(max_gpu_equivalents=None, max_containers_per_user=1)
    serve(ledger, "ada", 4, one)
    with pytest.raises(TooManyServers):
        wait(ledger, "ada", server="two", limits=one)


def test_no_ticket_is_given_for_what_can_never_be(ledger: Ledger) -> None:
    impossible = LeaseRequest("hub", "ada", "", Wanted(1, "1g.10gb"), Limits())
    with pytest.raises(NoSuchDevice):
        ledger.take_ticket(impossible, {}, snapshot())
    serve(ledger, "bob")
    with pytest.raises(SurvivingLease):
        wait(ledger, "bob")
    ledger.drain("new disks")
    with pytest.raises(Draining):
        wait(ledger, "ada")


# --- the turn ------------------------------------------------------------------------------------


def test_from_a_full_host_to_a_start_in_turn(ledger: Ledger, clock: Clock) -> None:
    lease = serve(ledger, "ada")
    wait(ledger, "bob")
    assert run(ledger) == []
    ((ticket, seen),) = ledger.situation(snapshot(1)).told()
    assert (ticket.user, seen.position, seen.expected) == ("bob", 1, lease.until)
    clock.pass_(minutes=1)
    wait(ledger, "eve")
    ledger.release(lease.id)
    assert run(ledger) == ["bob offered GPU-0"]
    assert run(ledger) == []
    with pytest.raises(NoDeviceFree, match="2 servers wait"):
        ledger.reserve(request("max"), snapshot(1))
    with pytest.raises(NoDeviceFree):
        ledger.reserve(request("eve"), snapshot(1))
    got = ledger.reserve(request("bob"), snapshot(1))
    assert got.devices == ("GPU-0",)
    assert [ticket.user for ticket in ledger.tickets()] == ["eve"]


def test_what_is_free_is_for_who_waits(ledger: Ledger) -> None:
    serve(ledger, "ada", 2)
    two = Limits(max_gpu_slots_per_container=2, max_gpu_equivalents=2)
    wait(ledger, "bob", 2, limits=two)
    with pytest.raises(OthersWait, match="1 server waits in the line"):
        ledger.reserve(request("eve"), snapshot(2))  # to the ceiling, which would delay bob
    assert ledger.reserve(request("eve", hours=1), snapshot(2)).devices == ("GPU-1",)


def test_a_start_without_a_device_waits_for_nobody_and_gives_up_its_place(ledger: Ledger) -> None:
    serve(ledger, "ada")
    wait(ledger, "bob")
    wait(ledger, "eve")
    ledger.reserve(request("bob", gpus=0), snapshot(1))
    assert [ticket.user for ticket in ledger.tickets()] == ["eve"]


def test_an_offer_is_for_what_was_waited_for(ledger: Ledger) -> None:
    wait(ledger, "bob")
    assert run(ledger, 2) == ["bob offered GPU-0"]
    two = Limits(max_gpu_slots_per_container=2, max_gpu_equivalents=2)
    got = ledger.reserve(request("bob", gpus=2, limits=two), snapshot(2))
    assert got.devices == ("GPU-0", "GPU-1")
    assert ledger.tickets() == ()


def test_an_offer_whose_device_broke_is_not_taken_up(ledger: Ledger) -> None:
    wait(ledger, "bob")
    run(ledger)
    broken = replace(snapshot(1), devices=(replace(snapshot(1).devices[0], healthy=False),))
    with pytest.raises(NoDeviceFree):
        ledger.reserve(request("bob"), broken)
    (action,) = ledger.run_line(broken)
    assert (action.what, action.why) == ("withdrawn", "device_lost")
    assert ledger.tickets()[0].offer is None


def reserve(ledger: Ledger, user: str, clock: Clock) -> Lease:
    """A start that takes up its place, a minute later."""
    run(ledger)
    clock.pass_(minutes=1)
    return ledger.reserve(request(user), snapshot(1))


def test_a_start_that_fails_has_its_old_place_again(ledger: Ledger, clock: Clock) -> None:
    wait(ledger, "bob")
    before = ledger.tickets()
    clock.pass_(minutes=1)
    wait(ledger, "eve")
    lease = reserve(ledger, "bob", clock)
    assert [ticket.user for ticket in ledger.tickets()] == ["eve"]
    assert ledger.ticket_options("hub", "bob", "") is None
    ledger.release(lease.id)
    again = ledger.tickets()[0]
    assert again == replace(before[0], asked=clock.time, lapses=1)
    assert ledger.ticket_options("hub", "bob", "") == OPTIONS
    clock.pass_(seconds=1)  # so that its device does not count as just given back
    assert run(ledger) == ["bob offered GPU-0"]


def test_a_start_that_fails_again_and_again_holds_up_nobody(ledger: Ledger, clock: Clock) -> None:
    wait(ledger, "bob")
    clock.pass_(minutes=1)
    wait(ledger, "eve")
    for _ in range(2):
        ledger.release(reserve(ledger, "bob", clock).id)
    assert run(ledger) == ["eve offered GPU-0"]
    assert [ticket.user for ticket in ledger.tickets()] == ["eve"]


def test_a_start_that_the_hub_died_in_has_its_place_again(
    ledger: Ledger, clock: Clock, opened: Callable[..., Ledger]
) -> None:
    wait(ledger, "bob")
    lease = reserve(ledger, "bob", clock)
    again = opened()
    again.begin_incarnation()
    again.release(lease.id)
    assert [ticket.asked for ticket in again.tickets()] == [clock.time]


def test_a_place_that_is_given_up_does_not_come_back(ledger: Ledger, clock: Clock) -> None:
    wait(ledger, "bob")
    ledger.release(reserve(ledger, "bob", clock).id, given_up=True)
    assert ledger.tickets() == ()
    wait(ledger, "bob")
    lease = reserve(ledger, "bob", clock)
    assert not ledger.leave("hub", "bob", ""), "it does not wait now"
    ledger.release(lease.id)
    assert ledger.tickets() == ()
    wait(ledger, "bob")
    lease = reserve(ledger, "bob", clock)
    ledger.bind(lease.id, lease.generation, "c")
    ledger.release(lease.id)
    assert ledger.tickets() == ()


def test_places_that_come_back_are_bounded(ledger: Ledger, clock: Clock) -> None:
    many = Limits(max_gpu_equivalents=9, max_containers_per_user=9)
    wait(ledger, "bob", limits=many)
    run(ledger)
    lease = ledger.reserve(request("bob", limits=many), snapshot(1))
    for server in "abc":
        wait(ledger, "bob", server=server, limits=many)
    ledger.release(lease.id)
    assert [ticket.server for ticket in ledger.tickets()] == ["a", "b", "c"]


def test_an_offer_that_is_not_taken_up_moves_on(ledger: Ledger, clock: Clock) -> None:
    wait(ledger, "bob")
    clock.pass_(seconds=1)
    wait(ledger, "eve")
    assert run(ledger) == ["bob offered GPU-0"]
    clock.pass_(minutes=3)
    with pytest.raises(NoDeviceFree):  # until the line is run, the device is bob's
        ledger.reserve(request("eve"), snapshot(1))
    assert run(ledger) == ["bob lapsed not_taken_up", "eve offered GPU-0"]
    assert ledger.leave("hub", "eve", "")
    assert run(ledger) == []  # bob's page is closed
    clock.pass_(seconds=1)
    ledger.asked("hub", "bob", "", Limits())
    assert run(ledger) == ["bob offered GPU-0"]


def test_a_clock_that_goes_back_changes_no_place(ledger: Ledger, clock: Clock) -> None:
    serve(ledger, "ada")
    wait(ledger, "bob")
    clock.pass_(hours=-1)
    wait(ledger, "eve")
    assert [ticket.user for ticket in ledger.tickets()] == ["bob", "eve"]
    ledger.release(ledger.leases()[0].id)
    with pytest.raises(OthersWait):
        ledger.reserve(request("dan"), snapshot(1))
    assert run(ledger) == ["bob offered GPU-0"]
    clock.pass_(minutes=3)
    assert run(ledger) == ["bob lapsed not_taken_up", "eve offered GPU-0"]
    ledger.leave("hub", "eve", "")
    assert run(ledger) == []
    ledger.asked("hub", "bob", "", Limits())
    assert run(ledger) == ["bob offered GPU-0"], "his page is open again"


def test_an_offer_is_held_no_longer_when_the_clock_goes_back(ledger: Ledger, clock: Clock) -> None:
    wait(ledger, "bob")
    wait(ledger, "eve")
    assert run(ledger) == ["bob offered GPU-0"]
    clock.pass_(hours=-1)
    with pytest.raises(NoDeviceFree):
        ledger.reserve(request("eve"), snapshot(1))
    assert run(ledger) == ["bob withdrawn clock_set_back", "bob offered GPU-0"]
    assert run(ledger) == []
    clock.pass_(minutes=3)
    assert run(ledger) == ["bob lapsed not_taken_up", "eve offered GPU-0"]


def test_a_late_click_still_starts_where_nobody_waits(ledger: Ledger, clock: Clock) -> None:
    wait(ledger, "bob")
    run(ledger)
    clock.pass_(minutes=3)
    assert ledger.reserve(request("bob"), snapshot(1)).devices == ("GPU-0",)
    assert ledger.tickets() == ()


def test_who_leaves_frees_what_was_offered(ledger: Ledger, clock: Clock) -> None:
    wait(ledger, "bob")
    clock.pass_(seconds=1)
    wait(ledger, "eve")
    run(ledger)
    ledger.leave("hub", "bob", "")
    assert run(ledger) == ["eve offered GPU-0"]


def test_what_is_set_aside_is_offered_to_nobody(ledger: Ledger) -> None:
    ledger.cordon("GPU-0", "")
    wait(ledger, "bob")
    assert run(ledger) == []
    assert ledger.run_line(snapshot(2), {"GPU-1": "somebody"}) == ()
    ((_, seen),) = ledger.situation(snapshot(1)).told()
    assert seen.expected is None
    assert run(ledger, 2) == ["bob offered GPU-1"]
    ledger.cordon("GPU-1", "")
    assert run(ledger, 2) == ["bob withdrawn device_lost"]


def test_the_parts_of_a_card_that_is_set_aside_are_offered_to_nobody(ledger: Ledger) -> None:
    part = replace(snapshot(1).devices[0], uuid="MIG-1", kind="mig", parent="GPU-0", units=360)
    divided = replace(snapshot(1), devices=(part,))
    ledger.cordon("GPU-0", "")
    wait(ledger, "bob")
    assert ledger.run_line(divided) == ()
    ledger.uncordon("GPU-0")
    assert [action.what for action in ledger.run_line(divided)] == ["offered"]


def test_a_drained_host_offers_nothing(ledger: Ledger) -> None:
    wait(ledger, "bob")
    ledger.drain("")
    assert run(ledger) == []
    ledger.resume()
    assert run(ledger) == ["bob offered GPU-0"]
    ledger.drain("")
    assert run(ledger) == ["bob withdrawn draining"]


def test_who_used_much_of_late_is_later(ledger: Ledger, clock: Clock) -> None:
    lease = serve(ledger, "ada")
    clock.pass_(hours=15)
    ledger.release(lease.id)
    other = serve(ledger, "max")
    wait(ledger, "ada")
    clock.pass_(hours=1)
    wait(ledger, "bob")
    ledger.release(other.id)
    run(ledger)
    (offered,) = [ticket.user for ticket in ledger.tickets() if ticket.offer]
    assert offered == "bob"


def test_an_offer_is_for_no_longer_than_was_said(ledger: Ledger, clock: Clock) -> None:
    """Who was let in because they end soon does not stay to the ceiling."""
    serve(ledger, "ada", 2)
    two = Limits(max_gpu_slots_per_container=2, max_gpu_equivalents=2)
    wait(ledger, "bob", 2, limits=two)
    clock.pass_(seconds=1)
    wait(ledger, "eve", hours=1)
    assert run(ledger, 2) == ["eve offered GPU-1"]
    for hours in (None, 80):
        with pytest.raises(OthersWait):
            ledger.reserve(request("eve", hours=hours), snapshot(2))
    assert [t.user for t in ledger.tickets() if t.offer] == ["eve"]
    wait(ledger, "eve", hours=80)
    assert [t.user for t in ledger.tickets() if t.offer] == []
    assert run(ledger, 2) == []
    wait(ledger, "eve", hours=0.5)
    assert run(ledger, 2) == ["eve offered GPU-1"]
    assert ledger.reserve(request("eve", hours=0.5), snapshot(2)).devices == ("GPU-1",)


def test_the_policys_hours_are_the_end_of_who_chose_none(ledger: Ledger, clock: Clock) -> None:
    serve(ledger, "ada", limits=Limits(max_runtime_h=4))
    four = Limits(max_runtime_h=4)
    wait(ledger, "bob", limits=four)
    clock.pass_(seconds=60)
    wait(ledger, "eve", limits=four)
    (_, bob), (_, eve) = ledger.situation(snapshot(1)).told()
    assert bob.expected is not None
    assert eve.expected is not None
    assert eve.expected - bob.expected == timedelta(hours=4, minutes=2)


# --- seats ---------------------------------------------------------------------------------------


def seat(user: str, seats: int = 2, most: int | None = 1, **more: Any) -> LeaseRequest:
    return replace(request(user, **more), wanted=Wanted(1, "full", seats=seats, max_shared=most))


def test_who_wants_a_seat_waits_in_the_same_line(ledger: Ledger, clock: Clock) -> None:
    first, _ = [ledger.reserve(seat(user), snapshot(2)) for user in ("ada", "bob")]
    with pytest.raises(NoSeatFree, match="Wait in line"):
        ledger.reserve(seat("eve"), snapshot(2))
    for user in ("eve", "max"):
        clock.pass_(seconds=1)
        ledger.take_ticket(seat(user), OPTIONS, snapshot(2))
    assert run(ledger, 2) == []
    assert [seen.expected is not None for _, seen in ledger.situation(snapshot(2)).told()] == [
        True,
        True,
    ]
    ledger.release(first.id)
    assert run(ledger, 2) == ["eve offered GPU-0"]
    with pytest.raises(NoSeatFree, match="2 servers wait"):
        ledger.reserve(seat("late"), snapshot(2))
    with pytest.raises(NoSeatFree):
        ledger.reserve(seat("max"), snapshot(2))
    got = ledger.reserve(seat("eve"), snapshot(2))
    assert (got.devices, got.seat, got.seats) == (("GPU-0",), 0, 2)
    assert [ticket.user for ticket in ledger.tickets()] == ["max"]


def test_a_seat_is_not_taken_from_who_waits_for_the_whole_device(
    ledger: Ledger, clock: Clock
) -> None:
    running = ledger.reserve(seat("ada"), snapshot(1))
    wait(ledger, "bob")
    clock.pass_(seconds=1)
    with pytest.raises(OthersWait):  # it would stay for longer than ada, whom bob waits for
        ledger.reserve(seat("eve"), snapshot(1))
    assert ledger.reserve(seat("eve", hours=1), snapshot(1)).seat == 1
    ledger.release(running.id)
    assert run(ledger) == []


def test_seats_of_one_device_are_offered_to_several(ledger: Ledger, clock: Clock) -> None:
    for user in ("ada", "bob", "eve"):
        ledger.take_ticket(seat(user), OPTIONS, snapshot(1))
        clock.pass_(seconds=1)
    assert run(ledger) == ["ada offered GPU-0", "bob offered GPU-0"]
    offers = [ticket.offer for ticket in ledger.tickets() if ticket.offer]
    assert [(offer.seat, offer.seats, offer.units) for offer in offers] == [
        (0, 2, 1260), (1, 2, 1260)
    ]  # fmt: skip
    with pytest.raises(NoDeviceFree):  # nobody gets it alone
        ledger.reserve(request("max"), snapshot(1))
    assert ledger.leave("hub", "ada", "")
    assert ledger.reserve(seat("bob"), snapshot(1)).devices == ("GPU-0",)
    assert run(ledger) == ["eve offered GPU-0"]


# --- what the tables see to ----------------------------------------------------------------------


def test_the_database_refuses_a_device_in_two_offers_or_in_an_offer_and_a_lease(
    ledger: Ledger, clock: Clock
) -> None:
    wait(ledger, "ada")
    wait(ledger, "bob")
    offer = Offer(("GPU-0",), 2520, clock.time)
    first, second = ledger.tickets()
    with ledger._transaction() as db:
        ledger_tickets.update(db, replace(first, offer=offer))
    with pytest.raises(LedgerBusy), ledger._transaction() as db:
        ledger_tickets.update(db, replace(second, offer=offer))
    with pytest.raises(LedgerBusy), ledger._transaction() as db:
        db.execute(
            "INSERT INTO lease_device SELECT 'GPU-0', 0, 1, id, 0, 'GPU-0', 'local' FROM lease "
            "UNION SELECT 'GPU-0', 0, 1, 'x', 0, 'GPU-0', 'local'"
        )
    ledger.leave("hub", "ada", "")
    ledger.leave("hub", "bob", "")
    lease = ledger.reserve(request("eve"), snapshot(2))
    wait(ledger, "bob")
    (second,) = ledger.tickets()
    with pytest.raises(LedgerBusy), ledger._transaction() as db:
        ledger_tickets.update(db, replace(second, offer=replace(offer, devices=lease.devices)))


def test_the_database_keeps_offers_of_seats_apart(ledger: Ledger, clock: Clock) -> None:
    for user in ("ada", "bob"):
        ledger.take_ticket(seat(user), OPTIONS, snapshot(1))
    first, second = ledger.tickets()
    offer = Offer(("GPU-0",), 1260, clock.time, 0, 2)
    with ledger._transaction() as db:
        ledger_tickets.update(db, replace(first, offer=offer))
    for other in (offer, replace(offer, seat=3, seats=4), replace(offer, seat=0, seats=1)):
        with pytest.raises(LedgerBusy), ledger._transaction() as db:
            ledger_tickets.update(db, replace(second, offer=other))
    with ledger._transaction() as db:
        ledger_tickets.update(db, replace(second, offer=replace(offer, seat=1)))
    assert [ticket.offer.seat for ticket in ledger.tickets() if ticket.offer] == [0, 1]


def test_a_server_that_is_found_running_waits_no_more(ledger: Ledger, clock: Clock) -> None:
    wait(ledger, "bob")
    ledger.adopt(Lease("old", 7, "hub", "bob", "", "bound", (), 0, "", clock.time, container="c"))
    assert ledger.tickets() == ()


def test_a_seat_that_is_found_ends_the_offer_of_that_alone(ledger: Ledger, clock: Clock) -> None:
    for user in ("bob", "eve"):
        ledger.take_ticket(seat(user), OPTIONS, snapshot(1))
        clock.pass_(seconds=1)
    run(ledger)
    found = Lease("old", 7, "hub", "ada", "", "bound", ("GPU-0",), 1260, "", clock.time,
                  container="c", seat=0, seats=2, cards=("GPU-0",))  # fmt: skip
    ledger.adopt(found)
    assert [ticket.user for ticket in ledger.tickets() if ticket.offer] == ["eve"]


def test_a_lease_that_is_found_ends_the_offer(ledger: Ledger, clock: Clock) -> None:
    wait(ledger, "bob")
    run(ledger)
    found = Lease(
        "old", 7, "hub", "ada", "", "bound", ("GPU-0",), 2520, "", clock.time, container="c",
        cards=("GPU-0",),
    )  # fmt: skip
    ledger.adopt(found)
    assert [ticket.offer for ticket in ledger.tickets()] == [None]
    assert run(ledger) == []


def test_two_processes_run_one_line(opened: Callable[..., Ledger], clock: Clock) -> None:
    one, two = opened(), opened()
    wait(one, "ada")
    clock.pass_(seconds=1)
    wait(two, "bob")
    clock.pass_(seconds=1)
    wait(one, "eve")
    assert run(two, 2) == ["ada offered GPU-0", "bob offered GPU-1"]
    assert run(one, 2) == []
    assert two.reserve(request("ada"), snapshot(2)).devices == ("GPU-0",)
    assert one.leave("hub", "bob", "")
    assert run(two, 2) == ["eve offered GPU-1"]


def test_a_lost_ledger_loses_tickets_and_holds_alone(
    ledger: Ledger, path: Path, opened: Callable[..., Ledger]
) -> None:
    lease = serve(ledger, "ada", limits=KEPT)
    wait(ledger, "bob")
    ledger.close()
    for file in path.parent.iterdir():
        file.unlink()
    again = opened()
    again.begin_incarnation()
    again.adopt(lease)
    assert [found.devices for found in again.leases()] == [("GPU-0",)]
    assert again.tickets() == again.holds() == ()


def test_a_ticket_of_unknown_making_is_refused(ledger: Ledger) -> None:
    wait(ledger, "ada")
    with ledger._transaction() as db:
        db.execute("UPDATE ticket SET wish = json_set(wish, '$.wanted.colour', 'red')")
    with pytest.raises(ValueError, match="colour"):
        ledger.tickets()


# --- kept after a stop ---------------------------------------------------------------------------


def test_a_device_is_kept_for_its_user_after_a_stop(ledger: Ledger, clock: Clock) -> None:
    lease = serve(ledger, "ada", limits=KEPT)
    ledger.release(lease.id)
    assert [(hold.device, hold.user) for hold in ledger.holds()] == [("GPU-0", "ada")]
    wait(ledger, "bob")
    assert run(ledger) == []
    with pytest.raises(NoDeviceFree):
        ledger.reserve(request("eve"), snapshot(1))
    again = ledger.reserve(request("ada", limits=KEPT), snapshot(2))
    assert again.devices == ("GPU-0",)
    assert ledger.holds() == ()


def test_a_hold_ends(ledger: Ledger, clock: Clock) -> None:
    ledger.release(serve(ledger, "ada", limits=KEPT).id)
    wait(ledger, "bob")
    clock.pass_(minutes=30)
    assert ledger.holds() == ()
    assert run(ledger) == ["bob offered GPU-0"]
    clock.pass_(minutes=-10)  # nor does it begin again by the clock
    assert ledger.holds() == ()
    assert ledger.reserve(request("bob"), snapshot(1)).devices == ("GPU-0",)


@pytest.mark.parametrize(("policy", "minutes"), [(0, None), (0.25, 15), (24, 60), (None, 60)])
def test_a_hold_is_as_long_as_the_policy_and_the_ceiling_say(
    ledger: Ledger, clock: Clock, policy: float | None, minutes: int | None
) -> None:
    ledger.release(serve(ledger, "ada", limits=Limits(gpu_hold_after_stop_h=policy)).id)
    found = [(hold.until - clock.time).total_seconds() / 60 for hold in ledger.holds()]
    assert found == ([] if minutes is None else [minutes])


def test_what_never_ran_or_is_over_keeps_nothing(ledger: Ledger, clock: Clock) -> None:
    reserved = ledger.reserve(request("ada", limits=KEPT), snapshot(1))
    ledger.release(reserved.id)
    assert ledger.holds() == ()
    lease = serve(ledger, "ada", limits=replace(KEPT, max_runtime_h=2))
    clock.pass_(hours=2)
    ledger.release(lease.id)
    assert ledger.holds() == ()


# --- what is kept after a stop stands in nobody's way for ever -----------------------------------


def test_what_was_kept_once_is_not_kept_again_while_others_wait(
    ledger: Ledger, clock: Clock
) -> None:
    lease = serve(ledger, "ada", limits=KEPT)
    wait(ledger, "bob")
    ledger.release(lease.id)
    assert run(ledger) == []
    lease = serve(ledger, "ada", limits=KEPT)
    clock.pass_(hours=1)
    ledger.release(lease.id)
    clock.pass_(seconds=3)
    assert run(ledger) == ["bob offered GPU-0"]


def test_what_was_kept_is_kept_again_where_nobody_waits(ledger: Ledger, clock: Clock) -> None:
    for _ in range(3):
        ledger.release(serve(ledger, "ada", limits=KEPT).id)
        assert [hold.device for hold in ledger.holds()] == ["GPU-0"]
        clock.pass_(seconds=3)


def test_a_start_that_failed_keeps_nothing_exempt_or_not(ledger: Ledger) -> None:
    exempt = Exempt(runtime=START + timedelta(days=3))
    limits = replace(KEPT, max_runtime_h=6)
    asked = replace(request("ada", limits=limits), exempt=exempt)
    ledger.release(ledger.reserve(asked, snapshot(1)).id)
    assert ledger.holds() == ()


def test_who_takes_something_else_gives_up_what_was_kept(ledger: Ledger) -> None:
    ledger.release(serve(ledger, "ada", limits=KEPT).id)
    bigger = replace(snapshot(2).devices[1], memory=80 << 30)
    both = replace(snapshot(2), devices=(snapshot(1).devices[0], bigger))
    wish = replace(request("ada", limits=KEPT), wanted=Wanted(1, memory=60 << 30))
    assert ledger.reserve(wish, both).devices == ("GPU-1",)
    assert ledger.holds() == ()


# --- a time without a hub ------------------------------------------------------------------------


def test_nobody_loses_an_offer_or_a_place_while_there_is_no_hub(
    ledger: Ledger, clock: Clock, opened: Callable[..., Ledger]
) -> None:
    lease = serve(ledger, "eve")
    wait(ledger, "ada")
    clock.pass_(minutes=1)
    wait(ledger, "bob")
    ledger.release(lease.id)
    clock.pass_(seconds=3)
    assert run(ledger) == ["ada offered GPU-0"]
    clock.pass_(hours=60)
    again = opened()
    again.begin_incarnation()
    assert run(again) == ["ada offered GPU-0"]
    assert [ticket.user for ticket in again.tickets()] == ["ada", "bob"]
