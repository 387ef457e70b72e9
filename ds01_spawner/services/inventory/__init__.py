"""What devices this host has: from its drivers, or made up where that was asked for."""

from ds01_spawner.services.inventory.base import Inventory

__all__ = ["Inventory"]
