"""Asks the NVIDIA driver for its devices, once, and prints the answer as one JSON object.

Run as a process of its own: a call into a broken driver can hang for ever, in the kernel, and
must not take the hub with it. It says what NVML says; what that means is decided by `nvml`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import pynvml as nvml

Facts = dict[str, Any]
T = TypeVar("T")


def main() -> int:
    """Print the answer; 0 whatever it is."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        answer = {"library": error.value != nvml.NVML_ERROR_LIBRARY_NOT_FOUND, "error": str(error)}
    else:
        try:
            answer = {"library": True, **_ask()}
        except nvml.NVMLError as error:
            answer = {"library": True, "error": str(error)}
    # One write of the whole: what a library prints by itself stays on other lines.
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    sys.stdout.flush()
    return 0


def _ask() -> Facts:
    return {
        "driver": nvml.nvmlSystemGetDriverVersion(),
        "cuda": _optional(nvml.nvmlSystemGetCudaDriverVersion),
        "cards": [_card(index) for index in range(nvml.nvmlDeviceGetCount())],
    }


def _card(index: int) -> Facts:
    """One card with its MIG instances. A card that fails (lost, say) does not hide the others."""
    card: Facts = {"index": index}
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        card["uuid"] = nvml.nvmlDeviceGetUUID(handle)
        card["name"] = nvml.nvmlDeviceGetName(handle)
        card["memory"] = _optional(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total)
        card["capability"] = list(nvml.nvmlDeviceGetCudaComputeCapability(handle))
        card["mig"], card["mig_pending"] = _mig_mode(handle)
        card["instances"] = _instances(handle) if card["mig"] else []
    except nvml.NVMLError as error:
        card["error"] = str(error)
    return card


def _mig_mode(handle: object) -> tuple[bool, bool]:
    """Whether MIG is on, and whether it will be after the next reset."""
    mode = _optional(lambda: nvml.nvmlDeviceGetMigMode(handle))
    return (bool(mode[0]), bool(mode[1])) if mode else (False, False)


def _instances(handle: object) -> list[Facts]:
    instances = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_NOT_FOUND:  # a hole: instances keep their numbers
                continue
            raise
        attributes = nvml.nvmlDeviceGetAttributes_v2(instance)
        instances.append(
            {
                "uuid": nvml.nvmlDeviceGetUUID(instance),
                "name": nvml.nvmlDeviceGetName(instance),
                "memory": nvml.nvmlDeviceGetMemoryInfo(instance).total,
                "slices": attributes.computeInstanceSliceCount,
            }
        )
    return instances


def _optional(ask: Callable[[], T]) -> T | None:
    """The answer, or None where this device or driver has none to give."""
    try:
        return ask()
    except nvml.NVMLError as error:
        if error.value in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND):
            return None
        raise


if __name__ == "__main__":
    sys.exit(main())
