"""The part of a policy file with an admin's own images, used instead of the catalog's."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated

from pydantic import Field

from ds01_spawner.core.architectures import ARCHITECTURES, CUDA_ARCHITECTURES
from ds01_spawner.core.catalog import LATEST, CatalogEntry, is_image_name
from ds01_spawner.core.policy import CustomImage, Preset
from ds01_spawner.core.policy_report import Report, did_you_mean
from ds01_spawner.core.policy_schema import Part, shown
from ds01_spawner.core.recipe import FRAMEWORKS
from ds01_spawner.core.runs import cuda_of
from ds01_spawner.core.yaml_source import Path

CUSTOM = "custom"  # the framework of an image that names none, as in DS01
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TEXTS = ("image", "title", "description", "framework")


class ImagePart(Part):
    """One custom image, as the file writes it."""

    image: str
    title: Annotated[str, Field(min_length=1, max_length=120)]
    description: Annotated[str, Field(max_length=1000)] = ""
    framework: str = CUSTOM
    architectures: Annotated[list[str], Field(min_length=1)] | None = None
    groups: list[str] | None = None


def read_images(report: Report, value: object, groups: Collection[str]) -> dict[str, CustomImage]:
    """The custom images by name, in file order; `groups` are those of the file."""
    images = {}
    for name, body in report.mapping(value, ("images",)).items():
        path: Path = ("images", name)
        if not _NAME.fullmatch(name) or name == LATEST:
            hint = f"Use letters, digits and . _ -; {LATEST} stands for the first of a framework."
            report.problem(path, "is not a name for an image.", hint)
        values = dict(report.mapping(body, path))
        if body and not values:  # it is no mapping, which is told
            continue
        for key in _TEXTS:
            if key in values:
                values[key] = report.text((*path, key), values[key])
        part = report.part(ImagePart, values, path)
        if part is None:
            continue
        _check(report, part, path)
        report.tell_unknown_groups(part.groups, groups, path)
        entry = CatalogEntry(
            part.framework, name, _architectures(part), part.image, report.line(path),
            part.title, part.description,
        )  # fmt: skip
        images[name] = CustomImage(entry, None if part.groups is None else tuple(part.groups))
    return images


def _check(report: Report, part: ImagePart, path: Path) -> None:
    if not is_image_name(part.image):
        hint = "Write it with its tag or digest: registry.example.org/lab/genomics:2026."
        report.problem((*path, "image"), f"{shown(part.image)} is not the name of an image.", hint)
    if part.framework not in (CUSTOM, *FRAMEWORKS):
        hint = did_you_mean(part.framework, FRAMEWORKS)
        what = f"{shown(part.framework)} is not a framework that an image can be proved to have."
        report.problem((*path, "framework"), what, hint)
    for i, name in enumerate(part.architectures or ()):
        if name not in ARCHITECTURES:
            hint = did_you_mean(name, ARCHITECTURES)
            report.problem((*path, "architectures", i), "is not a known architecture.", hint)


def _architectures(part: ImagePart) -> tuple[str, ...]:
    """Those written, else all; NVIDIA's alone where the image's name tells of CUDA."""
    if part.architectures is not None:
        return tuple(dict.fromkeys(part.architectures))
    return ARCHITECTURES if cuda_of(part.image) is None else CUDA_ARCHITECTURES


def check_presets(
    report: Report, presets: Mapping[str, Preset], images: Mapping[str, CustomImage], value: object
) -> None:
    """A preset of a custom image without a framework has to name one of the file.

    `value` is what was read as `images`: one in which something is wrong is there nevertheless.
    """
    named = value if isinstance(value, dict) else {}
    custom = [n for n in named if n not in images or images[n].entry.framework == CUSTOM]
    for name, preset in presets.items():
        if preset.framework == CUSTOM and preset.version not in custom:
            hint = did_you_mean(preset.version, custom)
            what = f"{shown(preset.version)} is not a custom image of this file."
            report.problem(("presets", name, "version"), what, hint)
