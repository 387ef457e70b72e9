"""What a derived image is made of -> its digest and its name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from ds01_spawner.core.build_plan import DIGEST_CHARS
from ds01_spawner.core.packages import combine
from ds01_spawner.core.slugs import image_repository

# To be raised when images/derived, images/common or the Dockerfile changes what an image has in
# it: a test compares the files with what they were at this version.
RECIPE_VERSION = 5
# The module whose import says that a Python is the framework's own (names as in the catalog).
_MODULES = {"pytorch": "torch", "tensorflow": "tensorflow", "mxnet": "mxnet", "jax": "jax"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what is in a derived image; nothing of whom it is for.

    Package lists come in canonical form (`core.packages`); their order makes no difference.
    """

    base: str  # repo digest, or image id of a local image: `sha256:…`
    framework: str
    version: str
    architecture: str
    bundle_pip: tuple[str, ...] = ()  # the packages of all bundles, in a layer that many share
    pip: tuple[str, ...] = ()
    apt: tuple[str, ...] = ()
    allow_source: bool = False  # policy lets pip build packages that have no wheel
    site: str = ""  # BuildSite.fingerprint: where packages come from
    recipe_version: int = RECIPE_VERSION

    def __post_init__(self) -> None:
        """Bring the lists into their one order."""
        object.__setattr__(self, "bundle_pip", combine(self.bundle_pip))
        object.__setattr__(self, "pip", combine(self.pip))
        object.__setattr__(self, "apt", _sorted(self.apt))

    @property
    def digest(self) -> str:
        """64 hex digits, the same on every machine for the same recipe."""
        told = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(told.encode()).hexdigest()

    @property
    def short(self) -> str:
        """The part of the digest that is in names."""
        return self.digest[:DIGEST_CHARS]

    @property
    def module(self) -> str:
        """The framework's Python module; empty where the framework has none we know."""
        return _MODULES.get(self.framework.lower(), "")


def image_name(recipe: Recipe, user: str, project: str) -> str:
    """The name of a user's derived image: `ds01-<user key>/<project>:<digest>`."""
    return f"{image_repository(user, project)}:{recipe.short}"


def image_labels(recipe: Recipe) -> dict[str, str]:
    """Labels of the image. Nothing personal, and no `ds01.managed`, which containers inherit."""
    return {
        "ds01.image.managed": "true",
        "ds01.recipe": recipe.digest,
        "ds01.recipe_version": str(recipe.recipe_version),
        "ds01.base": recipe.base,
        "ds01.framework": recipe.framework,
        "ds01.version": recipe.version,
        "ds01.arch": recipe.architecture,
        "ds01.pip": "\n".join(combine((*recipe.bundle_pip, *recipe.pip))),
        "ds01.apt": "\n".join(recipe.apt),
    }


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))
