"""`ds01-spawner leases|stop|extend|reconcile`: who runs what, until when, and putting it right."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ds01_spawner.cli.opened import Opened, run
from ds01_spawner.cli.output import FINE, NO, UNUSABLE, add_json, answer, complain, table
from ds01_spawner.core.faults import Pause
from ds01_spawner.core.line import Outlook
from ds01_spawner.core.sharing import label
from ds01_spawner.core.tickets import Ticket
from ds01_spawner.core.units import gpueq_of_units
from ds01_spawner.services import wiring
from ds01_spawner.services.ledger import Lease
from ds01_spawner.services.reconcile import Action

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
    Line = tuple[tuple[Ticket, Outlook], ...]

MOST_HOURS = 10_000.0
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

    one = subparsers.add_parser("extend", help="let a user's server run longer")
    one.add_argument("user", metavar="USER")
    one.add_argument("hours", metavar="HOURS", type=float)
    one.add_argument("server", metavar="SERVER", nargs="?", default="", help="not the default one")
    add_json(one)
    one.set_defaults(handler=extend)

    one = subparsers.add_parser("reconcile", help="make leases and containers agree, now")
    one.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    add_json(one)
    one.set_defaults(handler=reconcile)


def show(args: argparse.Namespace) -> int:
    """All live leases, and who waits in the line."""

    async def look(hub: Opened) -> tuple[tuple[Lease, ...], dict[str, Pause], Line]:
        leases, line = hub.ledger.leases(), hub.ledger.tickets()
        paused = hub.ledger.pauses(hub.settings.hub_id)
        if not line:
            return leases, paused, ()
        snapshot = await hub.inventory.snapshot()
        foreign = await hub.reconciler.foreign_devices(snapshot)
        return leases, paused, hub.ledger.situation(snapshot, foreign).told()

    leases, paused, line = run(args, look)
    rows = [
        (lease.user, lease.server or "-", lease.state, _gpu(lease),
         f"since {_minute(lease.since)}", _ends(lease), _used(lease),
         (lease.container or "-")[:12], lease.id)
        for lease in leases
    ]  # fmt: skip
    answer(
        args,
        {
            "leases": [_row(lease) for lease in leases],
            "tickets": [_waits(*one) for one in line],
            "paused": [_pause(*one) for one in paused.items()],
        },
        [
            *table(rows),
            f"{len(leases)} leases",
            *_lost_lines(leases),
            *_line_lines(line),
            *_paused_lines(paused),
        ],
    )
    return FINE


def stop(args: argparse.Namespace) -> int:
    """Stop one server; the exit code is 1 when there is none, or it could not be stopped."""

    async def end(hub: Opened) -> tuple[Lease | None, str]:
        lease = _own(hub, args)
        if lease is None:
            return None, ""
        await hub.reconciler.end(lease, "an administrator stopped it")
        if lease.state == "reserved":
            return lease, CANCELLED
        left = hub.ledger.lease_of(lease.hub, lease.user, lease.server)
        return lease, FAILED if left is not None and left.id == lease.id else STOPPED

    lease, result = run(args, end)
    changed = [] if lease is None else [{**_row(lease), "result": result}]
    lines = [] if lease is None else [f"{lease.user} {lease.server}: {result}"]
    answer(args, {"stopped": changed}, lines)
    return NO if lease is None or result == FAILED else FINE


def extend(args: argparse.Namespace) -> int:
    """Move the end of a server; the exit code is 1 when there is none, or it has no end."""
    if not 0 < args.hours <= MOST_HOURS:
        complain(
            f"{args.hours:g} is no number of hours: give one from more than 0 to {MOST_HOURS:g}."
        )
        return UNUSABLE

    async def move(hub: Opened) -> tuple[Lease | None, Lease | None]:
        lease = _own(hub, args)
        if lease is None or lease.end is None:
            return lease, None
        now, more = wiring.now(), timedelta(hours=args.hours)
        ceiling = now + timedelta(hours=hub.settings.gpu_lease_ceiling_h)
        if lease.devices and lease.idle_h is not None:
            lease = hub.ledger.keep(lease.id, min(now + more, ceiling))
        if lease.until is not None:
            until = max(lease.until, now) + more
            until = max(lease.until, min(until, ceiling)) if lease.devices else until
            lease = hub.ledger.set_until(lease.id, until)
        return lease, lease

    lease, moved = run(args, move)
    if lease is not None and moved is None:
        complain(f"the server of {args.user} has no end that could be moved.")
    rows = [] if moved is None else [_row(moved)]
    lines = [] if moved is None else [f"{moved.user} {moved.server}: {_ends(moved)}"]
    answer(args, {"extended": rows}, lines)
    return FINE if moved else NO


def _own(hub: Opened, args: argparse.Namespace) -> Lease | None:
    """The live lease of the server that was named; without one, says what the user has."""
    own = [lease for lease in hub.ledger.leases() if lease.hub == hub.settings.hub_id]
    own = [lease for lease in own if lease.user == args.user]
    lease = next((lease for lease in own if lease.server == args.server), None)
    if lease is None:
        names = ", ".join(f"'{x.server}'" if x.server else "the default one" for x in own)
        complain(
            f"{args.user} has no server {args.server!r} that runs."
            + (f" Running: {names}." if names else "")
        )
    return lease


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
        "seat": label(lease.seat, lease.seats) or None,
        "since": lease.since.isoformat(),
        "until": lease.until.isoformat() if lease.until else None,
        "ends": lease.end.at.isoformat() if lease.end else None,
        "used_gpu_hours": lease.used_h,
        "container": lease.container,
        "lost": lease.lost,
    }


def _waits(ticket: Ticket, seen: Outlook) -> dict[str, Any]:
    return {
        "ticket": ticket.id,
        "user": ticket.user,
        "server": ticket.server,
        "wants": f"{ticket.wanted.count} {ticket.wanted.asked}",
        "position": seen.position,
        "since": ticket.since.isoformat(),
        "expected": seen.expected.isoformat() if seen.expected else None,
        "waits_for": seen.waits_for,
    }


def _line_lines(line: Line) -> list[str]:
    rows = [
        (f"{seen.position}.", ticket.user, ticket.server or "-",
         f"{ticket.wanted.count} {ticket.wanted.asked}", f"since {_minute(ticket.since)}",
         f"at the latest {_minute(seen.expected)}" if seen.expected else "nobody can tell when")
        for ticket, seen in line
    ]  # fmt: skip
    return [*table(rows), f"{len(line)} in the line"] if line else []


def _pause(user: str, pause: Pause) -> dict[str, Any]:
    return {"user": user, "until": pause.until.isoformat(), "faults": pause.faults}


def _paused_lines(paused: Mapping[str, Pause]) -> list[str]:
    return [
        f"{user} gets no GPU until {_minute(one.until)}, after {one.faults} faults of programs on "
        f"one, unless: ds01-spawner resume {user}"
        for user, one in paused.items()
    ]


def _lost_lines(leases: Iterable[Lease]) -> list[str]:
    return [
        f"{lease.user} {lease.server or '-'}: its GPU cannot be relied on: {lease.lost}"
        for lease in leases if lease.lost
    ]  # fmt: skip


def _gpu(lease: Lease) -> str:
    seat = f" (seat {label(lease.seat, lease.seats)})" if lease.seats > 1 else ""
    return f"{gpueq_of_units(lease.units):g} GPU{seat}"


def _ends(lease: Lease) -> str:
    end = lease.end
    idle = " if it stays idle" if end is not None and end.kind == "idle" else ""
    return f"until {_minute(end.at if end else None)}{idle}"


def _used(lease: Lease) -> str:
    """GPU-hours computed of those leased."""
    if not lease.devices:
        return "-"
    hours = max(0.0, (wiring.now() - lease.since) / timedelta(hours=1))
    leased = gpueq_of_units(lease.units) * hours
    used = "?" if lease.used_h is None else f"{lease.used_h:.1f}"
    return f"used {used} of {leased:.1f} GPU-h"


def _minute(time: datetime | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC") if time else "-"
