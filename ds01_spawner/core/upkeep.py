"""Which derived images go: those that nobody used for long, and the oldest beyond a budget.

What is in use stays, and so does what is not known to be ours. Sizes are of layers, each counted
once however many images have it; those of the framework images do not count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ds01_spawner.core.units import format_size

JUST_USED = timedelta(hours=1)  # a start may have it whose container is still to be made


@dataclass(frozen=True, slots=True)
class Held:
    """One derived image on the engine.

    `names` are ours, `others` are names of it that are not. `known` is whether the ledger says
    that it was built of its recipe. `in_use` says by what, `stale` why it would be built anew.
    """

    id: str
    names: tuple[str, ...]
    others: tuple[str, ...]
    owners: Mapping[str, str]  # name -> whose it is
    known: bool
    recipe: str
    base: str
    used: datetime  # or when it was made, if that is all that is known
    in_use: tuple[str, ...]
    stale: str
    layers: Mapping[str, int] = field(default_factory=dict)  # on top of the framework's, in bytes

    def why_kept(self, now: datetime) -> str:
        """Why it may not be removed now; empty: it may."""
        if not self.known:
            return "the ledger does not know it"
        if self.others:
            return f"it is also called {self.others[0]}"
        if self.in_use:
            return self.in_use[0]
        return "it was used a moment ago" if now - self.used < JUST_USED else ""

    @property
    def size(self) -> int:
        """Bytes, those that it shares with other derived images included."""
        return sum(self.layers.values())


@dataclass(frozen=True, slots=True)
class Removal:
    """An image that goes, why, and what the disk gets back."""

    image: Held
    why: str
    freed: int


def total(images: Iterable[Held]) -> int:
    """Bytes of all of them together."""
    return sum(_layers(images).values())


def _layers(images: Iterable[Held]) -> dict[str, int]:
    return {layer: size for image in images for layer, size in image.layers.items()}


def removals(
    images: Collection[Held], now: datetime, *, days: int, budget: int | None
) -> tuple[Removal, ...]:
    """What goes, in its order: unused for more than `days`, then until all fit into `budget`.

    `budget` in bytes; None: there is none. Of those that may go, the longest unused goes first.
    """
    left = {image.id: image for image in images}
    found = []
    for image in sorted(images, key=lambda image: (image.used, image.id)):
        if image.why_kept(now):
            continue
        idle = now - image.used
        if idle > timedelta(days=days):
            why = f"nobody used it for {idle.days} days"
        elif budget is not None and total(left.values()) > budget:
            why = f"all together are more than {format_size(budget)}"
        else:
            continue
        del left[image.id]
        shared = _layers(left.values())
        freed = sum(size for layer, size in image.layers.items() if layer not in shared)
        found.append(Removal(image, why, freed))
    return tuple(found)
