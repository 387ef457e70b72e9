"""A host whose NVIDIA driver says what the test writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from ds01_spawner.services.inventory.answers import Event
from ds01_spawner.services.inventory.nvml import NvmlInventory
from tests.fakes.nvml import DriverState, build_library

TAKEN = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Clock:
    """Monotonic seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


class Listening(NvmlInventory):
    """Tells the test when an event has come."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.heard: asyncio.Queue[Event] = asyncio.Queue()

    def _heard(self, event: Event) -> None:
        super()._heard(event)
        self.heard.put_nowait(event)


class Driver:
    """The driver of a host and the inventories that ask it."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.clock = Clock()
        self.state = DriverState(folder / "state")
        self.library = library
        self.proc = folder / "proc"
        boot = self.proc / "sys/kernel/random/boot_id"
        boot.parent.mkdir(parents=True)
        boot.write_text("a-boot\n")
        self.inventories: list[Listening] = []

    def says(self, *records: str) -> None:
        """From now on."""
        self.state.write(*records)

    def runs(self, *pids: int) -> None:
        """Have these processes on the host."""
        for pid in pids:
            (self.proc / str(pid)).mkdir()

    def inventory(self, **options: Any) -> Listening:
        """An inventory of this host, asked anew each time `later` was called."""
        inventory = Listening(
            now=lambda: TAKEN, monotonic=self.clock, proc=self.proc, recheck_s=0,
            environment=self.state.environment(self.library), **{"deadline_s": 60, **options},
        )  # fmt: skip
        self.inventories.append(inventory)
        return inventory

    def later(self, seconds: float = 3) -> None:
        """Time passes."""
        self.clock.time += seconds


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libnvidia-ml.so.1 that answers from a file."""
    return build_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def old_nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without what came with R510 and later."""
    return build_library(tmp_path_factory.mktemp("old-nvml"), old_driver=True)


@pytest.fixture
async def driver(nvml_library: Path, tmp_path: Path) -> AsyncIterator[Driver]:
    """A driver whose library has everything."""
    driver = Driver(nvml_library, tmp_path)
    yield driver
    for inventory in driver.inventories:
        await inventory.close()
