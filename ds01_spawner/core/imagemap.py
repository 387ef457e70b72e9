"""Where a site has the catalog's images: patterns, `aimehub/*` -> `mirror.example/aime/*`."""

from __future__ import annotations

from collections.abc import Mapping

from ds01_spawner.core.catalog import is_image_name

STAR = "*"


def map_image(image: str, patterns: Mapping[str, str]) -> str:
    """The name of an image at this site; the first pattern that matches decides, else `image`.

    What the `*` of a pattern matches (anything, a tag too) is put where the name has its `*`; a
    name without one stands for all that match.
    """
    for pattern, name in patterns.items():
        before, star, after = pattern.partition(STAR)
        if not star:
            if image == pattern:
                return name
        elif (
            image.startswith(before)
            and image.endswith(after)
            and len(image) >= len(before) + len(after)
        ):
            return name.replace(STAR, image[len(before) : len(image) - len(after)])
    return image


def pattern_problems(patterns: Mapping[str, str]) -> tuple[str, ...]:
    """What is wrong with the patterns, a sentence each."""
    return tuple(
        f"{pattern!r} -> {name!r}: {wrong}"
        for pattern, name in patterns.items()
        if (wrong := _problem(pattern, name))
    )


def _problem(pattern: object, name: object) -> str:
    if not isinstance(pattern, str) or not isinstance(name, str):
        return "both must be text."
    if pattern.count(STAR) > 1 or name.count(STAR) > 1:
        return "each may have one *."
    if STAR in name and STAR not in pattern:
        return "the name has a * and the pattern has none to fill it from."
    if not pattern or not is_image_name(name.replace(STAR, "x")):
        return "write names of images, such as 'aimehub/*' -> 'mirror.example/aime/*'."
    return ""
