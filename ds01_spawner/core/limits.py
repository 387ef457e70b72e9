"""policy + user + groups -> effective limits, each with where it came from.

Order, key by key: built-in < defaults < the user's one group < the user; then what the host has.
(DS01 merges a user's override over the defaults alone, so that a researcher with one exception
loses all that researchers have; here the group stays.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ds01_spawner.core.policy import Group, Policy
from ds01_spawner.core.policy_schema import PRIORITY
from ds01_spawner.core.units import gpueq_of_units, units_of_gpueq

BUILT_IN = "built-in"
HOST = "host"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one user may have. Names are DS01's; None is the one spelling of "no limit".

    Sizes in bytes, times in hours, GPU shares in GPU-equivalents (see `gpu_units`).
    """

    max_gpu_equivalents: float | None = 1.0  # over all servers of the user
    max_gpu_slots_per_container: int | None = 1
    allow_full_gpu: bool = True
    max_cpus: float | None = None  # per container
    memory: int | None = None  # per container
    memory_swap: int | None = None  # memory and swap together, as the engine counts
    shm_size: int | None = None
    pids_limit: int | None = 4096
    storage_tmp: int | None = None  # /tmp of the container
    max_containers_per_user: int | None = 3
    max_runtime_h: float | None = None
    idle_timeout_h: float | None = None  # of servers with a GPU
    gpu_hold_after_stop_h: float | None = 0.0  # None: as long as the admin's ceiling allows
    priority: int = PRIORITY  # in the line for GPUs, 1 to 100, the higher goes first

    @property
    def gpu_units(self) -> int | None:
        """`max_gpu_equivalents` in units of 1/2520, exact."""
        return (
            None if self.max_gpu_equivalents is None else units_of_gpueq(self.max_gpu_equivalents)
        )


@dataclass(frozen=True, slots=True)
class HostCapacity:
    """What the host has: cores, bytes, and units of GPU, None while the devices are not known."""

    cpus: float
    memory: int
    gpus_units: int | None = None


@dataclass(frozen=True, slots=True)
class Effective:
    """The limits of one user; `sources` says for each who gave it.

    A source is "built-in", "defaults", "group X", "user U" or "host".
    """

    user: str
    group: str
    limits: Limits
    sources: Mapping[str, str]


def effective(
    policy: Policy, user: str, groups: Iterable[str] = (), host: HostCapacity | None = None
) -> Effective:
    """The user's limits; `groups` are JupyterHub's. Without a host nothing is clamped to one."""
    group = policy.group_of(user, groups)
    layers = (
        ("defaults", policy.defaults),
        (f"group {group}", policy.groups.get(group, Group()).limits),
        (f"user {user}", policy.users.get(user, {})),
    )
    names = [f.name for f in fields(Limits)]
    values: dict[str, Any] = asdict(Limits())
    sources = dict.fromkeys(names, BUILT_IN)
    for source, layer in layers:
        for name in names:
            if name in layer:
                values[name], sources[name] = layer[name], source
    ceilings = _ceilings(host)
    for name, ceiling in ceilings:
        _lower(values, sources, name, ceiling, HOST)
    # memory_swap counts both, so that memory fits into it; /dev/shm is memory.
    _lower(values, sources, "memory", values["memory_swap"], sources["memory_swap"])
    if values["shm_size"] is not None:
        _lower(values, sources, "shm_size", values["memory"], sources["memory"])
    return Effective(user, group, Limits(**values), sources)


def explain(limits: Effective) -> dict[str, Any]:
    """The answer of `policy explain`: sizes in bytes, times in hours, null for no limit."""
    return {
        "user": limits.user,
        "group": limits.group,
        "limits": asdict(limits.limits),
        "from": dict(limits.sources),
    }


def _ceilings(host: HostCapacity | None) -> tuple[tuple[str, float | None], ...]:
    if host is None:
        return ()
    gpus = None if host.gpus_units is None else gpueq_of_units(host.gpus_units)
    return (
        ("max_gpu_equivalents", gpus),
        ("max_cpus", host.cpus),
        ("memory", host.memory),
        ("memory_swap", host.memory),  # a host's swap is not for servers beyond its memory
    )


def _lower(
    values: dict[str, Any], sources: dict[str, str], name: str, ceiling: float | None, source: str
) -> None:
    if ceiling is not None and (values[name] is None or values[name] > ceiling):
        values[name], sources[name] = ceiling, source
