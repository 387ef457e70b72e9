"""user_options -> Request, or the list of what is wrong, field by field.

The one validator of the project: the form, a link, REST, an admin's "start server" and a stale
saved choice all meet it. It is pure: `Offer` carries all it may depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ds01_spawner.core import option_fields as read
from ds01_spawner.core.architectures import why_unavailable
from ds01_spawner.core.catalog import Catalog, CatalogEntry
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.option_fields import Wrong, shown
from ds01_spawner.core.policy import PackageRules, Preset
from ds01_spawner.errors import FieldProblem, OptionsRefused

VERSION = 1
KEYS = (
    "v", "preset", "framework", "version", "architecture", "bundles", "pip", "apt",
    "project", "gpus", "gpu", "cpus", "memory", "hours",
)  # fmt: skip
ALWAYS_WITH_PRESET = frozenset({"v", "preset", "project", "hours"})
DEFAULT_PROJECT = "default"
MAX_KEYS = 30
MAX_FORM = 100_000  # characters


@dataclass(frozen=True, slots=True)
class Offer:
    """What this host, this user and this moment allow."""

    catalog: Catalog
    architectures: tuple[str, ...]  # of this host; of the setting, where it has no device
    limits: Limits
    presets: Mapping[str, Preset] = field(default_factory=dict)  # those the user may see
    bundles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    packages: PackageRules = field(default_factory=PackageRules)
    profiles: tuple[str, ...] = ()  # MIG profiles of this host
    has_gpus: bool = False
    default_gpus: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """What one start asks for, complete and allowed."""

    entry: CatalogEntry
    architecture: str
    preset: str | None = None
    bundles: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()  # canonical, bundles not included
    apt: tuple[str, ...] = ()
    project: str = DEFAULT_PROJECT
    gpus: int = 0
    gpu: str = "any"
    cpus: float | None = None
    memory: int | None = None  # bytes
    hours: float | None = None


def parse(raw: object, offer: Offer) -> Request:
    """The request that saved, posted or sent options ask for.

    Raises OptionsRefused with a problem for each wrong field.
    """
    options = _unwrap(raw)
    if len(options) > MAX_KEYS:
        raise OptionsRefused([FieldProblem("options", f"has {len(options)} keys.", KEYS[1:])])
    problems: list[FieldProblem] = []
    known = {key: value for key, value in options.items() if key in KEYS}
    for key in options:
        if key not in KEYS:
            problems.append(FieldProblem(shown(key), "is not an option.", KEYS[1:]))
    if known.get("v", VERSION) != VERSION:
        problems.append(FieldProblem("v", f"{shown(known['v'])} is not known.", (str(VERSION),)))
    preset = _preset(known, offer, problems)
    if preset is not None:
        known = _with_preset(known, preset, problems)
    if problems:
        raise OptionsRefused(problems)
    request = _fields(known, offer, problems)
    if problems or request is None:
        raise OptionsRefused(problems)
    return replace(request, preset=preset.name if preset else None)


def from_form(
    form: Mapping[str, list[str]], presets: Mapping[str, Preset] | None = None
) -> dict[str, Any]:
    """The options that a posted form means, by shape alone; `parse` judges them.

    Fields left empty are left out; pip and apt have one entry a line. A form without JavaScript
    posts all its fields, so beside a preset those that it does not open are left out.
    """
    if sum(len(value) for values in form.values() for value in values) > MAX_FORM:
        raise OptionsRefused([FieldProblem("options", "are too long.")])
    options: dict[str, Any] = {}
    for key, values in form.items():
        if key.startswith("_"):  # _xsrf
            continue
        texts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
        if not texts:
            continue
        options.update(_posted(key, texts))
    preset = (presets or {}).get(options.get("preset", ""))
    if preset is not None:
        allowed = ALWAYS_WITH_PRESET | preset.allow
        return {key: value for key, value in options.items() if key in allowed}
    return options


def _posted(key: str, texts: list[str]) -> dict[str, Any]:
    if key == "environment":  # one choice of framework, version and architecture
        return _environment(texts[0])
    if key == "gpus":
        return _gpus(texts[0])
    if key == "bundles":
        return {key: texts}
    if key in ("pip", "apt"):
        lines = [line.strip() for text in texts for line in text.splitlines()]
        return {key: [line for line in lines if line]}
    return {key: _number(texts[0]) if key in ("cpus", "hours") else texts[0]}


def _environment(text: str) -> dict[str, Any]:
    """`framework|version|architecture` or `preset:name`, as the form's cards post it."""
    if text.startswith("preset:"):
        return {"preset": text.removeprefix("preset:")}
    parts = text.split("|")
    return dict(zip(("framework", "version", "architecture"), parts, strict=False))


def _gpus(text: str) -> dict[str, Any]:
    """`1`, or `1:full`, `1:1g.10gb`: count and kind in one choice."""
    count, _, kind = text.partition(":")
    number = _number(count)
    return {"gpus": number, "gpu": kind} if kind else {"gpus": number}


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _unwrap(raw: object) -> dict[str, Any]:
    """The options themselves; JupyterHub 5 does not unwrap `{"user_options": {...}}`."""
    if isinstance(raw, Mapping) and set(raw) == {"user_options"}:
        raw = raw["user_options"]
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise OptionsRefused([FieldProblem("options", "must be a JSON object.")])
    return {str(key): value for key, value in raw.items()}


def _preset(
    options: Mapping[str, Any], offer: Offer, problems: list[FieldProblem]
) -> Preset | None:
    name = options.get("preset")
    if name is None:
        if set(options) <= {"v"}:  # {}: the recommended preset, where there is one
            return next((p for p in offer.presets.values() if p.recommended), None)
        return None
    preset = offer.presets.get(name) if isinstance(name, str) else None
    if preset is None:
        allowed = tuple(offer.presets) or ("none, you have no presets here",)
        problems.append(FieldProblem("preset", f"{shown(name)} is not offered to you.", allowed))
    return preset


def _with_preset(
    options: Mapping[str, Any], preset: Preset, problems: list[FieldProblem]
) -> dict[str, Any]:
    """The preset's own options, and what the user may add beside it."""
    allowed = ALWAYS_WITH_PRESET | preset.allow
    for key in options:
        if key not in allowed:
            problems.append(
                FieldProblem(
                    key,
                    f"cannot be changed beside the preset {preset.name}.",
                    tuple(sorted(allowed - {"v", "preset"})),
                )
            )
    return {**preset.options(), **{k: v for k, v in options.items() if k != "preset"}}


def _fields(
    options: Mapping[str, Any], offer: Offer, problems: list[FieldProblem]
) -> Request | None:
    def told(key: str, reader: Callable[..., Any], *facts: object, default: Any = None) -> Any:
        if options.get(key) is None:
            return default
        try:
            return reader(options[key], *facts)
        except Wrong as wrong:
            problems.append(FieldProblem(key, wrong.problem, wrong.allowed))
            return default

    limits = offer.limits
    entry, architecture = _entry(options, offer, problems)
    gpus = told(
        "gpus", read.gpu_count, limits, offer.has_gpus, default=_default_gpus(options, offer)
    )
    gpu = told("gpu", read.gpu_kind, limits, offer.profiles, default="any")
    if options.get("gpu") is not None and not gpus:
        problems.append(FieldProblem("gpu", "is only for a server with at least one GPU."))
    bundles = told("bundles", read.bundles, offer.bundles, default=())
    pip = told("pip", read.pip, offer.packages, default=())
    apt = told("apt", read.apt, offer.packages, default=())
    project = told("project", read.project, default=DEFAULT_PROJECT)
    cpus = told("cpus", read.cpus, limits)
    memory = told("memory", read.memory, limits)
    hours = told("hours", read.hours, limits)
    if entry is None:
        return None
    return Request(
        entry=entry, architecture=architecture, bundles=bundles, pip=pip, apt=apt,
        project=project, gpus=gpus, gpu=gpu, cpus=cpus, memory=memory, hours=hours,
    )  # fmt: skip


def _default_gpus(options: Mapping[str, Any], offer: Offer) -> int:
    """The admin's default, where the user said nothing about GPUs and has some to get."""
    return offer.default_gpus if offer.has_gpus and "gpu" not in options else 0


def _entry(
    options: Mapping[str, Any], offer: Offer, problems: list[FieldProblem]
) -> tuple[CatalogEntry | None, str]:
    """The catalog entry; nothing ever falls back to something else on a typo."""
    frameworks = offer.catalog.frameworks(offer.architectures)
    framework = options.get("framework")
    if framework is None:
        if "version" in options or "architecture" in options:
            problems.append(FieldProblem("framework", "is missing.", frameworks))
            return None, ""
        if not frameworks:
            problems.append(
                FieldProblem("framework", "none of the catalog runs on this server's devices.")
            )
            return None, ""
        framework = frameworks[0]
    if framework not in frameworks:
        problems.append(FieldProblem("framework", _why_no_framework(framework, offer), frameworks))
        return None, ""
    return _version(framework, options, offer, problems)


def _why_no_framework(framework: object, offer: Offer) -> str:
    rows = [e for e in offer.catalog.entries if e.framework == framework]
    why = why_unavailable(rows[0], offer.architectures) if rows else None
    return why or f"{shown(framework)} is not in the catalog."


def _version(
    framework: str, options: Mapping[str, Any], offer: Offer, problems: list[FieldProblem]
) -> tuple[CatalogEntry | None, str]:
    wanted = options.get("architecture")
    if wanted is not None and wanted not in offer.architectures:
        problems.append(
            FieldProblem(
                "architecture", f"{shown(wanted)} is not of this server.", offer.architectures
            )
        )
        return None, ""
    version = options.get("version", "latest")
    candidates = offer.catalog.versions(framework, (wanted,) if wanted else offer.architectures)
    if isinstance(version, str):
        for entry in candidates:
            if version in ("latest", entry.version):
                fits = (a for a in offer.architectures if a in entry.architectures)
                return entry, wanted or next(fits)
    allowed = ("latest", *dict.fromkeys(entry.version for entry in candidates))
    problems.append(
        FieldProblem("version", f"{shown(version)} of {framework} is not offered here.", allowed)
    )
    return None, ""
