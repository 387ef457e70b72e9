"""Faults of one user's programs -> until when that user gets no GPU.

A program that faults on a GPU ends its own work, mostly. Many in a row cost others on the card
theirs, or the card a reset, so who makes them waits a while and looks for the reason first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

APART = timedelta(minutes=1)  # the driver reports one crash several times


@dataclass(frozen=True, slots=True)
class FaultRule:
    """More than `most` faults within `hours` keep a user from GPUs for as long; 0: never."""

    most: int = 20
    hours: float = 1.0

    @property
    def window(self) -> timedelta:
        """The hours."""
        return timedelta(hours=self.hours)


@dataclass(frozen=True, slots=True)
class Pause:
    """Until when a user gets no GPU, and for how many faults."""

    until: datetime
    faults: int


def pause(times: Iterable[datetime], rule: FaultRule, now: datetime) -> Pause | None:
    """Whether a user whose programs faulted at these times has to wait now."""
    faults: list[datetime] = []
    for time in sorted(times):
        if not faults or time - faults[-1] >= APART:
            faults.append(time)
    if not rule.most:
        return None
    for last in reversed(faults):
        if last + rule.window <= now:
            break
        within = [time for time in faults if last - rule.window < time <= last]
        if len(within) > rule.most:
            return Pause(last + rule.window, len(within))
    return None
