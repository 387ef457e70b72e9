"""What may stand in a policy file: its keys, by kind, and how each value is read.

Limit names and both generations of spelling are DS01's (`resource-limits.yaml` of 2025-11, with
"24h" and `max_mig_instances`, and of 2026, with `_h` numbers and `max_gpu_equivalents`).
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ds01_spawner.core.sharing import MOST_SEATS
from ds01_spawner.core.units import parse_size, units_of_profile

# --- keys, by kind ---------------------------------------------------------------------------

OLD_NAMES = {
    "max_mig_instances": "max_gpu_equivalents",
    "max_gpus_per_user": "max_gpu_equivalents",
    "max_gpu_slots": "max_gpu_equivalents",
    "max_gpus_per_container": "max_gpu_slots_per_container",
    "max_mig_per_container": "max_gpu_slots_per_container",
    "cpus": "max_cpus",
}
OLD_DURATIONS = {  # texts with their unit, such as "24h"
    "max_runtime": "max_runtime_h",
    "idle_timeout": "idle_timeout_h",
    "gpu_hold_after_stop": "gpu_hold_after_stop_h",
    "container_hold_after_stop": "container_hold_after_stop_h",
}
NOT_ENFORCED = frozenset({"container_hold_after_stop_h"})
PRIORITY = 10  # in the line for GPUs, of whom nobody gives one, as in DS01
AGGREGATE = frozenset({"cpu_quota", "memory_max", "memory_high", "tasks_max", "gpu_limit"})
REMARK = "reason"  # why a user has an override; said to nobody
ELSEWHERE_LIMITS = frozenset(
    {
        "gpu_memory", "io_read_bps", "io_write_bps", "max_tasks", "policies", "reservation_end",
        "reservation_start", "reserved_gpus", "storage_data", "storage_workspace", "ulimit_nofile",
    }
)  # fmt: skip
ELSEWHERE_SECTIONS = frozenset(
    {
        "access_control", "advanced", "bare_metal_access", "container_types", "enforcement",
        "gpu_allocation", "monitoring", "policies", "wizard",
    }
)  # fmt: skip
SECTIONS = (
    "defaults", "default_group", "groups", "user_overrides", "images", "presets", "bundles",
    "packages", "runs_on", "sharing", "exemptions",
)  # fmt: skip
# --- values ----------------------------------------------------------------------------------

_NO_LIMIT = frozenset({"unlimited", "infinite", "indefinite", "inf", "never", "none", "-1"})
_NULL = "Write null for no limit."
_MIN_MEMORY = 6 << 20  # the engine makes no container with less
_MAX_SIZE = 1 << 60
_MAX_CORES = 10_000
_MAX_HOURS = 10 * 366 * 24
_MAX_GPUS = 10_000
_VERSION = re.compile(r"(\d{1,2})\.(\d{1,2})")
_MAX_COUNT = 4_194_304  # the kernel's highest process id


class Wrong(ValueError):
    """A value that cannot be used: what it is, and what to write."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem)
        self.hint = hint


def _number(value: object, what: str, least: float, most: float) -> float:
    if str(value).strip().lower() in _NO_LIMIT:
        raise Wrong(f"{value!r} is not {what}.", _NULL)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Wrong(f"{shown(value)} is not {what}.", "Write a plain number, without quotes.")
    if not least <= value <= most:
        raise Wrong(f"{value:g} is not between {least:g} and {most:g}.", _NULL)
    return value


def _whole(value: object, what: str, least: int, most: int = _MAX_COUNT) -> int:
    number = _number(value, what, least, most)
    if number != int(number):
        raise Wrong(f"{value!r} is not a whole number.")
    return int(number)


def _gpu_share(value: object) -> float:
    return float(_number(value, "a number of GPUs", 0, _MAX_GPUS))


def _gpu_count(value: object) -> int:
    return _whole(value, "a number of GPUs", 0, _MAX_GPUS)


def _cores(value: object) -> float:
    return float(_number(value, "a number of cores", 0.01, _MAX_CORES))


def _count(value: object) -> int:
    return _whole(value, "a number", 0)


def _processes(value: object) -> int:
    return _whole(value, "a number of processes", 1)


def _priority(value: object) -> int:
    return PRIORITY if value is None else _whole(value, "a priority", 1, 100)


def _hours(value: object) -> float:
    if value == 0 and not isinstance(value, bool):
        raise Wrong("0 hours would end a server before it starts.", _NULL)
    return _duration(value)


def _duration(value: object) -> float:
    if isinstance(value, str) and value.strip().lower() not in _NO_LIMIT:
        raise Wrong(
            f"{value!r} is not a number of hours.", "This key ends in _h: write 24 for 24h."
        )
    return float(_number(value, "a number of hours", 0, _MAX_HOURS))


def _size(value: object) -> int:
    if isinstance(value, str) and value.strip().lower() in _NO_LIMIT:
        raise Wrong(f"{value!r} is not a size.", _NULL)
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is a size without its unit.", "Write 32G for 32 GiB.")
    try:
        size = parse_size(value)
    except ValueError:
        raise Wrong(f"{value!r} is not a size.", "Write a number and K, M, G or T: 32G.") from None
    if not 0 < size <= _MAX_SIZE:
        raise Wrong(f"{value!r} is no possible size.", _NULL)
    return size


def _memory(value: object) -> int:
    size = _size(value)
    if size < _MIN_MEMORY:
        raise Wrong(f"{value!r} is too little for a container.", "Write at least 6M.")
    return size


def _size_text(value: object) -> str:
    _memory(value)
    return str(value).strip()


def _dotted(value: object) -> tuple[int, int]:
    found = _VERSION.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise Wrong(f"{shown(value)} is not a version.", "Write two numbers with a dot: 12.8.")
    return int(found[1]), int(found[2])


def _kind(value: object) -> str:
    return "shared" if value == "shared" else _device(value)


def _device(value: object) -> str:
    if value in ("any", "full"):
        return str(value)
    try:
        units_of_profile(str(value))
    except ValueError:
        raise Wrong(f"{value!r} is not a kind of GPU.", "Write any, full or 1g.10gb.") from None
    return str(value)


def _seats(value: object) -> int:
    return _whole(value, "a number of seats", 2, MOST_SEATS)


def _devices(value: object) -> int:
    return _whole(value, "a number of devices", 1, _MAX_GPUS)


def shown(value: object) -> str:
    """A value as it would stand in the file, bounded."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    text = "a list" if isinstance(value, list) else repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


# --- the parts of the file -------------------------------------------------------------------


class Part(BaseModel):
    """A mapping of the file whose keys are all known and whose types are meant literally."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class LimitsPart(Part):
    """What defaults, a group and a user may set. Sizes in bytes, times in hours once read."""

    max_gpu_equivalents: Annotated[float, BeforeValidator(_gpu_share)] | None = None
    max_gpu_slots_per_container: Annotated[int, BeforeValidator(_gpu_count)] | None = None
    allow_full_gpu: bool = True
    max_cpus: Annotated[float, BeforeValidator(_cores)] | None = None
    memory: Annotated[int, BeforeValidator(_memory)] | None = None
    memory_swap: Annotated[int, BeforeValidator(_memory)] | None = None
    shm_size: Annotated[int, BeforeValidator(_size)] | None = None
    pids_limit: Annotated[int, BeforeValidator(_processes)] | None = None
    storage_tmp: Annotated[int, BeforeValidator(_size)] | None = None
    max_containers_per_user: Annotated[int, BeforeValidator(_count)] | None = None
    max_runtime_h: Annotated[float, BeforeValidator(_hours)] | None = None
    idle_timeout_h: Annotated[float, BeforeValidator(_hours)] | None = None
    gpu_hold_after_stop_h: Annotated[float, BeforeValidator(_duration)] | None = None
    container_hold_after_stop_h: Annotated[float, BeforeValidator(_duration)] | None = None
    priority: Annotated[int, BeforeValidator(_priority)] = PRIORITY


class PresetPart(Part):
    """One preset, as the file writes it."""

    title: Annotated[str, Field(min_length=1, max_length=120)]
    description: Annotated[str, Field(max_length=1000)] = ""
    groups: list[str] | None = None
    framework: str
    version: str = "latest"
    architecture: str | None = None
    bundles: list[str] = []
    pip: list[str] = []
    apt: list[str] = []
    gpus: Annotated[int, BeforeValidator(_gpu_count)] | None = None
    gpu: Annotated[str, BeforeValidator(_kind)] | None = None
    gpu_memory: Annotated[str, BeforeValidator(_size_text)] | None = None
    cpus: Annotated[float, BeforeValidator(_cores)] | None = None
    memory: Annotated[str, BeforeValidator(_size_text)] | None = None
    hours: Annotated[float, BeforeValidator(_hours)] | None = None
    recommended: bool = False
    allow: list[
        Literal[
            "framework", "version", "architecture", "bundles", "pip", "apt", "project", "gpus",
            "gpu", "gpu_memory", "cpus", "memory", "hours",
        ]
    ] = []  # fmt: skip


class PackagesPart(Part):
    """Rules for packages that users name."""

    allow_urls: bool = False
    allow_source: bool = False
    max_pip: Annotated[int, Field(ge=0, le=1000)] = 200
    max_apt: Annotated[int, Field(ge=0, le=1000)] = 20
    pip_allow: list[str] | None = None
    apt_allow: list[str] | None = None


class RunsOnPart(Part):
    """Where the images of one pattern run."""

    architectures: Annotated[list[str], Field(min_length=1)] | None = None
    compute_capability: Annotated[tuple[int, int], BeforeValidator(_dotted)] | None = None
    cuda: Annotated[tuple[int, int], BeforeValidator(_dotted)] | None = None


class SharingPart(Part):
    """How devices are shared: so many seats on each of at most so many devices of a kind."""

    seats: Annotated[int, BeforeValidator(_seats)]
    gpu: Annotated[str, BeforeValidator(_device)] = "full"
    max_devices: Annotated[int, BeforeValidator(_devices)] | None = None
