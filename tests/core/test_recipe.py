"""A recipe's digest and names: the same for the same environment, different for another."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from ds01_spawner.core.recipe import RECIPE_VERSION, Recipe, image_labels, image_name
from ds01_spawner.core.server_image import SERVER_VERSION

IMAGES = Path(__file__).parents[2] / "images"
BASE = "sha256:" + "a" * 64
# Of images/common, images/derived and core/dockerfile.py (its golden test) at RECIPE_VERSION.
# When this changes what an image has in it, raise the version; then write the new value here.
SCRIPTS = (5, "71ebb6628bfc0649")
# The same of images/common, images/server and core/server_image.py at SERVER_VERSION.
SERVER_SCRIPTS = (1, "7290e496b1cbbbbc")


def recipe(**changes: Any) -> Recipe:
    facts: dict[str, Any] = {
        "base": BASE,
        "framework": "Pytorch",
        "version": "2.8.0",
        "architecture": "CUDA_ADA",
        "pip": ("pandas>=2", "rich"),
        "apt": ("htop", "vim"),
    }
    return Recipe(**{**facts, **changes})


@pytest.mark.parametrize(
    "same",
    [
        {"pip": ("rich", "pandas>=2")},
        {"pip": ("Pandas>=2", "rich")},
        {"pip": ("pandas>=2", "rich", "rich")},
        {"apt": ("vim", "htop", "vim")},
    ],
)
def test_order_and_spelling_make_no_difference(same: dict[str, Any]) -> None:
    assert recipe(**same).digest == recipe().digest


@pytest.mark.parametrize(
    "other",
    [
        {"base": "sha256:" + "b" * 64},
        {"framework": "Tensorflow"},
        {"version": "2.7.1"},
        {"architecture": "CUDA_AMPERE"},
        {"pip": ("pandas>=2",)},
        {"pip": ("pandas>=2.1", "rich")},
        {"bundle_pip": ("scipy",)},
        {"apt": ("htop",)},
        {"allow_source": True},
        {"site": "0123"},
        {"recipe_version": RECIPE_VERSION + 1},
    ],
)
def test_whatever_decides_the_content_decides_the_digest(other: dict[str, Any]) -> None:
    assert recipe(**other).digest != recipe().digest
    assert set(other) <= {field.name for field in dataclasses.fields(Recipe)}


def test_the_digest_is_the_same_on_every_machine() -> None:
    # Were this to change without RECIPE_VERSION, every site would build all its images again.
    assert recipe(recipe_version=1).digest == (
        "82f628e0c86f20f5c808077f09b97fecab6c42d57fb978b35e8d1bb5deafaca3"
    )


def test_images_are_named_by_owner_project_and_digest() -> None:
    name = image_name(recipe(), "h.baker@a", "My Thesis")
    assert re.fullmatch(
        r"ds01-h-baker-a---[0-9a-f]{12}/my-thesis---[0-9a-f]{12}:[0-9a-f]{16}", name
    )
    assert name.endswith(recipe().digest[:16])
    assert image_name(recipe(), "h_baker", "My Thesis") != name


def test_labels_tell_the_recipe_and_nothing_of_whom_it_is_for() -> None:
    labels = image_labels(recipe(bundle_pip=("scipy",)))
    assert labels["ds01.recipe"] == recipe(bundle_pip=("scipy",)).digest
    assert labels["ds01.base"] == BASE
    assert labels["ds01.pip"].splitlines() == ["pandas>=2", "rich", "scipy"]
    assert labels["ds01.apt"].splitlines() == ["htop", "vim"]
    # Containers inherit labels, and DS01's own tools take the first for one of theirs.
    assert not set(labels) & {"ds01.managed", "ds01.user", "ds01.hub", "ds01.test"}


@pytest.mark.parametrize(
    ("framework", "module"),
    [("Pytorch", "torch"), ("Tensorflow", "tensorflow"), ("Mxnet", "mxnet"), ("ROCM", "")],
)
def test_the_module_of_a_framework(framework: str, module: str) -> None:
    assert recipe(framework=framework).module == module


def test_changed_scripts_are_a_new_recipe_version() -> None:
    assert (RECIPE_VERSION, scripts_digest("common", "derived")) == SCRIPTS
    assert (SERVER_VERSION, scripts_digest("common", "server")) == SERVER_SCRIPTS


def scripts_digest(*folders: str) -> str:
    digest = hashlib.sha256()
    files = [path for name in folders for path in (IMAGES / name).rglob("*") if path.is_file()]
    for path in sorted(path for path in files if path.suffix != ".pyc"):
        digest.update(f"{path.relative_to(IMAGES)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
