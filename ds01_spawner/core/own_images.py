"""What a user has: environments that were started, each with its image and the way back to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ds01_spawner.core.build_plan import DIGEST_CHARS
from ds01_spawner.core.options import ALWAYS_WITH_PRESET, Offer, Request
from ds01_spawner.core.recipe import BUILT_BY, MANAGED
from ds01_spawner.core.slugs import MAX_SLUG, slug

_SLUG = rf"[a-z0-9][a-z0-9-]{{0,{MAX_SLUG - 1}}}"
_NAME = re.compile(rf"(ds01-({_SLUG})/({_SLUG})):([0-9a-f]{{{DIGEST_CHARS}}})")
_UNITS = ((30, "G"), (20, "M"), (10, "K"))


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in an environment; the packages of its bundles are not in `pip`, if they are known.

    Of an image that only its labels tell of, they are.
    """

    framework: str
    version: str
    architecture: str
    bundles: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    apt: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnEnvironment:
    """One environment of a user.

    `options` start it again. `used` is None where only the image itself tells of it. `here` is
    whether the image is on the engine, None while that is not known.
    """

    user: str
    project: str
    image: str  # its name
    recipe: str
    contents: Contents
    options: Mapping[str, Any]
    used: datetime | None = None
    here: bool | None = None

    @property
    def key(self) -> str:
        """What tells it from the user's others, fit for a form: `<project's slug>:<digest>`."""
        return self.image.partition("/")[2]


@dataclass(frozen=True, slots=True)
class OwnName:
    """The parts of the name of a user's derived image."""

    repository: str
    owner: str  # the user's key
    project: str  # its slug
    digest: str


def own_name(name: str) -> OwnName | None:
    """The parts of a name that is in the namespace of users' derived images; None: it is not."""
    match = _NAME.fullmatch(name)
    return OwnName(*match.groups()) if match else None


def is_ours(digest: str, labels: Mapping[str, str], hub: str) -> bool:
    """Whether the labels are of an image that this hub built, of the recipe with this digest."""
    ours = labels.get(MANAGED) == "true" and labels.get(BUILT_BY) == hub
    return ours and labels.get("ds01.recipe", "")[:DIGEST_CHARS] == digest


def of_labels(user: str, name: str, labels: Mapping[str, str], hub: str) -> OwnEnvironment | None:
    """The environment that an image tells of; None where it is not one of this user's."""
    own = own_name(name)
    if own is None or own.owner != slug(user) or not is_ours(own.digest, labels, hub):
        return None
    pip, apt = (tuple(labels.get(f"ds01.{kind}", "").splitlines()) for kind in ("pip", "apt"))
    framework, version, architecture = (
        labels.get(f"ds01.{key}", "") for key in ("framework", "version", "arch")
    )
    what = Contents(framework, version, architecture, pip=pip, apt=apt)
    options: dict[str, Any] = {
        "framework": what.framework,
        "version": what.version,
        "architecture": what.architecture,
        "project": own.project,
        "pip": list(pip),
        "apt": list(apt),
    }
    options = {key: value for key, value in options.items() if value}
    return OwnEnvironment(user, own.project, name, labels["ds01.recipe"], what, options, here=True)


def contents_of(request: Request) -> Contents:
    """What is in the environment that a request asks for."""
    return Contents(
        request.entry.framework,
        request.entry.version,
        request.architecture,
        request.bundles,
        request.pip,
        request.apt,
    )


def options_of(request: Request, offer: Offer) -> dict[str, Any]:
    """The user_options that ask for the very same again: "latest" is what it was then.

    Of a preset, its name and what the user had otherwise: what it is made of stays the admin's.
    """
    options = _all_options(request)
    preset = offer.presets.get(request.preset or "")
    if preset is None:
        return options
    allowed, given = ALWAYS_WITH_PRESET | preset.allow, preset.options()
    chosen = {k: v for k, v in options.items() if k in allowed and given.get(k) != v}
    return {"preset": preset.name, **chosen}


def _all_options(request: Request) -> dict[str, Any]:
    options: dict[str, Any] = {
        "framework": request.entry.framework,
        "version": request.entry.version,
        "project": request.project,
        "gpus": request.gpus,
        "bundles": list(request.bundles),
        "pip": list(request.pip),
        "apt": list(request.apt),
        "cpus": request.cpus,
        "hours": request.hours,
        "memory": _size(request.memory) if request.memory else None,
    }
    if request.needs and request.needs.architectures == (request.architecture,):
        options["architecture"] = request.architecture  # it was wished for, or is the only one
    if request.gpus:
        options["gpu"] = request.gpu
        options["gpu_memory"] = _gpu_memory(request.gpu_memory) if request.gpu_memory else None
    return {key: value for key, value in options.items() if value not in (None, [])}


def _size(size: int) -> str:
    """A size that `units.parse_size` reads as just these bytes."""
    for bits, suffix in _UNITS:
        if size % (1 << bits) == 0:
            return f"{size >> bits}{suffix}"
    millionths = -(-size * 10**6 // 1024)  # rounded up, for it rounds down
    return f"{millionths // 10**6}.{millionths % 10**6:06}K"


def _gpu_memory(size: int) -> str:
    """A size that `units.parse_gpu_memory` reads as just these bytes."""
    return _size(-(-size * 1024**3 // 1000**3))
