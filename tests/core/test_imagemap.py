"""Where a site has the catalog's images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.imagemap import map_image, pattern_problems

MIRROR = {"aimehub/*": "mirror.example/aime/*"}


@pytest.mark.parametrize(
    ("image", "patterns", "name"),
    [
        ("aimehub/pytorch-2.8.0", MIRROR, "mirror.example/aime/pytorch-2.8.0"),
        ("aimehub/a/b:1.0", MIRROR, "mirror.example/aime/a/b:1.0"),
        ("rocm/dev:5.4", MIRROR, "rocm/dev:5.4"),
        ("other/aimehub/x", MIRROR, "other/aimehub/x"),
        ("aimehub/x", {}, "aimehub/x"),
        # the first that matches decides
        ("aimehub/x", {"aimehub/x": "local/x:1", **MIRROR}, "local/x:1"),
        ("aimehub/x", {"*": "all/*", **MIRROR}, "all/aimehub/x"),
        # a name without a * stands for all that match
        ("aimehub/x", {"aimehub/*": "stand-in:1"}, "stand-in:1"),
        # a * in the middle
        ("aimehub/pytorch-2-cuda", {"aimehub/*-cuda": "m/*"}, "m/pytorch-2"),
        ("ab", {"ab*b": "x/*"}, "ab"),  # its ends do not overlap
    ],
)
def test_an_image_is_mapped(image: str, patterns: dict[str, str], name: str) -> None:
    assert map_image(image, patterns) == name


@pytest.mark.parametrize(
    ("pattern", "name", "problem"),
    [
        ("aimehub/*", "mirror.example:5000/aime/*", None),
        ("aimehub/*", "stand-in:1", None),
        ("*", "m/*", None),
        ("a/*/*", "m/*", "each may have one *"),
        ("a/b", "m/*", "the pattern has none to fill it from"),
        ("a/*", "m/ *", "write names of images"),
        ("", "m/x", "write names of images"),
        ("a/*", "", "write names of images"),
        ("a/*", 3, "both must be text"),
    ],
)
def test_patterns_are_checked(pattern: str, name: str, problem: str | None) -> None:
    told = pattern_problems({pattern: name})
    assert (problem is None and told == ()) or (problem is not None and problem in told[0])


@given(st.text(max_size=20), st.text(max_size=10).filter(lambda t: "*" not in t))
def test_mapping_to_itself_changes_nothing(image: str, start: str) -> None:
    assert map_image(image, {f"{start}*": f"{start}*"}) == image
