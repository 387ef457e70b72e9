"""How cards are joined: over which bridges, and by how many NVLinks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pynvml as nvml

NVLINK_SWITCH = 2  # what nvmlDeviceGetNvLinkRemoteDeviceType says of an NVSwitch


def links(handles: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each pair of cards NVML's level of their common ancestor, and the number of NVLinks."""
    buses: dict[str, str] = {}
    direct: Counter[tuple[str, str]] = Counter()  # from a card to a bus address
    switched: Counter[str] = Counter()
    for uuid, handle in handles.items():
        try:
            buses[uuid] = _bus(nvml.nvmlDeviceGetPciInfo(handle))
            _count_nvlinks(uuid, handle, direct, switched)
        except nvml.NVMLError:
            continue
    found = []
    for a, b in combinations(handles, 2):
        try:
            level = nvml.nvmlDeviceGetTopologyCommonAncestor(handles[a], handles[b])
        except nvml.NVMLError:
            continue
        through = min(switched[a], switched[b])
        found.append(
            {"a": a, "b": b, "level": level, "nvlinks": direct[a, buses.get(b, "")] + through}
        )
    return found


def _count_nvlinks(
    uuid: str, handle: Any, direct: Counter[tuple[str, str]], switched: Counter[str]
) -> None:
    for number in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            if not nvml.nvmlDeviceGetNvLinkState(handle, number):
                continue
        except nvml.NVMLError:  # it has no more, or none at all
            return
        if nvml.nvmlDeviceGetNvLinkRemoteDeviceType(handle, number) == NVLINK_SWITCH:
            switched[uuid] += 1
        else:
            direct[uuid, _bus(nvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, number))] += 1


def _bus(info: Any) -> str:
    name = info.busId
    return (name.decode() if isinstance(name, bytes) else str(name)).lower()
