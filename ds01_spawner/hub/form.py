"""The options form: what may be chosen here, by this user, now -> HTML.

Server-rendered and usable without JavaScript; JupyterHub puts it into its own page and form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ds01_spawner.core.architectures import why_unavailable
from ds01_spawner.core.catalog import CatalogEntry
from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.options import Offer
from ds01_spawner.core.units import UNITS_PER_GPU, format_hours, format_size, gpueq_of_units
from ds01_spawner.errors import DS01Error, FieldProblem

MAX_GPU_CHOICES = 4
MORE_FIELDS = frozenset({"project", "hours", "cpus", "memory"})  # behind the fold
_templates = Environment(
    loader=PackageLoader("ds01_spawner.hub"), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """All that one rendering shows."""

    offer: Offer
    snapshot: Snapshot
    taken: frozenset[str] = frozenset()  # UUIDs of devices that are held
    own_units: int = 0  # held by this user's servers
    own_servers: int = 0
    chosen: Mapping[str, Any] = field(default_factory=dict)  # saved, linked or rejected options
    problems: tuple[FieldProblem, ...] = ()
    notices: tuple[str, ...] = ()


def render(facts: Facts) -> str:
    """The HTML of the form."""
    offer = facts.offer
    chosen = _chosen(facts.chosen)
    environment = _preselected(offer, chosen)
    gpus = _gpu_choices(facts)
    wrong = {problem.field for problem in facts.problems}
    notices = list(facts.notices)
    if environment is None and chosen:
        notices.append("Your last choice is no longer offered here; please choose again.")
    return _templates.get_template("form.html").render(
        notices=notices,
        problems=[str(problem) for problem in facts.problems],
        wrong=wrong,
        more_open=bool(wrong & MORE_FIELDS),
        presets=_presets(offer),
        frameworks=_frameworks(offer),
        unavailable=_unavailable(offer),
        bundles=_bundles(offer, chosen),
        gpus=gpus,
        gpu_chosen=_gpu_chosen(chosen, offer, gpus),
        environment=environment or _recommended(offer),
        chosen=chosen,
        summary=_summary(offer.limits),
        holding=_holding(facts),
        free=_free_now(facts),
        limits=offer.limits,
        format_hours=format_hours,
        format_size=format_size,
    )


def render_trouble(error: DS01Error) -> str:
    """The HTML that stands in the form's place while it cannot be made."""
    return _templates.get_template("trouble.html").render(error=error)


def _chosen(raw: object) -> dict[str, Any]:
    """Saved options as the template may read them, whatever junk was saved."""
    if not isinstance(raw, Mapping):
        return {}
    chosen: dict[str, Any] = {}
    for key in ("framework", "version", "architecture", "preset", "project", "gpu", "memory"):
        if isinstance(raw.get(key), str):
            chosen[key] = raw[key]
    for key in ("bundles", "pip", "apt"):
        if isinstance(raw.get(key), list):
            chosen[key] = [item for item in raw[key] if isinstance(item, str)]
    for key in ("gpus", "cpus", "hours"):
        if isinstance(raw.get(key), int | float) and not isinstance(raw[key], bool):
            chosen[key] = raw[key]
    return chosen


def _value(entry: CatalogEntry, architecture: str) -> str:
    return f"{entry.framework}|{entry.version}|{architecture}"


def _preselected(offer: Offer, chosen: Mapping[str, Any]) -> str | None:
    """The value of the card of the options; None if it is not offered (any more)."""
    if "preset" in chosen:
        return f"preset:{chosen['preset']}" if chosen["preset"] in offer.presets else None
    if "framework" not in chosen:
        return None if set(chosen) & {"version", "architecture"} else _recommended(offer)
    archs = offer.architectures
    wanted = chosen.get("architecture")
    for entry in offer.catalog.versions(chosen["framework"], (wanted,) if wanted else archs):
        architecture = next((a for a in archs if a in entry.architectures), None)
        if architecture and chosen.get("version", "latest") in ("latest", entry.version):
            return _value(entry, wanted if wanted in archs else architecture)
    return None


def _recommended(offer: Offer) -> str | None:
    for preset in offer.presets.values():
        if preset.recommended:
            return f"preset:{preset.name}"
    for framework in offer.catalog.frameworks(offer.architectures):
        entry = offer.catalog.versions(framework, offer.architectures)[0]
        return _value(entry, next(a for a in offer.architectures if a in entry.architectures))
    return None


def _presets(offer: Offer) -> list[dict[str, Any]]:
    return [
        {"value": f"preset:{p.name}", "title": p.title, "text": p.description,
         "recommended": p.recommended}
        for p in offer.presets.values()
    ]  # fmt: skip


def _frameworks(offer: Offer) -> list[dict[str, Any]]:
    """Each framework with its versions, file order, the first one recommended."""
    several = len(offer.architectures) > 1
    cards = []
    for framework in offer.catalog.frameworks(offer.architectures):
        versions = [
            {"value": _value(entry, arch), "version": entry.version, "image": entry.image,
             "architecture": arch if several else ""}
            for entry in offer.catalog.versions(framework, offer.architectures)
            for arch in offer.architectures
            if arch in entry.architectures
        ]  # fmt: skip
        cards.append({"name": framework, "first": versions[0], "others": versions[1:]})
    return cards


def _unavailable(offer: Offer) -> list[dict[str, Any]]:
    """The entries that do not run here, grouped by the reason."""
    reasons: dict[str, list[str]] = {}
    for entry in offer.catalog.entries:
        why = why_unavailable(entry, offer.architectures)
        if why:
            reasons.setdefault(why, []).append(f"{entry.framework} {entry.version}")
    return [{"why": why, "entries": list(dict.fromkeys(e))} for why, e in reasons.items()]


def _bundles(offer: Offer, chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "packages": ", ".join(packages), "on": name in chosen.get("bundles", [])}
        for name, packages in offer.bundles.items()
    ]


def _gpu_choices(facts: Facts) -> list[dict[str, Any]]:
    """None, and each count and kind that this host has, with the reason where it is shut."""
    choices: list[dict[str, Any]] = [
        {"value": "0", "title": "No GPU", "text": "CPU only", "why": ""}
    ]
    whole = [d for d in facts.snapshot.devices if d.whole]
    for count in range(1, min(len(whole), MAX_GPU_CHOICES) + 1):
        title = "1 GPU" if count == 1 else f"{count} GPUs"
        choices.append(_choice(facts, f"{count}:full", title, whole, count))
    for profile in facts.offer.profiles:
        slices = [d for d in facts.snapshot.devices if d.profile == profile]
        title = f"1 GPU slice {profile}"
        choices.append(_choice(facts, f"1:{profile}", title, slices, 1))
    return choices


def _choice(
    facts: Facts, value: str, title: str, devices: list[Device], count: int
) -> dict[str, Any]:
    free = [d for d in devices if d.healthy and d.uuid not in facts.taken]
    names = ", ".join(dict.fromkeys(f"{d.name}, {format_size(d.memory)}" for d in devices))
    text = f"{names}: {len(free)} of {len(devices)} free now"
    return {
        "value": value, "title": title, "text": text,
        "why": _why_shut(facts, devices, len(free), count),
    }  # fmt: skip


def _why_shut(facts: Facts, devices: list[Device], free: int, count: int) -> str:
    limits = facts.offer.limits
    units = min((d.units for d in devices), default=UNITS_PER_GPU) * count
    if not facts.snapshot.known:
        return "The state of the GPUs is not known at the moment."
    if devices and devices[0].whole and not limits.allow_full_gpu:
        return "Your policy gives you slices, not whole GPUs."
    most = limits.max_gpu_slots_per_container
    if most is not None and count > most:
        return f"You may have at most {most} in one server."
    if limits.gpu_units is not None and facts.own_units + units > limits.gpu_units:
        allowed, held = gpueq_of_units(limits.gpu_units), gpueq_of_units(facts.own_units)
        return f"Your limit is {allowed:g}, and your servers hold {held:g}."
    if free < count:
        return "Taken by others at the moment; come back a little later."
    return ""


def _gpu_chosen(chosen: Mapping[str, Any], offer: Offer, choices: list[dict[str, Any]]) -> str:
    """The value of the preselected choice: what was chosen, where it is open; else none."""
    count = chosen.get("gpus", offer.default_gpus if offer.has_gpus else 0)
    kind = chosen.get("gpu", "any")
    wanted = f"{count}:{kind if kind != 'any' else 'full'}"
    return wanted if any(c["value"] == wanted and not c["why"] for c in choices) else "0"


def _summary(limits: Limits) -> list[str]:
    """What one server of this user gets at most, in words."""
    told: list[tuple[float | None, Callable[[Any], str]]] = [
        (limits.max_cpus, lambda v: f"{v:g} CPU cores"),
        (limits.memory, lambda v: f"{format_size(v)} of memory"),
        (limits.max_gpu_equivalents, lambda v: f"{v:g} GPU{'s' if v != 1 else ''} over all"),
        (limits.max_containers_per_user, lambda v: f"{v} server{'s' if v != 1 else ''} at once"),
        (limits.max_runtime_h, lambda v: f"{format_hours(v)} a server"),
    ]
    return [words(value) for value, words in told if value is not None]


def _holding(facts: Facts) -> str:
    if not facts.own_servers:
        return ""
    gpus = f", with {gpueq_of_units(facts.own_units):g} GPU" if facts.own_units else ""
    return f"You have {facts.own_servers} running{gpus}."


def _free_now(facts: Facts) -> str:
    devices: Iterable[Device] = facts.snapshot.devices
    if not facts.snapshot.known:
        return "The state of the GPUs is not known at the moment; servers without one start."
    total = [d for d in devices if d.healthy]
    if not total:
        return "This server has no GPU to give out."
    free = sum(1 for d in total if d.uuid not in facts.taken)
    return f"{free} of {len(total)} GPU devices are free now."
