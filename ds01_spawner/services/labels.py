"""A container's labels -> the lease that it was made for: all that is known where that was lost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta

from ds01_spawner.core.lifetime import after_hours
from ds01_spawner.services.ledger_rows import Lease
from ds01_spawner.services.seen import Seen, number

_HOURS = re.compile(r"\d{1,9}(\.\d+)?(e[-+]?\d{1,2})?")


def legible(container: Seen) -> bool:
    """Whether its labels tell the whole lease."""
    labels = container.labels
    hours = [labels.get(name, "") for name in ("ds01.hours", "ds01.idle_hours", "ds01.hold_hours")]
    known = container.generation is not None and number(labels.get("ds01.units", "")) is not None
    told = all(not text or _HOURS.fullmatch(text) for text in hours)
    times = ("ds01.exempt_until", "ds01.exempt_idle_until")
    told = told and all(not labels.get(name) or _time(labels, name) for name in times)
    seated = container.seat is not None and (container.seat[1] == 1 or len(container.devices) == 1)
    seated = seated and len(container.cards) == len(container.devices)
    return bool(known and told and seated and labels.get("ds01.user"))


def server_of(container: Seen) -> tuple[str, str]:
    """Its user and server."""
    return container.labels.get("ds01.user", ""), container.labels.get("ds01.server", "")


def _hours(labels: Mapping[str, str], name: str) -> float | None:
    return float(labels[name]) if labels.get(name) else None


def _time(labels: Mapping[str, str], name: str) -> datetime | None:
    """An aware time; None where there is none that can be read."""
    try:
        time = datetime.fromisoformat(labels.get(name, ""))
    except ValueError:
        return None
    return time if time.tzinfo else None


def lease_of_labels(
    container: Seen, incarnation: str, now: datetime, warn_before: timedelta
) -> Lease:
    """The lease that a running container was made for, from its labels, as of now.

    Its end counts from the container's making, but is not near: its user is warned in time. How it
    was used is lost, so it counts as used now.
    """
    labels, (user, server) = container.labels, server_of(container)
    hours, idle_h = _hours(labels, "ds01.hours"), _hours(labels, "ds01.idle_hours")
    until, exempt = after_hours(container.created, hours), _time(labels, "ds01.exempt_until")
    until = until and max(until, exempt or until)
    seat, seats = container.seat or (0, 1)
    return Lease(
        id=container.lease,
        generation=container.generation or 0,
        hub=labels["ds01.hub"],
        user=user,
        server=server,
        state="bound",
        devices=container.devices,
        units=number(labels["ds01.units"]) or 0,
        incarnation=incarnation,
        since=container.created,
        until=until and max(until, now + 2 * warn_before),
        container=container.id,
        container_name=container.name,
        hours=hours,
        idle_h=idle_h,
        hold_h=_hours(labels, "ds01.hold_hours"),
        keep_until=_time(labels, "ds01.exempt_idle_until"),
        busy=now,
        heard=now,
        looked=now,
        seat=seat,
        seats=seats,
        cards=container.cards,
    )
