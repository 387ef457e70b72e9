"""`ds01-spawner policy check|explain`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ds01_spawner.cli.config import settings
from ds01_spawner.cli.output import FINE, NO, add_json, answer, table
from ds01_spawner.core import exemptions
from ds01_spawner.core.limits import HostCapacity, effective, explain
from ds01_spawner.core.policy import Finding, Policy
from ds01_spawner.core.units import format_hours, format_size
from ds01_spawner.errors import PolicyRefused
from ds01_spawner.services import wiring
from ds01_spawner.services.files import PolicyFile, read_policy

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_SIZES = frozenset({"memory", "memory_swap", "shm_size", "storage_tmp"})


def add_parser(subparsers: Subparsers) -> None:
    """Register the commands."""
    top = subparsers.add_parser("policy", help="limits, presets, bundles")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    one = commands.add_parser("check", help="what is wrong with a policy file and its neighbours")
    one.add_argument("file", metavar="FILE", type=Path)
    add_json(one)
    one.set_defaults(handler=check)

    one = commands.add_parser("explain", help="a user's limits, and which rule gave each")
    one.add_argument("--user", metavar="U", required=True)
    one.add_argument(
        "--group", metavar="G", action="append", default=[], help="a JupyterHub group of the user"
    )
    one.add_argument(
        "--file", metavar="F", type=Path, help="this file instead of the configured policy"
    )
    one.add_argument("--no-host", action="store_true", help="do not clamp to what this host has")
    add_json(one)
    one.set_defaults(handler=explain_)


def check(args: argparse.Namespace) -> int:
    """Problems and notices of a file."""
    policy, problems = Policy(), tuple[Finding, ...]()
    try:
        policy = read_policy(args.file)
    except PolicyRefused as refused:
        problems = refused.problems
    answer(
        args,
        {
            "groups": list(policy.groups),
            "users": list(policy.users),
            "presets": list(policy.presets),
            "problems": [asdict(finding) for finding in problems],
            "notices": [asdict(finding) for finding in policy.notices],
            **({"images": list(policy.images)} if policy.images else {}),
        },
        [*map(str, problems), *_notices(policy), _summary(policy, problems)],
    )
    return NO if problems else FINE


def explain_(args: argparse.Namespace) -> int:
    """A user's limits."""
    path: Path | None = args.file
    if path is None:
        configured = settings(args).policy_file
        path = Path(configured) if configured else None
    host = None if args.no_host else this_host()
    policy = PolicyFile(path).current()
    told = explain(effective(policy, args.user, args.group, host))
    rows = [
        (name, _value(name, value), told["from"][name]) for name, value in told["limits"].items()
    ]
    lines = [f"{args.user}, group {told['group']}", *table(rows)]
    if policy.images:
        told["images"] = [image.version for image in policy.images_of(args.user, args.group)]
        lines.append(f"custom images: {', '.join(told['images']) or 'none'}")
    own = [one for one in policy.exemptions if one.user == args.user]
    if own:
        told["exemptions"] = [exemptions.explain(one, wiring.now()) for one in own]
        lines += [_exempt(one) for one in told["exemptions"]]
    answer(args, told, lines)
    return FINE


def _exempt(told: Mapping[str, Any]) -> str:
    was = "was exempt" if told["expired"] else "exempt"
    until = f"{datetime.fromisoformat(told['expires_on']):%Y-%m-%d %H:%M} UTC"
    limits = " and ".join(told["exempt_from"])
    return f"{was} from {limits} until {until}: {told['reason']} ({told['from']})"


def this_host() -> HostCapacity:
    """The cores and memory of this machine; its GPUs are another command's answer."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return HostCapacity(cpus=float(os.cpu_count() or 1), memory=memory)


def _notices(policy: Policy) -> Iterable[str]:
    for finding in policy.notices:
        yield f"{finding.where}: notice: {finding.problem} {finding.hint}".rstrip()


def _summary(policy: Policy, problems: tuple[Finding, ...]) -> str:
    if problems:
        return f"{len(problems)} problems: this policy would be refused"
    images = f"{len(policy.images)} custom images, " if policy.images else ""
    return (
        f"{len(policy.groups)} groups, {len(policy.users)} users, {images}"
        f"{len(policy.presets)} presets, no problems, {len(policy.notices)} notices"
    )


def _value(name: str, value: float | None) -> str:
    if value is None:
        return "no limit"
    if name in _SIZES:
        return format_size(int(value))
    if name.endswith("_h"):
        return format_hours(value)
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"
