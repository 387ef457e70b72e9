"""Catalog images: where this site has them, fetched when missing, known by their digest."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ds01_spawner.core.imagemap import map_image
from ds01_spawner.core.registries import explain_pull
from ds01_spawner.core.slugs import slug
from ds01_spawner.core.units import format_size
from ds01_spawner.errors import BaseImageRefused, ImageMissing, SettingUnusable
from ds01_spawner.services.build_record import BuildEvent
from ds01_spawner.services.engine import Engine, EngineNotFound, EngineRefused, Json
from ds01_spawner.services.registry_logins import RegistryLogins
from ds01_spawner.services.shared_work import SharedWork

# The engine's own steps run in the image, as root: what is loaded into them is not the image's.
LOADER_VARIABLES = ("LD_PRELOAD", "LD_AUDIT")
REPOSITORY = "ds01-base"  # of one part: those of users have two, and cannot meet it
NO_LOGINS = RegistryLogins(None)
_TITLE_PULL = "Fetching the framework image"
_ID_CHARS = 12
_FETCHED = ("Download complete", "Pull complete", "Already exists")


@dataclass(frozen=True, slots=True)
class BaseImage:
    """A catalog image on this host."""

    name: str  # as this site has it
    identity: str  # digest of the registry, or id of an image that was made here: `sha256:…`
    tag: str  # a local name, so that FROM asks no registry
    id: str
    tagged: bool  # whether it has the local name already


class BaseImages:
    """Looks catalog images up, and pulls what is missing, once for all who wait.

    `image_map` are the site's patterns (see core.imagemap), `logins` those of its registries; a
    pull may take `timeout_s` seconds.
    """

    def __init__(
        self,
        engine: Engine,
        image_map: Mapping[str, str],
        logins: RegistryLogins = NO_LOGINS,
        *,
        timeout_s: float = 3600,
    ) -> None:
        self._engine = engine
        self._map = dict(image_map)
        self._logins, self._timeout_s = logins, timeout_s
        self._pulls: SharedWork[BuildEvent, None] = SharedWork()

    async def resolve(self, image: str, on_event: Callable[[BuildEvent], None]) -> BaseImage:
        """The image of a catalog row, here and now. Raises ImageMissing, BaseImageRefused."""
        base = await self.find(image)
        if base is None:
            name = _with_tag(map_image(image, self._map))
            await self._pulls.join(name, functools.partial(self._pull, name), on_event)
            base = await self.find(image)
            if base is None:
                raise ImageMissing(name, "it was fetched and removed again")
        if not base.tagged:
            repository, _, tag = base.tag.rpartition(":")
            await self._engine.tag_image(base.id, repository, tag)
        return base

    async def find(self, image: str) -> BaseImage | None:
        """The image of a catalog row if it is on this host; changes nothing."""
        name = _with_tag(map_image(image, self._map))
        try:
            found = await self._engine.inspect_image(name)
        except EngineNotFound:
            return None
        _check(name, found)
        id = str(found["Id"])
        tag = f"{REPOSITORY}:{slug(image)}-{id.removeprefix('sha256:')[:_ID_CHARS]}"
        tagged = tag in (found.get("RepoTags") or ())
        return BaseImage(name, _identity(name, found), tag, id, tagged)

    async def _pull(self, name: str, tell: Callable[[BuildEvent], None]) -> None:
        progress, login = _PullProgress(tell), None
        try:
            login = await self._logins.of(name)
            pull = self._engine.pull(name, progress.add, login)
            await asyncio.wait_for(pull, self._timeout_s)
        except SettingUnusable as unusable:
            why = "the administrator's file of registry log-ins cannot be used"
            raise ImageMissing(name, why, detail=unusable.message) from unusable
        except EngineRefused as refusal:
            why = explain_pull(refusal.message, logged_in=login is not None)
            raise ImageMissing(name, why, detail=str(refusal)) from refusal
        except asyncio.TimeoutError as late:
            minutes = f"{self._timeout_s / 60:g}"
            raise ImageMissing(name, f"it took longer than {minutes} minutes") from late


class _PullProgress:
    """The engine's progress of each layer -> one line, told when its numbers change visibly."""

    def __init__(self, tell: Callable[[BuildEvent], None]) -> None:
        self._tell = tell
        self._layers: dict[str, tuple[int, int, bool]] = {}  # bytes there, in all, fetched
        self._told = ""

    def add(self, event: Json) -> None:
        layer, status = str(event.get("id") or ""), str(event.get("status") or "")
        if not layer or status.startswith("Pulling from"):
            return
        size = event.get("progressDetail") or {}
        there, total, fetched = self._layers.get(layer, (0, 0, False))
        if status == "Downloading":
            there, total = int(size.get("current") or 0), int(size.get("total") or 0)
        elif status in _FETCHED:
            there, fetched = total, True
        self._layers[layer] = there, total, fetched
        self._say()

    def _say(self) -> None:
        there, total = (sum(layer[i] for layer in self._layers.values()) for i in (0, 1))
        fetched = sum(layer[2] for layer in self._layers.values())
        size = f", {format_size(there)} of {format_size(total)}" if total else ""
        # A new line for each hundredth, not for each packet.
        key = f"{fetched} {len(self._layers)} {there * 100 // total if total else 0}"
        if key != self._told:
            self._told = key
            line = f"{fetched} of {len(self._layers)} layers{size}"
            self._tell(BuildEvent(0, 1, _TITLE_PULL, line))


def _with_tag(name: str) -> str:
    """A name with its tag said: without one, engines may fetch every tag there is."""
    return name if "@" in name or ":" in name.rpartition("/")[2] else f"{name}:latest"


def _identity(name: str, image: Json) -> str:
    """The digest by which the registry knows the image; of several, the one of this name."""
    digests = sorted(str(d) for d in image.get("RepoDigests") or () if "@" in str(d))
    repository = name.partition("@")[0]
    if ":" in repository.rpartition("/")[2]:
        repository = repository.rpartition(":")[0]
    own = [d for d in digests if d.partition("@")[0] == repository]
    best = next(iter(own or digests), None)
    return best.partition("@")[2] if best else str(image["Id"])


def _check(name: str, image: Json) -> None:
    config = image.get("Config") or {}
    if config.get("OnBuild"):
        raise BaseImageRefused(name, "it has ONBUILD instructions, which would run in each build")
    for variable in config.get("Env") or ():
        key = str(variable).partition("=")[0]
        if key in LOADER_VARIABLES:
            raise BaseImageRefused(
                name, f"it sets {key}, which loads code of its own into every program"
            )
