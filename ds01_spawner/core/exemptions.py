"""Exemptions: a user whom a limit on time does not end for a while, as DS01 has them.

They count when a server starts. One that runs keeps the end it has: `ds01-spawner extend` moves
that. Later changes of the file take nothing from a server either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

IDLE, RUNTIME = "idle_timeout_h", "max_runtime_h"


@dataclass(frozen=True, slots=True)
class Exemption:
    """One entry of the policy: whom, from which limits, until when, and why."""

    user: str
    limits: frozenset[str]  # of IDLE and RUNTIME
    expires: datetime  # aware
    reason: str
    source: str = ""  # where it is written


@dataclass(frozen=True, slots=True)
class Exempt:
    """Until when a user's servers are not ended for being idle, or by the policy's time.

    None: they are. Such a server ends in any case: when the limit ends it or then, the later.
    """

    idle: datetime | None = None
    runtime: datetime | None = None

    def at(self, now: datetime) -> Exempt:
        """What of it lasts."""
        idle, runtime = self.idle, self.runtime
        return Exempt(
            idle=idle if idle and idle > now else None,
            runtime=runtime if runtime and runtime > now else None,
        )


def exempt(exemptions: Iterable[Exemption], user: str) -> Exempt:
    """What a user's exemptions come to: of each limit the one that lasts longest."""
    until: dict[str, datetime] = {}
    for one in exemptions:
        if one.user == user:
            for limit in one.limits:
                until[limit] = max(one.expires, until.get(limit, one.expires))
    return Exempt(idle=until.get(IDLE), runtime=until.get(RUNTIME))


def explain(exemption: Exemption, now: datetime) -> Mapping[str, Any]:
    """An exemption in the answer of `policy explain`, in the policy's own keys."""
    return {
        "exempt_from": sorted(exemption.limits),
        "expires_on": exemption.expires.isoformat(),
        "expired": exemption.expires <= now,
        "reason": exemption.reason,
        "from": exemption.source,
    }
