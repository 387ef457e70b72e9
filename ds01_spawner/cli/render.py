"""`render`: what a start of a user with these options would send to the engine."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from traitlets.config import Config

from ds01_spawner.cli.config import load
from ds01_spawner.cli.output import FINE, UNUSABLE, add_json, answer, complain


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser("render", help="show what a start would send; changes nothing")
    parser.add_argument("--user", required=True, metavar="U")
    parser.add_argument(
        "--group", action="append", default=[], metavar="G",
        help="a group of the user in JupyterHub; may be given several times",
    )  # fmt: skip
    parser.add_argument("--options", default="{}", metavar="JSON", help="the user_options")
    add_json(parser)
    parser.set_defaults(handler=render)


def render(args: argparse.Namespace) -> int:
    """Print the image, its Dockerfile and the container's create body."""
    from ds01_spawner.hub.rendering import render as rendered  # the hub's side takes a second

    try:
        options = json.loads(args.options)
    except ValueError as error:
        complain(f"--options is not JSON: {error}.")
        return UNUSABLE
    config = load(Path(args.config).absolute()) if args.config else Config()
    shown = asyncio.run(rendered(config, args.user, tuple(args.group), options))
    body = json.dumps(shown["container"], indent=2).splitlines()
    told = [f"# image {shown['image']}", *shown["dockerfile"].splitlines(), "", "# container"]
    answer(args, shown, [*told, *body])
    return FINE
