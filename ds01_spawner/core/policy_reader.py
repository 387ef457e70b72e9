"""The sections of a policy file, read one after the other; problems are collected, not raised."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ds01_spawner.core.architectures import ARCHITECTURES
from ds01_spawner.core.bundles import BUNDLES
from ds01_spawner.core.catalog import LATEST
from ds01_spawner.core.packages import HASH, apt_problem, names, pip_requirement
from ds01_spawner.core.policy import Group, PackageRules, Policy, Preset
from ds01_spawner.core.policy_devices import check_gpu_wishes, read_runs_on, read_sharing
from ds01_spawner.core.policy_exemptions import read_exemptions
from ds01_spawner.core.policy_images import check_presets, read_images
from ds01_spawner.core.policy_report import ELSEWHERE, Report, did_you_mean, read_limits
from ds01_spawner.core.policy_schema import (
    ELSEWHERE_SECTIONS,
    SECTIONS,
    PackagesPart,
    PresetPart,
    shown,
)
from ds01_spawner.core.requirements import hash_problems
from ds01_spawner.core.units import format_size
from ds01_spawner.core.yaml_source import Path, read
from ds01_spawner.errors import PolicyRefused

DS01_DEFAULT_GROUP = "student"  # what DS01 takes where the file names none
_PRESET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BUNDLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,63}")
_TEXTS = ("title", "description", "framework", "version", "architecture")


def read_policy(
    text: str, members: Mapping[str, Iterable[str]], source: str, overrides: str | None,
    overrides_source: str,
) -> Policy:  # fmt: skip
    """See `policy.parse`."""
    report = Report(read(text), source)
    reports = [report]
    if report.problems:
        raise PolicyRefused(report.problems)
    data = report.document.data
    if not isinstance(data, dict):
        what = "is empty" if data is None else f"is {shown(data)}, not a mapping"
        report.problem((), f"{what}.", "Write sections such as `defaults:` and `groups:`.")
        raise PolicyRefused(report.problems)
    _check_sections(report, data)
    defaults = read_limits(report, data["defaults"], ("defaults",)) if "defaults" in data else {}
    groups = _groups(report, data.get("groups"), members)
    users = _users(report, data.get("user_overrides"), ("user_overrides",))
    if overrides is not None:
        reports.append(Report(read(overrides), overrides_source))
        users |= _users(reports[1], reports[1].document.data, ())
    packages = _packages(report, data.get("packages"))
    bundles = _bundles(report, data.get("bundles"), packages)
    sharing = read_sharing(report, data.get("sharing"))
    images = read_images(report, data.get("images"), groups)
    presets = _presets(
        report, data.get("presets"), groups, bundles, packages, data.get("sharing") is not None
    )
    check_presets(report, presets, images, data.get("images"))
    policy = Policy(
        defaults=defaults,
        groups=groups,
        users=users,
        default_group=_default_group(report, data, groups),
        images=images,
        presets=presets,
        bundles=bundles,
        packages=packages,
        runs_on=read_runs_on(report, data.get("runs_on")),
        sharing=sharing,
        exemptions=read_exemptions(report, data.get("exemptions")),
    )
    problems = [problem for each in reports for problem in each.problems]
    if problems:
        raise PolicyRefused(problems)
    _tell_memory_above_swap(reports, policy)
    return replace(policy, notices=tuple(n for each in reports for n in each.notices))


def _check_sections(report: Report, data: Mapping[str, Any]) -> None:
    for key, value in data.items():
        if key in ELSEWHERE_SECTIONS:
            if value is not None:
                report.notice((key,), ELSEWHERE)
        elif key not in SECTIONS:
            hint = did_you_mean(key, (*SECTIONS, *ELSEWHERE_SECTIONS))
            report.problem((key,), "is not a known section.", hint)


def _groups(
    report: Report, value: object, members: Mapping[str, Iterable[str]]
) -> dict[str, Group]:
    groups = {}
    for name, body in report.mapping(value, ("groups",)).items():
        path: Path = ("groups", name)
        limits = read_limits(report, body, path, extra=("members",))
        inline = body.get("members") if isinstance(body, dict) else None
        named = _names(report, inline, (*path, "members"))
        groups[name] = Group(limits, frozenset({*named, *members.get(name, ())}))
    for name in members:
        if name not in groups:
            report.notice(("groups",), f"there are members for {name}, which is not a group here.")
    return groups


def _names(report: Report, value: object, path: Path) -> list[str]:
    """A list of user names, as written: a name may be all digits."""
    if value is None:
        return []
    if not isinstance(value, list):
        report.problem(path, f"is {shown(value)}, not a list of names.", "Write `- name` lines.")
        return []
    names = []
    for i, item in enumerate(value):
        name = report.document.texts.get((*path, i), "")
        if isinstance(item, dict | list) or not name.strip():
            report.problem((*path, i), "is not a name.", "Write one user name.")
        else:
            names.append(name.strip())
    return names


def _users(report: Report, value: object, path: Path) -> dict[str, dict[str, Any]]:
    users = report.mapping(value, path)
    return {name: read_limits(report, body, (*path, name)) for name, body in users.items()}


def _default_group(
    report: Report, data: Mapping[str, Any], groups: Mapping[str, Group]
) -> str | None:
    name = report.text(("default_group",), data.get("default_group"))
    if name is None:
        return DS01_DEFAULT_GROUP if DS01_DEFAULT_GROUP in groups else None
    if not isinstance(name, str) or name not in groups:
        hint = did_you_mean(str(name), groups)
        report.problem(("default_group",), f"{shown(name)} is not a group of this file.", hint)
        return None
    return name


def _packages(report: Report, value: object) -> PackageRules:
    path: Path = ("packages",)
    part = report.part(PackagesPart, report.mapping(value, path), path)
    if part is None:
        return PackageRules()
    for i, text in enumerate(part.pip_allow or ()):
        line = _check_pip(report, text, PackageRules(), (*path, "pip_allow", i))
        if line and names([line]) != (line,):
            hint = "Write the name alone; users may ask for any version of it."
            report.problem((*path, "pip_allow", i), f"{text!r} is more than a name.", hint)
    for i, text in enumerate(part.apt_allow or ()):
        _check_apt(report, text, PackageRules(), (*path, "apt_allow", i))
    values = part.model_dump()
    for key in ("pip_allow", "apt_allow"):
        values[key] = None if values[key] is None else tuple(values[key])
    return PackageRules(**values)


def _bundles(report: Report, value: object, rules: PackageRules) -> dict[str, tuple[str, ...]]:
    """The built-in bundles, and the file's: these may have what users may not name themselves."""
    bundles = dict(BUNDLES)
    rules = replace(rules, pip_allow=None)
    for name, body in report.mapping(value, ("bundles",)).items():
        path: Path = ("bundles", name)
        if not _BUNDLE_NAME.fullmatch(name):
            report.problem(path, "is not a name for a bundle.", "Use letters, digits and . _ + -.")
        if not isinstance(body, list) or not all(isinstance(item, str) for item in body):
            hint = "Write them as a list, [] for none."
            report.problem(path, "does not list names of packages.", hint)
            continue
        found = [_check_pip(report, text, rules, (*path, i)) for i, text in enumerate(body)]
        if any(line and HASH in line for line in found):
            hint = "Write these packages into presets: a preset's pip may have hashes."
            report.problem(path, "has hashes; several bundles are installed as one list.", hint)
        bundles[name] = tuple(line for line in found if line)
    return bundles


def _check_pip(report: Report, text: str, rules: PackageRules, path: Path) -> str | None:
    """The canonical form; None after telling what is wrong."""
    try:
        return pip_requirement(text, rules)
    except ValueError as wrong:
        report.problem(path, str(wrong))
        return None


def _check_apt(report: Report, text: str, rules: PackageRules, path: Path) -> None:
    wrong = apt_problem(text, rules)
    if wrong:
        report.problem(path, wrong)


def _presets(
    report: Report, value: object, groups: Mapping[str, Group],
    bundles: Mapping[str, tuple[str, ...]], rules: PackageRules, shares: bool,
) -> dict[str, Preset]:  # fmt: skip
    presets = {}
    for name, body in report.mapping(value, ("presets",)).items():
        path: Path = ("presets", name)
        if not _PRESET_NAME.fullmatch(name):
            report.problem(path, "is not a name for a preset.", "Use letters, digits and . _ -.")
        values = dict(report.mapping(body, path))
        for key in _TEXTS:
            if key in values:
                values[key] = report.text((*path, key), values[key])
        part = report.part(PresetPart, values, path)
        if part is None:
            continue
        _check_preset(report, part, path, bundles, rules)
        check_gpu_wishes(report, part, path, shares)
        report.tell_unknown_groups(part.groups, groups, path)
        shape = part.model_dump()
        for key in ("groups", "bundles", "pip", "apt"):
            shape[key] = None if shape[key] is None else tuple(shape[key])
        presets[name] = Preset(name=name, **{**shape, "allow": frozenset(part.allow)})
    return presets


def _check_preset(
    report: Report, part: PresetPart, path: Path, bundles: Mapping[str, tuple[str, ...]],
    rules: PackageRules,
) -> None:  # fmt: skip
    if part.architecture is not None and part.architecture not in ARCHITECTURES:
        hint = did_you_mean(part.architecture, ARCHITECTURES)
        report.problem((*path, "architecture"), "is not a known architecture.", hint)
    if not part.version:
        report.problem((*path, "version"), "is empty.", f"Write a version, or {LATEST}.")
    for i, bundle in enumerate(part.bundles):
        if bundle not in bundles:
            hint = did_you_mean(bundle, bundles)
            report.problem((*path, "bundles", i), f"{bundle!r} is not a bundle.", hint)
    found = [_check_pip(report, text, rules, (*path, "pip", i)) for i, text in enumerate(part.pip)]
    for problem in hash_problems({i: line for i, line in enumerate(found, 1) if line}):
        report.problem((*path, "pip"), problem)
    for i, text in enumerate(part.apt):
        _check_apt(report, text, rules, (*path, "apt", i))
    for key, most in (("pip", rules.max_pip), ("apt", rules.max_apt)):
        if len(getattr(part, key)) > most:
            report.problem(
                (*path, key), f"has more than {most} packages.", f"See packages.max_{key}."
            )


def _tell_memory_above_swap(reports: list[Report], policy: Policy) -> None:
    """`memory_swap` is memory and swap together: one below `memory` wins, which few expect."""
    layers: list[tuple[Report, Path, list[Mapping[str, Any]]]] = [
        (reports[0], ("defaults",), [policy.defaults])
    ]
    for name, group in policy.groups.items():
        layers.append((reports[0], ("groups", name), [policy.defaults, group.limits]))
    for name, own in policy.users.items():
        group = policy.groups.get(policy.group_of(name), Group())
        path: Path = ("user_overrides", name)
        report = reports[0] if path in reports[0].document.lines else reports[-1]
        place = path if report is reports[0] else (name,)
        layers.append((report, place, [policy.defaults, group.limits, own]))
    for report, path, merged in layers:
        limits = {key: value for layer in merged for key, value in layer.items()}
        memory, swap = limits.get("memory"), limits.get("memory_swap")
        named = merged[-1].keys() & {"memory", "memory_swap"}
        if named and swap is not None and (memory is None or swap < memory):
            told = "no limit" if memory is None else format_size(memory)
            report.notice(
                (*path, "memory" if "memory" in named else "memory_swap"),
                f"memory ({told}) is above memory_swap ({format_size(swap)}), which counts memory "
                "and swap together: the lower one holds.",
                "Write both.",
            )
