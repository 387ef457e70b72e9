"""`ds01-spawner catalog list|check|resolve`."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ds01_spawner.cli.config import settings
from ds01_spawner.cli.output import FINE, NO, UNUSABLE, add_json, answer, complain, table
from ds01_spawner.core.architectures import ARCHITECTURES
from ds01_spawner.core.catalog import Catalog, CatalogEntry, parse
from ds01_spawner.errors import NoSuchEntry
from ds01_spawner.services.files import CatalogFile, read_text

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Register the commands."""
    top = subparsers.add_parser("catalog", help="the images on offer")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    one = commands.add_parser("list", help="the entries, in file order")
    _add_file(one)
    one.add_argument("--arch", metavar="A", help="only those for this architecture")
    add_json(one)
    one.set_defaults(handler=list_)

    one = commands.add_parser("check", help="what is wrong with a catalog file")
    one.add_argument("file", metavar="FILE", type=Path)
    add_json(one)
    one.set_defaults(handler=check)

    one = commands.add_parser("resolve", help="the image of a framework, version and architecture")
    for option in ("framework", "version", "arch"):
        one.add_argument(f"--{option}", metavar=option[0].upper(), required=True)
    _add_file(one)
    add_json(one)
    one.set_defaults(handler=resolve)


def list_(args: argparse.Namespace) -> int:
    """The entries."""
    if args.arch is not None and not _is_architecture(args.arch):
        return UNUSABLE
    entries = [
        entry
        for entry in _catalog(args).entries
        if args.arch is None or args.arch in entry.architectures
    ]
    rows = [(e.framework, e.version, ";".join(e.architectures), e.image) for e in entries]
    answer(args, [_row(entry, list(entry.architectures)) for entry in entries], table(rows))
    return FINE


def check(args: argparse.Namespace) -> int:
    """Problems and notices of a file."""
    catalog = parse(read_text(args.file))
    problems = [{"line": note.line, "problem": note.text} for note in catalog.problems]
    if not catalog.entries and not problems:
        problems = [{"line": 1, "problem": "the file has no entry."}]
    notices = [{"line": note.line, "notice": note.text} for note in catalog.notices]
    answer(
        args,
        {"entries": len(catalog.entries), "problems": problems, "notices": notices},
        [
            *(f"{args.file}:{p['line']}: {p['problem']}" for p in problems),
            *(f"{args.file}:{n['line']}: notice: {n['notice']}" for n in notices),
            f"{len(catalog.entries)} entries, {len(problems)} problems, {len(notices)} notices",
        ],
    )
    return NO if problems else FINE


def resolve(args: argparse.Namespace) -> int:
    """One entry, exactly, or none."""
    if not _is_architecture(args.arch):
        return UNUSABLE
    catalog = _catalog(args)
    entry = catalog.find(args.framework, args.version, args.arch)
    if entry is None:
        raise _no_such_entry(catalog, args.framework, args.version, args.arch)
    answer(args, _row(entry, None, args.arch), [entry.image])
    return FINE


def _add_file(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--file", metavar="F", type=Path, help="this file instead of the configured catalog"
    )


def _catalog(args: argparse.Namespace) -> Catalog:
    if args.file is not None:
        return CatalogFile(args.file).current()
    wiring = settings(args)
    path = Path(wiring.catalog_file) if wiring.catalog_file else None
    files = CatalogFile(path, wiring.fallback_images)
    if files.banner:
        complain(files.banner)
    return files.current()


def _is_architecture(name: str) -> bool:
    if name in ARCHITECTURES:
        return True
    close = get_close_matches(name.upper(), ARCHITECTURES, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(ARCHITECTURES)}."
    complain(f"{name!r} is not an architecture. {hint}")
    return False


def _row(
    entry: CatalogEntry, architectures: list[str] | None, architecture: str = ""
) -> dict[str, Any]:
    served = (
        {"architecture": architecture}
        if architectures is None
        else {"architectures": architectures}
    )
    return {
        "framework": entry.framework,
        "version": entry.version,
        **served,
        "image": entry.image,
        "line": entry.line,
    }


def _no_such_entry(catalog: Catalog, framework: str, version: str, arch: str) -> NoSuchEntry:
    versions = catalog.versions(framework, (arch,))
    if versions:
        wanted = f"{framework} {version} for {arch}"
        return NoSuchEntry(wanted, [f"{framework} {entry.version}" for entry in versions])
    return NoSuchEntry(f"{framework} for {arch}", catalog.frameworks((arch,)))
