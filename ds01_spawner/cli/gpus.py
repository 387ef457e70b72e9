"""`ds01-spawner gpus`: the devices of this host, and who has them."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING, Any

from ds01_spawner.cli.config import settings as settings_of
from ds01_spawner.cli.opened import Opened, has_ledger, run
from ds01_spawner.cli.output import FINE, NO, add_json, answer, table
from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.units import format_size, gpueq_of_units
from ds01_spawner.errors import DS01Error
from ds01_spawner.services import wiring
from ds01_spawner.services.ledger import Lease
from ds01_spawner.services.ledger_marks import Cordon
from ds01_spawner.services.settings import Settings

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
    Look = tuple[
        Snapshot, tuple[Lease, ...], dict[str, str], dict[str, str], tuple[Cordon, ...], list[str]
    ]


def add_parser(subparsers: Subparsers) -> None:
    """Register the command."""
    one = subparsers.add_parser("gpus", help="the GPUs of this host, and who has them")
    add_json(one)
    one.set_defaults(handler=show)


def show(args: argparse.Namespace) -> int:
    """All devices; the exit code is 1 when they are not known."""
    settings = settings_of(args)
    seen = run(args, _look) if has_ledger(settings) else _without_a_hub(settings)
    snapshot, leases, foreign, promised, cordons, problems = seen
    holders: dict[str, list[Lease]] = {}
    for lease in leases:
        for uuid in lease.devices:
            holders.setdefault(uuid, []).append(lease)
    aside = {c.device: f"set aside{f': {c.why}' if c.why else ''}" for c in cordons}
    problems += [f"{uuid} is in use without a lease: {who}" for uuid, who in foreign.items()]
    there = {uuid for d in snapshot.devices for uuid in (d.uuid, d.parent)}
    problems += [
        f"{uuid} is {why}, and not there" for uuid, why in aside.items() if uuid not in there
    ]
    problems += [
        f"the server of {lease.user} cannot rely on its GPU: {lease.lost}"
        for lease in leases if lease.lost
    ]  # fmt: skip
    kept = dict(promised)
    kept |= {d.uuid: f"unhealthy: {d.problem}" for d in snapshot.devices if not d.healthy}
    kept |= foreign
    kept |= {d.uuid: aside[d.parent] for d in snapshot.devices if d.parent in aside}
    kept |= aside
    devices = [_row(d, holders.get(d.uuid, []), kept.get(d.uuid)) for d in snapshot.devices]
    lines = [
        (d.index, d.profile or "full", d.name, format_size(d.memory), gpueq_of_units(d.units),
         d.architecture or "-", _state(holders.get(d.uuid, []), kept.get(d.uuid)), d.uuid)
        for d in snapshot.devices
    ]  # fmt: skip
    answer(
        args,
        {"devices": devices, "driver": snapshot.driver, "problems": problems},
        [*table(lines), f"{len(devices)} devices, {_source(snapshot)}", *problems],
    )
    return FINE if snapshot.known else NO


def _without_a_hub(settings: Settings) -> Look:
    """The devices alone: an admin looks at the driver before the hub ever ran."""
    snapshot = asyncio.run(_devices_alone(settings))
    problems = [*snapshot.problems, f"there is no ledger {settings.ledger_path} yet"]
    return snapshot, (), {}, {}, (), problems


async def _devices_alone(settings: Settings) -> Snapshot:
    inventory = wiring.inventory(settings)
    try:
        return await inventory.snapshot()
    finally:
        await inventory.close()


async def _look(hub: Opened) -> Look:
    snapshot = await hub.inventory.snapshot()
    problems = list(snapshot.problems)
    foreign: dict[str, str] = {}
    try:
        foreign = dict(await hub.reconciler.foreign_devices(snapshot))
    except DS01Error as error:
        problems.append(f"Who uses GPUs outside this hub is not known. {error.message}")
    promised = {
        hold.device: f"kept for {hold.user} until {hold.until:%Y-%m-%d %H:%M} UTC"
        for hold in hub.ledger.holds()
    }
    promised |= {
        uuid: f"offered to {ticket.user} until {ticket.offer.until:%H:%M} UTC"
        for ticket in hub.ledger.tickets() if ticket.offer for uuid in ticket.offer.devices
    }  # fmt: skip
    return snapshot, hub.ledger.leases(), foreign, promised, hub.ledger.cordons(), problems


def _row(device: Device, leases: list[Lease], kept: str | None) -> dict[str, Any]:
    return {
        "uuid": device.uuid,
        "kind": device.kind,
        "name": device.name,
        "profile": device.profile,
        "architecture": device.architecture,
        "units": device.units,
        "memory": device.memory,
        "healthy": device.healthy,
        "lease": next((lease.id for lease in leases if lease.seats == 1), None),
        "seats": next((lease.seats for lease in leases), 1),
        "seated": [lease.id for lease in leases if lease.seats > 1],
        "unavailable": kept,
    }


def _state(leases: list[Lease], kept: str | None) -> str:
    if not leases:
        return kept or "free"
    names = [f"{lease.user}{'/' + lease.server if lease.server else ''}" for lease in leases]
    who = f"{names[0]} ({leases[0].state})"
    if leases[0].seats > 1:
        who = f"{len(leases)} of {leases[0].seats} seats: {', '.join(names)}"
    return f"{who}; {kept}" if kept else who


def _source(snapshot: Snapshot) -> str:
    if snapshot.simulated:
        return "simulated"
    return f"driver {snapshot.driver}" if snapshot.driver else "no driver"
