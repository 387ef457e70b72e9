"""`ds01-spawner`: what an administrator asks and does, from a terminal or a script.

Exit codes: 0 fine, 1 the answer is no, 2 unusable input.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from ds01_spawner._version import __version__
from ds01_spawner.cli import catalog, doctor, gpus, images, leases, marks, policy, render
from ds01_spawner.cli.output import FINE, NO, UNUSABLE, complain
from ds01_spawner.errors import (
    DS01Error,
    FileUnusable,
    PolicyRefused,
    SettingUnusable,
    TraitRefused,
)

# Each has add_parser(subparsers), which sets `handler`: (args) -> exit code.
COMMANDS = (catalog, policy, gpus, marks, leases, images, render, doctor)
_UNUSABLE = (FileUnusable, PolicyRefused, SettingUnusable, TraitRefused)
_INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="ds01-spawner", description=(__doc__ or "").split("\n")[0])
    top.add_argument("--version", action="version", version=__version__)
    top.add_argument(
        "--config", metavar="FILE", help="the hub's jupyterhub_config.py; without it, defaults"
    )
    subparsers = top.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors are told on stderr, in words."""
    args = parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    try:
        code = int(args.handler(args))
        sys.stdout.flush()
    except _UNUSABLE as error:
        complain(str(error))
        return UNUSABLE
    except DS01Error as error:
        complain(str(error))
        return NO
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
