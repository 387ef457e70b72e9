"""From a request to a derived image that is there: base, recipe, build."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jupyterhub

from ds01_spawner.core.dockerfile import build_context
from ds01_spawner.core.options import Request
from ds01_spawner.core.policy import PackageRules
from ds01_spawner.core.recipe import Recipe, image_name
from ds01_spawner.services import wiring
from ds01_spawner.services.base_images import BaseImages
from ds01_spawner.services.build_record import BuildEvent
from ds01_spawner.services.builder import Builder, derived_scripts
from ds01_spawner.services.engine import Engine
from ds01_spawner.services.settings import Settings


@dataclass(frozen=True, slots=True)
class ReadyImage:
    """A derived image that is on the engine."""

    name: str  # ds01-<user key>/<project>:<digest>
    digest: str  # of its recipe


class Images:
    """The derived images of one hub."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._bases = BaseImages(engine, settings.image_map)
        self._site = wiring.build_site(settings)
        self._builder = Builder(
            engine,
            concurrency=settings.build_concurrency,
            memory=settings.build_memory,
            cpus=settings.build_cpus,
            timeout_s=settings.build_timeout,
            log_dir=wiring.data_folder(settings) / "builds",
            now=wiring.now,
            buildargs=self._site.build_args,
        )

    async def ready(
        self,
        request: Request,
        user: str,
        bundles: Mapping[str, tuple[str, ...]],
        rules: PackageRules,
        on_event: Callable[[BuildEvent], None],
    ) -> ReadyImage:
        """The image of the request: found, or built, or joined while it is built.

        Raises ImageMissing, BaseImageRefused, BuildFailed or EngineUnavailable.
        """
        base = await self._bases.resolve(request.entry.image, on_event)
        recipe = Recipe(
            base=base.identity,
            framework=request.entry.framework,
            version=request.entry.version,
            architecture=request.architecture,
            hub_major=jupyterhub.version_info[0],
            bundle_pip=tuple(p for name in request.bundles for p in bundles[name]),
            pip=request.pip,
            apt=request.apt,
            allow_source=rules.allow_source,
            site=self._site.fingerprint,
        )
        name = image_name(recipe, user, request.project)

        def context() -> dict[str, bytes]:
            return build_context(recipe, base.tag, self._site, derived_scripts())

        await self._builder.ensure(recipe, name, base.tag, context, on_event)
        return ReadyImage(name, recipe.digest)
