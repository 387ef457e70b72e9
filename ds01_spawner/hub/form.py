"""The options form: what may be chosen here, by this user, now -> HTML.

Server-rendered and usable without JavaScript; JupyterHub puts it into its own page and form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.options import Offer
from ds01_spawner.core.own_images import OwnEnvironment
from ds01_spawner.core.requirements import MAX_LIST
from ds01_spawner.core.sharing import Shared
from ds01_spawner.core.units import format_hours, format_size, gpueq_of_units
from ds01_spawner.errors import DS01Error, FieldProblem
from ds01_spawner.hub.environment_choices import (
    cards,
    only_without_gpu,
    preselected,
    recommended,
    spelled,
    unavailable,
)
from ds01_spawner.hub.gpu_choices import gpu_choices, preselected_gpu
from ds01_spawner.hub.line import Place, told_of_place
from ds01_spawner.hub.own_environments import shown

# What a field of the options is called on the form, and the part of the form that it belongs to.
LABELS = {
    "preset": ("Environment", "environment"),
    "framework": ("Environment", "environment"),
    "version": ("Environment", "environment"),
    "architecture": ("Environment", "environment"),
    "gpus": ("GPU", "gpus"),
    "gpu": ("GPU", "gpus"),
    "gpu_memory": ("GPU memory", "gpu_memory"),
    "bundles": ("Bundles", "bundles"),
    "pip": ("Python packages", "pip"),
    "apt": ("System packages", "apt"),
    "project": ("Project", "project"),
    "hours": ("Hours", "hours"),
    "cpus": ("CPU cores", "cpus"),
    "memory": ("Memory", "memory"),
}
FOLDED = frozenset({"project", "hours", "cpus", "memory", "gpu_memory"})
TEXTS = (
    "framework", "version", "architecture", "preset", "project", "gpu", "gpu_memory", "memory",
)  # fmt: skip
MAX_TEXT = 300  # of what was saved is shown: no form grows beyond reason
MAX_NUMBER = 1_000_000
_templates = Environment(
    loader=PackageLoader("ds01_spawner.hub"), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """All that one rendering shows."""

    offer: Offer
    snapshot: Snapshot
    taken: frozenset[str] = frozenset()  # UUIDs of devices that nobody new gets onto
    aside: frozenset[str] = frozenset()  # those of them that an admin set aside
    shared: Mapping[str, Shared] = field(default_factory=dict)  # by UUID
    own_units: int = 0  # held by this user's servers
    own_servers: int = 0
    chosen: Mapping[str, Any] = field(default_factory=dict)  # saved, linked or rejected options
    problems: tuple[FieldProblem, ...] = ()
    notices: tuple[str, ...] = ()
    place: Place | None = None  # in the line
    environments: tuple[OwnEnvironment, ...] = ()  # of this user
    done: str = ""  # what a button of this form did


def render(facts: Facts) -> str:
    """The HTML of the form."""
    offer = facts.offer
    chosen = _chosen(facts.chosen)
    environment = preselected(offer, chosen)
    gpus = gpu_choices(
        offer, facts.snapshot, taken=facts.taken, aside=facts.aside, own_units=facts.own_units,
        shared=facts.shared,
    )  # fmt: skip
    gpu = preselected_gpu(gpus, chosen, offer)
    problems = [_problem(problem) for problem in facts.problems]
    notices = list(facts.notices)
    if environment is None and not problems:
        notices.append(_no_longer_offered(chosen))
    if gpu == "0" and chosen.get("gpus") and not problems:
        notices.append("The GPU of your last choice is not open to you now; choose again below.")
    return _templates.get_template("form.html").render(
        notices=notices,
        done=facts.done,
        own=shown(facts.environments, offer, spelled),
        problems=problems,
        wrong={problem["part"]: problem["text"] for problem in reversed(problems)},
        more_open=any(problem["part"] in FOLDED for problem in problems)
        or any(key in chosen for key in FOLDED),
        presets=list(offer.presets.values()),
        cards=cards(offer, facts.snapshot),
        unavailable=unavailable(offer),
        only_without_gpu=only_without_gpu(offer),
        bundles=offer.bundles,
        gpus=gpus,
        gpu=gpu,
        environment=environment or recommended(offer),
        recommended=recommended(offer),
        chosen=chosen,
        limits=offer.limits,
        each=_each(facts),
        now=_now(facts),
        place=told_of_place(facts.place) if facts.place else None,
        can_wait=facts.place is None and any(choice.waits for choice in gpus),
        several=len(facts.snapshot.architectures) > 1,
        format_size=format_size,
    )


def render_trouble(error: DS01Error) -> str:
    """The HTML that stands in the form's place while it cannot be made."""
    return _templates.get_template("trouble.html").render(error=error)


# --- what was chosen before --------------------------------------------------------------------


def _chosen(raw: object) -> dict[str, Any]:
    """Saved or refused options as the template may read them, whatever junk they are."""
    if not isinstance(raw, Mapping):
        return {}
    chosen: dict[str, Any] = {}
    for key in TEXTS:
        if isinstance(raw.get(key), str) and raw[key]:
            chosen[key] = raw[key][:MAX_TEXT]
    for key in ("bundles", "pip", "apt"):
        if isinstance(raw.get(key), list):
            chosen[key] = _bounded(raw[key])
    for key in ("gpus", "cpus", "hours"):
        value = raw.get(key)
        if isinstance(value, str) and key != "gpus":  # what is no number was refused, and is shown
            chosen[key] = value[:MAX_TEXT]
        elif isinstance(value, int | float) and abs(value) < MAX_NUMBER:  # false for NaN, too
            chosen[key] = value
    return chosen


def _bounded(saved: list[Any]) -> list[str]:
    """The texts of a list, as many as a list of packages may have characters."""
    texts = [item for item in saved[:MAX_LIST] if isinstance(item, str)]
    ends = accumulate(len(text) + 1 for text in texts)
    return [text for text, end in zip(texts, ends, strict=True) if end <= MAX_LIST]


def _no_longer_offered(chosen: Mapping[str, Any]) -> str:
    what = chosen.get("preset") or " ".join(
        chosen[key] for key in ("framework", "version", "architecture") if key in chosen
    )
    return f"{spelled(what)} is not offered to you here; the recommended environment is selected."


def _problem(problem: FieldProblem) -> dict[str, str]:
    """A problem as the form tells it: the name of the field, where it is, and the sentence."""
    label, part = LABELS.get(problem.field, (problem.field, ""))
    allowed = f" Allowed: {', '.join(problem.allowed)}." if problem.allowed else ""
    text = f"{problem.problem}{allowed}"
    return {"label": label, "part": part, "text": text[:1].upper() + text[1:]}


# --- what the user may have --------------------------------------------------------------------


def _each(facts: Facts) -> list[tuple[str, str]]:
    """What one server gets at most: amount and name."""
    limits = facts.offer.limits
    told = [
        (limits.max_cpus, "CPU core" if limits.max_cpus == 1 else "CPU cores", "{:g}".format),
        (limits.memory, "memory", format_size),
        (limits.max_runtime_h, "until it is stopped", format_hours),
    ]
    if facts.offer.has_gpus:
        told.append((limits.idle_timeout_h, "with a GPU that nothing uses", format_hours))
    return [(words(value), name) for value, name, words in told if value is not None]


def _now(facts: Facts) -> list[tuple[str, str]]:
    """What the user holds and what is free at this moment: amount and name."""
    limits, snapshot = facts.offer.limits, facts.snapshot
    servers, held = f"{facts.own_servers}", f"{gpueq_of_units(facts.own_units):g}"
    if limits.max_containers_per_user is not None:
        servers += f" of {limits.max_containers_per_user}"
    told = [(servers, "servers running")]
    if not facts.offer.has_gpus:
        return [*told, ("no GPU", "on this server")]
    if limits.max_gpu_equivalents is not None and math.isfinite(limits.max_gpu_equivalents):
        held += f" of {limits.max_gpu_equivalents:g}"
    told.append((held, "GPUs held"))
    if snapshot.known:
        healthy = [d for d in snapshot.devices if d.healthy]
        free = sum(d.uuid not in facts.taken and d.uuid not in facts.shared for d in healthy)
        told.append((f"{free} of {len(healthy)}", "GPU devices free"))
    return told
