"""Who comes when, wants what, and stays how long: drawn from a seed, or read from a trace."""

from __future__ import annotations

import asyncio
import csv
import math
import random
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.systems import CannotMeasure
from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.placement import ANY, FULL, Wanted
from ds01_spawner.core.units import UNITS_PER_GPU, units_of_profile
from ds01_spawner.services.inventory.simulated import SimulatedInventory

MEDIAN_H, P90_H = 2.5, 8.0
LONGEST_H, SHORTEST_H = 24.0, 1 / 12
HOURS = (1.0, 2.0, 4.0, 8.0, 12.0, 24.0)  # what the form offers
FORGETFUL, IDLE_H = 0.3, 0.5  # who does not stop their server, and when it is stopped for them
USERS, ZIPF = 80, 0.8
QUOTAS = (8, 4)  # GPUs, in turns: so that it is the line that people wait for
WIDE = 4  # GPUs from which on only users of the larger quota ask
SMALLEST = "1g.10gb"  # what a wish for any device counts as
DAY_H, SECONDS_PER_H = 24.0, 3600.0
SWING, PEAK_H = 0.8, 15.0  # how much more comes at the peak of the day than on average, and when
_SIGMA = math.log(P90_H / MEDIAN_H) / 1.2816  # the 90th percentile of the normal distribution


@dataclass(frozen=True, slots=True)
class Size:
    """One class of size, and its part of the GPU time that is asked for."""

    name: str
    wanted: Wanted
    part: float

    @property
    def units(self) -> int:
        """The share of GPUs of one server, in units."""
        kind = self.wanted.kind
        one = UNITS_PER_GPU if kind == FULL else units_of_profile(SMALLEST if kind == ANY else kind)
        return one * self.wanted.count


@dataclass(frozen=True, slots=True)
class Geometry:
    """A host, and the mix of wishes that it meets."""

    name: str
    about: str
    snapshot: Snapshot
    sizes: tuple[Size, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """One wish: hours from the start of the simulation; `hours` is what the user chose."""

    id: str
    user: str
    quota: int  # units
    size: Size
    submit: float
    held: float  # until the devices are given back
    used: float  # of that, worked
    hours: float


def host(description: str) -> Snapshot:
    """The devices of a description such as `8xA100-80GB`."""
    return asyncio.run(SimulatedInventory(description, "simulated").snapshot())


def geometries() -> dict[str, Geometry]:
    """8 GPUs without MIG, and with it on half of them."""
    gpus = host("8xA100-80GB")
    mig = host("4xH100-80GB,2xH100-80GB:mig=7x1g.10gb,2xH100-80GB:mig=1x3g.40gb+2x2g.20gb")
    whole = [(1, 0.6), (2, 0.25), (4, 0.15)]
    slices = [(ANY, 0.15), ("1g.10gb", 0.1), ("2g.20gb", 0.143), ("3g.40gb", 0.107)]
    large = [(1, 0.35), (2, 0.15)]
    return {
        "whole": Geometry(
            "whole",
            "8 GPUs, no MIG",
            gpus,
            tuple(Size(_gpus(n), Wanted(n, FULL), p) for n, p in whole),
        ),
        "mig": Geometry(
            "mig",
            "8 GPUs, 4 of them cut: 14 × 1g, 4 × 2g, 2 × 3g",
            mig,
            (
                *(Size(kind, Wanted(1, kind), part) for kind, part in slices),
                *(Size(_gpus(n), Wanted(n, FULL), part) for n, part in large),
            ),
        ),
    }


def generate(geometry: Geometry, load: float, days: float, seed: int) -> list[Job]:
    """Arrivals by the time of day, so many that `load` of the host's GPU time is asked for."""
    dice = random.Random(seed)
    capacity = sum(device.units for device in geometry.snapshot.devices)
    mean = _mean_held()
    rates = [load * s.part * capacity / (s.units * mean) for s in geometry.sizes]
    weights = [1 / rank**ZIPF for rank in range(1, USERS + 1)]
    jobs: list[Job] = []
    at = 0.0
    most = sum(rates) * (1 + SWING)
    while True:
        at += dice.expovariate(most)
        if at >= days * DAY_H:
            return jobs
        swing = 1 + SWING * math.cos(2 * math.pi * (at - PEAK_H) / DAY_H)
        if dice.random() * (1 + SWING) > swing:
            continue
        size = dice.choices(geometry.sizes, rates)[0]
        users = range(0, USERS, 2) if size.wanted.count >= WIDE else range(USERS)
        user = dice.choices(users, [weights[i] for i in users])[0]
        held, used, hours = _stay(dice)
        quota = QUOTAS[user % 2] * UNITS_PER_GPU
        jobs.append(Job(f"{len(jobs):06}", f"u{user}", quota, size, at, held, used, hours))


def _stay(dice: random.Random) -> tuple[float, float, float]:
    """Hours that the devices are held, of these used, and chosen."""
    used = min(LONGEST_H, max(SHORTEST_H, dice.lognormvariate(math.log(MEDIAN_H), _SIGMA)))
    wish = used * dice.uniform(1.0, 1.5)
    hours = next((h for h in HOURS if h >= wish), LONGEST_H)
    idle = IDLE_H if dice.random() < FORGETFUL else 0.0
    return min(used + idle, hours), used, hours


def _mean_held() -> float:
    dice = random.Random(0)
    return sum(_stay(dice)[0] for _ in range(20_000)) / 20_000


def read_trace(path: Path, geometry: Geometry) -> list[Job]:
    """The jobs of a csv with the columns `submit` and `duration` in seconds, `gpus`, and `user`.

    A part of a GPU is the smallest slice that has as much, on a host without slices a whole one.
    Durations are cut to a day. Raises CannotMeasure, with the line, for what cannot be read or is
    more than the host has.
    """
    jobs: list[Job] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            missing = {"submit", "duration", "gpus", "user"} - set(rows.fieldnames or ())
            if missing:
                raise CannotMeasure(f"{path} has no column {', '.join(sorted(missing))}")
            for row in rows:
                jobs.append(_of_row(row, geometry.snapshot, f"{len(jobs):06}"))
    except OSError as error:
        raise CannotMeasure(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise CannotMeasure(f"{path}, line {len(jobs) + 2}: {error}") from error
    if not jobs:
        raise CannotMeasure(f"{path} has no rows")
    first = min(job.submit for job in jobs)
    return sorted((replace(job, submit=job.submit - first) for job in jobs), key=_when)


def _of_row(row: dict[str, str], snapshot: Snapshot, id: str) -> Job:
    submit, duration, gpus = (float(row[name]) for name in ("submit", "duration", "gpus"))
    if not (math.isfinite(submit) and duration > 0 and gpus > 0):
        raise ValueError("submit is a time, duration and gpus are more than 0")
    size = _size_of(gpus, snapshot)
    capacity = sum(device.units for device in snapshot.devices)
    used = min(LONGEST_H, duration / SECONDS_PER_H)
    hours = next((h for h in HOURS if h >= used), LONGEST_H)
    return Job(id, row["user"], capacity, size, submit / SECONDS_PER_H, used, used, hours)


def _size_of(gpus: float, snapshot: Snapshot) -> Size:
    if gpus < 1:
        need = math.ceil(gpus * UNITS_PER_GPU)
        slices = {d.units: d.profile for d in snapshot.devices if d.profile and d.units >= need}
        kind = slices[min(slices)] if slices else FULL
        return Size(kind if slices else _gpus(1), Wanted(1, kind or FULL), 0)
    whole = sum(device.whole for device in snapshot.devices)
    if gpus != int(gpus) or gpus > whole:
        raise ValueError(f"{gpus:g} GPUs cannot be had: there are {whole} whole ones")
    return Size(_gpus(int(gpus)), Wanted(int(gpus), FULL), 0)


def _gpus(count: int) -> str:
    return f"{count} GPU{'s' if count > 1 else ''}"


def _when(job: Job) -> tuple[float, str]:
    return job.submit, job.id
