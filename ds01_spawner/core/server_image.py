"""The notebook server: made once for each version of JupyterHub, mounted by every server.

It has a Python, a loader and C libraries of its own (images/server), so that it runs in images
whose Python is too old for it or absent, and never touches the framework's packages. A derived
image has nothing of it: a newer hub makes no image stale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ds01_spawner.core.build_plan import BUILD_UID, BuildPlan, Step, build_files, first_steps, run
from ds01_spawner.core.build_site import ROOT, BuildSite

SERVER_ROOT = f"{ROOT}/server"
SERVER_COMMAND = f"{SERVER_ROOT}/bin/jupyterhub-singleuser"
# To be raised when images/server, images/common or the Dockerfile changes what is in it.
SERVER_VERSION = 1
OLDEST_PYTHON = ("3", "10")
_TITLE = "Notebook server"


@dataclass(frozen=True, slots=True)
class ServerRecipe:
    """All that decides what is in it."""

    image: str  # in which it is made, as the configuration has it
    hub: str  # version of JupyterHub
    site: str = ""  # BuildSite.fingerprint
    version: int = SERVER_VERSION

    @property
    def digest(self) -> str:
        """64 hex digits, the same on every machine for the same recipe."""
        told = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(told.encode()).hexdigest()

    @property
    def volume(self) -> str:
        """The name of the volume that has it."""
        return f"ds01-server.{self.digest[:16]}"

    @property
    def labels(self) -> dict[str, str]:
        """Labels of its image and its volume."""
        return {"ds01.server.recipe": self.digest, "ds01.server.hub": self.hub}


def server_plan(
    recipe: ServerRecipe, base_tag: str, site: BuildSite, scripts: Mapping[str, bytes]
) -> BuildPlan:
    """How its image is built; `scripts` are the files of images/common and images/server."""
    steps = (
        *first_steps(base_tag, _TITLE, _TITLE),
        Step(_TITLE, run("python.sh", *OLDEST_PYTHON)),
        Step(_TITLE, run("server.sh", recipe.hub)),
        Step(_TITLE, f"USER {BUILD_UID}:{BUILD_UID}"),
        Step(_TITLE, run("prove.sh")),
        Step(_TITLE, "ENTRYPOINT []"),
        Step(_TITLE, "CMD []"),
    )
    return BuildPlan(
        digest=recipe.digest,
        name=f"ds01-server:{recipe.digest[:16]}",
        base_tag=base_tag,
        steps=steps,
        labels=recipe.labels,
        files=build_files(site, scripts),
    )
