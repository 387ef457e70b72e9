"""`ds01-spawner doctor`: what of this host is in order, and what to do about the rest."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from ds01_spawner.cli.config import settings as settings_of
from ds01_spawner.cli.output import FINE, NO, add_json, answer
from ds01_spawner.core.checks import Check
from ds01_spawner.errors import FileUnusable
from ds01_spawner.services.checkup import checkup

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Register the command."""
    one = subparsers.add_parser("doctor", help="what is not in order here, and what to do about it")
    add_json(one)
    one.set_defaults(handler=examine)


def examine(args: argparse.Namespace) -> int:
    """All checks; the exit code is 1 when one is not ok."""
    found = _checks(args)
    answer(args, {"checks": [asdict(check) for check in found]}, _lines(found))
    return FINE if all(check.ok for check in found) else NO


def _checks(args: argparse.Namespace) -> list[Check]:
    try:
        settings = settings_of(args)
    except FileUnusable as error:
        return [Check("configuration", False, error.message, error.next_step)]
    where = args.config or "the defaults (name the hub's with --config)"
    return [Check("configuration", True, where), *asyncio.run(checkup(settings))]


def _lines(found: list[Check]) -> Iterator[str]:
    width = max(len(check.name) for check in found)
    for check in found:
        yield f"{'ok' if check.ok else 'NO':3} {check.name:{width}}  {check.detail}"
        if check.fix:
            yield f"{'':{width + 6}}{check.fix}"
    wrong = sum(not check.ok for check in found)
    yield f"{len(found)} checks, {wrong} not ok" if wrong else f"{len(found)} checks, all ok"
