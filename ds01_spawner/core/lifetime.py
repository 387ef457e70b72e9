"""When a server ends: its time is over, or nothing uses its GPU; and when its user is told so.

Idleness is judged by what the host sees of the devices first. What the server itself tells (its
kernels, its pages) can put the end off, but only as long again as the policy's idle time: a server
that says it is busy beside a device that never computes does not keep the device.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from ds01_spawner.core.devices import Usage
from ds01_spawner.core.units import UNITS_PER_GPU

COMPUTES = 0.05  # of the time, from which on a device counts as used: DS01's threshold
UNSEEN = timedelta(minutes=5)  # nobody looked for so long: what was then is not known
LATE = timedelta(minutes=5)  # a warning that comes so late was due while nobody could give it
LONGEST_H = 876_000.0  # a century

EndKind = Literal["time", "idle"]


@dataclass(frozen=True, slots=True)
class Use:
    """What is known of how a lease is used.

    The latest times at which its devices computed (`busy`), at which the hub heard of activity
    (`heard`), and at which anybody looked. `hours` are the GPU-hours that its devices computed;
    None: they cannot tell.
    """

    busy: datetime
    heard: datetime
    looked: datetime
    hours: float | None = None


@dataclass(frozen=True, slots=True)
class End:
    """When a server ends, and why: its time is over, or it is idle until then."""

    at: datetime
    kind: EndKind


def lasting(chosen: float | None, policy: float | None, ceiling: float | None) -> float | None:
    """How many hours a server runs: those chosen, at most the policy's, else the ceiling.

    None for any of them: it has none.
    """
    most = ceiling if policy is None else policy
    return min((hours for hours in (most, chosen) if hours is not None), default=None)


def after_hours(since: datetime, hours: float | None) -> datetime | None:
    """So many hours later; None: never."""
    return None if hours is None else since + timedelta(hours=min(hours, LONGEST_H))


def computes(usages: Iterable[Usage | None]) -> bool | None:
    """Whether any of the devices computes; None: it cannot be told, which is never idle.

    An instance whose utilization cannot be had (MIG before Hopper) is used while it has a process.
    """
    states = {_computes(usage) for usage in usages}
    return True if True in states else None if None in states else False


def _computes(usage: Usage | None) -> bool | None:
    if usage is None:
        return None
    if usage.utilization is not None:
        return usage.utilization >= COMPUTES
    return None if usage.processes is None else bool(usage.processes)


def look(use: Use, busy: datetime | None, heard: datetime | None, now: datetime) -> Use:
    """The use after one more look: when the devices last computed (None: it cannot be told).

    Time in which nobody looked, or nobody could see, is not idle time.
    """
    gap = max(now - use.looked, timedelta())
    unseen = gap if busy is None or gap > UNSEEN else timedelta()
    return Use(
        busy=min(now, max(use.busy + unseen, busy or use.busy)),
        heard=min(now, max(use.heard + unseen, heard or use.heard)),
        looked=now,
        hours=use.hours,
    )


def gpu_hours(use: Use, shares: Iterable[tuple[int, Usage | None]], now: datetime) -> float | None:
    """The GPU-hours computed so far; `shares` are the units and the use of each device."""
    spent = use.hours
    gap = now - use.looked
    for units, usage in shares:
        if usage is not None and usage.utilization is not None and gap <= UNSEEN:
            hours = gap / timedelta(hours=1) * usage.utilization * units / UNITS_PER_GPU
            spent = (spent or 0.0) + hours
    return spent


def end_of(
    until: datetime | None,
    idle_h: float | None = None,
    use: Use | None = None,
    keep_until: datetime | None = None,
) -> End | None:
    """When a server ends as things are; None: never. Nobody is idle before `keep_until`."""
    ends = [End(until, "time")] if until else []
    if idle_h is not None and use is not None:
        idle = timedelta(hours=min(idle_h, LONGEST_H))
        at = max(use.busy, min(use.heard, use.busy + idle)) + idle
        ends.append(End(max(at, keep_until) if keep_until else at, "idle"))
    return min(ends, key=lambda end: end.at, default=None)


def due(
    end: End | None, until: datetime | None, warned: datetime | None, now: datetime
) -> End | None:
    """The end of a server that has come, and that its user was told of."""
    ends = (End(until, "time") if until else None, end)
    return next((end for end in ends if end and now >= end.at and warned == end.at), None)


def to_tell(
    end: End | None,
    until: datetime | None,
    warned: datetime | None,
    idle_h: float | None,
    before: timedelta,
    now: datetime,
    since: datetime,
) -> End | None:
    """The end that a user is to be told of now; None: it is far, or they were.

    Who is told late has the time all the same: of an idle server always, of the end of its time
    when nobody could tell of it before. `since` is when the server was started.
    """
    if end is None or warned == end.at or now < end.at - notice(end, idle_h, before):
        return None
    if end.kind == "idle":
        end = replace(end, at=max(end.at, now + notice(end, idle_h, before)))
        if until is not None and until <= end.at:
            end = End(until, "time")
    # The warning was not due before the server ran, nor before that was its end.
    if end.kind == "time" and now - max(end.at - before, since, warned or since) > LATE:
        end = replace(end, at=max(end.at, now + before))
    return end


def notice(end: End, idle_h: float | None, before: timedelta) -> timedelta:
    """How long before its end a user is told of it: of a short idle time, half of that."""
    if end.kind == "idle" and idle_h is not None:
        return min(before, timedelta(hours=min(idle_h, LONGEST_H)) / 2)
    return before
