"""Which row of the catalog the options mean; nothing ever falls back to another on a typo."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ds01_spawner.core.architectures import why_unavailable
from ds01_spawner.core.catalog import LATEST, CatalogEntry
from ds01_spawner.core.option_fields import shown
from ds01_spawner.errors import FieldProblem

if TYPE_CHECKING:
    from ds01_spawner.core.options import Offer


@dataclass(frozen=True, slots=True)
class Choice:
    """A row of the catalog on one architecture of this host.

    `why` says why no device of it runs the row ("": one does); without a GPU it starts.
    """

    entry: CatalogEntry
    architecture: str
    why: str = ""


def frameworks(offer: Offer) -> tuple[str, ...]:
    """The frameworks that can be chosen, in file order, those that run with a GPU first."""
    barred = (barred.entry.framework for barred in offer.barred)
    return tuple(dict.fromkeys((*offer.catalog.frameworks(offer.architectures), *barred)))


def choices(
    offer: Offer, framework: str, architectures: Collection[str] = ()
) -> tuple[Choice, ...]:
    """A framework's choices on these architectures, or on all of the host.

    In file order, those that run with a GPU first: the first one is "latest". Of two rows with
    one version for one architecture, the first is the one.
    """
    wanted = architectures or offer.architectures
    found = [
        Choice(entry, architecture)
        for entry in offer.catalog.versions(framework, wanted)
        for architecture in offer.architectures
        if architecture in wanted and architecture in entry.architectures
    ]
    found += [
        Choice(barred.entry, barred.architecture, barred.why)
        for barred in offer.barred
        if barred.entry.framework == framework and barred.architecture in wanted
    ]
    first: dict[tuple[str, str], Choice] = {}
    for choice in found:
        first.setdefault((choice.entry.version, choice.architecture), choice)
    return tuple(first.values())


def find(options: Mapping[str, Any], offer: Offer, problems: list[FieldProblem]) -> Choice | None:
    """The choice that the options name; None after telling what is wrong."""
    offered = frameworks(offer)
    framework = options.get("framework")
    if framework is None:
        if "version" in options or "architecture" in options:
            problems.append(FieldProblem("framework", "is missing.", offered))
            return None
        if not offered:
            problems.append(
                FieldProblem("framework", "none of the catalog runs on this server's devices.")
            )
            return None
        framework = offered[0]
    if framework not in offered:
        rows = [e for e in offer.catalog.entries if e.framework == framework]
        why = _why_other_class(rows, offer) or f"{shown(framework)} is not in the catalog."
        problems.append(FieldProblem("framework", why, offered))
        return None
    return _version(framework, options, offer, problems)


def _version(
    framework: str, options: Mapping[str, Any], offer: Offer, problems: list[FieldProblem]
) -> Choice | None:
    wanted = options.get("architecture")
    if wanted is not None and wanted not in offer.architectures:
        problems.append(
            FieldProblem(
                "architecture", f"{shown(wanted)} is not of this server.", offer.architectures
            )
        )
        return None
    version = options.get("version", LATEST)
    offered = choices(offer, framework, (wanted,) if wanted else ())
    for choice in offered:
        if version in (LATEST, choice.entry.version):
            return choice
    rows = [e for e in offer.catalog.entries if (e.framework, e.version) == (framework, version)]
    where = f"here for {wanted}" if wanted else "here"
    what = f"{shown(version)} of {framework} is not offered {where}."
    told = f"{what} {_why_other_class(rows, offer)}".strip()
    problems.append(FieldProblem("version", told, _versions(offered)))
    return None


def only_without_gpu(choice: Choice, options: Mapping[str, Any], offer: Offer) -> FieldProblem:
    """What is wrong with wanting a GPU for a choice that none runs."""
    wanted = options.get("architecture")
    offered = choices(offer, choice.entry.framework, (wanted,) if wanted else ())
    return FieldProblem(
        "version" if "version" in options else "framework",
        f"{choice.why} Without a GPU it can be started.",
        _versions([other for other in offered if not other.why]),
    )


def _versions(offered: Collection[Choice]) -> tuple[str, ...]:
    names = dict.fromkeys(choice.entry.version for choice in offered)
    return (LATEST, *names) if names else ()


def _why_other_class(rows: list[CatalogEntry], offer: Offer) -> str:
    """Why none of these rows is for this host; "" without one, or if one is."""
    whys = [why_unavailable(entry, offer.architectures) for entry in rows]
    return (whys[0] or "") if whys and all(whys) else ""
