"""Runs of one policy -> numbers: waits by class of size, fairness, fragmentation, use."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.line.simulate import Run, Stay
from benchmarks.report import percentile
from ds01_spawner.core.units import UNITS_PER_GPU


@dataclass(frozen=True, slots=True)
class Waits:
    """The waits of one class of size, in hours."""

    count: int
    mean: float
    p95: float
    longest: float


@dataclass(frozen=True, slots=True)
class Measures:
    """What one policy did over all seeds; shares are of the host's GPU time while people came."""

    waits: dict[str, Waits]
    light: float  # mean wait, in hours, of the half of the users that used less of their quota
    heavy: float  # and of the other half
    fairness: float  # Jain's index of the users' GPU-hours over their quota, 1 is equal
    leased: float
    used: float  # of what was leased
    idle: float  # free while somebody waited
    fragments: float  # free, and too small for a whole GPU
    bypassed: int  # the most often that one was passed by
    unserved: int


def measure(runs: Sequence[Run], units: int) -> Measures:
    """The numbers of the runs of one policy, one run a seed, on a host of so many units."""
    stays = [stay for run in runs for stay in run.stays]
    by_class: dict[str, list[float]] = defaultdict(list)
    for stay in stays:
        by_class[stay.job.size.name].append(stay.wait)
    span = units * sum(run.span for run in runs)
    leased = sum(stay.units * stay.job.held for stay in stays)
    halves = [_by_use(run.stays) for run in runs]
    return Measures(
        waits={name: _waits(sorted(waits)) for name, waits in by_class.items()},
        light=_mean(wait for light, _ in halves for wait in light),
        heavy=_mean(wait for _, heavy in halves for wait in heavy),
        fairness=_mean(jain(_use_by_user(run.stays, run.span).values()) for run in runs),
        leased=1 - sum(run.free for run in runs) / span,
        used=sum(stay.units * stay.job.used for stay in stays) / leased if leased else 0.0,
        idle=sum(run.idle for run in runs) / span,
        fragments=sum(run.fragments for run in runs) / span,
        bypassed=max((stay.bypassed for stay in stays), default=0),
        unserved=sum(len(run.unserved) for run in runs),
    )


def jain(values: Iterable[float]) -> float:
    """Jain's index: 1 where all have the same, 1/n where one has all."""
    found = list(values)
    squares = sum(value * value for value in found)
    return sum(found) ** 2 / (len(found) * squares) if squares else 1.0


def _waits(waits: Sequence[float]) -> Waits:
    return Waits(len(waits), statistics.mean(waits), percentile(waits, 0.95) or 0.0, waits[-1])


def _use_by_user(stays: Iterable[Stay], until: float = float("inf")) -> dict[str, float]:
    """GPU-hours over quota, as far as they fell before `until`."""
    use: dict[str, float] = defaultdict(float)
    for stay in stays:
        hours = max(0.0, min(stay.start + stay.job.held, until) - stay.start)
        use[stay.job.user] += stay.units / UNITS_PER_GPU * hours / stay.job.quota
    return use


def _by_use(stays: Sequence[Stay]) -> tuple[list[float], list[float]]:
    """The waits of the half of the users that used least, and of the others."""
    use = _use_by_user(stays)
    ranked = sorted(use, key=lambda user: (use[user], user))
    light = set(ranked[: len(ranked) // 2])
    return (
        [stay.wait for stay in stays if stay.job.user in light],
        [stay.wait for stay in stays if stay.job.user not in light],
    )


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.mean(found) if found else 0.0
