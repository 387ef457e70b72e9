"""A ledger on a disk that fills up and is emptied again, in a mount namespace of its own.

`unshare --mount python -m tests.services.full_disk FOLDER`: ends with 0 when all held.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from ds01_spawner.core.devices import Snapshot
from ds01_spawner.errors import LedgerBusy, NoDeviceFree
from ds01_spawner.services.ledger import Ledger
from tests.services.test_ledger import START, request, snapshot

DISK = "16m"  # the log of an open ledger takes 4 MB
DEVICES = 64


def fill(folder: Path) -> Path:
    """Write until nothing more can be written, to the last byte."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 1):
            while True:
                try:
                    file.write(b"x" * size)
                except OSError:
                    break
    return ballast


def open_ledger(path: Path, numbers: itertools.count[int]) -> Ledger:
    return Ledger(
        path, simulated=True, now=lambda: START, new_id=lambda: f"id{next(numbers)}",
        busy_timeout_s=0.1,
    )  # fmt: skip


def grant_until_full(ledger: Ledger, devices: Snapshot) -> int:
    """Grant as long as there is room; how many were."""
    for number in range(DEVICES):
        try:
            ledger.reserve(request(f"user{number}"), devices)
        except LedgerBusy as refusal:
            assert refusal.status == 503
            assert "nothing was given out" in refusal.message
            assert "full" in refusal.detail or "disk I/O" in refusal.detail, refusal.detail
            return number
    raise AssertionError("the disk was not full")


def main(folder: Path) -> None:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "ledger", str(folder)], check=True
    )
    numbers, devices, path = itertools.count(), snapshot(DEVICES), folder / "ledger.sqlite"
    with ExitStack() as opened:
        ledger = open_ledger(path, numbers)
        opened.callback(ledger.close)
        ledger.begin_incarnation()
        ada = ledger.reserve(request("ada"), devices)
        ledger.bind(ada.id, ada.generation, "container")

        ballast = fill(folder)
        granted = grant_until_full(ledger, devices)
        before = ledger.leases()
        assert [lease.user for lease in before] == [
            "ada",
            *(f"user{number}" for number in range(granted)),
        ]
        for write in (
            lambda: ledger.reserve(request("late"), devices),
            lambda: ledger.releasing(ada.id),
            lambda: ledger.release(ada.id),
            ledger.begin_incarnation,
        ):
            with pytest.raises(LedgerBusy):
                write()
        assert ledger.leases() == before, "what was refused left nothing"

        # The command line still tells who has what.
        second = open_ledger(path, numbers)
        opened.callback(second.close)
        assert second.leases() == before
        with pytest.raises(LedgerBusy):
            second.reserve(request("late"), devices)

        ballast.unlink()
        held = len(before)
        for number in range(held, DEVICES):
            ledger.reserve(request(f"more{number}"), devices)
        with pytest.raises(NoDeviceFree):
            second.reserve(request("late"), devices)
        given = [uuid for lease in second.leases() for uuid in lease.devices]
        assert len(given) == len(set(given)) == DEVICES
        assert second.release(ada.id)
        assert ledger.reserve(request("late"), devices).devices == ada.devices


if __name__ == "__main__":
    main(Path(sys.argv[1]))
