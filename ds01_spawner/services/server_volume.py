"""The volume with the notebook server: filled once, checked once by each hub, mounted by all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from ds01_spawner.core.build_site import BuildSite
from ds01_spawner.core.server_image import SERVER_ROOT, ServerRecipe, server_plan
from ds01_spawner.errors import ServerVolumeUnusable
from ds01_spawner.services.base_images import BaseImages
from ds01_spawner.services.build_record import BuildEvent
from ds01_spawner.services.builder import Builder, to_tar
from ds01_spawner.services.engine import Engine, EngineConflict, EngineNotFound
from ds01_spawner.services.image_files import image_files
from ds01_spawner.services.shared_work import SharedWork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SEED = "ds01.server.seed"  # label of the container that fills or checks: the hub it is of
MARK = ".whole"  # written when all is there: a volume half filled has none
PATIENCE_S = 120.0  # for another hub that is filling it
_BETWEEN_S = 0.5
OnEvent = Callable[[BuildEvent], None]


class ServerVolume:
    """One volume for each recipe on an engine, whichever hubs share it.

    The engine fills a new volume from the image when a container with it is made. Should hub or
    engine end in the middle, what is there has no mark, and is made anew.
    """

    def __init__(
        self,
        engine: Engine,
        builder: Builder,
        bases: BaseImages,
        recipe: ServerRecipe,
        site: BuildSite,
        hub: str,
    ) -> None:
        self._engine, self._builder, self._bases = engine, builder, bases
        self._recipe, self._site, self._hub = recipe, site, hub
        self._known = False  # to be whole; its labels are looked at each time all the same
        self._shared: SharedWork[BuildEvent, None] = SharedWork()

    async def ready(self, on_event: OnEvent) -> None:
        """See that it is there. Raises ServerVolumeUnusable, and what a build raises."""
        if not (self._known and await self._there()):
            await self._shared.join(self._recipe.digest, self._make, on_event)

    async def _make(self, tell: OnEvent) -> None:
        base = await self._bases.resolve(self._recipe.image, tell)
        scripts = {**image_files("common"), **image_files("server")}
        image = await self._builder.ensure(
            server_plan(self._recipe, base.tag, self._site, scripts), tell
        )
        filling = asyncio.ensure_future(self._fill(image))
        try:
            await asyncio.shield(filling)
        except asyncio.CancelledError:
            await asyncio.wait([filling])  # the engine does not stop in the middle
            raise
        self._known = True

    async def _fill(self, image: str) -> None:
        loop = asyncio.get_running_loop()
        for patience in (PATIENCE_S, 0):
            end = loop.time() + patience
            while not await self._filled(image):
                if loop.time() >= end:
                    break
                await asyncio.sleep(_BETWEEN_S)
            else:
                return
            # What an earlier process of this hub, or a lost answer of the engine, left there.
            for seed in await self._engine.list_containers({SEED: self._hub}):
                await self._engine.remove_container(str(seed["Id"]), force=True)
        raise ServerVolumeUnusable(self._recipe.volume)

    async def _filled(self, image: str) -> bool:
        """Whether it is whole now; False while another has it and has not finished."""
        try:
            return await self._look_and_fill(image)
        except EngineConflict:
            return False

    async def _look_and_fill(self, image: str) -> bool:
        if await self._there():
            async with self._seed(image) as seed:
                if await self._marked(seed):
                    return True
        with suppress(EngineNotFound):
            await self._engine.remove_volume(self._recipe.volume)
        async with self._seed(image) as seed:
            mark = {MARK: self._recipe.digest.encode()}
            await self._engine.put_archive(seed, SERVER_ROOT, to_tar(mark))
        return True

    async def _there(self) -> bool:
        """Whether a volume of this name is ours, and not one that a mount made in its absence."""
        try:
            found = await self._engine.inspect_volume(self._recipe.volume)
        except EngineNotFound:
            return False
        return _has(found.get("Labels") or {}, self._recipe.labels)

    async def _marked(self, seed: str) -> bool:
        try:
            mark = await self._engine.read_file(seed, f"{SERVER_ROOT}/{MARK}")
        except EngineNotFound:
            return False
        return mark == self._recipe.digest.encode()

    @asynccontextmanager
    async def _seed(self, image: str) -> AsyncIterator[str]:
        """A container that never runs; making it fills the volume if that is new."""
        volume = {
            "Type": "volume",
            "Source": self._recipe.volume,
            "Target": SERVER_ROOT,
            "VolumeOptions": {"Labels": self._recipe.labels},
        }
        body = {
            "Image": image,
            "Cmd": ["/bin/true"],
            "Labels": {SEED: self._hub},
            "HostConfig": {"NetworkMode": "none", "Mounts": [volume]},
        }
        seed = await self._engine.create_container(f"{self._recipe.volume}.{self._hub}", body)
        try:
            yield seed
        finally:
            await self._engine.remove_container(seed, force=True)


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return wanted.items() <= labels.items()
