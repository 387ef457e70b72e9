"""What the ledger keeps of faults: of devices, of users' programs, of servers that lost theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from ds01_spawner.core.devices import Snapshot, Xid
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.placement import Wanted
from ds01_spawner.errors import GpuPaused, NoDeviceFree
from ds01_spawner.services.ledger import Lease, LeaseRequest, Ledger
from ds01_spawner.services.ledger_faults import MANY_HELD, NONE_HELD
from tests.services.test_ledger import START, Clock, clock, ledger, opened, path, request, snapshot

__all__ = ["clock", "ledger", "opened", "path"]

MINUTE = timedelta(minutes=1)
MOST = 20
MANY = Limits(max_gpu_equivalents=4, max_gpu_slots_per_container=4)


# --- devices that XIDs put out of use ------------------------------------------------------------


def test_what_an_xid_put_out_of_use_is_given_to_nobody_by_any_process(
    ledger: Ledger, opened: Callable[..., Ledger]
) -> None:
    struck = Xid("GPU-0", 48, START)
    assert ledger.note_struck([struck], (), "boot") == frozenset()
    (cordon,) = opened().cordons()
    assert (cordon.device, cordon.since, cordon.xid) == ("GPU-0", START, 48)
    assert cordon.why == "the driver reported XID 48"
    assert opened().reserve(request(), snapshot(2)).devices == ("GPU-1",)
    assert ledger.note_struck([], ["GPU-0"], "boot") == frozenset()
    assert ledger.cordons() == ()
    assert ledger.reserve(request("bob"), snapshot(2)).devices == ("GPU-0",)


def test_it_is_so_until_the_host_boots(ledger: Ledger) -> None:
    struck = [Xid("GPU-0", 48, START), Xid("GPU-1", 79, START + MINUTE)]
    ledger.note_struck(struck, (), "boot")
    assert ledger.remembered("boot") == tuple(struck)
    assert ledger.remembered("another boot") == ()
    assert ledger.remembered("boot") == ()


def test_a_later_xid_is_the_one_that_counts(ledger: Ledger) -> None:
    ledger.note_struck([Xid("GPU-0", 48, START)], (), "boot")
    later = Xid("GPU-0", 119, START + MINUTE)
    ledger.note_struck([later], ["GPU-0"], "boot")
    assert ledger.remembered("boot") == (later,)


def test_what_an_admin_lifts_is_not_written_again(ledger: Ledger) -> None:
    struck = [Xid("GPU-0", 48, START), Xid("GPU-1", 48, START)]
    ledger.note_struck(struck, (), "boot")
    assert ledger.uncordon("GPU-0")
    assert ledger.note_struck(struck, ["GPU-0", "GPU-1"], "boot") == {"GPU-0"}
    assert [cordon.device for cordon in ledger.cordons()] == ["GPU-1"]


def test_an_admins_word_stays_when_the_drivers_is_over(ledger: Ledger) -> None:
    ledger.note_struck([Xid("GPU-0", 48, START)], (), "boot")
    ledger.cordon("GPU-0", "a fan rattles")
    ledger.note_struck([], ["GPU-0"], "boot")
    assert [cordon.why for cordon in ledger.cordons()] == ["a fan rattles"]
    with pytest.raises(NoDeviceFree):
        ledger.reserve(request(), snapshot(1))


# --- users whose programs fault ------------------------------------------------------------------


def serve(ledger: Ledger, user: str, gpus: int = 1, seats: int = 1, host: int = 4) -> Lease:
    wish = LeaseRequest("hub", user, "", Wanted(gpus, seats=seats), Limits(), None)
    lease = ledger.reserve(wish, snapshot(host))
    return ledger.bind(lease.id, lease.generation, f"c-{user}")


def faults(device: str, number: int, clock: Clock) -> list[Xid]:
    """So many, two minutes apart, the last one now."""
    begun = clock.time + MINUTE
    clock.pass_(minutes=2 * number)
    return [Xid(device, 31, begun + 2 * n * MINUTE) for n in range(number)]


def answers(ledger: Ledger, xid: Xid) -> tuple[str, str]:
    (fault,) = ledger.note_faults([xid])
    return fault.holder.user if fault.holder else "", fault.why


def test_who_had_the_device_answers_for_it_when_their_server_is_stopped(
    ledger: Ledger, clock: Clock
) -> None:
    lease = serve(ledger, "ada")
    clock.pass_(minutes=5)
    xid = Xid(lease.devices[0], 31, clock.time)
    clock.pass_(seconds=5)
    ledger.release(lease.id)
    clock.pass_(seconds=5)
    later = Xid(lease.devices[0], 13, clock.time)
    serve(ledger, "bob")
    assert answers(ledger, xid) == ("ada", "")
    assert answers(ledger, replace(later, at=clock.time - timedelta(seconds=1))) == ("", NONE_HELD)


def test_who_has_the_device_answers_for_it_once(
    ledger: Ledger, clock: Clock, opened: Callable[..., Ledger]
) -> None:
    lease = serve(ledger, "ada")
    (xid,) = faults(lease.devices[0], 1, clock)
    assert answers(ledger, xid) == ("ada", "")
    assert ledger.note_faults([xid]) == opened().note_faults([xid]) == ()
    assert answers(ledger, Xid("GPU-3", 31, clock.time)) == ("", NONE_HELD)


def test_who_has_the_device_answers_for_it_when_the_clock_went_back(
    ledger: Ledger, clock: Clock
) -> None:
    first = serve(ledger, "ada", host=1)
    clock.pass_(minutes=40)
    ledger.release(first.id)
    lease = serve(ledger, "bob", host=1)
    clock.pass_(minutes=-20)  # to when ada's server ran
    assert answers(ledger, Xid("GPU-0", 31, clock.time)) == ("", MANY_HELD)
    clock.pass_(minutes=-30)
    assert answers(ledger, Xid(lease.devices[0], 31, clock.time)) == ("bob", "")


def test_nobody_answers_for_what_was_before_the_lease_or_before_it_ran(
    ledger: Ledger, clock: Clock
) -> None:
    before = Xid("GPU-0", 31, clock.time - MINUTE)
    lease = ledger.reserve(request(), snapshot(1))
    assert answers(ledger, Xid("GPU-0", 13, clock.time)) == ("", NONE_HELD)
    ledger.bind(lease.id, lease.generation, "c")
    assert answers(ledger, before) == ("", NONE_HELD)


@pytest.mark.parametrize(("users", "who"), [(["ada"], "ada"), (["ada", "bob"], "")])
def test_of_a_shared_device_only_who_has_it_alone(
    ledger: Ledger, clock: Clock, users: list[str], who: str
) -> None:
    leases = [serve(ledger, user, seats=4, host=1) for user in users]
    assert {lease.devices for lease in leases} == {("GPU-0",)}
    assert answers(ledger, Xid("GPU-0", 31, clock.time)) == (who, "" if who else MANY_HELD)


def test_a_fault_of_a_whole_card_is_whose_instances_all_are(ledger: Ledger, clock: Clock) -> None:
    part = replace(snapshot(1).devices[0], kind="mig", parent="GPU-0", units=360)
    parts = tuple(replace(part, uuid=f"MIG-{n}") for n in range(2))
    divided = Snapshot(devices=parts, simulated=True)
    for user, who in (("ada", "ada"), ("bob", "")):
        lease = ledger.reserve(request(user), divided)
        ledger.bind(lease.id, lease.generation, f"c-{user}")
        clock.pass_(minutes=1)
        assert answers(ledger, Xid("GPU-0", 31, clock.time))[0] == who
        assert answers(ledger, Xid(lease.devices[0], 31, clock.time))[0] == user


def test_after_many_the_user_waits_and_nobody_else(ledger: Ledger, clock: Clock) -> None:
    lease = serve(ledger, "ada")
    ledger.take_ticket(request("ada", "two", 3, MANY), {}, snapshot())
    ledger.take_ticket(request("bob", gpus=4, limits=MANY), {}, snapshot())
    ledger.note_faults(faults(lease.devices[0], MOST, clock))
    assert ledger.paused("hub", "ada") is None
    assert len(ledger.tickets()) == 2
    ledger.note_faults(faults(lease.devices[0], 1, clock))
    paused = ledger.paused("hub", "ada")
    until = clock.time - MINUTE + timedelta(hours=1)
    assert paused is not None
    assert "made 21 faults on a GPU within 1 h" in paused.message
    assert f"until {until:%Y-%m-%d %H:%M} UTC" in paused.message
    assert [ticket.user for ticket in ledger.tickets()] == ["bob"]
    for refused in (
        lambda: ledger.reserve(request("ada", "two", limits=MANY), snapshot()),
        lambda: ledger.check(request("ada", "two", limits=MANY), snapshot()),
        lambda: ledger.take_ticket(request("ada", "two", limits=MANY), {}, snapshot()),
    ):
        with pytest.raises(GpuPaused):
            refused()
    assert ledger.leases() == (lease,), "a server that runs goes on"
    assert ledger.reserve(request("ada", "cpu", 0), snapshot()).devices == ()
    ledger.leave("hub", "bob", "")
    assert ledger.reserve(request("bob"), snapshot())
    assert list(ledger.pauses("hub")) == ["ada"]
    assert ledger.pauses("another hub") == {}
    clock.pass_(hours=1)
    assert ledger.pauses("hub") == {}
    assert ledger.reserve(request("ada", "two", limits=MANY), snapshot())


def test_an_admin_lets_a_user_go_on(ledger: Ledger, clock: Clock) -> None:
    lease = serve(ledger, "ada")
    told = faults(lease.devices[0], MOST + 1, clock)
    ledger.note_faults(told)
    assert not ledger.forgive("hub", "bob")
    assert ledger.forgive("hub", "ada")
    assert not ledger.forgive("hub", "ada")
    assert ledger.note_faults(told) == (), "they are not counted anew"
    assert ledger.reserve(request("ada", "two", limits=MANY), snapshot())


def test_what_is_long_past_is_forgotten_and_not_noted_again(ledger: Ledger, clock: Clock) -> None:
    lease = serve(ledger, "ada")
    told = faults(lease.devices[0], 3, clock)
    assert len(ledger.note_faults(told)) == 3
    clock.pass_(hours=2)
    assert ledger.note_faults(told) == ()
    with ledger._transaction() as db:
        assert db.execute("SELECT count(*) FROM fault").fetchone()[0] == 0


# --- servers that lost their devices -------------------------------------------------------------


def test_a_loss_is_told_by_whom_it_is_written_first(opened: Callable[..., Ledger]) -> None:
    one, two = opened(), opened()
    lease = one.reserve(request(), snapshot())
    (lost,) = one.note_losses({lease.id: "GPU is lost", "no lease": "x"})
    assert lost.lost == "GPU is lost"
    assert two.note_losses({lease.id: "GPU is lost"}) == ()
    assert two.note_losses({lease.id: "the driver asks for a reset"}) == ()
    assert one.leases()[0].lost == "the driver asks for a reset"
    (back,) = two.note_losses({lease.id: None})
    assert back.lost is None
    assert one.note_losses({lease.id: None}) == ()


# --- what the host has ---------------------------------------------------------------------------


def test_another_epoch_is_told_once(ledger: Ledger, opened: Callable[..., Ledger]) -> None:
    assert not ledger.note_epoch("one"), "the first is no change"
    assert not ledger.note_epoch("one")
    assert opened().note_epoch("two")
    assert not ledger.note_epoch("two")


def test_nothing_is_kept_for_who_has_to_wait(ledger: Ledger, clock: Clock) -> None:
    kept = replace(MANY, gpu_hold_after_stop_h=1.0)
    leases = [
        ledger.bind(lease.id, lease.generation, "c")
        for lease in (
            ledger.reserve(request("ada", name, limits=kept), snapshot()) for name in "ab"
        )
    ]
    ledger.release(leases[0].id)
    assert len(ledger.holds()) == 1
    ledger.note_faults(faults(leases[1].devices[0], MOST + 1, clock))
    assert ledger.paused("hub", "ada")
    assert ledger.holds() == ()
    ledger.release(leases[1].id)
    assert ledger.holds() == ()
