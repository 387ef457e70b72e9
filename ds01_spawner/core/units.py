"""Sizes, durations and shares of a GPU, parsed once at the edge and exact inside.

Sizes are bytes, durations are hours (as the policy file writes them), shares of a GPU are
integers in units of 1/2520 of one GPU: 2520 is the least common multiple of 1..10, so that
sevenths (MIG) and any sharing up to ten seats are exact.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

UNITS_PER_GPU = 2520
MIG_SLICES_PER_GPU = 7

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt])(?:i?b)?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([smhd])", re.IGNORECASE | re.ASCII)
_PROFILE = re.compile(r"(\d)g\.(\d{1,4})gb(?:\+.*)?", re.ASCII)
_SIZE_STEPS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_HOURS = {"s": Fraction(1, 3600), "m": Fraction(1, 60), "h": Fraction(1), "d": Fraction(24)}


def parse_size(text: str) -> int:
    """Bytes of a size with a binary suffix: `16g`, `16G`, `16GiB` are all 16 GiB.

    Raises ValueError, with a sentence, for a bare number (32 what?) and for anything else.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a size; write a number and K, M, G or T, such as 16G")
    return int(Fraction(match[1]) * _SIZE_STEPS[match[2].lower()])


def format_size(size: float) -> str:
    """A size for people: `16 GiB`, `1.5 GiB`, `512 MiB`."""
    for suffix, step in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= step:
            return f"{size / step:.4g} {suffix}"
    return f"{size:.0f} B"


def parse_gpu_memory(text: str) -> int:
    """Bytes of a device's memory as its makers count: `80G` is 80 * 10**9.

    A card sold with 80 GB reports less than 80 GiB (an H100: 79.6). Raises as `parse_size`.
    """
    return parse_size(text) * 1000**3 // 1024**3


def format_gpu_memory(size: int) -> str:
    """A device's memory for people, rounded down: `80 GB`."""
    return f"{size / 10**9:.4g} GB" if size < 10**9 else f"{size // 10**9} GB"


def parse_hours(text: str) -> float:
    """Hours of a duration with its unit: `24h`, `0.5h`, `30m`, `2d`.

    Raises ValueError, with a sentence, for a bare number: DS01 once read `48` as seconds and
    stopped a container (its commit 63de5f7).
    """
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError(
            f"{text!r} is not a duration; write a number and s, m, h or d, such as 24h"
        )
    return float(Fraction(match[1]) * _HOURS[match[2].lower()])


def format_hours(hours: float) -> str:
    """A duration for people: `4 h`, `30 min`, `1.5 h`."""
    if hours < 1:
        return f"{hours * 60:.3g} min"
    return f"{hours:.4g} h"


@lru_cache(maxsize=1024)  # a policy has few, and each decision of the line asks many times
def units_of_gpueq(gpueq: float) -> int:
    """Units of a number of GPU-equivalents, rounded to the nearest unit (2.286 is 16 sevenths)."""
    return round(Fraction(str(gpueq)) * UNITS_PER_GPU)


def gpueq_of_units(units: int) -> float:
    """GPU-equivalents of a number of units, for people and files."""
    return round(units / UNITS_PER_GPU, 4)


def units_of_profile(profile: str) -> int:
    """Units of a MIG profile by its compute slices: `2g.20gb` is 720.

    Raises ValueError for a text that is no MIG profile.
    """
    match = _PROFILE.fullmatch(profile)
    if not match or not 1 <= int(match[1]) <= MIG_SLICES_PER_GPU:
        raise ValueError(f"{profile!r} is not a MIG profile, such as 1g.10gb")
    return UNITS_PER_GPU * int(match[1]) // MIG_SLICES_PER_GPU
