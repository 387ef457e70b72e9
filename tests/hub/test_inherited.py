"""Invariant 16: every trait of the parents is honoured, a ceiling, the hub's own, or refused."""

from __future__ import annotations

import pytest
from dockerspawner import DockerSpawner
from traitlets.config import Config

from ds01_spawner.errors import TraitRefused
from ds01_spawner.hub.inherited import CEILING, HONOURED, HUB, REFUSED, check_inherited
from ds01_spawner.services.settings import Settings

TABLES = (HONOURED, CEILING, HUB, frozenset(REFUSED))
TRAITS = sorted(DockerSpawner.class_traits(config=True))


@pytest.mark.parametrize("trait", TRAITS)
def test_each_trait_is_in_one_table(trait: str) -> None:
    assert sum(trait in table for table in TABLES) == 1


@pytest.mark.parametrize("trait", sorted(frozenset().union(*TABLES)))
def test_the_tables_name_no_trait_that_is_not_there(trait: str) -> None:
    assert trait in TRAITS


@pytest.mark.parametrize("trait", sorted(Settings.class_own_traits(config=True)))
def test_no_parents_trait_is_declared_again(trait: str) -> None:
    assert trait not in TRAITS


@pytest.mark.parametrize("section", ["Spawner", "DockerSpawner", "DS01Spawner"])
@pytest.mark.parametrize("trait", sorted(REFUSED))
def test_a_refused_trait_stops_the_hub_with_a_sentence(section: str, trait: str) -> None:
    with pytest.raises(TraitRefused, match=rf"c\.{section}\.{trait} is set .* does not honour"):
        check_inherited(Config({section: {trait: "x"}}))


def test_a_raw_name_in_a_path_is_refused() -> None:
    volumes = {"/data/{raw_username}": "/data"}
    with pytest.raises(TraitRefused, match="choose the folder"):
        check_inherited(Config({"DockerSpawner": {"volumes": volumes}}))


@pytest.mark.parametrize("target", ["/workspace", "/workspace/course/shared", "/", "/etc/x"])
def test_a_mount_in_the_workspace_is_refused(target: str) -> None:
    """A user's symlink there would decide where root writes."""
    with pytest.raises(TraitRefused, match="must be outside"):
        check_inherited(Config({"DS01Spawner": {"volumes": {"/srv/shared": target}}}))


@pytest.mark.parametrize("mode", ["ro,z", "rw,shared", "x"])
def test_an_unknown_mode_of_a_mount_is_refused(mode: str) -> None:
    volumes = {"/srv/data": {"bind": "/data", "mode": mode}}
    with pytest.raises(TraitRefused, match="Write 'ro' or 'rw'"):
        check_inherited(Config({"DS01Spawner": {"volumes": volumes}}))


def test_a_refused_trait_is_refused_in_a_groups_override_too() -> None:
    override = {"staff": {"groups": ["staff"], "spawner_override": {"image": "x"}}}
    with pytest.raises(TraitRefused, match=r"image in c\.Spawner\.group_overrides"):
        check_inherited(Config({"Spawner": {"group_overrides": override}}))


def test_what_is_honoured_passes() -> None:
    check_inherited(
        Config({"DS01Spawner": {"volumes": {"/srv/{username}": "/x"}, "mem_limit": "4G"}})
    )
