"""Which images go: by last use and budget, layers counted once, and never what is needed."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.upkeep import Held, removals, total

NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)
GIB = 1 << 30


def held(id: str, days: float = 0.5, layers: dict[str, int] | None = None, **more: Any) -> Held:
    layers = {f"of {id}": GIB} if layers is None else layers
    facts: dict[str, Any] = {
        "names": (f"ds01-ada/p:{id}",), "others": (), "owners": {}, "known": True,
        "recipe": id, "base": "b", "used": NOW - timedelta(days=days), "in_use": (), "stale": "",
        "layers": layers,
    }  # fmt: skip
    return Held(id, **{**facts, **more})


def ids(images: list[Held], days: int = 60, budget: int | None = None) -> list[str]:
    return [removal.image.id for removal in removals(images, NOW, days=days, budget=budget)]


def test_what_nobody_used_for_long_goes_the_longest_first() -> None:
    images = [held("a", 61), held("b", 59), held("c", 400), held("d", 60)]
    assert ids(images) == ["c", "a"]
    (first, _) = removals(images, NOW, days=60, budget=None)
    assert first.why == "nobody used it for 400 days"
    assert ids([]) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"known": False}, "the ledger does not know it"),
        ({"others": ("lab/keep:1",)}, "it is also called lab/keep:1"),
        ({"in_use": ("the container c", "the preset p")}, "the container c"),
        ({"used": NOW - timedelta(minutes=59)}, "it was used a moment ago"),
    ],
)
def test_what_stays_whatever_the_budget(change: dict[str, Any], why: str) -> None:
    image = replace(held("a", 400), **change)
    assert image.why_kept(NOW) == why
    assert ids([image], days=1, budget=1) == []


def test_the_longest_unused_go_until_all_fit() -> None:
    images = [held(name, days) for name, days in (("a", 1), ("b", 3), ("c", 2))]
    assert ids(images, budget=3 * GIB) == []
    assert ids(images, budget=3 * GIB - 1) == ["b"]
    assert ids(images, budget=GIB) == ["b", "c"]
    (removal,) = removals(images, NOW, days=60, budget=2 * GIB)
    assert (removal.freed, removal.why) == (GIB, "all together are more than 2 GiB")


def test_layers_that_several_share_count_once() -> None:
    """Thirty students with the same bundle and a package each are no thirty bundles."""
    images = [held(f"{n}", 10 + n, {"bundle": 8 * GIB, f"{n}": 1}) for n in range(30)]
    assert total(images) == 8 * GIB + 30
    assert ids(images, budget=9 * GIB) == []
    gone = removals(images, NOW, days=20, budget=None)
    assert {removal.freed for removal in gone} == {1}
    last = removals(images, NOW, days=1, budget=None)
    assert sum(removal.freed for removal in last) == total(images)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 200),
            st.dictionaries(st.sampled_from("abcdef"), st.just(GIB)),
            st.booleans(),
        ),
        max_size=8,
    ),
    st.integers(0, 8),
)
def test_what_is_freed_adds_up_and_what_is_in_use_stays(
    rows: list[tuple[int, dict[str, int], bool]], budget: int
) -> None:
    images = [
        held(f"{n}", days, layers, in_use=("the container c",) if used else ())
        for n, (days, layers, used) in enumerate(rows)
    ]
    gone = removals(images, NOW, days=60, budget=budget * GIB)
    left = [image for image in images if image not in [removal.image for removal in gone]]
    assert all(not removal.image.in_use for removal in gone)
    assert total(images) - total(left) == sum(removal.freed for removal in gone)
    may_go = [image for image in left if not image.why_kept(NOW)]
    assert total(left) <= budget * GIB or not may_go
