"""The devices assigned to this container, as NVIDIA_VISIBLE_DEVICES has them; asks no driver."""

import os


def _assigned() -> list[str]:
    value = os.environ.get("NVIDIA_VISIBLE_DEVICES", "")
    return [name for name in value.split(",") if name not in ("", "void", "none")]


def device_count() -> int:
    """How many devices were assigned."""
    return len(_assigned())


def is_available() -> bool:
    """Whether any device was assigned."""
    return device_count() > 0


def get_device_name(device: int = 0) -> str:
    """The identity of an assigned device, said to be a stand-in's."""
    return f"stand-in for {_assigned()[device]}"
