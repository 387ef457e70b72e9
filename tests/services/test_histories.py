"""Random histories of starts, stops, crashes and meddling: what must hold at every step does.

The hub's part is played by the rules below in the order in which the spawner makes its calls; a
crash may come between any two of them.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ds01_spawner.core.devices import Xid
from ds01_spawner.core.exemptions import Exempt
from ds01_spawner.core.lifetime import look
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.losses import why_lost
from ds01_spawner.core.placement import Wanted
from ds01_spawner.core.sharing import read_label
from ds01_spawner.core.tickets import Hold, Ticket
from ds01_spawner.errors import (
    DS01Error,
    EngineUnavailable,
    GpuPaused,
    GpuQuotaExceeded,
    LeaseLost,
    NoSuchDevice,
    SurvivingLease,
    TooManyServers,
    TooManyTickets,
)
from ds01_spawner.services.engine import EngineConflict, EngineNotFound, EngineRefused, Json
from ds01_spawner.services.inventory.simulated import SimulatedInventory
from ds01_spawner.services.ledger import Lease, LeaseRequest, Ledger
from ds01_spawner.services.ledger_rows import MOMENT
from ds01_spawner.services.seen import seen
from tests.services.promises import Promises
from tests.services.world import IMAGE, DatedEngine, World

T = TypeVar("T")
HOURS_EXEMPT = st.sampled_from([0, 0.5, 3, 9, 20])
USERS = st.sampled_from(["ada", "bob", "eve"])
SERVERS = st.sampled_from(["", "two", "three"])
Leases = tuple[Lease, ...]
Wish = tuple[int, str, int]  # devices, of which kind, in how many seats
KINDS = st.sampled_from([
    (0, "any", 1), (1, "any", 1), (1, "full", 1), (1, "1g.10gb", 1), (2, "1g.10gb", 1),
    (1, "any", 3), (1, "full", 3), (1, "any", 2),
])  # fmt: skip
LIMITS = Limits(
    max_gpu_equivalents=1.2, max_gpu_slots_per_container=2, max_containers_per_user=2,
    max_runtime_h=4, idle_timeout_h=1, gpu_hold_after_stop_h=0.5,
)  # fmt: skip
PICK = st.integers(0, 99)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


@dataclass
class Starting:
    """A start under way in the hub's memory."""

    lease: Lease
    container: str = ""
    started: bool = False


class Histories(RuleBasedStateMachine):
    """One hub, its users, its admin, and bad luck."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        # In memory where there is such a folder: what a crash of the host leaves is SQLite's.
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))

    @initialize()
    def begin(self) -> None:
        inventory = SimulatedInventory("2xA100,1xH100:mig=3x1g.10gb", "host")
        snapshot = self.do(inventory.snapshot())
        parts = [device for device in snapshot.devices if device.parent]
        whole = replace(
            parts[0], uuid=parts[0].card, kind="gpu", parent=None, profile=None, units=2520
        )
        cards = tuple(device for device in snapshot.devices if not device.parent)
        anew = tuple(replace(part, uuid=f"{part.uuid}-anew") for part in parts)
        # The ways in which the card with instances is divided, or is not.
        self.ways = [(*cards, *parts), (*cards, whole), (*cards, *anew)]
        engine = DatedEngine([d.uuid for way in self.ways for d in way])
        self.world = World(engine, self.folder / "ledger" / "db", snapshot)
        self.world.known = set()  # what the hub has in its own database
        self.promises = Promises(self.world, hours=4 * HOUR, idle=HOUR)
        self.exempt: dict[str, Exempt] = {}  # as the policy has it
        self.looked = self.world.known_time - HOUR  # at the devices
        self.held: set[str] = set()  # at the last step
        self.unclean: set[str] = set()  # given back since somebody looked at the devices
        self.revived: set[str] = set()  # users who have to wait once more, by the clock alone
        self.starts: list[Starting] = []
        self.late: list[tuple[str, Json]] = []  # create calls that the engine has yet to do
        self.limits = LIMITS
        self.settle()

    def do(self, what: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(what)

    def settle(self) -> None:
        """Reconcile until nothing is to do, which takes one pass."""
        done = self.do(self.world.reconciler.run())
        assert self.do(self.world.run()) == []
        states = {c["Id"]: c["State"]["Status"] for c in self.ours()}
        runs = [lease for lease in self.world.ledger.leases() if lease.state == "bound"]
        assert all(states[lease.container or ""] == "running" for lease in runs)
        self.promises.check(done, runs)

    def look(self, fresh: bool = True) -> None:
        """Look at the devices of the host, as before all that gives some out.

        With `fresh` anew, else only where the last look is older than any can be.
        """
        if not fresh and self.world.known_time - self.looked < MOMENT:
            return
        self.world.look()
        self.looked = self.world.known_time
        self.unclean = set()
        self.held = self.leased()

    def leased(self) -> set[str]:
        return {uuid for lease in self.world.ledger.leases() for uuid in lease.devices}

    @property
    def running(self) -> list[Lease]:
        """Servers that the hub knows."""
        known = self.world.known or set()
        return [
            lease
            for lease in self.world.ledger.leases()
            if lease.state == "bound" and (lease.user, lease.server) in known
        ]

    # --- a start, in its steps -------------------------------------------------------------------

    @rule(user=USERS, server=SERVERS, wish=KINDS)
    def serve(self, user: str, server: str, wish: Wish) -> None:
        """A start that nothing comes between."""
        if self.reserve(user, server, wish):
            self.go_on(3)
            self.bind(0, recorded=True)

    @rule(
        user=USERS, server=SERVERS, wish=KINDS, steps=st.integers(1, 4), lose_ledger=st.booleans()
    )
    def start_and_die(
        self, user: str, server: str, wish: Wish, steps: int, lose_ledger: bool
    ) -> None:
        """The hub is killed after one of the steps of a start, whatever else is lost."""
        if self.reserve(user, server, wish):
            self.go_on(steps)
            if steps == 4:
                self.bind(0, recorded=False)
            else:
                self.kill_hub(lose_ledger, late_start=False)

    def go_on(self, steps: int) -> None:
        """The first steps of the latest start."""
        self.starts.insert(0, self.starts.pop())
        for step in (self.create, self.start)[: steps - 1]:
            step(0)

    @rule(user=USERS, server=SERVERS, wish=KINDS)
    def begin_a_start(self, user: str, server: str, wish: Wish) -> None:
        self.reserve(user, server, wish)

    @rule(user=USERS, server=SERVERS, wish=KINDS)
    def begin_a_start_on_an_old_look(self, user: str, server: str, wish: Wish) -> None:
        """What came back since then may not be clean."""
        self.reserve(user, server, wish, fresh=False)

    def reserve(self, user: str, server: str, wish: Wish, fresh: bool = True) -> bool:
        gpus, kind, seats = wish
        self.look(fresh)
        exempt = self.exempt.get(user, Exempt())
        hours = None if user in self.exempt else 4  # the policy's, which are as many
        aside = {cordon.device for cordon in self.world.ledger.cordons()}
        foreign = self.do(self.world.reconciler.foreign_devices(self.world.snapshot))
        waits = user in self.world.ledger.pauses("hub")
        displaced = self.displaced()
        try:
            lease = self.world.reserve(
                user, gpus, foreign, server, self.limits, kind, seats, hours, exempt
            )
        except DS01Error as refusal:
            assert refusal.status < 500, refusal
            return False
        self.is_what_was_asked_for(lease, wish)
        assert not set(lease.devices) & ({*foreign} | aside)
        assert not set(lease.cards) & (aside | displaced)
        assert not (lease.devices and waits)
        assert lease.seats > 1 or not set(lease.devices) & self.unclean
        assert self.world.ledger.drained() is None
        self.promises.reserved(lease, exempt)
        self.starts.append(Starting(lease))
        return True

    def is_what_was_asked_for(self, lease: Lease, wish: Wish) -> None:
        gpus, kind, seats = wish
        there = {device.uuid: device for device in self.world.snapshot.devices}
        got = [there[uuid] for uuid in lease.devices]
        assert (len(got), lease.seats) == (gpus, seats)
        assert all(device.healthy for device in got)
        assert all(kind == "any" or kind == (device.profile or "full") for device in got)
        own = [one for one in self.world.ledger.leases() if one.user == lease.user]
        assert len(own) <= (self.limits.max_containers_per_user or 0)
        assert sum(one.units for one in own) <= (self.limits.gpu_units or 0)

    @rule(user=USERS, server=SERVERS, wish=KINDS.filter(lambda w: w[0] > 0))
    def a_start_while_the_driver_hangs(self, user: str, server: str, wish: Wish) -> None:
        """Nobody gets a device, nor an offer, nor loses a place or a lease."""
        ledger, unknown = self.world.ledger, replace(self.world.snapshot, known=False)
        before = ledger.leases(), [ticket.id for ticket in ledger.tickets()]
        gpus, kind, seats = wish
        wanted = Wanted(gpus, kind, seats=seats)
        with pytest.raises(DS01Error):
            ledger.reserve(LeaseRequest("hub", user, server, wanted, self.limits, 4), unknown)
        assert {action.what for action in ledger.run_line(unknown)} <= {"withdrawn"}
        assert not any(ticket.offer for ticket in ledger.tickets())
        assert before == (ledger.leases(), [ticket.id for ticket in ledger.tickets()])

    @rule(user=USERS, server=SERVERS, wish=KINDS)
    def begin_a_start_in_another_process(self, user: str, server: str, wish: Wish) -> None:
        """One ledger file, whoever opens it."""
        own = self.world.ledger
        self.world.ledger = self.world.open_ledger()
        try:
            self.reserve(user, server, wish)
        finally:
            self.world.ledger.close()
            self.world.ledger = own

    @precondition(lambda self: any(not s.container for s in self.starts))
    @rule(pick=PICK)
    def create(self, pick: int) -> None:
        waiting = [s for s in self.starts if not s.container]
        start = waiting[pick % len(waiting)]
        try:
            start.container = self.do(self.world.create(start.lease))
        except EngineConflict:  # what an earlier start left under this name goes first
            self.do(self.world.engine.remove_container(start.lease.container_name, force=True))
            start.container = self.do(self.world.create(start.lease))
        self.promises.begins(start.lease)

    @precondition(lambda self: any(s.container and not s.started for s in self.starts))
    @rule(pick=PICK)
    def start(self, pick: int) -> None:
        waiting = [s for s in self.starts if s.container and not s.started]
        start = waiting[pick % len(waiting)]
        try:
            self.world.ledger.confirm(start.lease.id, start.lease.generation)
            self.do(self.world.engine.start_container(start.container))
            start.started = True
        except (LeaseLost, EngineNotFound):
            self.undo(start)

    @rule(user=USERS, server=SERVERS, wish=KINDS, dies=st.booleans(), after=st.booleans())
    def the_engine_refuses_a_start(
        self, user: str, server: str, wish: Wish, dies: bool, after: bool
    ) -> None:
        """As when a device's hook fails, or an answer is lost `after` the start; all is undone."""
        if not self.reserve(user, server, wish):
            return
        self.go_on(2)
        start = self.starts[0]
        lease, engine = start.lease, self.world.engine
        refusal = EngineRefused(500, "error running hook #0: unknown device")
        engine.fail_next("start_container", refusal, after=after)
        with pytest.raises(EngineRefused):
            self.do(engine.start_container(start.container))
        if dies:
            self.kill_hub(lose_ledger=False, late_start=False)
        else:
            self.undo(start)
        assert lease.id not in {one.id for one in self.world.ledger.leases()}
        kept = {hold.device for hold in self.world.ledger.holds()}
        assert not kept & set(lease.devices), "nothing is kept of what never ran"

    @precondition(lambda self: any(s.started for s in self.starts))
    @rule(pick=PICK, recorded=st.booleans())
    def bind(self, pick: int, recorded: bool) -> None:
        """The last step; then the hub writes the server down, or is killed before it does."""
        waiting = [s for s in self.starts if s.started]
        start = waiting[pick % len(waiting)]
        lease = start.lease
        try:
            self.world.ledger.bind(lease.id, lease.generation, start.container)
        except LeaseLost:
            self.undo(start)
            return
        self.promises.begins(lease)
        self.starts.remove(start)
        if recorded:
            self.world.known.add((lease.user, lease.server))
        else:
            self.kill_hub(lose_ledger=False, late_start=False)

    def undo(self, start: Starting) -> None:
        """What the spawner does when a start fails: container first, lease only then."""
        self.world.ledger.releasing(start.lease.id)
        if start.container:
            with suppress(EngineNotFound):
                self.do(self.world.engine.remove_container(start.container, force=True))
        self.world.ledger.release(start.lease.id)
        self.starts.remove(start)

    @precondition(lambda self: self.starts)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        self.undo(self.starts[pick % len(self.starts)])

    @precondition(lambda self: any(not s.container for s in self.starts))
    @rule(pick=PICK)
    def cancel_while_the_engine_is_still_creating(self, pick: int) -> None:
        waiting = [s for s in self.starts if not s.container]
        start = waiting[pick % len(waiting)]
        self.late.append((start.lease.container_name, self.world.body(start.lease)))
        self.undo(start)

    @precondition(lambda self: self.late)
    @rule()
    def a_late_create_takes_effect(self) -> None:
        name, body = self.late.pop()
        with suppress(EngineConflict):
            self.do(self.world.engine.create_container(name, body))

    # --- the line --------------------------------------------------------------------------------

    @rule(user=USERS, server=SERVERS, wish=KINDS.filter(lambda w: w[0] > 0))
    def take_a_ticket(self, user: str, server: str, wish: Wish) -> None:
        gpus, kind, seats = wish
        wanted = Wanted(gpus, kind, seats=seats)
        request = LeaseRequest("hub", user, server, wanted, self.limits, 4)
        waits = user in self.world.ledger.pauses("hub")
        refusals = (TooManyTickets, TooManyServers, SurvivingLease, GpuQuotaExceeded, GpuPaused)
        with suppress(*refusals, NoSuchDevice):
            self.world.ledger.take_ticket(request, {}, self.world.snapshot)
            assert not waits

    @rule(user=USERS, server=SERVERS)
    def leave_the_line(self, user: str, server: str) -> None:
        self.world.ledger.leave("hub", user, server)

    @rule(user=USERS, server=SERVERS)
    def a_page_is_open(self, user: str, server: str) -> None:
        self.world.ledger.asked("hub", user, server, self.limits)

    @rule(fresh=st.booleans())
    def run_the_line(self, fresh: bool) -> None:
        self.look(fresh)
        ledger = self.world.ledger
        aside = {cordon.device for cordon in ledger.cordons()}
        foreign = self.do(self.world.reconciler.foreign_devices(self.world.snapshot))
        for action in ledger.run_line(self.world.snapshot, foreign):
            if action.what == "offered" and action.ticket.offer:
                offered = set(action.ticket.offer.devices)
                assert not offered & (aside | foreign.keys())
                assert action.ticket.offer.seats > 1 or not offered & self.unclean
                there = {d.uuid: d.card for d in self.world.snapshot.devices if d.healthy}
                assert not {there[uuid] for uuid in offered} & (aside | self.displaced())
        assert ledger.run_line(self.world.snapshot, foreign) == (), "once is enough"

    @precondition(lambda self: any(ticket.offer for ticket in self.world.ledger.tickets()))
    @rule(pick=PICK)
    def take_up_an_offer(self, pick: int) -> None:
        """A start of who was offered devices gets these, while they can be had."""
        offered = [ticket for ticket in self.world.ledger.tickets() if ticket.offer]
        ticket = offered[pick % len(offered)]
        wish = (ticket.wanted.count, ticket.wanted.kind, ticket.wanted.seats)
        if self.reserve(ticket.user, ticket.server, wish):
            assert ticket not in self.world.ledger.tickets()
            got, offer = self.starts[-1].lease.devices, ticket.offer
            assert offer is not None
            aside = {cordon.device for cordon in self.world.ledger.cordons()}
            lost = (
                aside | self.do(self.world.reconciler.foreign_devices(self.world.snapshot)).keys()
            )
            well = (device for device in self.world.snapshot.devices if device.healthy)
            there = {device.uuid: device.card for device in well}
            lost |= {u for u in offer.devices if u not in there or there[u] in aside}
            late = offer.until <= self.world.time
            assert late or got == offer.devices or lost & set(offer.devices)

    # --- a stop, and other ends ------------------------------------------------------------------

    @precondition(lambda self: self.running)
    @rule(pick=PICK, steps=st.integers(1, 4))
    def stop(self, pick: int, steps: int) -> None:
        """A stop, or its first steps and then the hub dies."""
        lease = self.running[pick % len(self.running)]
        engine, ledger = self.world.engine, self.world.ledger
        ledger.releasing(lease.id)
        with suppress(EngineNotFound):
            if steps > 1:
                self.do(engine.stop_container(lease.container or "", 10))
            if steps > 2:
                self.do(engine.remove_container(lease.container or ""))
        if steps > 3:
            ledger.release(lease.id)
            self.world.known.discard((lease.user, lease.server))
        else:
            self.kill_hub(lose_ledger=False, late_start=False)

    @precondition(lambda self: self.world.ledger.leases())
    @rule(pick=PICK)
    def the_admin_stops_a_server(self, pick: int) -> None:
        """Also one whose start is under way: that one finds out at its next step."""
        leases = self.world.ledger.leases()
        lease = leases[pick % len(leases)]
        self.do(self.world.reconciler.end(lease, "the admin said so"))
        for start in self.starts:
            if start.lease.id == lease.id:
                with pytest.raises(LeaseLost):
                    self.world.ledger.confirm(lease.id, lease.generation)

    def ours(self) -> list[Json]:
        containers = self.world.engine.containers.values()
        return [c for c in containers if c["Config"]["Labels"].get("ds01.hub")]

    @precondition(lambda self: self.ours())
    @rule(pick=PICK, how=st.sampled_from(["remove", "stop", "exit", "start again"]))
    def somebody_meddles(self, pick: int, how: str) -> None:
        found = self.ours()[pick % len(self.ours())]
        engine, status = self.world.engine, found["State"]["Status"]
        if how == "remove":
            self.do(engine.remove_container(found["Id"], force=True))
        elif how == "stop":
            self.do(engine.stop_container(found["Id"], 10))
        elif how == "exit" and status == "running":
            engine.exit(found["Id"], 137, oom=True)
        elif how == "start again" and status == "exited":
            self.do(engine.start_container(found["Id"]))

    @rule(pick=PICK)
    def somebody_runs_a_container_with_a_gpu(self, pick: int) -> None:
        """On a device that nobody has: what people do by hand on taken ones, no one can prevent."""
        held = {uuid for lease in self.world.ledger.leases() for uuid in lease.devices}
        held |= {uuid for found in self.world.engine.containers.values() for uuid in devices(found)}
        free = [d.uuid for d in self.world.snapshot.devices if d.uuid not in held]
        if free:
            uuid = free[pick % len(free)]
            request = {"Driver": "nvidia", "DeviceIDs": [uuid], "Capabilities": [["gpu"]]}
            host = {"Runtime": "runc", "NetworkMode": "none", "DeviceRequests": [request]}
            body = {"Image": IMAGE, "HostConfig": host}
            engine = self.world.engine
            self.do(
                engine.start_container(self.do(engine.create_container(f"by-hand-{uuid}", body)))
            )

    @rule()
    def the_containers_made_by_hand_go(self) -> None:
        engine = self.world.engine
        for found in [c for c in engine.containers.values() if c not in self.ours()]:
            self.do(engine.remove_container(found["Id"], force=True))

    # --- the admin -------------------------------------------------------------------------------

    @rule(pick=PICK)
    def cordon(self, pick: int) -> None:
        devices = self.world.snapshot.devices
        self.world.ledger.cordon(devices[pick % len(devices)].uuid, "a fan rattles")

    @rule()
    def uncordon(self) -> None:
        """Also what an XID put out of use."""
        for cordon in self.world.ledger.cordons():
            self.world.ledger.uncordon(cordon.device)

    @rule(tight=st.booleans())
    def the_policy_changes(self, tight: bool) -> None:
        """It takes nothing from a server that runs."""
        less = replace(LIMITS, max_gpu_equivalents=0.5, max_containers_per_user=1)
        self.limits = less if tight else LIMITS

    @precondition(lambda self: any(lease.devices for lease in self.running))
    @rule(pick=PICK, hours=st.sampled_from([0.1, 2, 9]))
    def a_server_is_extended_or_kept(self, pick: int, hours: float) -> None:
        found = [lease for lease in self.running if lease.devices]
        lease = found[pick % len(found)]
        until = self.world.time + timedelta(hours=hours)
        if pick % 2:
            assert self.world.ledger.set_until(lease.id, until).until == until
            self.promises.moves(lease, until)
        else:
            kept = self.world.ledger.keep(lease.id, until)
            self.promises.keeps(lease, until)
            assert kept.end
            assert kept.until
            assert kept.end.at >= min(until, kept.until)

    @rule(user=USERS, idle_h=HOURS_EXEMPT, runtime_h=HOURS_EXEMPT)
    def the_policy_exempts(self, user: str, idle_h: float, runtime_h: float) -> None:
        """From a limit on time, or both; it counts for servers that start, until it expires."""
        now = self.world.time
        self.exempt[user] = Exempt(
            idle=now + idle_h * HOUR if idle_h else None,
            runtime=now + runtime_h * HOUR if runtime_h else None,
        )

    @rule(user=USERS, server=SERVERS, wish=KINDS, hours=HOURS_EXEMPT)
    def an_exempt_user_is_served(self, user: str, server: str, wish: Wish, hours: float) -> None:
        self.the_policy_exempts(user, hours, hours)
        self.serve(user, server, wish)

    @precondition(lambda self: self.exempt)
    @rule()
    def the_exemptions_are_taken_out_of_the_policy(self) -> None:
        self.exempt = {}

    @rule(user=USERS)
    def drain_and_resume(self, user: str) -> None:
        self.world.ledger.drain("")
        assert not self.reserve(user, "", (0, "any", 1))
        self.world.ledger.resume()

    # --- what is seen of the devices -------------------------------------------------------------

    def displaced(self) -> set[str]:
        """The cards on which somebody has what they were divided into before."""
        there = {device.uuid for device in self.world.snapshot.devices}
        return {
            card
            for lease in self.world.ledger.leases()
            for uuid, card in zip(lease.devices, lease.cards, strict=True)
            if uuid not in there
        }

    @rule(way=st.integers(0, 2))
    def the_card_is_divided_anew(self, way: int) -> None:
        """Whoever had what it was keeps the card, and is told; nobody's server ends for it."""
        self.world.snapshot = replace(self.world.snapshot, devices=self.ways[way])
        before = [lease.id for lease in self.world.ledger.leases()]
        losses = {
            lease.id: why_lost(lease.devices, self.world.snapshot) or None
            for lease in self.world.ledger.leases()
        }
        self.world.ledger.note_losses(losses)
        assert self.world.ledger.note_losses(losses) == ()
        after = self.world.ledger.leases()
        assert [lease.id for lease in after] == before
        there = {device.uuid for device in self.world.snapshot.devices}
        assert all((lease.lost is not None) == bool({*lease.devices} - there) for lease in after)

    @rule(pick=PICK)
    def a_device_is_sick_or_well_again(self, pick: int) -> None:
        devices = list(self.world.snapshot.devices)
        place = pick % len(devices)
        devices[place] = replace(devices[place], healthy=not devices[place].healthy)
        self.world.snapshot = replace(self.world.snapshot, devices=tuple(devices))

    @rule(pick=PICK)
    def an_xid(self, pick: int) -> None:
        """A card or a part of one is out of use; with the other half of picks, well again."""
        devices = self.world.snapshot.devices
        device = devices[pick % len(devices)]
        struck = [Xid(device.card if pick % 3 else device.uuid, 48, self.world.time)]
        written = [cordon.device for cordon in self.world.ledger.cordons() if cordon.xid]
        self.world.ledger.note_struck(struck if pick % 2 else [], written, self.boot)

    @property
    def boot(self) -> str:
        return f"boot {self.world.boots}"

    @precondition(lambda self: any(lease.devices for lease in self.running))
    @rule(pick=PICK, many=st.booleans())
    def a_program_faults(self, pick: int, many: bool) -> None:
        """Once, or again and again; who has the device alone answers for it."""
        found = [lease for lease in self.running if lease.devices]
        device = found[pick % len(found)].devices[0]
        holders = {x.user for x in self.world.ledger.leases() if device in x.devices}
        alone = sum(device in x.devices for x in self.world.ledger.leases()) == 1
        before = self.world.ledger.pauses("hub").keys()
        faults = []
        for _ in range(22 if many else 1):
            faults.append(Xid(device, 31, self.world.time))
            self.world.ledger.note_faults(faults[-1:])
            self.world.time += MINUTE
        assert self.world.ledger.note_faults(faults) == ()
        more = self.world.ledger.pauses("hub").keys() - before
        assert more <= (holders if alone else set())
        surely = many and alone and not self.world.set_back  # who had it when, the clock tells
        assert not surely or holders <= self.world.ledger.pauses("hub").keys()

    @rule(user=USERS)
    def the_admin_lets_a_user_go_on(self, user: str) -> None:
        self.world.ledger.forgive("hub", user)
        assert user not in self.world.ledger.pauses("hub")

    @rule(minutes=st.sampled_from([1, 4, 30]), busy=st.sampled_from([True, False, None]))
    def somebody_looks(self, minutes: int, busy: bool | None) -> None:
        """At all devices, some minutes later: they compute, or not, or it cannot be told."""
        now = self.world.time = self.world.time + minutes * MINUTE
        runs = [lease for lease in self.world.ledger.leases() if lease.state == "bound"]
        uses = {
            lease.id: look(lease.use, now if busy else None if busy is None else lease.use.busy,
                           None, now)
            for lease in runs
        }  # fmt: skip
        self.world.ledger.note_use(uses)
        self.promises.looks(runs, busy)

    @precondition(lambda self: self.running)
    @rule(times=st.sampled_from([5, 13, 20]))
    def everybody_walks_away(self, times: int) -> None:
        """Nothing computes, and the hub looks and reconciles all the time."""
        for _ in range(times):
            self.somebody_looks(4, busy=False)
            if not times % 5:
                self.settle()

    # --- the hub, the engine, the ledger, the clock ----------------------------------------------

    @rule(lose_ledger=st.booleans(), late_start=st.booleans())
    def kill_hub(
        self, lose_ledger: bool, late_start: bool, old_ledger: bool = False, rebooted: bool = False
    ) -> None:
        """The hub dies and starts again; before it grants anything it reconciles."""
        confirmed = [s for s in self.starts if s.container and not s.started]
        if late_start and confirmed:  # the engine still does the start that was asked of it
            with suppress(EngineNotFound):
                self.do(self.world.engine.start_container(confirmed[0].container))
        self.late += [
            (s.lease.container_name, self.world.body(s.lease))
            for s in self.starts
            if not s.container
        ]
        self.starts = []
        struck = self.struck()
        self.world.kill_hub(lose_ledger, old_ledger)
        self.world.ledger.remembered(self.boot)
        if lose_ledger or old_ledger:
            self.promises.use_is_lost()
        elif not rebooted:
            assert self.struck() == struck
        self.look()
        self.settle()
        leases = self.world.ledger.leases()
        held = {lease.container for lease in leases}
        assert {c["Id"] for c in self.ours()} == held, "a restart leaves no leak and no ghost"
        assert {(lease.user, lease.server) for lease in leases} <= self.world.known

    def struck(self) -> set[str]:
        """What XIDs put out of use."""
        return {cordon.device for cordon in self.world.ledger.cordons() if cordon.xid}

    @rule(lose_ledger=st.booleans(), way=st.integers(0, 2))
    def the_host_reboots(self, lose_ledger: bool, way: int) -> None:
        """Nothing runs any more, the engine has forgotten its calls, and cards are well again."""
        self.starts, self.late = [], []
        self.world.reboot()
        self.world.snapshot = replace(self.world.snapshot, devices=self.ways[way])
        self.kill_hub(lose_ledger, late_start=False, rebooted=True)
        assert self.world.ledger.leases() == ()
        assert self.struck() == set()
        assert self.ours() == []
        self.world.known = set()  # the hub asks, and hears that they have ended

    @rule()
    def copy_the_ledger(self) -> None:
        self.world.copy_ledger()

    @rule(late_start=st.booleans())
    def kill_hub_and_put_the_copy_back(self, late_start: bool) -> None:
        self.kill_hub(lose_ledger=False, late_start=late_start, old_ledger=True)

    @rule(minutes=st.sampled_from([1, 20, 90, 230]))
    def time_passes(self, minutes: int) -> None:
        self.world.time += timedelta(minutes=minutes)

    @precondition(lambda self: self.running)
    @rule(pick=PICK, minutes=st.sampled_from([-20, -1, 1]))
    def an_end_is_near(self, pick: int, minutes: int) -> None:
        """Time passes until a little before or after one, and the hub reconciles then."""
        end = self.running[pick % len(self.running)].end
        assert end
        self.world.time = max(self.world.time, end.at + minutes * MINUTE)
        self.settle()

    @rule(minutes=st.sampled_from([1, 20, 90, 1500]))
    def the_clock_goes_back(self, minutes: int) -> None:
        """It ends nothing that was not at its end, and tells nobody anything."""
        self.settle()
        ledger = self.world.ledger
        leases = ledger.leases()
        self.set_clock_back(minutes * MINUTE)
        assert self.do(self.world.run()) == []
        assert ledger.leases() == leases

    def set_clock_back(self, by: timedelta) -> None:
        waits = self.world.ledger.pauses("hub").keys()
        self.world.set_clock_back(by)
        self.promises.clock_went_back()
        self.revived |= self.world.ledger.pauses("hub").keys() - waits

    @precondition(lambda self: self.running)
    @rule(pick=PICK, backs=st.sampled_from([(0, 0), (2, 0), (90, 0), (0, 90)]), user=USERS,
          wish=KINDS)  # fmt: skip
    def a_start_comes_right_after_a_stop(
        self, pick: int, backs: tuple[int, int], user: str, wish: Wish
    ) -> None:
        """It looked at the devices before; the clock may go back before the stop, or after."""
        self.look()
        lease = self.running[pick % len(self.running)]
        self.set_clock_back(backs[0] * MINUTE)
        self.stop(pick, steps=4)
        self.unclean |= {*lease.devices}
        self.set_clock_back(backs[1] * MINUTE)
        self.reserve(user, "", wish, fresh=False)

    @rule(hours=st.sampled_from([1, 30]), noticed=st.booleans())
    def the_clock_jumps_ahead_and_is_set_right(self, hours: int, noticed: bool) -> None:
        self.world.time += hours * HOUR
        if noticed:
            self.settle()
            self.run_the_line(fresh=True)
        self.set_clock_back(hours * HOUR)

    @rule()
    def reconcile(self) -> None:
        self.settle()

    @rule()
    def reconcile_without_an_engine(self) -> None:
        before = self.world.ledger.leases()
        self.world.engine.unreachable = True
        with pytest.raises(EngineUnavailable):
            self.do(self.world.run())
        self.world.engine.unreachable = False
        assert self.world.ledger.leases() == before

    # --- what must hold --------------------------------------------------------------------------

    @invariant()
    def what_must_hold(self) -> None:
        """All of it on one reading of the ledger, for it is asked at each step."""
        ledger = self.world.ledger
        leases, line, kept = ledger.leases(), ledger.tickets(), ledger.holds()
        self.no_device_is_in_two_leases_but_in_different_seats(leases)
        self.what_is_promised_is_nobody_elses(leases, line, kept)
        self.no_device_is_in_two_running_containers_but_in_different_seats()
        self.a_lease_outlives_its_container(leases)
        self.who_has_to_wait_has_no_place_in_the_line(line)
        self.every_lease_ends(leases)
        self.what_comes_back_is_not_clean_until_somebody_looks(leases)

    def no_device_is_in_two_leases_but_in_different_seats(self, leases: Leases) -> None:
        check_seats((uuid, one.seat, one.seats) for one in leases for uuid in one.devices)

    def what_is_promised_is_nobody_elses(
        self, leases: Leases, line: Iterable[Ticket], holds: Iterable[Hold]
    ) -> None:
        has = [*leases, *(ticket.offer for ticket in line if ticket.offer)]
        check_seats((uuid, one.seat, one.seats) for one in has for uuid in one.devices)
        kept = {hold.device: hold.user for hold in holds}
        assert not kept.keys() & {uuid for lease in leases for uuid in lease.devices}
        offers = [(t.user, uuid) for t in line if t.offer for uuid in t.offer.devices]
        assert all(kept.get(uuid, user) == user for user, uuid in offers)

    def no_device_is_in_two_running_containers_but_in_different_seats(self) -> None:
        check_seats(
            (uuid, *(read_label(found["Config"]["Labels"].get("ds01.gpu.seat", "")) or (0, 1)))
            for found in self.world.engine.containers.values()
            if found["State"]["Running"]
            for uuid in devices(found)
        )

    def a_lease_outlives_its_container(self, leases: Leases) -> None:
        live = {(lease.id, lease.generation) for lease in leases}
        for found in self.ours():
            container = seen({**found, "Names": [found["Name"]], "State": "", "Created": 0,
                              "Labels": found["Config"]["Labels"]})  # fmt: skip
            if found["State"]["Status"] != "created":  # one made late has none, and never starts
                assert (container.lease, container.generation) in live

    def who_has_to_wait_has_no_place_in_the_line(self, line: Iterable[Ticket]) -> None:
        waits = self.world.ledger.pauses("hub").keys() - self.revived
        assert not waits & {ticket.user for ticket in line}

    def every_lease_ends(self, leases: Leases) -> None:
        bound = (lease for lease in leases if lease.state == "bound" and lease.devices)
        assert all(lease.until is not None for lease in bound)

    def what_comes_back_is_not_clean_until_somebody_looks(self, leases: Leases) -> None:
        held = {uuid for lease in leases for uuid in lease.devices}
        self.unclean |= self.held - held
        self.held = held

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.everything_ends()
                self.everybody_has_a_turn()
        finally:
            if hasattr(self, "world"):
                self.world.ledger.close()
            self.loop.close()
            shutil.rmtree(self.folder)

    def everything_ends(self) -> None:
        self.kill_hub(lose_ledger=False, late_start=False)
        for lease in self.world.ledger.leases():
            self.do(self.world.reconciler.end(lease, "the test ends"))
        assert self.ours() == []
        assert self.do(self.world.in_ledger(Ledger.leases)) == ()

    def everybody_has_a_turn(self) -> None:
        """When all is well and given back, whoever waits is served, and each device can be had."""
        ledger = self.world.ledger
        self.the_containers_made_by_hand_go()
        ledger.note_struck([], self.struck(), self.boot)
        assert not self.struck()
        self.uncordon()
        self.the_card_is_divided_anew(0)
        self.world.time += HOUR + self.world.set_back  # to when nothing is kept any more
        self.look()
        while line := ledger.tickets():
            for ticket in line:
                ledger.asked(ticket.hub, ticket.user, ticket.server, LIMITS)
            ledger.run_line(self.world.snapshot)
            served = [ticket for ticket in ledger.tickets() if ticket.offer]
            assert served or not ledger.tickets(), "somebody waits, and nobody is served"
            for ticket in served:
                ledger.leave(ticket.hub, ticket.user, ticket.server)
        got = [self.world.reserve(f"user{n}") for n, _ in enumerate(self.world.snapshot.devices)]
        assert len({lease.devices for lease in got}) == len(self.world.snapshot.devices)


def check_seats(held: Iterable[tuple[str, int, int]]) -> None:
    """Each (device, seat) once, and no device shared in two ways, or shared and exclusive."""
    held = list(held)
    assert len({(device, seat) for device, seat, _ in held}) == len(held)
    assert len({(device, seats) for device, _, seats in held}) == len({row[0] for row in held})
    assert all(0 <= seat < seats for _, seat, seats in held)


def devices(container: Json) -> set[str]:
    """The devices of a container: ours by its labels, another's by its request."""
    named = container["Config"]["Labels"].get("ds01.gpu.uuids", "")
    requests = container["HostConfig"].get("DeviceRequests") or []
    return {uuid for uuid in named.split(",") if uuid} | {
        uuid for request in requests for uuid in request["DeviceIDs"]
    }


Histories.__test__ = False  # type: ignore[attr-defined]
CHECKS = {"suppress_health_check": [HealthCheck.too_slow]}


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds01_spawner.services.reconciler.GONE_S", 0.0)


def test_histories() -> None:
    run_state_machine_as_test(
        Histories, settings=settings(max_examples=500, stateful_step_count=50, **CHECKS)
    )


@pytest.mark.long
def test_many_long_histories() -> None:
    run_state_machine_as_test(
        Histories, settings=settings(max_examples=12_000, stateful_step_count=100, **CHECKS)
    )
