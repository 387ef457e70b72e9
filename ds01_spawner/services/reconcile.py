"""(leases, containers, now) -> what to do about their differences. Pure; `reconciler` does it.

The crash windows of a start and a stop, and what is done about each, are a table in the tests.
Leases say what was meant, containers what is. What devices the host has at the moment plays no
part: no server ends because a driver hangs.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from ds01_spawner.core.lifetime import End, to_tell
from ds01_spawner.services.labels import lease_of_labels, legible, server_of
from ds01_spawner.services.ledger_rows import Lease
from ds01_spawner.services.seen import Seen

Kind = Literal["stop", "remove", "release", "adopt", "warn"]
EVENT_OF_ACTION: Mapping[Kind, str] = {  # in the event log, in DS01's words where it has some
    "stop": "maintenance.runtime_kill",
    "remove": "container.remove",
    "release": "gpu.release",
    "adopt": "maintenance.adopt",
    "warn": "maintenance.runtime_warning",
}


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do, to a container (by name) or a lease (by id), and why.

    Actions on one server come in order; when one fails, those after it are not done.
    """

    action: Kind
    object: str
    why: str = field(compare=False)
    lease: Lease | None = field(default=None, compare=False)
    container: str = field(default="", compare=False)  # the engine's id
    end: End | None = field(default=None, compare=False)  # that is warned of, or has come


@dataclass(frozen=True, slots=True)
class Rules:
    """How long things may take before they count as left behind, and when users are warned."""

    reserved_for: timedelta = timedelta(hours=1)  # create, start and bind of one server
    releasing_for: timedelta = timedelta(minutes=1)
    warn_before: timedelta = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Situation:
    """What `decide` looks at, but for the containers.

    `leases` are those of the ledger, other hubs' included. `released` are leases that the ledger
    knows it had. `known` are the (user, server) that the hub has as running; None: not asked.
    """

    hub: str
    now: datetime
    incarnation: str
    leases: tuple[Lease, ...]
    released: Container[str] = frozenset()
    known: Container[tuple[str, str]] | None = None
    simulated: bool = False
    rules: Rules = Rules()


def decide(situation: Situation, containers: Iterable[Seen]) -> tuple[Action, ...]:
    """What to do. Done, and decided again, nothing is left to do.

    Containers without this hub's label, and those that are no servers, are never touched.
    """
    live = {lease.id: lease for lease in situation.leases if lease.hub == situation.hub}
    matched: dict[str, Seen] = {}
    strays: list[Seen] = []
    for container in sorted(containers, key=lambda c: (c.created, c.id)):
        if container.labels.get("ds01.hub") != situation.hub or not container.lease:
            continue
        lease = live.get(container.lease)
        if lease is not None and lease.id not in matched and _belongs(container, lease):
            matched[lease.id] = container
        else:
            strays.append(container)
    actions = [a for lease in live.values() for a in _of(lease, matched.get(lease.id), situation)]
    # An old copy of the ledger has leases whose containers are gone: they stand in nobody's way.
    empty = {a.object for a in actions if a.action == "release"} - matched.keys()
    return (*actions, *_of_strays(strays, situation, empty))


def _belongs(container: Seen, lease: Lease) -> bool:
    return container.generation == lease.generation and lease.container in (None, container.id)


# --- leases ----------------------------------------------------------------------------------


def _of(lease: Lease, container: Seen | None, situation: Situation) -> Iterator[Action]:
    """What to do about a live lease and its container, if it has one."""
    if container is not None and container.state == "removing":
        return
    if lease.state == "bound":
        yield from _of_bound(lease, container, situation)
        return
    begun = lease.changed or lease.since
    limit = situation.rules.reserved_for
    what = "start"
    if lease.state == "releasing":
        limit, what = situation.rules.releasing_for, "stop"
    if lease.incarnation != situation.incarnation:
        yield from ending(lease, container, f"the hub died in the middle of this {what}")
    elif situation.now - begun > limit:
        yield from ending(lease, container, f"this {what} was left in the middle")


def _of_bound(lease: Lease, container: Seen | None, situation: Situation) -> Iterator[Action]:
    over = lease.over(situation.now)
    if container is None:
        yield from ending(lease, None, "its container is gone")
    elif not container.alive:
        yield from ending(lease, container, "its container has ended")
    elif _unknown(lease, situation):
        yield from ending(lease, container, "the hub died before it recorded this server")
    elif over is not None:
        yield from ending(lease, container, _why_over(lease, over), over)
    else:
        yield from _warning(lease, situation)


def _why_over(lease: Lease, end: End) -> str:
    if end.kind == "time":
        return f"its time ended at {end.at:%Y-%m-%d %H:%M} UTC"
    return f"nothing used its GPU for {lease.idle_h:g} h"


def _warning(lease: Lease, situation: Situation) -> Iterator[Action]:
    before, now = situation.rules.warn_before, situation.now
    end = to_tell(lease.end, lease.until, lease.warned, lease.idle_h, before, now, lease.since)
    if end is not None:
        yield Action("warn", lease.id, _why_soon(end), lease, end=end)


def _to_be_told(lease: Lease, end: End, before: timedelta) -> datetime:
    """When the warning of an end was due: not before the server ran, or that was its end."""
    return max(end.at - before, lease.since, lease.warned or lease.since)


def _why_soon(end: End) -> str:
    when = f"{end.at:%Y-%m-%d %H:%M} UTC"
    if end.kind == "time":
        return f"its time ends at {when}"
    return f"nothing uses its GPU, and for that it ends at {when}"


def _unknown(lease: Lease, situation: Situation) -> bool:
    """Whether no user can reach the server: an earlier hub died before it wrote it down."""
    known = situation.known
    if known is None or lease.incarnation == situation.incarnation:
        return False
    return (lease.user, lease.server) not in known


def ending(
    lease: Lease, container: Seen | None, why: str, end: End | None = None
) -> Iterator[Action]:
    """End a server: its container first, its lease only then.

    With `end` it is because that has come, and not if somebody has put it off by then.
    """
    if container is not None:
        if container.alive and lease.state != "reserved":  # nobody has worked in a dead start
            yield Action("stop", container.name, why, lease, container.id, end)
        yield Action("remove", container.name, why, lease, container.id)
    yield Action("release", lease.id, why, lease)


# --- containers without a lease --------------------------------------------------------------


def _of_strays(
    strays: Iterable[Seen], situation: Situation, empty: Container[str]
) -> Iterator[Action]:
    """Adopt or remove them; `empty` are leases that end and have no container."""
    live = [lease for lease in situation.leases if lease.id not in empty]
    for container in strays:
        if container.state == "removing":
            continue
        twin = container.lease in empty
        why = "another container has its lease" if twin else _why_ghost(container, live, situation)
        if why:
            yield Action("remove", container.name, why, None, container.id)
            continue
        lease = lease_of_labels(
            container, situation.incarnation, situation.now, situation.rules.warn_before
        )
        live.append(lease)
        yield Action("adopt", lease.id, "its lease was lost and its server runs", lease)


def _why_ghost(container: Seen, live: Iterable[Lease], situation: Situation) -> str:
    """Why a container cannot have its lease back; empty when it can."""
    server = server_of(container)
    if container.lease in situation.released:
        return "its lease was released"
    if not container.alive:
        return "it has no lease and does not run"
    if not legible(container):
        return "it has no lease and its labels do not tell which it had"
    if container.devices and container.simulated != situation.simulated:
        return "it has no lease and its GPUs are not of this hub's kind"
    if situation.known is not None and server not in situation.known:
        return "it has no lease and the hub does not know its server"
    return _why_taken(container, live, situation.hub)


def _why_taken(container: Seen, live: Iterable[Lease], hub: str) -> str:
    server = server_of(container)
    for lease in live:
        if lease.id == container.lease:
            return "another container has its lease"
        if lease.hub == hub and (lease.user, lease.server) == server:
            return "its server has another lease"
        if set(lease.devices) & set(container.devices) and not _beside(container, lease):
            return "another lease has its GPU"
        if lease.generation == container.generation:
            return "another lease has its number"
    return ""


def _beside(container: Seen, lease: Lease) -> bool:
    """Whether the two have different seats on a device that is shared in one way."""
    seat, seats = container.seat or (0, 1)
    return seats == lease.seats and seat != lease.seat
