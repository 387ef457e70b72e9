"""user_options -> Request, or the list of what is wrong, field by field.

The one validator of the project: the form, a link, REST, an admin's "start server" and a stale
saved choice all meet it. It is pure: `Offer` carries all it may depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ds01_spawner.core import environments
from ds01_spawner.core import option_fields as read
from ds01_spawner.core.catalog import Catalog, CatalogEntry
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.option_fields import Wrong, shown
from ds01_spawner.core.placement import SHARED, Wanted
from ds01_spawner.core.policy import PackageRules, Preset
from ds01_spawner.core.runs import Barred, Needs, RunsOn, needs_of
from ds01_spawner.core.sharing import Sharing
from ds01_spawner.errors import FieldProblem, OptionsRefused

VERSION = 1
KEYS = (
    "v", "preset", "framework", "version", "architecture", "bundles", "pip", "apt",
    "project", "gpus", "gpu", "gpu_memory", "cpus", "memory", "hours",
)  # fmt: skip
ALWAYS_WITH_PRESET = frozenset({"v", "preset", "project", "hours"})
DEFAULT_PROJECT = "default"
MAX_KEYS = 30


@dataclass(frozen=True, slots=True)
class Offer:
    """What this host, this user and this moment allow.

    `catalog` and `barred` are as `runs.on_host` has them: barred rows only start without a GPU.
    """

    catalog: Catalog
    architectures: tuple[str, ...]  # of this host; of the setting, where it has no device
    limits: Limits
    presets: Mapping[str, Preset] = field(default_factory=dict)  # those the user may see
    bundles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    packages: PackageRules = field(default_factory=PackageRules)
    profiles: tuple[str, ...] = ()  # MIG profiles of this host
    has_gpus: bool = False
    default_gpus: int = 0
    gpu_memory: int | None = None  # bytes of the largest device; None: not known
    barred: tuple[Barred, ...] = ()
    runs_on: Mapping[str, RunsOn] = field(default_factory=dict)
    shut: Mapping[str, str] = field(default_factory=dict)  # architecture -> why no device of it
    sharing: Sharing | None = None  # None: no device is shared


@dataclass(frozen=True, slots=True)
class Request:
    """What one start asks for, complete and allowed."""

    entry: CatalogEntry
    architecture: str  # wished for, or the first of this host that runs the entry
    preset: str | None = None
    bundles: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()  # canonical, bundles not included
    apt: tuple[str, ...] = ()
    project: str = DEFAULT_PROJECT
    gpus: int = 0
    gpu: str = "any"
    gpu_memory: int | None = None  # bytes, the least of each device
    needs: Needs | None = None  # of its devices
    cpus: float | None = None
    memory: int | None = None  # bytes
    hours: float | None = None
    sharing: Sharing | None = None  # of a seat on a shared device

    @property
    def wanted(self) -> Wanted:
        """The devices to place."""
        needs = self.needs if self.gpus else None
        if self.sharing is None:
            return Wanted(self.gpus, self.gpu, needs, self.gpu_memory)
        rule = self.sharing
        return Wanted(1, rule.gpu, needs, self.gpu_memory, rule.seats, rule.max_devices)


def parse(raw: object, offer: Offer) -> Request:
    """The request that saved, posted or sent options ask for.

    Raises OptionsRefused with a problem for each wrong field.
    """
    options = unwrap(raw)
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


def wants_gpu(raw: object, offer: Offer) -> bool:
    """Whether these options ask for a GPU, be it one that is shut at the moment.

    Options that are refused anyway do not.
    """
    try:
        return parse(raw, replace(offer, shut={})).gpus > 0
    except OptionsRefused:
        return False


def unwrap(raw: object) -> dict[str, Any]:
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
    choice = environments.find(options, offer, problems)
    gpus = told(
        "gpus", read.gpu_count, limits, offer.has_gpus, default=_default_gpus(options, offer)
    )
    if gpus and choice is not None and choice.architecture in offer.shut:
        problems.append(FieldProblem("gpus", offer.shut[choice.architecture], ("0",)))
    gpu = told("gpu", read.gpu_kind, limits, offer.profiles, offer.sharing, gpus, default="any")
    gpu_memory = told("gpu_memory", read.gpu_memory, offer.gpu_memory)
    for key in ("gpu", "gpu_memory"):
        if options.get(key) is not None and not gpus:
            problems.append(FieldProblem(key, "is only for a server with at least one GPU."))
    if choice is not None and choice.why and gpus:
        problems.append(environments.only_without_gpu(choice, options, offer))
    bundles = told("bundles", read.bundles, offer.bundles, default=())
    pip = told("pip", read.pip, offer.packages, default=())
    apt = told("apt", read.apt, offer.packages, default=())
    project = told("project", read.project, default=DEFAULT_PROJECT)
    cpus = told("cpus", read.cpus, limits)
    memory = told("memory", read.memory, limits)
    hours = told("hours", read.hours, limits)
    if choice is None:
        return None
    needs = needs_of(choice.entry, offer.runs_on)
    if options.get("architecture") is not None:
        needs = replace(needs, architectures=(choice.architecture,))
    return Request(
        entry=choice.entry, architecture=choice.architecture, bundles=bundles, pip=pip, apt=apt,
        project=project, gpus=gpus, gpu=gpu, gpu_memory=gpu_memory, needs=needs, cpus=cpus,
        memory=memory, hours=hours, sharing=offer.sharing if gpu == SHARED else None,
    )  # fmt: skip


def _default_gpus(options: Mapping[str, Any], offer: Offer) -> int:
    """The admin's default, where the user said nothing about GPUs and has some to get."""
    return offer.default_gpus if offer.has_gpus and "gpu" not in options else 0
