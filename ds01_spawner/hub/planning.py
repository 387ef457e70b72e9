"""From what a start knows to what the engine is told, and the small steps around it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ds01_spawner.core import sharing
from ds01_spawner.core.container import ContainerPlan, Mount, Resources
from ds01_spawner.core.devices import Device
from ds01_spawner.core.injection import NvidiaWay, way_of
from ds01_spawner.core.limits import HostCapacity, Limits
from ds01_spawner.core.losses import why_lost
from ds01_spawner.core.options import Request
from ds01_spawner.core.slugs import volume_name
from ds01_spawner.errors import DeviceLost, NoAccount, NoDiskSpace, WorkspaceUnusable
from ds01_spawner.hub.offers import Ceilings
from ds01_spawner.services.accounts import Account, account_of, folder_problem
from ds01_spawner.services.engine import EngineNotFound
from ds01_spawner.services.images import ReadyImage
from ds01_spawner.services.ledger import Lease
from ds01_spawner.services.settings import Settings

if TYPE_CHECKING:
    from ds01_spawner.hub.runtime import Runtime

LOG_FILES = 2
MEMORY_KEPT_FOR_SHM = 2  # /dev/shm gets at most half of the memory where no policy says more


@dataclass(frozen=True, slots=True)
class Asker:
    """The facts of a start that only the spawner knows."""

    user: str
    server: str
    groups: tuple[str, ...]
    options: object
    prefix: str
    port: int
    ready_path: str
    ready_timeout: float
    ceilings: Ceilings
    mounts: tuple[Mount, ...]
    environment: Callable[[], Mapping[str, str]]
    command: Callable[[], tuple[str, ...]]


async def enough_disk(runtime: Runtime) -> None:
    """Refuse a new server below the floor of free disk; unknown is not refused."""
    free = await runtime.engine.free_disk()
    floor = runtime.settings.min_free_disk
    if free is not None and free < floor:
        raise NoDiskSpace(free, floor)


def resources(
    limits: Limits, asked: Request, capacity: HostCapacity | None, settings: Settings
) -> Resources:
    """The limits of the container: what was asked for, else what the policy gives."""
    memory = asked.memory or limits.memory or (capacity.memory if capacity else None)
    swap = memory
    if memory and limits.memory_swap and limits.memory:
        swap = memory + max(0, limits.memory_swap - limits.memory)
    shm = limits.shm_size
    if memory and (shm is None or shm > memory):
        shm = memory // MEMORY_KEPT_FOR_SHM if shm is None else memory
    return Resources(
        cpus=asked.cpus or limits.max_cpus or (capacity.cpus if capacity else None),
        memory=memory,
        memory_swap=swap,
        shm_size=shm,
        pids_limit=limits.pids_limit,
        tmp_size=limits.storage_tmp or settings.tmp_size,
        log_size=settings.log_size,
        log_files=LOG_FILES,
        open_files=settings.open_files,
    )


async def account(runtime: Runtime, user: str) -> Account:
    """uid and gid: the host's account, or one of the hub's own range, for ever."""
    settings = runtime.settings
    if settings.system_accounts:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(None, account_of, user)  # NSS may ask LDAP
        if found is None:
            raise NoAccount(user)
        return found
    uid = await runtime.uid_of(user)
    return Account(uid, uid)


def workspace_mount(settings: Settings, prefix: str, user: str) -> Mount:
    """The workspace: a folder of the host by the admin's template, or the user's volume."""
    if not settings.workspace:
        return Mount(volume_name(prefix, user), settings.home)
    if "/" in user or user in (".", "..") or "\0" in user:
        raise NoAccount(user)
    return Mount(settings.workspace.format(username=user), settings.home)


async def check_workspace(runtime: Runtime, prefix: str, user: str) -> None:
    """Refuse a workspace that is not this user's: it would be mounted, and given to them."""
    settings = runtime.settings
    work = workspace_mount(settings, prefix, user)
    if work.kind == "bind":
        why = await folder_problem(work.source, await account(runtime, user))
        if why:
            raise WorkspaceUnusable(work.source, why)
        return
    with suppress(EngineNotFound):  # not made yet
        labels = (await runtime.engine.inspect_volume(work.source)).get("Labels") or {}
        if (labels.get("ds01.hub"), labels.get("ds01.user")) != (settings.hub_id, user):
            raise WorkspaceUnusable(work.source, "it is not labelled as this hub's and yours")


async def check_devices(runtime: Runtime, devices: Collection[Device]) -> None:
    """The last look before they are used: one lost since it was reserved may not be an error."""
    if devices:
        lost = why_lost((d.uuid for d in devices), await runtime.inventory.snapshot())
        if lost:
            raise DeviceLost(lost)


@dataclass(frozen=True, slots=True)
class Grant:
    """What only a start knows: its lease, still reserved, in the words of the labels."""

    lease: str
    generation: str
    since: str
    devices: tuple[Device, ...]
    slots: tuple[str, ...]  # the numbers that DS01's tools show for them
    units: str
    hours: str
    idle_hours: str
    hold_hours: str
    exempt_until: str
    exempt_idle_until: str
    architecture: str | None = None  # of the devices
    seat: str = ""  # in the words of the label, too
    seats: int = 1

    @classmethod
    def of(cls, lease: Lease, devices: tuple[Device, ...]) -> Grant:
        """The grant of a lease."""
        return cls(
            lease=lease.id,
            generation=str(lease.generation),
            since=lease.since.isoformat(),
            devices=devices,
            slots=tuple(str(device.index) for device in devices),
            units=str(lease.units),
            hours=_hours(lease.hours),
            idle_hours=_hours(lease.idle_h),
            hold_hours=_hours(lease.hold_h),
            exempt_until=lease.until.isoformat() if lease.until else "",
            exempt_idle_until=lease.keep_until.isoformat() if lease.keep_until else "",
            architecture=devices[0].architecture if devices else None,
            seat=sharing.label(lease.seat, lease.seats),
            seats=lease.seats,
        )


def _hours(hours: float | None) -> str:
    return "" if hours is None else f"{hours:g}"


def container_plan(
    asker: Asker,
    request: Request,
    limits: Resources,
    image: ReadyImage,
    grant: Grant,
    owner: str,
    settings: Settings,
    nvidia: NvidiaWay,
) -> ContainerPlan:
    """All that the create call says; `nvidia` is the way of NVIDIA's devices on this engine."""
    work = workspace_mount(settings, asker.prefix, asker.user)
    return ContainerPlan(
        hub=settings.hub_id,
        user=asker.user,
        server=asker.server,
        image=image.name,
        command=asker.command(),
        environment={**image.environment(work.target), **asker.environment()},
        owner=owner,
        home=work.target,
        resources=limits,
        network=settings.network,
        mounts=(work, *asker.mounts, image.server),
        work_mount=work.source,
        lease=grant.lease,
        generation=grant.generation,
        framework=request.entry.framework,
        version=request.entry.version,
        architecture=grant.architecture or request.architecture,
        catalog_image=request.entry.image,
        recipe=image.digest,
        project=request.project,
        created_at=grant.since,
        custom=request.entry.custom,
        devices=grant.devices,
        way=way_of(grant.devices, simulated=settings.simulated, nvidia=nvidia),
        slots=grant.slots,
        units=grant.units,
        seat=grant.seat,
        seats=grant.seats,
        simulated=settings.simulated,
        hours=grant.hours,
        idle_hours=grant.idle_hours,
        hold_hours=grant.hold_hours,
        exempt_until=grant.exempt_until,
        exempt_idle_until=grant.exempt_idle_until,
    )
