"""What NVML says of the cards, their MIG instances and what goes on there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import pynvml as nvml

from ds01_spawner.services.inventory.probe.topology import links

Facts = dict[str, Any]
T = TypeVar("T")

RECOVERY_ACTION = 230  # the field of that name
GPM_PAUSE_S = 0.1  # two samples nearer than this say nothing
GPM_BUSY = 1  # the metric: percentage of time in which anything ran
_CANNOT_TELL = (
    nvml.NVML_ERROR_NOT_SUPPORTED,
    nvml.NVML_ERROR_NO_PERMISSION,
    nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
)


def optional(ask: Callable[..., T], *args: Any) -> T | None:
    """The answer, or None where this device or driver has none to give."""
    try:
        return ask(*args)
    except nvml.NVMLError as error:
        if error.value in _CANNOT_TELL:
            return None
        raise


class Cards:
    """Asks for all cards; the first time also how they are joined, which does not change."""

    def __init__(self) -> None:
        self._links: list[Facts] | None = None
        self._activity = _Activity()

    def handles(self) -> dict[str, Any]:
        """The cards that answer, by UUID."""
        found = {}
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                found[nvml.nvmlDeviceGetUUID(handle)] = handle
            except nvml.NVMLError:
                continue
        return found

    def ask(self) -> Facts:
        """Everything. Raises NVMLError where not even the number of cards can be told."""
        cards = self._cards()
        if self._activity.begun:
            # Without it an idle server would count as busy each time that the driver is opened.
            time.sleep(GPM_PAUSE_S)
            cards = self._cards()
        if self._links is None:
            self._links = links(self.handles())
        return {
            "driver": nvml.nvmlSystemGetDriverVersion(),
            "cuda": optional(nvml.nvmlSystemGetCudaDriverVersion),
            "cards": cards,
            "links": self._links,
        }

    def _cards(self) -> list[Facts]:
        self._activity.begun = False
        return [self._card(index) for index in range(nvml.nvmlDeviceGetCount())]

    def _card(self, index: int) -> Facts:
        """One card with its MIG instances. A card that fails does not hide the others."""
        card: Facts = {"index": index}
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            card["uuid"] = nvml.nvmlDeviceGetUUID(handle)
            card["name"] = nvml.nvmlDeviceGetName(handle)
            card["recovery"] = _recovery_action(handle)
            card["capability"] = list(nvml.nvmlDeviceGetCudaComputeCapability(handle))
            card["mig"], card["mig_pending"] = _mig_mode(handle)
            card["rows_pending"], card["rows_failed"] = _remapped_rows(handle)
            card["memory"], used = _memory(handle)
            if card["mig"]:
                card["instances"] = self._instances(handle)
            else:
                rates = optional(nvml.nvmlDeviceGetUtilizationRates, handle)
                card["usage"] = _usage(handle, used, rates and rates.gpu / 100)
        except nvml.NVMLError as error:
            card["error"] = str(error)
        return card

    def _instances(self, card: Any) -> list[Facts]:
        instances = []
        for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
            try:
                handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, index)
            except nvml.NVMLError as error:
                if error.value == nvml.NVML_ERROR_NOT_FOUND:  # a hole: instances keep their numbers
                    continue
                raise
            instances.append(self._instance(card, handle))
        return instances

    def _instance(self, card: Any, handle: Any) -> Facts:
        instance: Facts = {"uuid": nvml.nvmlDeviceGetUUID(handle)}
        try:
            instance["name"] = nvml.nvmlDeviceGetName(handle)
            instance["gi"] = gi = optional(nvml.nvmlDeviceGetGpuInstanceId, handle)
            instance["ci"] = optional(nvml.nvmlDeviceGetComputeInstanceId, handle)
            attributes = nvml.nvmlDeviceGetAttributes_v2(handle)
            instance["slices"] = attributes.computeInstanceSliceCount
            instance["memory"], used = _memory(handle)
            # What GPM tells is the GPU instance's, which several compute instances may share.
            alone = attributes.gpuInstanceSliceCount == attributes.computeInstanceSliceCount
            busy = self._activity.of(card, instance["uuid"], gi) if alone else None
            instance["usage"] = _usage(handle, used, busy)
        except nvml.NVMLError as error:
            instance["error"] = str(error)
        return instance


class _Activity:
    """How busy GPU instances are from one look to the next: GPM, on Hopper and later."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, Any, float | None]] = {}
        self.begun = False  # whether some were looked at for the first time

    def of(self, card: Any, uuid: str, gi: int | None) -> float | None:
        """0 to 1; None at the first look, and where there is no telling."""
        support = optional(nvml.nvmlGpmQueryDeviceSupport, card)
        if gi is None or support is None or not support.isSupportedDevice:
            return None
        now = time.monotonic()
        taken, before, busy = self._last.get(uuid, (0.0, None, None))
        if before is not None and now - taken < GPM_PAUSE_S:
            return busy
        sample = nvml.nvmlGpmSampleAlloc()
        try:
            nvml.nvmlGpmMigSampleGet(card, gi, sample)
        except nvml.NVMLError:
            nvml.nvmlGpmSampleFree(sample)
            return None
        if before is None:
            self.begun = True
        else:
            busy = _busy_between(before, sample)
            nvml.nvmlGpmSampleFree(before)
        self._last[uuid] = (now, sample, busy)
        return busy


def _busy_between(before: Any, after: Any) -> float | None:
    question = nvml.c_nvmlGpmMetricsGet_t()
    question.version = nvml.NVML_GPM_METRICS_GET_VERSION
    question.numMetrics = 1
    question.sample1, question.sample2 = before, after
    question.metrics[0].metricId = GPM_BUSY
    metric = nvml.nvmlGpmMetricsGet(question).metrics[0]
    return metric.value / 100 if metric.nvmlReturn == nvml.NVML_SUCCESS else None


def _mig_mode(handle: Any) -> tuple[bool, bool]:
    """Whether MIG is on, and whether it will be after the next reset."""
    mode = optional(nvml.nvmlDeviceGetMigMode, handle)
    return (bool(mode[0]), bool(mode[1])) if mode else (False, False)


def _recovery_action(handle: Any) -> int | None:
    fields = optional(nvml.nvmlDeviceGetFieldValues, handle, [RECOVERY_ACTION])
    if fields is None or fields[0].nvmlReturn != nvml.NVML_SUCCESS:
        return None
    return int(fields[0].value.uiVal)


def _remapped_rows(handle: Any) -> tuple[bool, bool]:
    """Whether rows wait to be remapped, and whether that failed for some."""
    rows = optional(nvml.nvmlDeviceGetRemappedRows, handle)
    return (bool(rows[2]), bool(rows[3])) if rows else (False, False)


def _memory(handle: Any) -> tuple[int, int]:
    """All of its memory and what is in use, without what the driver keeps where it tells that."""
    newer = optional(nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)
    memory = newer or nvml.nvmlDeviceGetMemoryInfo(handle)
    return memory.total, memory.used


def _usage(handle: Any, memory: int, utilization: float | None) -> Facts:
    return {"memory": memory, "utilization": utilization, "processes": _processes(handle)}


def _processes(handle: Any) -> list[tuple[int, int | None]] | None:
    """Host pid and memory of each process; None where this driver cannot tell."""
    computing = optional(nvml.nvmlDeviceGetComputeRunningProcesses_v3, handle)
    if computing is None:
        return None
    others = (
        optional(nvml.nvmlDeviceGetGraphicsRunningProcesses_v3, handle),
        optional(nvml.nvmlDeviceGetMPSComputeRunningProcesses_v3, handle),
    )
    found: dict[int, int | None] = {}
    for process in [*computing, *(p for some in others for p in some or ())]:
        sizes = [s for s in (found.get(process.pid), process.usedGpuMemory) if s is not None]
        found[process.pid] = max(sizes, default=None)
    return list(found.items())
