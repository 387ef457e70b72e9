"""What an inventory is."""

from __future__ import annotations

from typing import Protocol

from ds01_spawner.core.devices import Snapshot


class Inventory(Protocol):
    """Tells the devices of a host."""

    async def snapshot(self, *, fresh: bool = False) -> Snapshot:
        """The devices now. Never raises: what cannot be told is a snapshot with `known` False.

        With `fresh` the host is asked after this call: a device that was given back a moment ago
        is given out only by a snapshot that is newer.
        """
        ...

    async def close(self) -> None:
        """End what it started."""
        ...


class NoDevices:
    """The inventory of a host that is to offer no device."""

    async def snapshot(self, *, fresh: bool = False) -> Snapshot:
        """No devices, and sure of it."""
        return Snapshot()

    async def close(self) -> None:
        """Nothing to end."""
