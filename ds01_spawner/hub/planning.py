"""From what a start knows to what the engine is told, and the small steps around it."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ds01_spawner.core import sharing
from ds01_spawner.core.build_log import clean
from ds01_spawner.core.container import ContainerPlan, Mount, Resources
from ds01_spawner.core.device_errors import device_error
from ds01_spawner.core.devices import Device
from ds01_spawner.core.injection import NvidiaWay, way_of
from ds01_spawner.core.limits import HostCapacity, Limits
from ds01_spawner.core.losses import why_lost
from ds01_spawner.core.options import Request
from ds01_spawner.core.slugs import slug, volume_name
from ds01_spawner.errors import (
    DeviceLost,
    DS01Error,
    NoAccount,
    NoDiskSpace,
    StillThere,
    WorkspaceUnusable,
)
from ds01_spawner.hub.offers import Ceilings
from ds01_spawner.services.accounts import Account, account_of, folder_problem
from ds01_spawner.services.engine import EngineConflict, EngineNotFound, EngineRefused
from ds01_spawner.services.images import ReadyImage
from ds01_spawner.services.ledger import Lease
from ds01_spawner.services.settings import Settings

if TYPE_CHECKING:
    from ds01_spawner.hub.runtime import Runtime

LOG_FILES = 2
LOG_LINES = 40
MEMORY_KEPT_FOR_SHM = 2  # /dev/shm gets at most half of the memory where no policy says more
GONE_SECONDS = 60.0
PROBE_PATIENCE = 2.0  # seconds for one look whether a server answers


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
        mounts=(work, *asker.mounts),
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
        devices=grant.devices,
        way=way_of(grant.devices, simulated=settings.simulated, nvidia=nvidia),
        slots=grant.slots,
        units=grant.units,
        seat=grant.seat,
        seats=grant.seats,
        simulated=settings.simulated,
        hours=grant.hours,
        idle_hours=grant.idle_hours,
        exempt_until=grant.exempt_until,
        exempt_idle_until=grant.exempt_idle_until,
    )


async def prepare_home(runtime: Runtime, container: str, asker: Asker) -> None:
    """Give the container the user's passwd entry, and a new volume its owner.

    One call: a new volume is root's, and its user has no capability to change that.
    """
    owner = await account(runtime, asker.user)
    home = runtime.settings.home
    name = slug(asker.user)
    files = {
        "etc/passwd": f"root:x:0:0:root:/root:/usr/sbin/nologin\n"
        f"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        f"{name}:x:{owner.uid}:{owner.gid}::{home}:/bin/bash\n",
        "etc/group": f"root:x:0:\nnogroup:x:65534:\n{name}:x:{owner.gid}:\n",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, text in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
        if not runtime.settings.workspace:
            folder = tarfile.TarInfo(home.strip("/"))
            folder.type, folder.mode = tarfile.DIRTYPE, 0o750
            folder.uid, folder.gid = owner.uid, owner.gid
            tar.addfile(folder)
    await runtime.engine.put_archive(container, "/", buffer.getvalue())


async def start_container(runtime: Runtime, container: str, devices: tuple[Device, ...]) -> None:
    """Start it; GPU errors of the runtime all surface here, and become sentences.

    The last look before: a device that was lost since it was reserved may not even be an error.
    """
    if devices:
        lost = why_lost((d.uuid for d in devices), await runtime.inventory.snapshot())
        if lost:
            raise DeviceLost(lost)
    try:
        await runtime.engine.start_container(container)
    except EngineRefused as refused:
        error = device_error(refused.message) if devices else None
        if error is not None:
            raise error from None
        raise


async def address(runtime: Runtime, container: str) -> str:
    """The container's address in the hub's network."""
    seen = await inspect(runtime, container)
    if seen is None:
        return ""
    network = seen["NetworkSettings"]["Networks"].get(runtime.settings.network) or {}
    return str(network.get("IPAddress") or "")


async def http_answers(address: str, port: int, path: str) -> bool:
    """Whether something speaks HTTP there. One cheap request, bounded."""
    if not address:
        return False
    probe = asyncio.ensure_future(_speaks_http(address, port, path))
    try:
        # Not wait_for: up to Python 3.11 it loses a cancel that comes with the answer.
        await asyncio.wait([probe], timeout=PROBE_PATIENCE)
        return probe.done() and probe.result()
    finally:
        probe.cancel()


async def _speaks_http(address: str, port: int, path: str) -> bool:
    writer = None
    try:
        reader, writer = await asyncio.open_connection(address, port)
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode("latin-1"))
        return (await reader.read(16)).startswith(b"HTTP/1.")
    except OSError:
        return False
    finally:
        if writer is not None:
            writer.close()


async def inspect(runtime: Runtime, container: str) -> dict[str, Any] | None:
    """What the engine says of a container; None when there is none."""
    try:
        return await runtime.engine.inspect_container(container)
    except EngineNotFound:
        return None


async def log_tail(runtime: Runtime, container: str) -> str:
    """The last words of a container, as far as they can be had."""
    try:
        text = await runtime.engine.logs(container, LOG_LINES)
        return "\n".join(clean(line) for line in text.splitlines()[-LOG_LINES:])
    except (DS01Error, EngineRefused):
        return ""


async def remove(runtime: Runtime, container: str, lease: str = "") -> None:
    """Remove a container of this hub and wait until it is gone.

    With `lease`, only a container that carries it; anything else of that name is left alone.
    """
    seen = await inspect(runtime, container)
    if seen is None:
        return
    labels = seen["Config"]["Labels"] or {}
    if labels.get("ds01.hub") != runtime.settings.hub_id:
        return
    if lease and labels.get("ds01.lease") != lease:
        return
    with suppress(EngineNotFound, EngineConflict):  # gone, or on its way
        await runtime.engine.remove_container(seen["Id"], force=True, volumes=True)
    if not await runtime.engine.wait_removed(seen["Id"], GONE_SECONDS):
        raise StillThere(container)
