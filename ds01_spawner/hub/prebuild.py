"""The presets' environments, built before anybody waits for them, and the upkeep of all images.

What a preset asks for is found by the one way of a start (`offer_of`, `options.parse`), for
somebody without limits and without a GPU: its image is the same for everyone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ds01_spawner.core.limits import Limits, effective
from ds01_spawner.core.options import Offer, parse
from ds01_spawner.core.policy import Policy
from ds01_spawner.errors import DS01Error, NoDiskSpace
from ds01_spawner.hub.offers import Ceilings, offer_of
from ds01_spawner.services import wiring
from ds01_spawner.services.build_record import BuildEvent
from ds01_spawner.services.engine import Engine, EngineNotFound, EngineRefused
from ds01_spawner.services.images import Images
from ds01_spawner.services.injection import chosen
from ds01_spawner.services.inventory.base import Inventory
from ds01_spawner.services.ledger import Ledger
from ds01_spawner.services.settings import Settings
from ds01_spawner.services.upkeep import NamedPreset, Upkeep, preset_repository

T = TypeVar("T")
OF_IMAGES = ("framework", "version", "architecture", "bundles", "pip", "apt")
BUILT, THERE, TO_BUILD, FAILED = "built", "there", "to build", "failed"


@dataclass(frozen=True, slots=True)
class Prebuilt:
    """What became of a preset's environment: `built`, `there`, `to build` or `failed`, and why."""

    preset: str
    image: str  # its name; empty where that is not known
    result: str
    why: str = ""


class Prebuilding:
    """The presets of one hub. `known` is whether it is known what they need on this host."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        ledger: Ledger,
        images: Images,
        presets: tuple[NamedPreset, ...],
        refused: tuple[Prebuilt, ...],
        known: bool,
    ) -> None:
        self._settings, self._engine, self._ledger = settings, engine, ledger
        self._images, self._presets, self._refused = images, presets, refused
        self.known = known

    async def run(
        self, tell: Callable[[str], Callable[[BuildEvent], None]], *, dry_run: bool
    ) -> tuple[Prebuilt, ...]:
        """Build what is not there, one after the other; one that fails stops no other.

        `tell` makes the listener of a preset's build.
        """
        made = [*self._refused]
        for preset in self._presets:
            look = await self._look(preset)
            if look.result == TO_BUILD and not dry_run:
                look = await self._build(preset, tell(preset.name))
            made.append(look)
        return tuple(made)

    async def _look(self, preset: NamedPreset) -> Prebuilt:
        """Whether it is there, changing nothing."""
        try:
            base = await self._images.base_of(preset.request.entry.image)
        except DS01Error as refused:
            return Prebuilt(preset.name, "", FAILED, str(refused))
        if base is None:
            return Prebuilt(preset.name, "", TO_BUILD, "its framework image has to be fetched, too")
        recipe = self._images.recipe_of(preset.request, preset.offer, base)
        name = f"{preset_repository(self._settings.hub_id, preset.name)}:{recipe.short}"
        image = self._ledger.image_of(recipe.digest)
        try:
            names = (await self._engine.inspect_image(image)).get("RepoTags") if image else None
        except EngineNotFound:
            names = None
        return Prebuilt(preset.name, name, THERE if name in (names or ()) else TO_BUILD)

    async def _build(self, preset: NamedPreset, tell: Callable[[BuildEvent], None]) -> Prebuilt:
        repository = preset_repository(self._settings.hub_id, preset.name)
        try:
            free, floor = await self._engine.free_disk(), self._settings.min_free_disk
            if free is not None and free < floor:
                raise NoDiskSpace(free, floor)
            name = await self._images.prebuild(preset.request, preset.offer, repository, tell)
        except (DS01Error, EngineRefused) as error:
            return Prebuilt(preset.name, "", FAILED, str(error))
        return Prebuilt(preset.name, name, BUILT)


async def opened_upkeep(
    settings: Settings, engine: Engine, ledger: Ledger, inventory: Inventory
) -> tuple[Upkeep, Prebuilding]:
    """The images of a hub whose parts are open. Raises what files, engine and devices do."""

    async def in_ledger(method: Callable[..., T], *args: Any) -> T:
        return method(ledger, *args)

    policy = wiring.policy_file(settings).current()
    # Custom images of any group: a preset of one is for those who may have it.
    custom = (image.entry for image in policy.images.values())
    rows = wiring.catalog_file(settings).current().with_rows(custom)
    policy = replace(policy, images={})
    snapshot = await inventory.snapshot()
    way = await chosen(engine, settings.gpu_injection, snapshot)
    anybody = effective(policy, "", (), None)
    offer = offer_of(settings, rows, policy, anybody, Ceilings(), (), snapshot, way)
    presets, refused = named_presets(policy, offer)
    images = Images(engine, settings, in_ledger, of_command=True)
    upkeep = Upkeep(engine, ledger, images, hub=settings.hub_id, catalog=rows, presets=presets)
    known = snapshot.known or not policy.presets
    return upkeep, Prebuilding(settings, engine, ledger, images, presets, refused, known)


def named_presets(
    policy: Policy, offer: Offer
) -> tuple[tuple[NamedPreset, ...], tuple[Prebuilt, ...]]:
    """What the presets ask for here, and why some cannot be had here."""
    offer = replace(offer, presets={}, limits=Limits())
    presets, refused = [], []
    for preset in policy.presets.values():
        options = {key: value for key, value in preset.options().items() if key in OF_IMAGES}
        try:
            asked = parse({**options, "gpus": 0}, offer)
        except DS01Error as error:
            refused.append(Prebuilt(preset.name, "", FAILED, str(error)))
        else:
            presets.append(NamedPreset(preset.name, asked, offer))
    return tuple(presets), tuple(refused)
