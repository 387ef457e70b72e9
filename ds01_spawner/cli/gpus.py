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
from ds01_spawner.services.settings import Settings

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]
    Look = tuple[Snapshot, tuple[Lease, ...], dict[str, str], list[str]]


def add_parser(subparsers: Subparsers) -> None:
    """Register the command."""
    one = subparsers.add_parser("gpus", help="the GPUs of this host, and who has them")
    add_json(one)
    one.set_defaults(handler=show)


def show(args: argparse.Namespace) -> int:
    """All devices; the exit code is 1 when they are not known."""
    settings = settings_of(args)
    seen = run(args, _look) if has_ledger(settings) else _without_a_hub(settings)
    snapshot, leases, foreign, problems = seen
    holder = {uuid: lease for lease in leases for uuid in lease.devices}
    devices = [_row(device, holder.get(device.uuid)) for device in snapshot.devices]
    problems += [f"{uuid} is in use outside this hub, by {who}" for uuid, who in foreign.items()]
    lines = [
        (d.index, d.profile or "full", d.name, format_size(d.memory), gpueq_of_units(d.units),
         d.architecture or "-", _state(d, holder.get(d.uuid), foreign.get(d.uuid)), d.uuid)
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
    snapshot = asyncio.run(wiring.inventory(settings).snapshot())
    return snapshot, (), {}, [*snapshot.problems, f"there is no ledger {settings.ledger_path} yet"]


async def _look(hub: Opened) -> Look:
    snapshot = await hub.inventory.snapshot()
    problems = list(snapshot.problems)
    foreign: dict[str, str] = {}
    try:
        foreign = dict(await hub.reconciler.foreign_devices(snapshot))
    except DS01Error as error:
        problems.append(f"Who uses GPUs outside this hub is not known. {error.message}")
    return snapshot, hub.ledger.leases(), foreign, problems


def _row(device: Device, lease: Lease | None) -> dict[str, Any]:
    return {
        "uuid": device.uuid,
        "kind": device.kind,
        "name": device.name,
        "profile": device.profile,
        "architecture": device.architecture,
        "units": device.units,
        "memory": device.memory,
        "healthy": device.healthy,
        "lease": lease.id if lease else None,
    }


def _state(device: Device, lease: Lease | None, foreign: str | None) -> str:
    if lease is not None:
        return f"{lease.user}{'/' + lease.server if lease.server else ''} ({lease.state})"
    if not device.healthy:
        return f"unhealthy: {device.problem}"
    return foreign or "free"


def _source(snapshot: Snapshot) -> str:
    if snapshot.simulated:
        return "simulated"
    return f"driver {snapshot.driver}" if snapshot.driver else "no driver"
