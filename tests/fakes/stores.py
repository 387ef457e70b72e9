"""The fake engine's volumes and networks."""

from __future__ import annotations

import copy
import ipaddress
from collections.abc import Mapping

from ds01_spawner.services.engine import EngineConflict, EngineNotFound, EngineRefused, Json
from tests.fakes.events import FakeEventSource


class FakeStores(FakeEventSource):
    """Volumes and networks by name, and the containers, by id, that use them."""

    def __init__(self) -> None:
        super().__init__()
        self.containers: dict[str, Json] = {}
        self.volumes: dict[str, Json] = {}
        self.networks: dict[str, Json] = {}
        self.files: dict[str, dict[str, bytes]] = {}  # of a volume or a container, by path

    async def inspect_volume(self, name: str) -> Json:
        def effect() -> Json:
            if name not in self.volumes:
                raise EngineNotFound(f"get {name}: no such volume")
            return self.volumes[name]

        return await self.call("inspect_volume", (name,), effect)

    def add_volume(self, name: str, labels: Mapping[str, str]) -> Json:
        """Put a volume there, or leave the one that is."""
        return self.volumes.setdefault(name, {"Name": name, "Labels": dict(labels)})

    async def create_volume(self, name: str, labels: Mapping[str, str]) -> Json:
        return await self.call(
            "create_volume", (name, labels), lambda: self.add_volume(name, labels)
        )

    async def remove_volume(self, name: str) -> None:
        def effect() -> None:
            if name not in self.volumes:
                raise EngineNotFound(f"get {name}: no such volume")
            mounts = [c["HostConfig"].get("Mounts") or () for c in self.containers.values()]
            if any(mount["Source"] == name for each in mounts for mount in each):
                raise EngineConflict(f"remove {name}: volume is in use")
            del self.volumes[name]
            self.files.pop(name, None)

        await self.call("remove_volume", (name,), effect)

    async def inspect_network(self, name: str) -> Json:
        def effect() -> Json:
            if name not in self.networks:
                raise EngineNotFound(f"network {name} not found")
            return self.networks[name]

        return await self.call("inspect_network", (name,), effect)

    async def create_network(self, body: Json) -> None:
        def effect() -> None:
            name = body["Name"]
            if name in self.networks:
                raise EngineConflict(f"network with name {name} already exists")
            wanted = ipaddress.ip_network(body["IPAM"]["Config"][0]["Subnet"])
            for network in self.networks.values():
                taken = ipaddress.ip_network(network["IPAM"]["Config"][0]["Subnet"])
                if wanted.overlaps(taken):
                    raise EngineRefused(403, "Pool overlaps with other one on this address space")
            self.networks[name] = copy.deepcopy(body)

        await self.call("create_network", (body,), effect)

    async def remove_network(self, name: str) -> None:
        def effect() -> None:
            if name not in self.networks:
                raise EngineNotFound(f"network {name} not found")
            for container in self.containers.values():
                in_it = name in container["NetworkSettings"]["Networks"]
                if in_it and container["State"]["Running"]:
                    raise EngineRefused(403, f"network {name} has active endpoints")
            del self.networks[name]

        await self.call("remove_network", (name,), effect)
