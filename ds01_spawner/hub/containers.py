"""The engine's container of one server: prepared, started, looked at, removed."""

from __future__ import annotations

import asyncio
import io
import tarfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ds01_spawner.core.build_log import clean
from ds01_spawner.core.device_errors import device_error
from ds01_spawner.core.devices import Device
from ds01_spawner.core.slugs import slug
from ds01_spawner.errors import DS01Error, StillThere
from ds01_spawner.services.accounts import Account
from ds01_spawner.services.engine import EngineConflict, EngineNotFound, EngineRefused

if TYPE_CHECKING:
    from ds01_spawner.hub.runtime import Runtime

LOG_LINES = 40
GONE_SECONDS = 60.0
PROBE_PATIENCE = 2.0  # seconds for one look whether a server answers


async def prepare_home(runtime: Runtime, container: str, user: str, owner: Account) -> None:
    """Give the container the user's passwd entry, and a new volume its owner.

    One call: a new volume is root's, and its user has no capability to change that.
    """
    home = runtime.settings.home
    name = slug(user)
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
    """Start it; GPU errors of the runtime all surface here, and become sentences."""
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
