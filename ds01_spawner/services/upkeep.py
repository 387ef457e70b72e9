"""The derived images of an engine: what they are, and the removal of those that are not needed.

An image is ours by its labels and by its name; it is removed only if the ledger knows it, too. A
name is removed only if it is one that this hub gave.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from ds01_spawner.core.catalog import Catalog
from ds01_spawner.core.options import Offer, Request
from ds01_spawner.core.own_images import OwnEnvironment, is_ours, own_name
from ds01_spawner.core.recipe import BUILT_BY, RECIPE_VERSION
from ds01_spawner.core.slugs import slug
from ds01_spawner.core.upkeep import Held, Removal, removals
from ds01_spawner.errors import BaseImageRefused
from ds01_spawner.services.base_images import REPOSITORY
from ds01_spawner.services.builder import LATEST
from ds01_spawner.services.engine import Engine, EngineConflict, EngineNotFound, Json
from ds01_spawner.services.images import Images
from ds01_spawner.services.ledger import Ledger

PRESETS = "ds01_presets"  # no user's namespace begins so
FORGET_AFTER = timedelta(days=365)
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class NamedPreset:
    """A preset as what it asks for, whoever asks."""

    name: str
    request: Request
    offer: Offer


def preset_repository(hub: str, preset: str) -> str:
    """Where the prebuilt images of a hub's preset are named."""
    return f"{PRESETS}/{slug(hub)}/{slug(preset)}"


class Upkeep:
    """The derived images of one hub's ledger on one engine."""

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        images: Images,
        *,
        hub: str,
        catalog: Catalog,
        presets: Iterable[NamedPreset],
    ) -> None:
        self._engine, self._ledger, self._images = engine, ledger, images
        self._hub, self._catalog = hub, catalog
        self._presets = tuple(presets)
        self._bases: dict[str, str | None] = {}
        self._asking = asyncio.Semaphore(AT_ONCE)

    async def look(self) -> tuple[Held, ...]:
        """All derived images, the last used first. Raises EngineUnavailable and the ledger's."""
        found = await self._engine.list_images({})
        ours = [image for image in found if self._is_ours(image)]
        containers = await self._engine.list_containers({}, all=True)
        framework = await self._layers(i for i in found if _is_base(i))
        layers = await self._layers(ours)
        wanted = await self._wanted()
        known, started = self._ledger.images(), self._ledger.all_environments()
        users = {one.image: one.user for one in started}
        held = []
        for image in ours:
            labels = image.get("Labels") or {}
            names, others = self._names(image, users)
            recipe = str(labels.get("ds01.recipe"))
            held.append(Held(
                id=str(image["Id"]),
                names=names,
                others=others,
                owners={n: _owner(n, users) for n in (*names, *others) if self._tells(n, labels)},
                known=known.get(recipe) == image["Id"],
                recipe=recipe,
                base=str(labels.get("ds01.base", "")),
                used=_last_use(image, started),
                in_use=(*_containers_of(image, containers), *wanted.get(recipe, ())),
                stale=await self._stale(labels),
                layers={k: v for k, v in layers[image["Id"]].items() if k not in framework["all"]},
            ))  # fmt: skip
        return tuple(sorted(held, key=lambda one: one.used, reverse=True))

    async def prune(
        self, now: datetime, *, days: int, budget: int | None, dry_run: bool
    ) -> tuple[Removal, ...]:
        """Remove what `core.upkeep` says, or with `dry_run` only tell it; what was removed.

        What came into use meanwhile stays. Environments that users have not started for a year
        are forgotten if their images are gone.
        """
        images = await self.look()
        going = removals(images, now, days=days, budget=budget)
        if dry_run:
            return going
        running = await self._engine.list_containers({}, all=False)
        self._ledger.note_in_use(str(container.get("Image")) for container in running)
        gone = [removal for removal in going if await self._remove(removal.image)]
        here = {name for image in images for name in image.names} - {
            name for removal in gone for name in removal.image.names
        }
        self._ledger.forget_unused(now - FORGET_AFTER, here)
        return tuple(gone)

    async def _remove(self, image: Held) -> bool:
        """Remove all names, and the image with the last one; False: it is in use now."""
        try:
            there = (await self._engine.inspect_image(image.id)).get("RepoTags") or ()
            if set(there) - set(image.names):  # it got a name since
                return False
            for container in await self._engine.list_containers({}, all=True):
                if container.get("ImageID") == image.id:
                    return False
            # The name that tells what it is goes last.
            for name in sorted(image.names, key=lambda name: not name.endswith(f":{LATEST}")):
                with suppress(EngineNotFound):
                    await self._engine.remove_image(name)
        except EngineNotFound:
            pass
        except EngineConflict:
            return False
        self._ledger.forget_image(image.recipe, image.id)
        return True

    # --- what is known of an image ---------------------------------------------------------------

    def _names(
        self, image: Json, users: Mapping[str, str]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names that this hub gave it, and others."""
        names, labels = [str(n) for n in image.get("RepoTags") or ()], image.get("Labels") or {}
        by_us = labels.get(BUILT_BY) == self._hub
        given = {n for n in names if n in users or (by_us and self._tells(n, labels))}
        given |= {f"{name.rpartition(':')[0]}:{LATEST}" for name in given}
        ours = tuple(name for name in names if name in given)
        return ours, tuple(name for name in names if name not in given)

    def _is_ours(self, image: Json) -> bool:
        labels = image.get("Labels") or {}
        return any(self._tells(str(name), labels) for name in image.get("RepoTags") or ())

    def _tells(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether we give such names, and the labels are of the image that it was made for.

        Of one that says of no hub that it built it, the ledger alone can tell.
        """
        labels = {BUILT_BY: self._hub, **labels}
        own = own_name(name)
        if own is not None:
            return is_ours(own.digest, labels, self._hub)
        repository, _, tag = name.rpartition(":")
        return repository.startswith(f"{PRESETS}/") and is_ours(tag, labels, self._hub)

    async def _wanted(self) -> Mapping[str, tuple[str, ...]]:
        """Recipe -> the presets that need its image."""
        wanted: dict[str, tuple[str, ...]] = {}
        for preset in self._presets:
            base = await self._base(preset.request.entry.image)
            if base is not None:
                recipe = self._images.recipe_of(preset.request, preset.offer, base).digest
                wanted[recipe] = (*wanted.get(recipe, ()), f"the preset {preset.name}")
        return wanted

    async def _stale(self, labels: Mapping[str, str]) -> str:
        what = (labels.get(f"ds01.{key}", "") for key in ("framework", "version", "arch"))
        entry = self._catalog.find(*what)
        if entry is None:
            return "the catalog has its framework no more"
        if labels.get("ds01.recipe_version") != str(RECIPE_VERSION):
            return "environments are made in another way now"
        base = await self._base(entry.image)
        return "" if base in (None, labels.get("ds01.base")) else "its framework image was renewed"

    async def _base(self, image: str) -> str | None:
        if image not in self._bases:
            self._bases[image] = None
            with suppress(BaseImageRefused):
                self._bases[image] = await self._images.base_of(image)
        return self._bases[image]

    async def _layers(self, images: Iterable[Json]) -> dict[str, dict[str, int]]:
        """The layers of images by their ids, and of `all` of them."""
        ids = [str(image["Id"]) for image in images]
        found = await asyncio.gather(*map(self._layers_of, ids))
        every = {layer: size for layers in found for layer, size in layers.items()}
        return {**dict(zip(ids, found, strict=True)), "all": every}

    async def _layers_of(self, id: str) -> dict[str, int]:
        """A layer is known by all that was done up to it, and when: so the engine shares them."""
        async with self._asking:
            try:
                history = await self._engine.history(id)
            except EngineNotFound:
                return {}
        layers, done = {}, hashlib.sha256()
        for step in reversed(history):
            told = [step.get(key) for key in ("CreatedBy", "Created", "Size")]
            done.update(json.dumps(told).encode())
            if step.get("Size"):
                layers[done.hexdigest()] = int(step["Size"])
        return layers


def _is_base(image: Json) -> bool:
    return any(str(name).startswith(f"{REPOSITORY}:") for name in image.get("RepoTags") or ())


def _owner(name: str, users: Mapping[str, str]) -> str:
    own = own_name(name)
    return users.get(name) or (own.owner if own else "")


def _last_use(image: Json, started: Iterable[OwnEnvironment]) -> datetime:
    names = image.get("RepoTags") or ()
    uses = [one.used for one in started if one.used and one.image in names]
    return max(uses, default=datetime.fromtimestamp(image.get("Created") or 0, timezone.utc))


def _containers_of(image: Json, containers: Collection[Json]) -> tuple[str, ...]:
    names = (
        str((container.get("Names") or [container["Id"][:12]])[0]).lstrip("/")
        for container in containers
        if container.get("ImageID") == image["Id"]
    )
    return tuple(f"the container {name}" for name in names)
