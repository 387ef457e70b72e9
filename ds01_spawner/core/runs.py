"""Which image runs on which device under which driver, and why not.

An entry runs on the classes of its row, exactly. On top of that its CUDA has to suit driver and
card, as far as both are known: the catalog is the admin's word, so where an image does not say its
CUDA, or a driver its own, the class alone decides. A rule of the policy (`runs_on`) replaces, key
by key, what is known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ds01_spawner.core.architectures import ARCHITECTURES, family
from ds01_spawner.core.catalog import Catalog, CatalogEntry
from ds01_spawner.core.devices import Device, Snapshot

Version = tuple[int, int]  # of CUDA, or a compute capability

_TAG = re.compile(r"(?:^|[-_./:])cuda[-:]?(\d{1,2})\.(\d{1,2})(?!\d)")
_DRIVER = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
# Within one major version of CUDA an older driver will do, from this one on (NVIDIA, "CUDA
# Compatibility", minor version compatibility; the full numbers: CUDA release notes, table 2).
# Before CUDA 11 there was no such promise.
_LEAST_DRIVERS = {11: (450, 80, 2), 12: (525, 60, 13), 13: (580, 65, 6)}
_FIRST_PROMISED = min(_LEAST_DRIVERS)
# CUDA 13.0 makes no code for Maxwell, Pascal and Volta any more (its release notes).
_LEAST_CAPABILITIES = {13: (7, 5)}
# The first CUDA that makes code for cards of a major compute capability; code runs on later cards
# of the same major only (CUDA C++ programming guide, binary compatibility). 11.0: Ampere, 11.8:
# Hopper, 12.8: Blackwell (their release notes).
_FIRST_CUDA = {8: (11, 0), 9: (11, 8), 10: (12, 8), 12: (12, 8)}


@dataclass(frozen=True, slots=True)
class RunsOn:
    """An admin's word on where images run; what is None stays as it is known here.

    `anything`: on every device of the row's maker, whatever driver and card are.
    """

    architectures: tuple[str, ...] | None = None
    compute_capability: Version | None = None  # at least
    cuda: Version | None = None  # the image's
    anything: bool = False


@dataclass(frozen=True, slots=True)
class Needs:
    """What a device and its driver must be to run an image. A lease remembers it.

    `cuda` is the image's, None: not known. With a `compute_capability`, that is the least, and
    what is known of the image's CUDA says nothing on it.
    """

    architectures: tuple[str, ...]
    cuda: Version | None = None
    compute_capability: Version | None = None


@dataclass(frozen=True, slots=True)
class Barred:
    """An entry that no device of one class of this host runs: only without a GPU it starts."""

    entry: CatalogEntry
    architecture: str
    why: str  # a sentence


def cuda_of(image: str) -> Version | None:
    """The CUDA version that an image's name tells: `a/pytorch-2.8.0-cuda12.6.3` has 12.6."""
    found = _TAG.search(image)
    return (int(found[1]), int(found[2])) if found else None


def needs_of(entry: CatalogEntry, rules: Mapping[str, RunsOn]) -> Needs:
    """What an entry needs; the first rule whose pattern matches it has its say.

    A pattern is compared with the image and with `framework/version`, `*` standing for anything.
    No rule takes an image from one maker's GPUs to the other's.
    """
    known = Needs(entry.architectures, cuda_of(entry.image))
    for pattern, rule in rules.items():
        if _matches(entry, pattern):
            return _by_rule(known, rule)
    return known


def of_other_maker(catalog: Catalog, rules: Mapping[str, RunsOn]) -> tuple[str, ...]:
    """The patterns whose architectures are of no maker of the images they match: without effect."""
    found = []
    for pattern, rule in rules.items():
        said = {family(a) for a in rule.architectures or ()}
        made = {family(a) for e in catalog.entries if _matches(e, pattern) for a in e.architectures}
        if said and made and said.isdisjoint(made):
            found.append(pattern)
    return tuple(found)


def _matches(entry: CatalogEntry, pattern: str) -> bool:
    names = (entry.image, f"{entry.framework}/{entry.version}")
    return any(fnmatchcase(name, pattern) for name in names)


def _by_rule(known: Needs, rule: RunsOn) -> Needs:
    makers = {family(a) for a in known.architectures}
    said = ARCHITECTURES if rule.anything else rule.architectures or ()
    return Needs(
        architectures=tuple(a for a in said if family(a) in makers) or known.architectures,
        cuda=None if rule.anything else rule.cuda or known.cuda,
        compute_capability=rule.compute_capability,
    )


def runs(needs: Needs, device: Device, snapshot: Snapshot) -> bool:
    """Whether the device runs the image under the driver of its host."""
    return device.architecture in needs.architectures and not why_not(needs, device, snapshot)


def why_not(needs: Needs, device: Device, snapshot: Snapshot) -> str:
    """Why a device of a right class does not run the image; "": it does.

    The rest of a sentence that begins with the image's name, and what to do about it.
    """
    if device.kind == "amd":  # CUDA has no say there
        return ""
    return _driver_too_old(needs, snapshot) or _card_unsuited(needs, device)


def _driver_too_old(needs: Needs, snapshot: Snapshot) -> str:
    image, has = needs.cuda, snapshot.cuda
    if image is None or has is None or image <= has:
        return ""
    if has[0] == image[0] >= _FIRST_PROMISED:
        driver, least = _numbers(snapshot.driver), _LEAST_DRIVERS.get(image[0])
        if driver is None or least is None or driver >= least:
            return ""
    return (
        f"needs CUDA {_told(image)}, and this server's driver has {_told(has)}: ask the "
        "administrator for a newer driver."
    )


def _card_unsuited(needs: Needs, device: Device) -> str:
    card, image, least = device.compute_capability, needs.cuda, needs.compute_capability
    if card is None:
        return ""
    if least is None and image is not None:
        first = _FIRST_CUDA.get(card[0])
        if first is not None and image < first:
            return (
                f"has CUDA {_told(image)}, and this server's {device.name} needs {_told(first)} or "
                "later: choose a newer version."
            )
        least = _LEAST_CAPABILITIES.get(image[0])
    if least is not None and card < least:
        return (
            f"needs a GPU of compute capability {_told(least)} or higher, and this server's "
            f"{device.name} has {_told(card)}: choose an older version."
        )
    return ""


def _numbers(driver: str | None) -> tuple[int, int, int] | None:
    found = _DRIVER.match(driver or "")
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def _told(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def on_host(
    catalog: Catalog, rules: Mapping[str, RunsOn], snapshot: Snapshot
) -> tuple[Catalog, tuple[Barred, ...]]:
    """The catalog with the classes that each entry has by the rules, less those of this host on
    which nothing runs it; and these, with the reason. Without devices nothing is barred.
    """
    kinds = _kinds(snapshot.devices)
    entries: list[CatalogEntry] = []
    barred: list[Barred] = []
    for entry in catalog.entries:
        needs = needs_of(entry, rules)
        here = {a: _why_none(needs, kinds[a], snapshot) for a in needs.architectures if a in kinds}
        barred += [Barred(entry, a, f"{entry.name} {why}") for a, why in here.items() if why]
        if not here or not all(here.values()):
            left = tuple(a for a in needs.architectures if not here.get(a))
            entries.append(replace(entry, architectures=left))
    return replace(catalog, entries=tuple(entries)), tuple(barred)


def _kinds(devices: Iterable[Device]) -> dict[str, list[Device]]:
    """By class, one device of each compute capability: the others would get the same answer."""
    kinds: dict[str, dict[Version | None, Device]] = {}
    for device in devices:
        if device.architecture:
            of_class = kinds.setdefault(device.architecture, {})
            of_class.setdefault(device.compute_capability, device)
    return {architecture: [*of_class.values()] for architecture, of_class in kinds.items()}


def _why_none(needs: Needs, devices: Iterable[Device], snapshot: Snapshot) -> str:
    """Why none of the devices runs it, told of the first; "": one does."""
    reasons = [why_not(needs, device, snapshot) for device in devices]
    return reasons[0] if all(reasons) else ""
