"""From a request to a derived image that is there: base, recipe, build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jupyterhub

from ds01_spawner.core.build_plan import BuildPlan
from ds01_spawner.core.build_site import BuildSite
from ds01_spawner.core.container import Mount
from ds01_spawner.core.dockerfile import derived_plan, run_environment
from ds01_spawner.core.options import Offer, Request
from ds01_spawner.core.recipe import BUILT_BY, Recipe, image_name
from ds01_spawner.core.server_image import SERVER_ROOT, ServerRecipe
from ds01_spawner.services import wiring
from ds01_spawner.services.base_images import BaseImages
from ds01_spawner.services.build_record import BuildEvent
from ds01_spawner.services.builder import Builder, MadeImages, Remembered
from ds01_spawner.services.engine import Engine
from ds01_spawner.services.image_files import image_files
from ds01_spawner.services.ledger import Ledger
from ds01_spawner.services.reconciler import InLedger
from ds01_spawner.services.server_volume import ServerVolume
from ds01_spawner.services.settings import Settings

UNKNOWN = "<digest>"  # what follows from an image that is not here
NO_BASE = "ds01-base:unknown"


@dataclass(frozen=True, slots=True)
class ReadyImage:
    """A derived image that is on the engine."""

    name: str  # ds01-<user key>/<project>:<digest>
    digest: str  # of its recipe
    environment: Callable[[str], dict[str, str]]  # home folder -> what it needs to know in there
    server: Mount  # the notebook server


class _InLedger(MadeImages):
    def __init__(self, in_ledger: InLedger) -> None:
        self._in_ledger = in_ledger

    async def image_of(self, recipe: str) -> str | None:
        return await self._in_ledger(Ledger.image_of, recipe)

    async def set_image(self, recipe: str, image: str) -> None:
        await self._in_ledger(Ledger.set_image, recipe, image)


class Images:
    """The derived images of one hub.

    `in_ledger` runs a method of the ledger, which remembers what was built; without it, what this
    process did not build is built.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        in_ledger: InLedger | None = None,
        *,
        of_command: bool = False,
    ) -> None:
        self._bases = BaseImages(
            engine,
            settings.image_map,
            wiring.registry_logins(settings),
            timeout_s=settings.pull_timeout,
        )
        self._hub, self._site = settings.hub_id, wiring.build_site(settings)
        self._network = wiring.build_network(engine, settings, self._site, of_command)
        self._builder = Builder(
            engine,
            concurrency=settings.build_concurrency,
            memory=settings.build_memory,
            cpus=settings.build_cpus,
            timeout_s=settings.build_timeout,
            log_dir=Path(settings.data_dir) / "builds",
            now=wiring.now,
            made=_InLedger(in_ledger) if in_ledger else Remembered(),
            network=self._network,
            gate_image=self._gate_image,
        )

        self._server_image = settings.server_image
        server = ServerRecipe(settings.server_image, jupyterhub.__version__, self._site.fingerprint)
        self._server_mount = Mount(server.volume, SERVER_ROOT, read_only=True)
        self._server = ServerVolume(
            engine, self._builder, self._bases, server, self._site, settings.hub_id
        )

    async def _gate_image(self) -> str:
        """That in which the notebook server is made: it has a Python, whatever the others have."""
        return (await self._bases.resolve(self._server_image, lambda event: None)).tag

    async def ready(
        self, request: Request, user: str, offer: Offer, on_event: Callable[[BuildEvent], None]
    ) -> ReadyImage:
        """The image of the request: found, or built, or joined while it is built.

        Raises ImageMissing, BaseImageRefused, BuildFailed, BuildNetworkUnusable,
        ServerVolumeUnusable or EngineUnavailable.
        """
        await self._server.ready(on_event)
        base = await self._bases.resolve(request.entry.image, on_event)
        recipe = self.recipe_of(request, offer, base.identity)
        image = self._image(recipe, user, request)
        await self._builder.ensure(self._plan(recipe, image.name, base.tag), on_event)
        return image

    async def prebuild(
        self,
        request: Request,
        offer: Offer,
        repository: str,
        on_event: Callable[[BuildEvent], None],
    ) -> str:
        """Have the image of a request before anybody asks for it; its name in this repository.

        Raises as `ready`.
        """
        await self._server.ready(on_event)
        base = await self._bases.resolve(request.entry.image, on_event)
        recipe = self.recipe_of(request, offer, base.identity)
        name = f"{repository}:{recipe.short}"
        await self._builder.ensure(self._plan(recipe, name, base.tag), on_event)
        return name

    def builds(self, recipe: str) -> bool:
        """Whether the recipe of this digest is being built by this process."""
        return self._builder.builds(recipe)

    async def base_of(self, image: str) -> str | None:
        """What the image of a catalog row is known by, where it is on this host."""
        base = await self._bases.find(image)
        return base.identity if base else None

    async def sweep(self) -> None:
        """Remove what builds left behind; raises EngineUnavailable."""
        await self._network.sweep()

    async def preview(self, request: Request, user: str, offer: Offer) -> tuple[ReadyImage, str]:
        """The image that `ready` would give, and its Dockerfile; changes nothing.

        Where the catalog's image is not on this host, what follows from it is `<digest>`.
        """
        base = await self._bases.find(request.entry.image)
        recipe = self.recipe_of(request, offer, base.identity if base else UNKNOWN)
        image = self._image(recipe, user, request)
        tag = base.tag if base else NO_BASE
        dockerfile = self._plan(recipe, image.name, tag).dockerfile
        if base is None:
            dockerfile = dockerfile.replace(NO_BASE, UNKNOWN)
            image = replace(image, name=image.name.replace(recipe.short, UNKNOWN), digest=UNKNOWN)
        return image, dockerfile

    def recipe_of(self, request: Request, offer: Offer, base: str) -> Recipe:
        """The recipe of a request on the framework image that is known by `base`."""
        return Recipe(
            base=base,
            framework=request.entry.framework,
            version=request.entry.version,
            architecture=request.architecture,
            bundle_pip=tuple(p for name in request.bundles for p in offer.bundles[name]),
            pip=request.pip,
            apt=request.apt,
            allow_source=offer.packages.allow_source,
            site=self._site.fingerprint,
        )

    def _plan(self, recipe: Recipe, name: str, base_tag: str) -> BuildPlan:
        plan = plan_of(recipe, name, base_tag, self._site)
        return replace(plan, labels={**plan.labels, BUILT_BY: self._hub})

    def _image(self, recipe: Recipe, user: str, request: Request) -> ReadyImage:
        return ReadyImage(
            image_name(recipe, user, request.project),
            recipe.digest,
            lambda home: run_environment(recipe, self._site, home),
            self._server_mount,
        )


def plan_of(recipe: Recipe, name: str, base_tag: str, site: BuildSite) -> BuildPlan:
    """How the recipe's image is built on this site, with the scripts of this package."""
    scripts = {**image_files("common"), **image_files("derived")}
    return derived_plan(recipe, name, base_tag, site, scripts)
