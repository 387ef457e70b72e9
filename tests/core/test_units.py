"""Sizes, durations and shares: what is read, what is refused, and that it is exact."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.units import (
    UNITS_PER_GPU,
    format_gpu_memory,
    format_hours,
    format_size,
    gpueq_of_units,
    parse_gpu_memory,
    parse_hours,
    parse_size,
    units_of_gpueq,
    units_of_profile,
)

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("32g", 32 * GIB),
        ("32G", 32 * GIB),
        ("32GiB", 32 * GIB),
        ("32gb", 32 * GIB),
        (" 32 G ", 32 * GIB),
        ("1.5G", 3 * GIB // 2),
        ("512M", 512 << 20),
        ("64k", 64 << 10),
        ("2T", 2 << 40),
        ("0g", 0),
    ],
)
def test_a_size_is_binary(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "32",
        "g",
        "-1G",
        "1e3G",
        "32 X",
        "32GG",
        "32i",
        "1,5G",
        "٣G",
        "1G\n2G",
        "9" * 16 + "G",
        "∞",
    ],
)
def test_what_is_no_size_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write a number and K, M, G or T"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (16 * GIB, "16 GiB"),
    ],
)
def test_a_size_for_people(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "size", "told"),
    [
        ("80G", 80 * 10**9, "80 GB"),  # an H100 of "80 GB" has 81,559 MiB, which are 79.6 GiB
        ("40gb", 40 * 10**9, "40 GB"),
        ("1.5T", 1536 * 10**9, "1536 GB"),
        ("512M", 500_000_000, "0.5 GB"),
    ],
)
def test_a_gpus_memory_is_counted_as_its_makers_do(text: str, size: int, told: str) -> None:
    assert parse_gpu_memory(text) == size
    assert format_gpu_memory(size) == told
    with pytest.raises(ValueError, match="is not a size"):
        parse_gpu_memory("80")


def test_a_gpus_memory_is_never_told_larger_than_it_is() -> None:
    assert format_gpu_memory(81_559 << 20) == "85 GB"


@given(st.integers(0, 10**6), st.sampled_from("kmgtKMGT"))
def test_a_whole_size_is_exact(number: int, suffix: str) -> None:
    assert parse_size(f"{number}{suffix}") == number * 1024 ** ("kmgt".index(suffix.lower()) + 1)


@given(st.text())
def test_reading_a_text_gives_a_value_or_a_value_error(text: str) -> None:
    for reader in (parse_size, parse_hours, units_of_profile):
        try:
            assert reader(text) >= 0
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("text", "hours"),
    [("24h", 24), ("0.5h", 0.5), ("30m", 0.5), ("2d", 48), ("3600s", 1), ("48 H", 48)],
)
def test_a_duration_has_its_unit(text: str, hours: float) -> None:
    assert parse_hours(text) == hours


@pytest.mark.parametrize("text", ["48", "", "h", "1ſ", "٣h", "-1h", "1h30m", "24:00", "never"])
def test_a_duration_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write a number and s, m, h or d"):
        parse_hours(text)


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0.25, "15 min"), (0.5, "30 min"), (1, "1 h"), (1.5, "1.5 h"), (168, "168 h")],
)
def test_a_duration_for_people(hours: float, text: str) -> None:
    assert format_hours(hours) == text


@pytest.mark.parametrize(
    ("gpueq", "units"),
    [(0, 0), (1.0, 2520), (0.5, 1260), (2.286, 5761), (0.1429, 360), (0.2857, 720), (1 / 7, 360)],
)
def test_gpu_equivalents_are_units(gpueq: float, units: int) -> None:
    assert units_of_gpueq(gpueq) == units


@given(st.integers(0, 64 * UNITS_PER_GPU))
def test_units_survive_being_shown_as_gpu_equivalents(units: int) -> None:
    assert units_of_gpueq(gpueq_of_units(units)) == units


@given(st.floats(0, 1000), st.floats(0, 1000))
def test_more_gpu_equivalents_are_never_fewer_units(one: float, other: float) -> None:
    assert (one <= other) <= (units_of_gpueq(one) <= units_of_gpueq(other))


@pytest.mark.parametrize(
    ("profile", "units"),
    [
        ("1g.5gb", 360),
        ("1g.10gb", 360),
        ("2g.20gb", 720),
        ("3g.40gb", 1080),
        ("7g.80gb", 2520),
        ("1g.10gb+me", 360),
    ],
)
def test_a_mig_profile_has_sevenths(profile: str, units: int) -> None:
    assert units_of_profile(profile) == units


@pytest.mark.parametrize("profile", ["", "full", "0g.5gb", "8g.80gb", "1g", "1g.10", "1G.10GB"])
def test_what_is_no_mig_profile_is_refused(profile: str) -> None:
    with pytest.raises(ValueError, match="is not a MIG profile"):
        units_of_profile(profile)
