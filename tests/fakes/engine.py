"""A container engine in memory, with faults on request.

Its answers have the real engine's shape, as far as the project reads them, and its words where the
project passes them on.
"""

from __future__ import annotations

import copy
import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from ds01_spawner.services.engine import (
    Engine,
    EngineConflict,
    EngineNotFound,
    EngineRefused,
    Json,
    Labels,
)
from tests.fakes.devices import given
from tests.fakes.events import has
from tests.fakes.images import FakeImages, files_of

NEVER = "0001-01-01T00:00:00Z"
CREATED = {
    "Status": "created",
    "Running": False,
    "ExitCode": 0,
    "OOMKilled": False,
    "Error": "",
    "StartedAt": NEVER,
    "FinishedAt": NEVER,
}


class Ran(NamedTuple):
    """What a container does that ends by itself."""

    code: int
    output: str = ""


class FakeEngine(FakeImages, Engine):
    """An engine whose host has these GPUs, by UUID; with None it has no driver for any.

    `cdi` are the names that its CDI knows; None: it is off.
    `program` says what a container does when it starts: None, it runs on. `ready` says whether
    the server in a running container answers, see `answers`.
    """

    def __init__(self, devices: Iterable[str] | None = None) -> None:
        super().__init__()
        self.devices = None if devices is None else frozenset(devices)
        self.cdi: frozenset[str] | None = None
        self.program: Callable[[Json], Ran | None] = lambda container: None
        self.ready: Callable[[Json], bool] = lambda container: True
        self.visible_devices: dict[str, str] = {}  # container id -> what its last start was given
        self.archives: dict[str, list[tuple[str, bytes]]] = {}
        self.outputs: dict[str, str] = {}
        self.warnings: list[str] = []  # what the next creations are warned of
        self.disk_free: int | None = None
        self.cpus, self.memory = 8, 64 * 2**30
        self._ticks = 0

    # --- what tests do to it ---------------------------------------------------------------------

    def exit(self, name_or_id: str, code: int, *, oom: bool = False, output: str = "") -> None:
        """Let a running container end by itself."""
        container = self.container(name_or_id)
        self.outputs[container["Id"]] = self.outputs.get(container["Id"], "") + output
        if oom:
            self.emit(container, "oom")
        container["State"].update(
            Status="exited", Running=False, ExitCode=code, OOMKilled=oom, FinishedAt=self._now()
        )
        self.emit(container, "die", exitCode=str(code))

    def answers(self, address: str) -> bool:
        """Whether a server answers at this address, by the test's own `ready`."""
        return any(
            self.ready(container)
            for container in self.containers.values()
            if container["State"]["Running"]
            and any(
                network["IPAddress"] == address
                for network in container["NetworkSettings"]["Networks"].values()
            )
        )

    def container(self, name_or_id: str) -> Json:
        """A container as the fake keeps it; EngineNotFound."""
        for id, container in self.containers.items():
            if container["Name"] == f"/{name_or_id}" or id.startswith(name_or_id):
                return container
        raise EngineNotFound(f"No such container: {name_or_id}")

    # --- the engine ------------------------------------------------------------------------------

    async def version(self) -> Json:
        answer = {"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"}
        return await self.call("version", (), lambda: answer)

    async def info(self) -> Json:
        return await self.call(
            "info",
            (),
            lambda: {
                "NCPU": self.cpus,
                "MemTotal": self.memory,
                "ServerVersion": "20.10.24",
                "DockerRootDir": "/var/lib/docker",
                "CgroupVersion": "2",
                "Runtimes": {"runc": {}},
                "CDISpecDirs": [] if self.cdi is None else ["/etc/cdi"],
            },
        )

    async def free_disk(self) -> int | None:
        return await self.call("free_disk", (), lambda: self.disk_free)

    async def create_container(
        self, name: str, body: Json, on_warning: Callable[[str], None] | None = None
    ) -> str:
        id = await self.call("create_container", (name, body), lambda: self._create(name, body))
        for warning in self.warnings:
            if on_warning is not None:
                on_warning(warning)
        return id

    def _create(self, name: str, body: Json) -> str:
        if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", name):
            raise EngineRefused(400, f"Invalid container name ({name})")
        for id, other in self.containers.items():
            if other["Name"] == f"/{name}":
                raise EngineConflict(
                    f'Conflict. The container name "/{name}" is already in use by container "{id}".'
                )
        image = self.image(body["Image"])
        host = body.get("HostConfig") or {}
        if (host.get("NanoCpus") or 0) > self.cpus * 10**9:
            raise EngineRefused(400, f"Range of CPUs is from 0.01 to {self.cpus}.00")
        for mount in host.get("Mounts") or ():
            if mount["Type"] == "volume":
                options = mount.get("VolumeOptions") or {}
                self.add_volume(mount["Source"], options.get("Labels") or {})
        config = {key: value for key, value in body.items() if key != "HostConfig"}
        config["Labels"] = {**image["Config"]["Labels"], **(body.get("Labels") or {})}
        config["Env"] = [*image["Config"]["Env"], *(body.get("Env") or ())]
        id = hashlib.sha256(f"container {self._tick()}".encode()).hexdigest()
        self.containers[id] = {
            "Id": id,
            "Name": f"/{name}",
            "Created": self._now(),
            "Image": image["Id"],
            "Config": copy.deepcopy(config),
            "HostConfig": copy.deepcopy(host),
            "State": dict(CREATED),
            "NetworkSettings": {"Networks": {host.get("NetworkMode", "bridge"): {"IPAddress": ""}}},
        }
        self.emit(self.containers[id], "create")
        return id

    async def start_container(self, id: str) -> None:
        await self.call("start_container", (id,), lambda: self._start(self.container(id)))

    def _start(self, container: Json) -> None:
        id, state = container["Id"], container["State"]
        if state["Status"] == "removing":
            raise EngineConflict("container is marked for removal and cannot be started")
        if state["Running"]:
            return
        try:
            requests = container["HostConfig"].get("DeviceRequests") or ()
            self.visible_devices[id] = given(requests, self.devices, self.cdi)
        except EngineRefused as refusal:
            state.update(ExitCode=128, Error=refusal.message)
            raise
        for name, network in container["NetworkSettings"]["Networks"].items():
            if name in self.networks:
                subnet = ipaddress.ip_network(self.networks[name]["IPAM"]["Config"][0]["Subnet"])
                place = 2 + self._tick() % (subnet.num_addresses - 3)
                network["IPAddress"] = str(subnet[place])
            elif name == "bridge":
                network["IPAddress"] = f"172.17.0.{2 + self._tick() % 250}"
            elif name != "none":
                raise EngineNotFound(f"network {name} not found")
        state.update(Status="running", Running=True, ExitCode=0, StartedAt=self._now())
        self.emit(container, "start")
        if ran := self.program(container):
            self.exit(id, ran.code, output=ran.output)

    async def stop_container(self, id: str, timeout: int) -> None:
        def effect() -> None:
            container = self.container(id)
            if container["State"]["Running"]:
                self.emit(container, "kill")
                self.exit(id, 143)
                self.emit(container, "stop")

        await self.call("stop_container", (id, timeout), effect)

    async def remove_container(self, id: str, force: bool = False, volumes: bool = False) -> None:
        async def effect() -> None:
            container = self.container(id)
            state = container["State"]
            if state["Status"] == "removing":
                raise EngineConflict(f"removal of container {id} is already in progress")
            if state["Running"] and not force:
                raise EngineConflict(
                    f"You cannot remove a running container {id}. Stop the container before "
                    "attempting removal or force remove"
                )
            if state["Running"]:
                self.exit(id, 137)
            state["Status"] = "removing"
            await self.passing("removal")
            del self.containers[container["Id"]]
            self.emit(container, "destroy")

        await self.long_call("remove_container", (id, force, volumes), effect)

    async def inspect_container(self, name_or_id: str) -> Json:
        return await self.call(
            "inspect_container",
            (name_or_id,),
            lambda: copy.deepcopy(self.container(name_or_id)),
        )

    async def list_containers(self, labels: Labels, all: bool = True) -> list[Json]:
        def effect() -> list[Json]:
            return [
                {
                    "Id": id,
                    "Names": [container["Name"]],
                    "Image": container["Config"]["Image"],
                    "ImageID": container["Image"],
                    "State": container["State"]["Status"],
                    "Labels": dict(container["Config"]["Labels"]),
                    "HostConfig": {"NetworkMode": container["HostConfig"].get("NetworkMode")},
                }
                for id, container in self.containers.items()
                if has(container["Config"]["Labels"], labels)
                and (all or container["State"]["Running"])
            ]

        return await self.call("list_containers", (labels, all), effect)

    async def logs(self, id: str, tail: int) -> str:
        def effect() -> str:
            lines = self.outputs.get(self.container(id)["Id"], "").splitlines(keepends=True)
            return "".join(lines[-tail:] if tail > 0 else [])

        return await self.call("logs", (id, tail), effect)

    async def put_archive(self, id: str, path: str, tar: bytes) -> None:
        def effect() -> None:
            self.archives.setdefault(self.container(id)["Id"], []).append((path, tar))
            for name, content in files_of(tar).items():
                files, place = self._place(id, f"{path.rstrip('/')}/{name}")
                files[place] = content

        await self.call("put_archive", (id, path, tar), effect)

    async def read_file(self, id: str, path: str) -> bytes:
        def effect() -> bytes:
            files, place = self._place(id, path)
            if place not in files:
                raise EngineNotFound(f"Could not find the file {path} in container {id}")
            return files[place]

        return await self.call("read_file", (id, path), effect)

    def _place(self, id: str, path: str) -> tuple[dict[str, bytes], str]:
        """The files of the volume that is mounted there, or of the container."""
        container = self.container(id)
        for mount in container["HostConfig"].get("Mounts") or ():
            inner = path.removeprefix(f"{mount['Target'].rstrip('/')}/")
            if mount["Type"] == "volume" and inner != path:
                return self.files.setdefault(mount["Source"], {}), inner
        return self.files.setdefault(container["Id"], {}), path

    async def close(self) -> None:
        self.unreachable = True
        self.end_calls()
        self.end_events()

    def _tick(self) -> int:
        self._ticks += 1
        return self._ticks

    def _now(self) -> str:
        moment = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=self._tick())
        return moment.isoformat().replace("+00:00", "Z")
