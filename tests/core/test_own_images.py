"""What a user has: names, labels, and the options that lead back to the same environment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.options import parse
from ds01_spawner.core.own_images import Contents, contents_of, of_labels, options_of, own_name
from ds01_spawner.core.recipe import BUILT_BY, Recipe, image_labels, image_name
from ds01_spawner.core.sharing import Sharing
from ds01_spawner.core.units import parse_size
from tests.core.test_options import CATALOG, DL101, OFFER

RECIPE = Recipe(
    "sha256:" + "a" * 64, "Pytorch", "2.8.0", "CUDA_ADA", pip=('a; python_version < "4"', "b>=2")
)
LABELS = {**image_labels(RECIPE), BUILT_BY: "hub"}
NAME = image_name(RECIPE, "ada", "My thesis")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"framework": "Tensorflow", "version": "latest"},
        {"framework": "Pytorch", "version": "2.6.0", "architecture": "CUDA_ADA", "gpus": 1},
        {"gpus": 2, "gpu": "full", "gpu_memory": "80G", "hours": 1.5, "cpus": 0.5},
        {"gpus": 1, "gpu": "1g.10gb", "memory": "1.3G", "gpu_memory": "0.3G"},
        {"bundles": ["datascience"], "pip": ["Pandas >= 2", "x[y]"], "apt": ["htop"]},
        {"project": "Ünïcode 1.2_b"},
        {"preset": "dl101"},
        {"preset": "dl101", "project": "x", "hours": 1, "pip": ["torchinfo", "rich"]},
    ],
)
def test_the_options_lead_back_to_the_same(options: dict[str, Any]) -> None:
    asked = parse(options, OFFER)
    assert parse(options_of(asked, OFFER), OFFER) == asked


def test_a_seat_on_a_shared_device_is_asked_for_again() -> None:
    offer = replace(OFFER, sharing=Sharing(seats=4, gpu="full", max_devices=1))
    asked = parse({"gpus": 1, "gpu": "shared"}, offer)
    assert parse(options_of(asked, offer), offer) == asked


@given(st.integers(256 << 20, 16 << 30))
def test_sizes_come_back_to_the_byte(size: int) -> None:
    asked = replace(parse({}, OFFER), memory=size)
    assert parse_size(options_of(asked, OFFER)["memory"]) == size


def test_of_a_preset_only_what_the_user_chose_is_kept() -> None:
    """What the admin changes in it since is in the next start."""
    asked = parse({"preset": "dl101", "hours": 1}, OFFER)
    assert options_of(asked, OFFER) == {"preset": "dl101", "project": "default", "hours": 1.0}
    changed = replace(OFFER, presets={"dl101": replace(DL101, version="2.8.0-aime", hours=3.0)})
    again = parse(options_of(parse({"preset": "dl101"}, OFFER), OFFER), changed)
    assert (again.entry.version, again.hours) == ("2.8.0-aime", 3.0)


def test_latest_is_what_it_was() -> None:
    asked = parse({"framework": "Pytorch", "version": "2.6.0"}, OFFER)
    renewed = replace(OFFER, catalog=replace(CATALOG, entries=CATALOG.entries[::-1]))
    assert parse(options_of(asked, OFFER), renewed).entry.version == "2.6.0"
    assert contents_of(asked) == Contents("Pytorch", "2.6.0", "CUDA_ADA")


@pytest.mark.parametrize("user", ["ada", "Ada.Lovelace@example.org", "base"])
@pytest.mark.parametrize("project", ["default", "My thesis", "x" * 40])
def test_the_name_of_a_derived_image_is_read_back(user: str, project: str) -> None:
    name = image_name(RECIPE, user, project)
    own = own_name(name)
    assert own is not None
    assert (own.digest, f"{own.repository}:{own.digest}") == (RECIPE.short, name)
    assert of_labels(user, name, LABELS, "hub") is not None
    assert of_labels("bob", name, LABELS, "hub") is None


@pytest.mark.parametrize(
    "name",
    [
        "", "ds01-ada/p:latest", "ds01-ada/p", "ds01-1001/thesis:latest",  # DS01's own
        "ds01-base:pytorch-0123456789ab", "ds01_presets/hub/course:0123456789abcdef",
        "ds01-ada/p/q:0123456789abcdef", "ds01-ada/P:0123456789abcdef",
        "ds01-/p:0123456789abcdef", "evil/ds01-ada/p:0123456789abcdef",
        "ds01-ada/p:0123456789abcdef\n", "ds01-ada/..:0123456789abcdef",
        "ds01-ada/p:0123456789abcdeg", "aimehub/pytorch:2.8.0",
    ],
)  # fmt: skip
def test_what_is_not_in_the_namespace(name: str) -> None:
    assert own_name(name) is None
    assert of_labels("ada", name, LABELS, "hub") is None


def test_an_image_alone_tells_what_is_in_it() -> None:
    told = of_labels("ada", NAME, LABELS, "hub")
    assert told is not None
    assert told.contents == Contents(
        "Pytorch", "2.8.0", "CUDA_ADA", pip=('a; python_version < "4"', "b>=2")
    )
    assert told.options["version"] == "2.8.0"
    assert told.used is None
    assert told.here


@pytest.mark.parametrize(
    "change",
    [
        {"ds01.image.managed": ""},
        {"ds01.recipe": "f" * 64},
        {"ds01.recipe": ""},
        {"ds01.image.hub": "another"},
        {"ds01.image.hub": ""},
    ],
)
def test_labels_that_are_not_of_this_name(change: dict[str, str]) -> None:
    """They are inherited by what is made of an image, a commit of somebody's container too."""
    assert of_labels("ada", NAME, {**LABELS, **change}, "hub") is None
