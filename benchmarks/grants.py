"""`python -m benchmarks grants`: what the ledger costs, beside a bare transaction on the same disk.

The floor is SQLite itself: one durable insert (WAL, synchronous=FULL). A grant is `reserve`, with
the choice, the quotas and the reservation in it. A host of 64 devices, 200 live leases.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import offers
from benchmarks.report import percentile
from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.placement import Wanted
from ds01_spawner.services.inventory.simulated import SimulatedInventory
from ds01_spawner.services.ledger import LeaseRequest, Ledger
from ds01_spawner.services.reconciler import Reconciler

T = TypeVar("T")
HOST = "8xH100-80GB,8xA100-40GB:mig=7x1g.5gb"  # 8 whole cards and 56 instances
LIVE = 200  # leases: 63 with a device, the others without
CARDS_HELD = 63
PROCESSES = 4
MOST_OFFERS = 500
LIMITS = Limits(max_containers_per_user=None, max_gpu_equivalents=None)
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
Times = list[float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own words."""
    parser.add_argument("--grants", type=int, default=2000, help="how many (default: 2000)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> str:
    """Measure, and tell."""
    snapshot = asyncio.run(SimulatedInventory(HOST, "host").snapshot())
    with tempfile.TemporaryDirectory(prefix="ds01-benchmark.") as folder:
        result = _measure(Path(folder), snapshot, options.grants)
    if options.json:
        return json.dumps(result, indent=1)
    floor = result["floor"]["median"]
    lines = [f"{len(snapshot.devices)} devices, {LIVE} live leases, {options.grants} grants (ms)"]
    for name, times in result.items():
        ratio = times["median"] / floor
        lines.append(
            f"  {name:<22}median {times['median']:8.3f}  p99 {times['p99']:8.3f}  "
            f"worst {times['worst']:8.3f}  of the floor {ratio:7.1f}"
        )
    return "\n".join(lines)


def _measure(folder: Path, snapshot: Snapshot, grants: int) -> dict[str, dict[str, float]]:
    path = folder / "ledger.sqlite"
    ledger = open_ledger(path)
    _fill(ledger, snapshot)
    result = {
        "floor": _told(_floor(folder / "floor.sqlite", grants)),
        "grant": _told(_grants(ledger, snapshot, grants)),
        f"grant, {PROCESSES} processes": _told(_contended(path, snapshot, grants)),
        "reconcile of 200": _told(asyncio.run(_reconciles(ledger))),
        "release to next offer": _told(offers.measure(folder, HOST, min(grants, MOST_OFFERS))),
    }
    ledger.close()
    return result


def open_ledger(path: Path) -> Ledger:
    """A ledger whose clock stands."""
    ids = itertools.count()
    return Ledger(
        path, simulated=True, now=lambda: START, new_id=lambda: f"{os.getpid()}-{next(ids)}"
    )


def _fill(ledger: Ledger, snapshot: Snapshot) -> None:
    ledger.begin_incarnation()
    for number in range(LIVE):
        wanted = Wanted(1 if number < CARDS_HELD else 0)
        request = LeaseRequest("hub", f"user{number}", "", wanted, LIMITS, 8)
        lease = ledger.reserve(request, snapshot, None, f"ds01.user{number}")
        ledger.bind(lease.id, lease.generation, f"container-{number}")


def _floor(path: Path, number: int) -> Times:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE lease (id TEXT PRIMARY KEY, device TEXT)")

        def insert(number: int) -> None:
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO lease VALUES (?, ?)", (str(number), "GPU"))
            db.execute("COMMIT")

        return [_timed(lambda n=n: insert(n))[0] for n in range(number)]


def _grants(ledger: Ledger, snapshot: Snapshot, number: int, who: str = "guest") -> Times:
    """Grants of a device each; it is given back in between."""
    request = LeaseRequest("hub", who, "", Wanted(1), LIMITS, 8)
    times = []
    for _ in range(number):
        seconds, lease = _timed(lambda: ledger.reserve(request, snapshot))
        ledger.release(lease.id)
        times.append(seconds)
    return times


def _contended(path: Path, snapshot: Snapshot, number: int) -> Times:
    """The same from several processes at once; each asks for a place without a device."""
    context = multiprocessing.get_context("spawn")  # no connection is shared
    with context.Pool(PROCESSES) as pool:
        asked = [(path, snapshot, number // PROCESSES, f"process{n}") for n in range(PROCESSES)]
        return [seconds for times in pool.starmap(_of_process, asked) for seconds in times]


def _of_process(path: Path, snapshot: Snapshot, number: int, who: str) -> Times:
    ledger = open_ledger(path)
    request = LeaseRequest("hub", who, "", Wanted(0), LIMITS, 8)
    times = []
    for _ in range(number):
        seconds, lease = _timed(lambda: ledger.reserve(request, snapshot))
        ledger.release(lease.id)
        times.append(seconds)
    ledger.close()
    return times


class _Engine:
    """An engine with a container for each lease, that answers at once."""

    def __init__(self, ledger: Ledger) -> None:
        self._listed = [
            {
                "Id": lease.container, "Names": [f"/{lease.container_name}"], "State": "running",
                "Created": int(START.timestamp()),
                "Labels": {
                    "ds01.hub": lease.hub, "ds01.user": lease.user, "ds01.server": lease.server,
                    "ds01.lease": lease.id, "ds01.lease_generation": str(lease.generation),
                    "ds01.units": str(lease.units), "ds01.gpu.uuids": ",".join(lease.devices),
                },
            }
            for lease in ledger.leases()
        ]  # fmt: skip

    async def list_containers(self, labels: Any, all: bool = True) -> Any:
        """All of them."""
        return self._listed


async def _reconciles(ledger: Ledger, rounds: int = 50) -> Times:
    """Looks at 200 servers of which none needs anything, and at as many that all do."""

    async def in_ledger(method: Callable[..., T], *args: Any) -> T:
        return method(ledger, *args)

    reconciler = Reconciler(
        _Engine(ledger), in_ledger, hub="hub", now=lambda: START + timedelta(hours=7.9),
        simulated=True,
    )  # type: ignore[arg-type] # fmt: skip
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        actions = await reconciler.run(dry_run=True)
        times.append(time.perf_counter() - began)
        assert len(actions) == LIVE  # each is to be warned of its end
    return times


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def _told(times: Times) -> dict[str, float]:
    """In milliseconds."""
    times = sorted(1000 * seconds for seconds in times)
    return {
        "median": statistics.median(times),
        "p99": percentile(times, 0.99) or 0.0,
        "worst": times[-1],
    }
