"""Which container had which device from when to when, told by nobody but the engine.

Starts are written down by the stub of NVIDIA's runtime hook, ends are the engine's events.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docker import APIClient

    from tests.conftest import HookWitness

ENDS = ["die", "destroy"]


class Record:
    """Everything since it was made; look often, for the engine remembers few events."""

    def __init__(self, docker: APIClient, hook: HookWitness) -> None:
        self._docker, self._hook = docker, hook
        self._ends: dict[str, set[float]] = defaultdict(set)
        self._looked = time.time() - 1

    def intervals(self) -> dict[str, list[tuple[float, float, str]]]:
        """Of each device, in order: from when, until when (inf: it still has it), which container.

        Of a container that was started again, each time.
        """
        starts = self._hook.starts()  # first, so that no end before one of them is missing
        now = time.time()
        told = self._docker.events(
            since=f"{self._looked - 1:.9f}",
            until=f"{now:.9f}",
            filters={"type": "container", "event": ENDS},
            decode=True,
        )
        for event in told:
            self._ends[event["id"]].add(event["timeNano"] / 1e9)
        self._looked = now
        found = defaultdict(list)
        for start in starts:
            began, container = start["time"], start["id"]
            end = min((t for t in self._ends[container] if t > began), default=math.inf)
            for device in start["devices"]:
                found[device].append((began, end, container))
        return {device: sorted(of) for device, of in found.items()}

    def assert_no_device_in_two(self, seats: int = 1) -> None:
        """No device was ever in more running containers at once than it has seats."""
        for device, held in self.intervals().items():
            for number, (began, _, container) in enumerate(held):
                others = [other for other in held[:number] if other[1] > began]
                assert len(others) < seats, (device, container, others)

    def holders(self) -> dict[str, set[str]]:
        """The containers that have each device now."""
        return {
            device: {container for _, end, container in held if end == math.inf}
            for device, held in self.intervals().items()
        }
