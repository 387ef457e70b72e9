"""What servers hold and what the host has -> the servers that lost their GPU while they ran.

NVIDIA's toolkit says so to nobody (nvidia-container-toolkit#48): the next CUDA call fails. What a
container may no longer open although the device is well, as after a `systemctl daemon-reload`, is
not to be seen from outside: with version 2 of control groups it is a program in the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from ds01_spawner.core.devices import Snapshot

SURE_AFTER = timedelta(seconds=3)  # longer than an answer of a driver is kept
GONE = "it is not there any more"


def why_lost(devices: Iterable[str], snapshot: Snapshot) -> str:
    """Why a server cannot rely on its devices, for people; empty: it can, or nobody knows.

    A host where nothing is looked for, or a driver that was taken away, tells nothing.
    """
    if not snapshot.known or not (snapshot.devices or snapshot.driver):
        return ""
    there = {device.uuid: device for device in snapshot.devices}
    for uuid in devices:
        device = there.get(uuid)
        if device is None:
            return f"{uuid}: {GONE}"
        if not device.healthy:
            return device.problem or uuid
    return ""


def suspected(
    before: Mapping[str, datetime], lost: Iterable[str], now: datetime
) -> dict[str, datetime]:
    """Since when each lease looks lost, in every look that could tell."""
    return {lease: min(before.get(lease, now), now) for lease in lost}


def is_sure(since: datetime, now: datetime) -> bool:
    """Whether it has looked lost for long enough: one bad look is none."""
    return now - since >= SURE_AFTER
