"""`ds01-spawner cordon|uncordon|drain|resume`: what an admin keeps from being given out."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ds01_spawner.cli.opened import Opened, run
from ds01_spawner.cli.output import FINE, NO, add_json, answer, complain
from ds01_spawner.services.ledger_marks import Cordon

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_parser(subparsers: Subparsers) -> None:
    """Register the commands."""
    one = subparsers.add_parser("cordon", help="give a GPU to nobody; who has it keeps it")
    one.add_argument("uuid", metavar="UUID")
    one.add_argument("--why", default="", help="shown in the list of GPUs")
    add_json(one)
    one.set_defaults(handler=cordon)

    one = subparsers.add_parser("uncordon", help="give a GPU out again")
    one.add_argument("uuid", metavar="UUID")
    add_json(one)
    one.set_defaults(handler=uncordon)

    one = subparsers.add_parser("drain", help="let no new server start; those that run go on")
    one.add_argument("--why", default="", help="shown to users on the form")
    add_json(one)
    one.set_defaults(handler=drain)

    one = subparsers.add_parser("resume", help="let servers start again, or a user have GPUs again")
    one.add_argument(
        "user", metavar="USER", nargs="?", help="who gets no GPU for the faults of their programs"
    )
    add_json(one)
    one.set_defaults(handler=resume)


def cordon(args: argparse.Namespace) -> int:
    """Set a device aside, or a card with all its parts; the exit code is 1 when there is none."""

    async def set_aside(hub: Opened) -> Cordon | None:
        snapshot = await hub.inventory.snapshot()
        there = {uuid for d in snapshot.devices for uuid in (d.uuid, d.parent)}
        if snapshot.known and args.uuid not in there:
            return None
        return hub.ledger.cordon(args.uuid, args.why)

    made = run(args, set_aside)
    if made is None:
        complain(f"this host has no GPU {args.uuid}. See: ds01-spawner gpus")
        return NO
    answer(
        args,
        {"cordoned": {"uuid": made.device, "since": made.since.isoformat(), "why": made.why}},
        [f"{made.device} is given to nobody until: ds01-spawner uncordon {made.device}"],
    )
    return FINE


def uncordon(args: argparse.Namespace) -> int:
    """Give a device out again; the exit code is 1 when it was not set aside."""

    async def give_out(hub: Opened) -> bool:
        return hub.ledger.uncordon(args.uuid)

    done = run(args, give_out)
    words = f"{args.uuid} is given out again" if done else f"{args.uuid} was not set aside"
    answer(args, {"uncordoned": args.uuid if done else None}, [words])
    return FINE if done else NO


def drain(args: argparse.Namespace) -> int:
    """Let no new server start."""

    async def shut(hub: Opened) -> None:
        hub.ledger.drain(args.why)

    run(args, shut)
    answer(
        args,
        {"drained": True, "why": args.why},
        ["no new server starts until: ds01-spawner resume"],
    )
    return FINE


def resume(args: argparse.Namespace) -> int:
    """Let servers start again, or a user have GPUs; the exit code is 1 when nothing kept them."""
    if args.user is not None:
        return _let_go_on(args)

    async def open_(hub: Opened) -> bool:
        return hub.ledger.resume()

    done = run(args, open_)
    words = "servers start again" if done else "nothing kept servers from starting"
    answer(args, {"drained": False, "changed": done}, [words])
    return FINE if done else NO


def _let_go_on(args: argparse.Namespace) -> int:
    async def forgive(hub: Opened) -> bool:
        return hub.ledger.forgive(hub.settings.hub_id, args.user)

    done = run(args, forgive)
    words = f"{args.user} gets GPUs again" if done else f"nothing kept {args.user} from GPUs"
    answer(args, {"resumed": args.user if done else None}, [words])
    return FINE if done else NO
