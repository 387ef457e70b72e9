"""The policy file: text -> limits of users and groups, presets, bundles, package rules.

DS01's `resource-limits.yaml`, both generations, and its `user-overrides.yaml` are read as they
are. A key is applied, or known to DS01 and told as a notice, or refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ds01_spawner.core.bundles import BUNDLES
from ds01_spawner.core.catalog import CatalogEntry
from ds01_spawner.core.exemptions import Exemption
from ds01_spawner.core.runs import RunsOn
from ds01_spawner.core.sharing import Sharing
from ds01_spawner.errors import Finding

NO_GROUP = "(none)"  # the group of a user whom no group matches, where the file names no default

__all__ = [
    "NO_GROUP", "CustomImage", "Finding", "Group", "PackageRules", "Policy", "Preset", "parse",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class PackageRules:
    """Which packages users may name. None: all."""

    allow_urls: bool = False
    allow_source: bool = False
    max_pip: int = 200
    max_apt: int = 20
    pip_allow: tuple[str, ...] | None = None
    apt_allow: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Preset:
    """An environment with a title, published by an admin."""

    name: str
    title: str
    framework: str
    description: str = ""
    groups: tuple[str, ...] | None = None  # who sees it; None: everyone
    version: str = "latest"
    architecture: str | None = None
    bundles: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    apt: tuple[str, ...] = ()
    gpus: int | None = None
    gpu: str | None = None
    gpu_memory: str | None = None
    cpus: float | None = None
    memory: str | None = None  # as in the options: "16G"
    hours: float | None = None
    recommended: bool = False
    allow: frozenset[str] = frozenset()  # the options a user may change beside it

    def options(self) -> dict[str, Any]:
        """The `user_options` that this preset stands for."""
        shown = asdict(self)
        for own in ("name", "title", "description", "groups", "recommended", "allow"):
            del shown[own]
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in shown.items()
            if value is not None and value != ()
        }


@dataclass(frozen=True, slots=True)
class CustomImage:
    """An image of the admin's own: a row beside the catalog's, of which its name is the version."""

    entry: CatalogEntry
    groups: tuple[str, ...] | None = None  # who may have it; None: everyone


@dataclass(frozen=True, slots=True)
class Group:
    """What a group sets, and who is in it besides JupyterHub's members."""

    limits: Mapping[str, Any] = field(default_factory=dict)
    members: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that was read without a problem. Without a file: the built-in limits for all.

    Limits are by DS01's names, in bytes, hours and GPU-equivalents; only what was written is
    there, and None is "no limit".
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)  # in file order
    users: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    default_group: str | None = None
    images: Mapping[str, CustomImage] = field(default_factory=dict)  # in file order
    presets: Mapping[str, Preset] = field(default_factory=dict)
    bundles: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(BUNDLES))
    packages: PackageRules = field(default_factory=PackageRules)
    runs_on: Mapping[str, RunsOn] = field(default_factory=dict)  # by pattern, in file order
    sharing: Sharing | None = None
    exemptions: tuple[Exemption, ...] = ()
    notices: tuple[Finding, ...] = ()

    def group_of(self, user: str, groups: Iterable[str] = ()) -> str:
        """The user's one group: the first of the file that JupyterHub or the file puts them in."""
        named = set(groups)
        for name, group in self.groups.items():
            if name in named or user in group.members:
                return name
        return self.default_group or NO_GROUP

    def images_of(self, user: str, groups: Iterable[str] = ()) -> tuple[CatalogEntry, ...]:
        """The custom images that a user may have, in file order."""
        theirs = self._all_groups_of(user, groups)
        return tuple(i.entry for i in self.images.values() if _is_for(theirs, i.groups))

    def presets_of(self, user: str, groups: Iterable[str] = ()) -> dict[str, Preset]:
        """The presets that a user may see, in file order; none of an image they may not have."""
        theirs = self._all_groups_of(user, groups)
        denied = {
            (image.entry.framework, name)
            for name, image in self.images.items()
            if not _is_for(theirs, image.groups)
        }
        return {
            name: preset
            for name, preset in self.presets.items()
            if _is_for(theirs, preset.groups) and (preset.framework, preset.version) not in denied
        }

    def _all_groups_of(self, user: str, groups: Iterable[str]) -> set[str]:
        """Those of JupyterHub, those that the file puts the user in, and the one that counts."""
        listed = (name for name, group in self.groups.items() if user in group.members)
        return {*groups, *listed, self.group_of(user, groups)}


def _is_for(groups: Collection[str], named: Collection[str] | None) -> bool:
    """Whether what is for the named groups, or for everyone, is for somebody in `groups`."""
    return named is None or not set(groups).isdisjoint(named)


def parse(
    text: str,
    members: Mapping[str, Iterable[str]] | None = None,
    source: str = "policy",
    *,
    overrides: str | None = None,
    overrides_source: str = "user-overrides.yaml",
) -> Policy:
    """Read a policy; `members` are those of the members files by group.

    `overrides` is the text of DS01's separate file of users, which wins over `user_overrides`
    user by user. Raises PolicyRefused with every problem, each with file, line and hint.
    """
    from ds01_spawner.core.policy_reader import read_policy  # it needs the classes above

    return read_policy(text, members or {}, source, overrides, overrides_source)
