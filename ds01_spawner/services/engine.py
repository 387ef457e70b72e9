"""What the project asks of a container engine, and the ways in which it says no.

Bodies and answers are the engine's own JSON objects (Docker Engine API 1.41 and later), so that
what the engine says is what we read. `docker_engine` is the adapter; the tests have a fake that
passes the same contract.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

from ds01_spawner.core.registries import Login
from ds01_spawner.errors import NetworkUnusable

Json = dict[str, Any]
Labels = Mapping[str, str | None]  # a filter: the label has this value, or, for None, any value

ICC_OPTION = "com.docker.network.bridge.enable_icc"


class EngineRefused(Exception):
    """The engine answered, and the answer is no.

    `status` is HTTP's and `message` the engine's own words. Not for people as it is: whoever
    asked knows what it means.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{message} (status {status})")
        self.status = status
        self.message = message


class EngineNotFound(EngineRefused):
    """There is no such object, or no such image to make a container from."""

    def __init__(self, message: str) -> None:
        super().__init__(404, message)


class EngineConflict(EngineRefused):
    """The name is taken, or the object is in use, running, or on its way out."""

    def __init__(self, message: str) -> None:
        super().__init__(409, message)


class EngineStreamError(EngineRefused):
    """A pull or build that had begun failed; the engine says so inside its stream.

    `code` is the exit code of the build step's command, None when it was not a command.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(500, message)
        self.code = code


class EventStream(Protocol):
    """The engine's events from now on; `aclose` ends it.

    Iterating raises EngineUnavailable when the stream is lost: what happened since is unknown.
    """

    def __aiter__(self) -> AsyncIterator[Json]:
        """The stream itself."""
        ...

    async def __anext__(self) -> Json:
        """Wait for the next event."""
        ...

    async def aclose(self) -> None:
        """End the stream."""
        ...


class Engine(Protocol):
    """A container engine. No method blocks the event loop, each ends in finite time.

    Every method raises EngineUnavailable when the engine does not answer (then whether a change
    took place is unknown) and EngineRefused, or one of its kinds, when it says no.

    A call whose awaiting task is cancelled goes on if it has begun, for the engine cannot take it
    back, and its answer is lost. To keep it (the id of a container that is being made), make the
    call a task, await `asyncio.shield(task)`, and when cancelled await the task itself. Pull and
    build do end when cancelled.
    """

    async def version(self) -> Json:
        """The engine's version and API versions."""
        ...

    async def info(self) -> Json:
        """What the engine knows of its host."""
        ...

    async def free_disk(self) -> int | None:
        """Bytes free where the engine keeps images and containers; None if it cannot be known."""
        ...

    async def inspect_image(self, name: str) -> Json:
        """One image, by name, digest or id. `RepoDigests` is empty for one made here."""
        ...

    async def list_images(self, labels: Labels) -> list[Json]:
        """The images that have all of these labels."""
        ...

    async def history(self, image: str) -> list[Json]:
        """An image's layers, the newest first: `CreatedBy`, `Created` and `Size` of each."""
        ...

    async def tag_image(self, image: str, repository: str, tag: str) -> None:
        """Give an image one more name, taking it from any other that has it."""
        ...

    async def remove_image(self, name: str) -> None:
        """Remove a name, and with the last one the image; EngineConflict while in use."""
        ...

    async def pull(
        self, image: str, on_event: Callable[[Json], None], login: Login | None = None
    ) -> None:
        """Fetch an image; `on_event` is called on the loop with each progress object.

        `login` is given to the image's registry; without one, none is.
        """
        ...

    async def build(
        self,
        context: bytes,
        *,
        tag: str,
        labels: Mapping[str, str],
        buildargs: Mapping[str, str],
        memory: int | None,
        cpus: float | None,
        network: str | None,
        on_line: Callable[[str], None],
    ) -> str:
        """Build an image from a tar with a Dockerfile; its id.

        `memory` (bytes, swap included) and `cpus` bound each step. `on_line` is called on the
        loop with each line of output, a long one in parts of 8 KiB, control characters kept.
        """
        ...

    async def create_container(
        self, name: str, body: Json, on_warning: Callable[[str], None] | None = None
    ) -> str:
        """Make a container from the body of the engine's create call; its id.

        `on_warning` is called with what the engine accepted but will not do, such as a limit
        that its kernel lacks. EngineNotFound: no such image; EngineConflict: the name is taken.
        """
        ...

    async def start_container(self, id: str) -> None:
        """Start it; nothing happens when it runs. A device that is not there is refused here."""
        ...

    async def stop_container(self, id: str, timeout: int) -> None:
        """Ask it to end, kill it after `timeout` seconds; nothing happens when it has ended."""
        ...

    async def remove_container(self, id: str, force: bool = False, volumes: bool = False) -> None:
        """Remove it, and its nameless volumes with `volumes`; EngineConflict while it runs.

        A second call while the first is at work is an EngineConflict too: see `wait_removed`.
        """
        ...

    async def inspect_container(self, name_or_id: str) -> Json:
        """One container."""
        ...

    async def list_containers(self, labels: Labels, all: bool = True) -> list[Json]:
        """The containers that have all of these labels; without `all` those that run."""
        ...

    async def logs(self, id: str, tail: int) -> str:
        """The last `tail` lines of output, 64 KiB at most, control characters kept."""
        ...

    async def put_archive(self, id: str, path: str, tar: bytes) -> None:
        """Unpack a tar in a container, which need not run."""
        ...

    async def read_file(self, id: str, path: str) -> bytes:
        """A file in a container, which need not run. EngineRefused when it has over a MiB."""
        ...

    async def inspect_volume(self, name: str) -> Json:
        """One volume."""
        ...

    async def create_volume(self, name: str, labels: Mapping[str, str]) -> Json:
        """Make a volume. One that exists is returned as it is, with its own labels."""
        ...

    async def remove_volume(self, name: str) -> None:
        """Remove a volume; EngineConflict while a container has it."""
        ...

    async def inspect_network(self, name: str) -> Json:
        """One network."""
        ...

    async def create_network(self, body: Json) -> None:
        """Make a network from the body of the engine's create call."""
        ...

    async def remove_network(self, name: str) -> None:
        """Remove a network; EngineRefused while a container is on it."""
        ...

    async def events(self, labels: Labels, types: Sequence[str] = ("container",)) -> EventStream:
        """Events of objects that have all of these labels; none after the return is missed."""
        ...

    async def close(self) -> None:
        """End all streams and threads; later calls raise EngineUnavailable."""
        ...

    async def wait_removed(self, id: str, timeout_s: float) -> bool:
        """Whether the container is gone, waiting for it at most `timeout_s`."""
        loop = asyncio.get_running_loop()
        end, delay = loop.time() + timeout_s, 0.01
        while True:
            try:
                await self.inspect_container(id)
            except EngineNotFound:
                return True
            left = end - loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(delay, left))
            delay = min(delay * 1.5, 0.5)

    async def network_problem(
        self, name: str, *, subnet: str, labels: Mapping[str, str], icc: bool = False
    ) -> str | None:
        """Why the network of this name is not as wanted; empty: it is; None: there is none."""
        try:
            return _differs(await self.inspect_network(name), _bridge(name, subnet, labels, icc))
        except EngineNotFound:
            return None

    async def ensure_network(
        self, name: str, *, subnet: str, labels: Mapping[str, str], icc: bool = False
    ) -> str:
        """See that a bridge of this name, subnet and labels is there; its gateway's address.

        Without `icc` its containers cannot reach each other. NetworkUnusable when a network of
        this name is not as wanted, or the subnet is not free.
        """
        body = _bridge(name, subnet, labels, icc)
        why = await self.network_problem(name, subnet=subnet, labels=labels, icc=icc)
        if why is None:
            try:
                await self.create_network(body)
            except EngineConflict:
                pass  # made by someone else since; what it is like is looked at below
            except EngineRefused as refusal:
                raise NetworkUnusable(name, refusal.message) from refusal
            why = _differs(await self.inspect_network(name), body)
        if why:
            raise NetworkUnusable(name, why)
        return str(body["IPAM"]["Config"][0]["Gateway"])


def _bridge(name: str, subnet: str, labels: Mapping[str, str], icc: bool) -> Json:
    """The create call's body of a bridge whose gateway is the first address of its subnet."""
    addresses = ipaddress.ip_network(subnet)
    return {
        "Name": name,
        "Driver": "bridge",
        "CheckDuplicate": True,  # engines before 25 would make a second one of the same name
        "Options": {ICC_OPTION: "true" if icc else "false"},
        "IPAM": {
            "Driver": "default",
            "Config": [{"Subnet": str(addresses), "Gateway": str(addresses[1])}],
        },
        "Labels": dict(labels),
    }


def _differs(found: Json, wanted: Json) -> str:
    """Why a network that exists is not the one wanted; empty when it is."""
    subnet, gateway = wanted["IPAM"]["Config"][0].values()
    pools = (found.get("IPAM") or {}).get("Config") or [{}]
    labels = found.get("Labels") or {}
    icc = (found.get("Options") or {}).get(ICC_OPTION, "true")
    if any(labels.get(key) != value for key, value in wanted["Labels"].items()):
        return "a network of this name exists that was not made by this hub"
    if found.get("Driver") != "bridge":
        return f"it exists as a network of the kind {found.get('Driver')}, not a bridge"
    if len(pools) != 1 or pools[0].get("Subnet") != subnet or pools[0].get("Gateway") != gateway:
        has = ", ".join(f"{p.get('Subnet')} with the gateway {p.get('Gateway')}" for p in pools)
        return f"it exists with the subnet {has}, not {subnet} with {gateway}"
    if icc != wanted["Options"][ICC_OPTION]:
        return f"it exists with {ICC_OPTION}={icc}"
    return ""
