"""The readers of single option fields: a value as it was sent -> a value that is allowed.

Each raises `Wrong` with what is wrong and what is allowed instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress

from ds01_spawner.core import requirements
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.packages import apt_problem
from ds01_spawner.core.placement import ANY, FULL, SHARED
from ds01_spawner.core.policy import PackageRules
from ds01_spawner.core.sharing import Sharing
from ds01_spawner.core.units import (
    format_gpu_memory,
    format_hours,
    format_size,
    parse_gpu_memory,
    parse_size,
)

MAX_PROJECT = 40
MAX_GPUS = 16
MIN_MEMORY = 256 << 20
MIN_HOURS = 1 / 60
HUGE = 10**9
_MAX_SHOWN = 60
_MAX_TOLD = 5  # wrong items of one list


class Wrong(Exception):
    """One field's problem, on its way to the list."""

    def __init__(self, problem: str, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(problem)
        self.problem = problem
        self.allowed = allowed


def shown(value: object) -> str:
    """A value as the person wrote it, bounded and without control characters."""
    text = value if isinstance(value, str) else _json(value)
    text = "".join(c if c.isprintable() else " " for c in text[: _MAX_SHOWN + 1])
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…")


def _json(value: object) -> str:
    try:
        return json.dumps(value, default=repr)
    except ValueError:  # an integer of too many digits to write
        return "…"


def gpu_count(value: object, limits: Limits, has_gpus: bool) -> int:
    """How many devices, none included."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_GPUS:
        raise Wrong(f"{shown(value)} is not a number of GPUs.", (f"0 to {MAX_GPUS}",))
    if value and not has_gpus:
        raise Wrong("this server has no GPU to give out.", ("0",))
    most = limits.max_gpu_slots_per_container
    if most is not None and value > most:
        raise Wrong(f"you may have at most {most} in one server.", (f"0 to {most}",))
    if value and limits.gpu_units == 0:
        raise Wrong("your policy gives you no GPU.", ("0",))
    return value


def gpu_kind(
    value: object,
    limits: Limits,
    profiles: tuple[str, ...],
    sharing: Sharing | None,
    count: int,
) -> str:
    """Which devices would do: any, whole ones, one MIG profile of this host, or a seat on one."""
    full = (FULL,) if limits.allow_full_gpu else ()
    allowed = (ANY, *full, *profiles, *((SHARED,) if sharing else ()))
    if value == SHARED and sharing is None:
        raise Wrong("no GPU of this server is shared between several servers.", allowed)
    if value == SHARED and count > 1:
        raise Wrong("a seat is on one GPU: ask for 1.", allowed)
    if not isinstance(value, str) or value not in allowed:
        raise Wrong(f"{shown(value)} is not a kind of GPU that you may have here.", allowed)
    return value


def gpu_memory(value: object, largest: int | None) -> int:
    """Bytes of a device, of which the largest of this host has so many."""
    size = _size(value, parse_gpu_memory)
    if largest is not None and size > largest:
        most = f"at most {format_gpu_memory(largest)}"
        raise Wrong("no GPU of this server has so much.", (most,))
    return size


def bundles(value: object, offered: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Names of bundles, each once, in the order given."""
    names = _texts(value)
    for name in names:
        if name not in offered:
            raise Wrong(f"{shown(name)} is not a bundle.", tuple(offered))
    return tuple(dict.fromkeys(names))


def pip(value: object, rules: PackageRules) -> tuple[str, ...]:
    """Canonical requirements of the lines of a requirements file, sorted, each once."""
    lines = _texts(value)
    if requirements.size(lines) > requirements.MAX_LIST:
        raise Wrong("is too long.", (f"at most {requirements.MAX_LIST:,} characters",))
    packages = requirements.logical_lines(lines)
    if len(packages) > rules.max_pip:
        raise Wrong(f"has {len(packages)} packages.", (f"at most {rules.max_pip}",))
    found, problems = requirements.read(packages, rules)
    _none_of(problems)
    return found


def _none_of(problems: list[str]) -> None:
    """Raise Wrong with what is wrong with the items of a list, if anything is."""
    if problems:
        more = len(problems) - _MAX_TOLD
        told = " ".join(problems[:_MAX_TOLD])
        raise Wrong(told + (f" And {more} more." if more > 0 else ""))


def apt(value: object, rules: PackageRules) -> tuple[str, ...]:
    """Names of system packages, sorted, each once."""
    names = _texts(value)
    if len(names) > rules.max_apt:
        raise Wrong(f"has {len(names)} packages.", (f"at most {rules.max_apt}",))
    _none_of([problem for name in names if (problem := apt_problem(name, rules))])
    return tuple(sorted(set(names)))


def project(value: object) -> str:
    """A project's name: for people, the image's repository gets its slug."""
    wrong = Wrong(
        f"{shown(value)} is not a project name.",
        (f"1 to {MAX_PROJECT} letters, digits, spaces, '-', '_' and '.', no '.' first",),
    )
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_PROJECT or value != value.strip():
        raise wrong
    if value.startswith(".") or not all(c.isalnum() or c in "-_. " for c in value):
        raise wrong
    return value


def cpus(value: object, limits: Limits) -> float:
    """Cores of one server."""
    return _at_most(value, 0.1, limits.max_cpus, "{:g} cores".format)


def memory(value: object, limits: Limits) -> int:
    """Bytes of one server; the options write them with a binary suffix, 16G is 16 GiB."""
    size = _size(value, parse_size)
    if size < MIN_MEMORY:
        raise Wrong(f"{format_size(size)} is too little.", (f"at least {format_size(MIN_MEMORY)}",))
    if limits.memory is not None and size > limits.memory:
        raise Wrong(
            f"{format_size(size)} is more than you may have.",
            (f"at most {format_size(limits.memory)}",),
        )
    return size


def hours(value: object, limits: Limits) -> float:
    """How long the server may run, in hours."""
    return _at_most(value, MIN_HOURS, limits.max_runtime_h, format_hours)


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Wrong(f"{shown(value)} is not a list of names.")
    return value


def _size(value: object, parse: Callable[[str], int]) -> int:
    if isinstance(value, str):
        with suppress(ValueError):
            return parse(value)
    raise Wrong(f"{shown(value)} is not a size.", ("a text such as 16G",))


def _at_most(
    value: object, least: float, most: float | None, told: Callable[[float], str]
) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -HUGE < value < HUGE:
        raise Wrong(f"{shown(value)} is not a number of a usable size.")
    if value < least:
        raise Wrong(f"{value:g} is too little.", (f"at least {told(least)}",))
    if most is not None and value > most:
        raise Wrong(f"{value:g} is more than you may have.", (f"at most {told(most)}",))
    return float(value)
