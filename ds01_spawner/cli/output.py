"""How commands answer: JSON for programs, plain lines for people."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence

FINE, NO, UNUSABLE = 0, 1, 2


def add_json(parser: argparse.ArgumentParser) -> None:
    """Give a command its `--json`."""
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def answer(args: argparse.Namespace, data: object, lines: Iterable[str]) -> None:
    """Print `data` as JSON where it was asked for, else the lines."""
    if args.json:
        print(json.dumps(data, indent=2))
    else:
        for line in lines:
            print(clean(line))


def complain(text: str) -> None:
    """Say to a person what is wrong."""
    for line in text.splitlines():
        print(clean(line), file=sys.stderr)


def clean(text: str) -> str:
    """The text without control characters, which could repaint a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def table(rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines with aligned columns."""
    texts = [[str(cell) for cell in row] for row in rows]
    if not texts:
        return []
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in texts
    ]
