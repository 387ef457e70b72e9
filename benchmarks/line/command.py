"""`python -m benchmarks line`: the policies on the same arrivals, as table, JSON and picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

from benchmarks.line.measures import measure
from benchmarks.line.picture import draw
from benchmarks.line.policies import policies
from benchmarks.line.report import Result, Table, as_json, as_text
from benchmarks.line.simulate import Run, Simulation
from benchmarks.line.workload import Geometry, Job, generate, geometries, read_trace
from benchmarks.systems import CannotMeasure
from ds01_spawner.core.tickets import Rules

# People of the simulation wait until they are served.
RULES = Rules(gone_h=24.0 * 365)
LOADS = "0.5,0.6,0.7,0.8,0.9,1.0,1.1,1.2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add = parser.add_argument
    add("--loads", default=LOADS, help="GPU time asked for, of the host's (default: %(default)s)")
    add("--seeds", type=int, default=8, help="how many draws of each (default: %(default)s)")
    add("--days", type=float, default=21.0, help="of arrivals (default: %(default)g)")
    add("--hosts", default=",".join(geometries()), help="which (default: %(default)s)")
    add("--trace", type=Path, metavar="FILE", help="csv: submit and duration in s, gpus, user")
    add("--json", action="store_true", help="print the result as JSON")
    add("--picture", type=Path, metavar="FILE", help="write an SVG there")


def run(options: argparse.Namespace) -> str:
    """Run all of it; the text to print. Raises CannotMeasure."""
    known = geometries()
    hosts = [name for name in options.hosts.split(",") if name in known]
    if len(hosts) < len(options.hosts.split(",")):
        raise CannotMeasure(f"--hosts: there are {', '.join(known)}")
    loads = _loads(options.loads)
    if options.seeds < 1 or options.days <= 0:
        raise CannotMeasure("--seeds and --days are more than 0")
    if options.trace:
        result = of_trace(hosts, options.trace)
    else:
        result = generated(hosts, loads, options.seeds, options.days)
    if options.picture:
        options.picture.write_text(draw(result), encoding="utf-8")
    return as_json(result) if options.json else as_text(result)


def generated(hosts: Sequence[str], loads: Sequence[float], seeds: int, days: float) -> Result:
    """Every policy on every host under every load, each seed's arrivals the same for all."""
    names = list(policies(RULES))
    tasks = [
        (host, load, days, seed, name)
        for host, load, name, seed in product(hosts, loads, names, range(seeds))
    ]
    # Not forked: a test's process may have threads.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        runs = iter(list(pool.map(_one, tasks, chunksize=4)))
    tables = []
    for host, load in product(hosts, loads):
        by_policy = {name: [next(runs) for _ in range(seeds)] for name in names}
        tables.append(_table(geometries()[host], load, by_policy))
    return Result(tables, seeds, days)


def of_trace(hosts: Sequence[str], path: Path) -> Result:
    """Every policy on every host, on the arrivals of a trace."""
    tables = []
    for host in hosts:
        geometry = geometries()[host]
        jobs = read_trace(path, geometry)
        runs = {name: [_play(jobs, geometry, name)] for name in policies(RULES)}
        tables.append(_table(geometry, None, runs))
    return Result(tables, 0, 0.0)


def _one(task: tuple[str, float, float, int, str]) -> Run:
    host, load, days, seed, name = task
    geometry = geometries()[host]
    return _play(generate(geometry, load, days, seed), geometry, name)


def _play(jobs: Sequence[Job], geometry: Geometry, name: str) -> Run:
    return Simulation(jobs, geometry.snapshot, policies(RULES)[name]).play()


def _table(geometry: Geometry, load: float | None, runs: dict[str, list[Run]]) -> Table:
    units = sum(device.units for device in geometry.snapshot.devices)
    measures = {name: measure(of_one, units) for name, of_one in runs.items()}
    return Table(geometry.name, geometry.about, load, measures)


def _loads(text: str) -> list[float]:
    try:
        loads = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise CannotMeasure(f"--loads: {error}") from error
    if min(loads) <= 0:
        raise CannotMeasure("--loads are more than 0")
    return loads
