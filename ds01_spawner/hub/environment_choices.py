"""The environment part of the form: a card for each framework and each custom image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ds01_spawner.core.architectures import why_unavailable
from ds01_spawner.core.catalog import LATEST, CatalogEntry
from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.environments import Choice, choices, frameworks
from ds01_spawner.core.options import Offer

SPELLINGS = {
    "Pytorch": "PyTorch", "Tensorflow": "TensorFlow", "Mxnet": "MXNet", "ROCM": "ROCm",
    "custom": "Custom",
}  # fmt: skip


def spelled(text: str) -> str:
    """A framework's name as its makers spell it; the catalog's own is what is posted."""
    first, space, rest = text.partition(" ")
    return f"{SPELLINGS.get(first, first)}{space}{rest}"


def preselected(offer: Offer, chosen: Mapping[str, Any]) -> str | None:
    """The value of the card of the options; None if it is not offered (any more)."""
    if "preset" in chosen:
        return f"preset:{chosen['preset']}" if chosen["preset"] in offer.presets else None
    if "framework" not in chosen:
        return None if set(chosen) & {"version", "architecture"} else recommended(offer)
    wanted = chosen.get("architecture")
    for choice in choices(offer, chosen["framework"], (wanted,) if wanted else ()):
        if chosen.get("version", LATEST) in (LATEST, choice.entry.version):
            return _value(choice)
    return None


def recommended(offer: Offer) -> str | None:
    """The value of the card that is chosen where nothing else is."""
    for preset in offer.presets.values():
        if preset.recommended:
            return f"preset:{preset.name}"
    return next((_value(choices(offer, name)[0]) for name in frameworks(offer)), None)


def cards(offer: Offer, snapshot: Snapshot) -> list[dict[str, Any]]:
    """Each framework with its versions, in file order, the first one on the card.

    On a host with devices of several architectures, one card for each: an image runs on one.
    """
    several = len(snapshot.architectures) > 1
    groups = [(a,) for a in offer.architectures] if several else [offer.architectures]
    found = []
    for framework in frameworks(offer):
        of_one = (choices(offer, framework, architectures) for architectures in groups)
        of_framework = [card for choices_ in of_one for card in _by_card(choices_)]
        found += sorted(of_framework, key=lambda c: (c[0].entry.custom, c[0].entry.line))
    return [_card(choices_, snapshot) for choices_ in found]


def _by_card(found: Iterable[Choice]) -> list[list[Choice]]:
    """What runs with a GPU: the catalog's rows on one card, each custom image on its own."""
    by_card: dict[str, list[Choice]] = {}
    for choice in found:
        if not choice.why:
            own = choice.entry.version if choice.entry.custom else ""
            by_card.setdefault(own, []).append(choice)
    return [*by_card.values()]


def _card(found: list[Choice], snapshot: Snapshot) -> dict[str, Any]:
    first, *others = map(_version, found)
    entry, more = found[0].entry, len(others)
    noun = "GPU architecture" if entry.custom else "version"  # an image has but one version
    return {
        "first": first,
        "others": others,
        "others_are": f"{more} other {noun}{'s' if more > 1 else ''}",
        "description": entry.description,
        "made_for": _made_for(first["architecture"], snapshot),
    }


def _version(choice: Choice) -> dict[str, str]:
    return {
        "value": _value(choice),
        "architecture": choice.architecture,
        "title": _title(choice.entry),
    }


def _value(choice: Choice) -> str:
    return f"{choice.entry.framework}|{choice.entry.version}|{choice.architecture}"


def _title(entry: CatalogEntry) -> str:
    return entry.title or spelled(entry.name)


def _made_for(architecture: str, snapshot: Snapshot) -> str:
    names = dict.fromkeys(d.name for d in snapshot.devices if d.architecture == architecture)
    return f"for {', '.join(names)}" if names else architecture


def unavailable(offer: Offer) -> list[dict[str, Any]]:
    """The entries that are not for this host, grouped by the reason."""
    reasons: dict[str, dict[str, None]] = {}
    for entry in offer.catalog.entries:
        why = why_unavailable(entry, offer.architectures)
        if why:
            reasons.setdefault(_reason(why, entry), {})[_title(entry)] = None
    return [{"why": why, "entries": [*entries]} for why, entries in reasons.items()]


def only_without_gpu(offer: Offer) -> list[dict[str, Any]]:
    """The choices that no device here runs, grouped by the reason."""
    reasons: dict[str, list[dict[str, str]]] = {}
    for choice in (c for framework in frameworks(offer) for c in choices(offer, framework)):
        if choice.why:
            reasons.setdefault(_reason(choice.why, choice.entry), []).append(_version(choice))
    return [{"why": why, "versions": versions} for why, versions in reasons.items()]


def _reason(why: str, entry: CatalogEntry) -> str:
    """A sentence that begins with an entry's name, as it is told of several."""
    reason = why.removeprefix(f"{entry.name} ").removeprefix("is ")
    return reason[:1].upper() + reason[1:]
