"""What a runtime says when a container cannot have its GPU -> the error that a person is told.

The one table of those texts. All of them come when a container starts, none when it is made.
"""

from __future__ import annotations

import re

from ds01_spawner.errors import (
    CudaTooNew,
    DeviceGone,
    DeviceNotDescribed,
    DeviceRefused,
    DeviceTimeout,
    DriverBroken,
    NoDeviceDriver,
)

# From NVIDIA's container toolkit and its issues, moby, and runs of engines 20.10 and 26.1; the
# first that is found counts.
_TABLE: tuple[tuple[str, type[DeviceRefused]], ...] = (
    ("driver/library version mismatch", DriverBroken),
    ("driver not loaded", DriverBroken),
    ("load library failed: libnvidia-ml", DriverBroken),
    ("failed to initialize nvml", DriverBroken),
    ("unsatisfied condition", CudaTooNew),
    ("nvidia-container-cli.*timed out", DeviceTimeout),
    ("unknown device", DeviceGone),
    ("error gathering device information while adding custom device", DeviceGone),
    ("unresolvable cdi device", DeviceNotDescribed),
    ("could not select device driver", NoDeviceDriver),
    ("nvidia", DeviceRefused),
    ("cdi device", DeviceRefused),
)


def device_error(text: str) -> DeviceRefused | None:
    """The error for these words of the engine; None where they are not about a device."""
    for pattern, error in _TABLE:
        if re.search(pattern, text, re.IGNORECASE | re.DOTALL):
            return error(text)
    return None
