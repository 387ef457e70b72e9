"""Devices on other engines than the bench's: by CDI, and on one that has no way for them."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from docker import APIClient

from ds01_spawner.core.container import create_body
from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.gpu_way import Choice
from ds01_spawner.core.injection import way_of
from ds01_spawner.errors import DeviceNotDescribed
from ds01_spawner.hub import containers
from ds01_spawner.services import wiring
from ds01_spawner.services.checkup import checkup
from ds01_spawner.services.docker_engine import DockerEngine
from ds01_spawner.services.injection import LABEL, GpuWay
from ds01_spawner.services.inventory.base import NoDevices
from ds01_spawner.services.settings import Settings
from tests.conftest import HookWitness
from tests.core.test_container import PLAN
from tests.engine.spare_engines import SpareEngine, shell_tar, spare_engine

pytestmark = pytest.mark.any_hub

IMAGE = "shell:1"
NODES = {"GPU-1": "/dev/nvidia0", "GPU-2": "/dev/nvidia1", "MIG-3": "/dev/nvidia2"}
SPEC = {
    "cdiVersion": "0.6.0",
    "kind": "nvidia.com/gpu",
    "containerEdits": {"deviceNodes": [{"path": "/dev/nvidiactl", "hostPath": "/dev/null"}]},
    "devices": [
        {
            "name": uuid,
            "containerEdits": {"deviceNodes": [{"path": path, "hostPath": "/dev/null"}]},
        }
        for uuid, path in NODES.items()
    ],
}
# Which device files there are and can be opened, and what is said of them.
LOOK = """
for file in /dev/nvidia*; do
    true >"$file" && echo "$file"
done 2>/dev/null
echo "nvidia: $NVIDIA_VISIBLE_DEVICES"
"""


def gpu(uuid: str) -> Device:
    return Device(uuid, "gpu", "A100", "CUDA_AMPERE", 2520, 40 << 30)


@pytest.fixture(scope="module")
def cdi_host(bench_folder: Path) -> Iterator[SpareEngine]:
    """An engine with CDI on a host with the devices of SPEC."""
    with spare_engine(bench_folder, "cdi") as engine:
        (engine.root / "etc/cdi/nvidia.json").write_text(json.dumps(SPEC))
        client = APIClient(base_url=engine.url, version="auto")
        client.import_image_from_data(shell_tar(), *IMAGE.split(":"))
        client.close()
        yield engine


@pytest.fixture(scope="module")
def plain_host(bench_folder: Path) -> Iterator[SpareEngine]:
    """This machine's engine, without NVIDIA's hook."""
    with spare_engine(bench_folder, "plain") as engine:
        yield engine


@pytest.fixture
async def cdi(cdi_host: SpareEngine) -> AsyncIterator[DockerEngine]:
    engine = DockerEngine(cdi_host.url)
    yield engine
    await engine.close()


async def learned(engine: DockerEngine, *uuids: str) -> Choice:
    """What a hub with these devices finds out, and that nothing is left of that."""
    way = GpuWay(engine, "auto", "lab", lambda: secrets.token_hex(4))
    await way.learn(Snapshot(devices=tuple(map(gpu, uuids))))
    assert await engine.list_containers({LABEL: "lab"}) == []
    assert await engine.list_images({LABEL: "lab"}) == []
    return way.choice


async def started(engine: DockerEngine, *uuids: str) -> str:
    """Start a container by the very body and call of a server's start, and give its id."""
    choice = await learned(engine, *NODES)
    devices = tuple(map(gpu, uuids))
    way = way_of(devices, simulated=False, nvidia=choice.way)
    plan = replace(
        PLAN, image=IMAGE, command=("/bin/sh", "-c", LOOK), network="none", mounts=(),
        home="/", devices=devices, way=way,
    )  # fmt: skip
    id = await engine.create_container(f"ds01-{secrets.token_hex(4)}", create_body(plan))
    await containers.start_container(SimpleNamespace(engine=engine), id, devices)  # type: ignore[arg-type]
    return id


async def seen(engine: DockerEngine, *uuids: str) -> list[str]:
    """What LOOK prints in a server with these devices."""
    id = await started(engine, *uuids)
    client = APIClient(base_url=engine.url, version="auto")
    client.wait(id)
    client.close()
    lines = (await engine.logs(id, 100)).splitlines()
    await engine.remove_container(id, force=True)
    return lines


@pytest.mark.parametrize("uuids", [("GPU-1",), ("GPU-2", "MIG-3"), tuple(NODES)])
async def test_a_server_sees_its_own_devices_and_no_others(
    cdi: DockerEngine, uuids: tuple[str, ...]
) -> None:
    files = [*(NODES[uuid] for uuid in uuids), "/dev/nvidiactl"]
    assert await seen(cdi, *uuids) == [*files, "nvidia: void"]


async def test_a_server_without_devices_sees_none(cdi: DockerEngine) -> None:
    assert await seen(cdi) == ["nvidia: void"]


async def test_a_device_that_the_specification_does_not_have_is_a_sentence(
    cdi: DockerEngine,
) -> None:
    with pytest.raises(DeviceNotDescribed, match="nvidia-ctk cdi generate") as refused:
        await started(cdi, "GPU-1", "GPU-9")
    assert refused.value.detail.endswith("unresolvable CDI devices nvidia.com/gpu=GPU-9")


async def test_an_engine_with_cdi_is_asked_for_names(cdi: DockerEngine) -> None:
    choice = await learned(cdi, *NODES)
    assert (choice.way, choice.problem) == ("cdi", "")
    assert choice.why.startswith("CDI is on in engine")


async def test_names_that_cdi_does_not_have_shut_the_devices_until_it_has_them(
    cdi: DockerEngine, cdi_host: SpareEngine
) -> None:
    choice = await learned(cdi, *NODES, "GPU-9", "GPU-10")
    assert choice.problem == "the engine's CDI does not know GPU-9, GPU-10"
    more = {**SPEC, "devices": [{**SPEC["devices"][0], "name": n} for n in ("GPU-9", "GPU-10")]}
    file = cdi_host.root / "etc/cdi/more.json"
    file.write_text(json.dumps(more))
    assert (await learned(cdi, *NODES, "GPU-9", "GPU-10")).problem == ""
    file.unlink()


async def test_an_engine_with_nvidias_hook_is_asked_for_devices(
    engine_url: str, hook: HookWitness
) -> None:
    engine = DockerEngine(engine_url)
    choice = await learned(engine, "GPU-1")
    await engine.close()
    assert (choice.way, choice.problem) == ("request", "")
    assert hook.starts() == []  # it was not even run


async def test_an_engine_with_neither_has_no_way(plain_host: SpareEngine) -> None:
    engine = DockerEngine(plain_host.url)
    choice = await learned(engine, "GPU-1")
    await engine.close()
    assert (choice.way, choice.problem) == (
        "request",
        "the container engine finds no NVIDIA driver",
    )


async def test_doctor_tells_the_way_of_each_engine_and_leaves_nothing(
    cdi_host: SpareEngine,
    plain_host: SpareEngine,
    engine_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Devices(NoDevices):
        async def snapshot(self, *, fresh: bool = False) -> Snapshot:
            return Snapshot(devices=(gpu("GPU-1"),))

    monkeypatch.setattr(wiring, "inventory", lambda settings: Devices())
    told = {}
    for url in (engine_url, plain_host.url, cdi_host.url):
        settings = Settings(
            engine_url=url, data_dir=str(tmp_path / "data"), network_subnet="198.18.255.0/24",
            min_free_disk=1,
        )  # fmt: skip
        before = await _all_of(url)
        found = {check.name: check for check in await checkup(settings)}
        assert await _all_of(url) == before
        told[url] = found["gpu way"]
        wrong = [check for check in found.values() if not check.ok and check.name != "gpu way"]
        assert wrong == []
    assert told[engine_url].detail.startswith("NVIDIA's by request, ")
    assert told[cdi_host.url].detail.startswith("NVIDIA's by cdi, CDI is on in engine")
    assert told[cdi_host.url].detail.endswith("; nvidia.com/gpu=GPU-1")
    assert (told[engine_url].ok, told[cdi_host.url].ok) == (True, True)
    assert not told[plain_host.url].ok
    assert "nvidia-container-toolkit" in told[plain_host.url].fix
    assert not (tmp_path / "data").exists()


async def _all_of(url: str) -> tuple[set[str], set[str]]:
    """The containers and images of an engine."""
    engine = DockerEngine(url)
    containers, images = await engine.list_containers({}), await engine.list_images({})
    await engine.close()
    return {c["Id"] for c in containers}, {i["Id"] for i in images}
