"""`python -m benchmarks MEASURE`: run one measure and print it."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from contextlib import suppress

from benchmarks import grants, report, spawn
from benchmarks.line import command as line
from benchmarks.systems import CannotMeasure

SEVERAL = 9  # rounds of one user: a median of fewer says little
FEW = 3
CLASS = 10  # users from which on a round takes so long that a few must do


def main(arguments: list[str] | None = None) -> int:
    """Run the measure that the arguments name; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    measures = parser.add_subparsers(dest="measure", required=True)
    _add_spawn(measures.add_parser("spawn", help="click to ready, image present"))
    line.add_arguments(measures.add_parser("line", help="policies of the line for GPUs, simulated"))
    grants.add_arguments(measures.add_parser("grants", help="what the ledger costs"))
    options = parser.parse_args(arguments)
    if options.measure == "grants":
        print(grants.run(options))
        return 0
    if options.measure == "line":
        return _line(options)
    return _spawn(parser, options)


def _line(options: argparse.Namespace) -> int:
    try:
        print(line.run(options))
    except CannotMeasure as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _spawn(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.users < 1 or (options.repeat is not None and options.repeat < 1):
        parser.error("--users and --repeat are 1 or more")
    if not options.base:
        parser.error("--base: name the image that plays the framework image, or use benchmarks/run")
    options.repeat = options.repeat or (SEVERAL if options.users < CLASS else FEW)
    try:
        result = asyncio.run(_until_ended(spawn.measure(_plan(options))))
    except (KeyboardInterrupt, asyncio.CancelledError) as ending:
        print(f"ended early ({ending}); everything that was started is gone", file=sys.stderr)
        return 130
    except CannotMeasure as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report.as_json(result) if options.json else report.as_text(result))
    return 0


def _add_spawn(parser: argparse.ArgumentParser) -> None:
    engine = os.environ.get("DS01_TEST_ENGINE", "unix:///var/run/docker.sock")
    add = parser.add_argument
    add("--users", type=int, default=1, help="how many click at once (default: 1)")
    add("--repeat", type=int, help=f"rounds (default: {SEVERAL}, for {CLASS} users on {FEW})")
    add("--systems", default=",".join(spawn.SYSTEMS), help="which, in order (default: %(default)s)")
    add("--json", action="store_true", help="print the result as JSON")
    add("--engine", default=engine, help="URL of the container engine (default: %(default)s)")
    add(
        "--base",
        default=os.environ.get("DS01_STANDIN_IMAGE", ""),
        help="image on that engine, with python3 and its venv, that both images are made from",
    )
    add("--subnet", default="172.30.213.0/24", help="a free subnet for the two hubs' networks")
    add(
        "--quiet",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="before each round wait up to so long for the machine to be quiet",
    )
    add("--keep-logs", metavar="DIR", help="copy the hubs' logs there at the end")


def _plan(options: argparse.Namespace) -> spawn.Plan:
    systems = tuple(filter(None, options.systems.split(",")))
    unknown = [name for name in systems if name not in spawn.SYSTEMS]
    if unknown or not systems:
        raise SystemExit(f"--systems: there are {', '.join(spawn.SYSTEMS)}")
    return spawn.Plan(
        users=options.users,
        repeat=options.repeat,
        systems=systems,
        engine=options.engine,
        base=options.base,
        subnet=options.subnet,
        quiet=options.quiet,
        keep_logs=options.keep_logs,
    )


async def _until_ended(measuring: spawn.Measuring) -> spawn.Result:
    """The result; a signal that asks for the end cancels, so that everything is cleaned up."""
    task = asyncio.ensure_future(measuring)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, task.cancel, f"{number.name} came")
    return await task


if __name__ == "__main__":
    sys.exit(main())
