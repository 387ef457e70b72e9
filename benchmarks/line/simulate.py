"""The event loop: jobs arrive, take tickets, start when the policy says so, and end."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from benchmarks.line.policies import Moment, Policy
from benchmarks.line.workload import Job
from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.placement import FULL, Wanted, place
from ds01_spawner.core.tickets import Person, Ticket, Use, decayed
from ds01_spawner.core.units import gpueq_of_units
from ds01_spawner.errors import DS01Error

BEGAN = datetime(2026, 1, 5, tzinfo=timezone.utc)
HUB = "hub"


@dataclass(frozen=True, slots=True)
class Running:
    """A lease of the simulation, with what `tickets.Lease` asks for."""

    hub: str
    user: str
    server: str
    devices: tuple[str, ...]
    units: int
    since: datetime
    until: datetime | None
    hours: float | None
    seat: int = 0
    seats: int = 1


@dataclass(frozen=True, slots=True)
class Stay:
    """One job that was served; times in hours from the start."""

    job: Job
    start: float
    units: int
    bypassed: int

    @property
    def wait(self) -> float:
        """Hours in the line."""
        return self.start - self.job.submit


@dataclass(slots=True)
class Run:
    """What came out of one policy on one list of jobs."""

    stays: list[Stay] = field(default_factory=list)
    unserved: list[Job] = field(default_factory=list)
    # Unit-hours while arrivals came: free, free with somebody waiting, too few for one whole GPU.
    free: float = 0.0
    idle: float = 0.0
    fragments: float = 0.0
    span: float = 0.0


class Simulation:
    """One policy on one list of jobs, to the end of the last one."""

    def __init__(self, jobs: Sequence[Job], snapshot: Snapshot, policy: Policy) -> None:
        self.run = Run()
        self._snapshot = snapshot
        self._policy = policy
        self._units = {device.uuid: device.units for device in snapshot.devices}
        self._jobs = {job.id: job for job in jobs}
        self._events: list[tuple[float, int, str]] = [(job.submit, 1, job.id) for job in jobs]
        heapq.heapify(self._events)
        self._last_arrival = max(job.submit for job in jobs)
        self._tickets: dict[str, Ticket] = {}
        self._running: dict[str, Running] = {}
        self._uses: dict[Person, list[Use]] = defaultdict(list)
        self._at = 0.0

    def play(self) -> Run:
        """Run it; what the policy never starts is `unserved`."""
        while self._events:
            at, arrives, id = heapq.heappop(self._events)
            self._measure(min(at, self._last_arrival))
            self._at = at
            if arrives:
                self._tickets[id] = _ticket(self._jobs[id])
            else:
                self._end(self._running.pop(id))
            if not self._events or self._events[0][0] > at:
                self._decide()
        self.run.unserved = [self._jobs[id] for id in self._tickets]
        return self.run

    def _decide(self) -> None:
        if not self._tickets:
            return
        now = _time(self._at)
        tickets = list(self._tickets.values())
        leases = list(self._running.values())
        moment = Moment(tickets, leases, self._snapshot, self._usage, now)
        for action in self._policy(moment):
            if action.what == "dropped":
                del self._tickets[action.ticket.id]
                self.run.unserved.append(self._jobs[action.ticket.id])
            elif action.ticket.offer is not None:
                self._start(action.ticket)
            else:
                self._tickets[action.ticket.id] = action.ticket

    def _start(self, ticket: Ticket) -> None:
        job, offer = self._jobs[ticket.id], ticket.offer
        assert offer is not None
        taken = {uuid for lease in self._running.values() for uuid in lease.devices}
        assert not taken & set(offer.devices), "given out twice"
        del self._tickets[ticket.id]
        self._running[job.id] = Running(
            HUB, job.user, job.id, offer.devices, offer.units,
            _time(self._at), _time(self._at + job.hours), job.hours,
        )  # fmt: skip
        self.run.stays.append(Stay(job, self._at, offer.units, ticket.bypassed))
        heapq.heappush(self._events, (self._at + job.held, 0, job.id))

    def _end(self, lease: Running) -> None:
        now = _time(self._at)
        hours = (now - lease.since) / timedelta(hours=1)
        self._uses[lease.hub, lease.user].append(Use(lease.units, hours, now))

    def _usage(self, person: Person) -> int:
        now, hour = _time(self._at), timedelta(hours=1)
        running = [
            Use(lease.units, (now - lease.since) / hour, now)
            for lease in self._running.values()
            if (lease.hub, lease.user) == person
        ]
        return decayed([*self._uses[person], *running], now)

    def _measure(self, to: float) -> None:
        hours = to - self._at
        if hours <= 0:
            return
        taken = {uuid: "" for lease in self._running.values() for uuid in lease.devices}
        free = sum(units for uuid, units in self._units.items() if uuid not in taken)
        self.run.span += hours
        self.run.free += free * hours
        if self._tickets:
            self.run.idle += free * hours
        try:
            place(self._snapshot, taken, Wanted(1, FULL), Limits(None, None), 0)
        except DS01Error:
            self.run.fragments += free * hours


def _ticket(job: Job) -> Ticket:
    limits = Limits(
        max_gpu_equivalents=gpueq_of_units(job.quota),
        max_gpu_slots_per_container=None,
        max_containers_per_user=None,
    )
    at = _time(job.submit)
    return Ticket(job.id, HUB, job.user, job.id, job.size.wanted, limits, at, at, hours=job.hours)


def _time(hours: float) -> datetime:
    return BEGAN + timedelta(hours=hours)
