"""`ds01-spawner leases|stop|reconcile`: who runs what, ending it, and putting things right."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ds01_spawner.cli.opened import Opened, run
from ds01_spawner.cli.output import FINE, NO, add_json, answer, complain, table
from ds01_spawner.core.units import gpueq_of_units
from ds01_spawner.services.ledger import Lease
from ds01_spawner.services.reconcile import Action

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

STOPPED, CANCELLED, FAILED = "stopped", "start cancelled", "not stopped"


def add_parser(subparsers: Subparsers) -> None:
    """Register the commands."""
    one = subparsers.add_parser("leases", help="the servers that run, and what they hold")
    add_json(one)
    one.set_defaults(handler=show)

    one = subparsers.add_parser("stop", help="stop a user's server")
    one.add_argument("user", metavar="USER")
    one.add_argument("server", metavar="SERVER", nargs="?", default="", help="not the default one")
    add_json(one)
    one.set_defaults(handler=stop)

    one = subparsers.add_parser("reconcile", help="make leases and containers agree, now")
    one.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    add_json(one)
    one.set_defaults(handler=reconcile)


def show(args: argparse.Namespace) -> int:
    """All live leases."""

    async def look(hub: Opened) -> tuple[Lease, ...]:
        return hub.ledger.leases()

    leases = run(args, look)
    rows = [
        (lease.user, lease.server or "-", lease.state, f"{gpueq_of_units(lease.units):g} GPU",
         f"since {_minute(lease.since)}", f"until {_minute(lease.until)}",
         (lease.container or "-")[:12], lease.id)
        for lease in leases
    ]  # fmt: skip
    answer(
        args,
        {"leases": [_row(lease) for lease in leases], "tickets": []},
        [*table(rows), f"{len(leases)} leases"],
    )
    return FINE


def stop(args: argparse.Namespace) -> int:
    """Stop one server; the exit code is 1 when there is none, or it could not be stopped."""

    async def end(hub: Opened) -> tuple[Lease | None, str, list[str]]:
        own = [lease for lease in hub.ledger.leases() if lease.hub == hub.settings.hub_id]
        own = [lease for lease in own if lease.user == args.user]
        lease = next((lease for lease in own if lease.server == args.server), None)
        if lease is None:
            return None, "", [other.server for other in own]
        await hub.reconciler.end(lease, "an administrator stopped it")
        if lease.state == "reserved":
            return lease, CANCELLED, []
        left = hub.ledger.lease_of(lease.hub, lease.user, lease.server)
        return lease, FAILED if left is not None and left.id == lease.id else STOPPED, []

    lease, result, others = run(args, end)
    if lease is None:
        names = ", ".join(f"'{name}'" if name else "the default one" for name in others)
        complain(
            f"{args.user} has no server {args.server!r} that runs."
            + (f" Running: {names}." if names else "")
        )
    changed = [] if lease is None else [{**_row(lease), "result": result}]
    lines = [] if lease is None else [f"{lease.user} {lease.server}: {result}"]
    answer(args, {"stopped": changed}, lines)
    return NO if lease is None or result == FAILED else FINE


def reconcile(args: argparse.Namespace) -> int:
    """Settle what a crash or a meddling hand left, as the hub does every half minute."""

    async def settle(hub: Opened) -> tuple[Action, ...]:
        return await hub.reconciler.run(dry_run=args.dry_run)

    actions = run(args, settle)
    answer(args, {"actions": _actions(actions)}, _lines(actions, args.dry_run))
    return FINE


def _actions(actions: Iterable[Action]) -> list[dict[str, str]]:
    return [{"action": a.action, "object": a.object, "why": a.why} for a in actions]


def _lines(actions: tuple[Action, ...], dry_run: bool) -> list[str]:
    told = [f"{a.action} {a.object}: {a.why}" for a in actions]
    if not told:
        return ["nothing to do"]
    return [*told, f"{len(told)} actions {'to do' if dry_run else 'done'}"]


def _row(lease: Lease) -> dict[str, Any]:
    return {
        "lease": lease.id,
        "user": lease.user,
        "server": lease.server,
        "state": lease.state,
        "devices": list(lease.devices),
        "units": lease.units,
        "since": lease.since.isoformat(),
        "until": lease.until.isoformat() if lease.until else None,
        "container": lease.container,
    }


def _minute(time: datetime | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC") if time else "-"
