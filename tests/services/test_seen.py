"""Which GPUs a container holds, by the engine's own record of it."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.services.seen import Seen, holders, holding, keeps_devices, seen

DEVICES = (
    Device("GPU-aaaa", "gpu", "A100", "CUDA_AMPERE", 2520, 1 << 30, index=0),
    Device("GPU-bbbb", "gpu", "A100", "CUDA_AMPERE", 2520, 1 << 30, index=1),
    *(
        Device(f"MIG-{i}", "mig", "H100", "CUDA_ADA", 360, 1 << 30, "1g.10gb", "GPU-hhhh", index=2)
        for i in (1, 2)
    ),
)
ALL = "GPU-aaaa GPU-bbbb MIG-1 MIG-2"
GPU = [["gpu"]]


def ask(
    driver: str = "", count: int = 0, ids: list[str] | None = None, **more: Any
) -> dict[str, Any]:
    return {"DeviceRequests": [
        {"Driver": driver, "Count": count, "DeviceIDs": ids, "Capabilities": GPU, **more}
    ]}  # fmt: skip


@pytest.mark.parametrize(
    ("host", "visible", "held"),
    [
        pytest.param({}, None, "", id="none"),
        pytest.param(ask(ids=["GPU-aaaa"]), None, "GPU-aaaa", id="by UUID"),
        pytest.param(ask(ids=["GPU-aaaa", "MIG-2"]), None, "GPU-aaaa MIG-2", id="several"),
        pytest.param(ask(ids=["GPU-b"]), None, "GPU-bbbb", id="by the beginning of a UUID"),
        pytest.param(ask(ids=["1"]), None, "GPU-bbbb", id="by index"),
        pytest.param(ask(ids=["2:0"]), None, "MIG-1 MIG-2", id="by the index of an instance"),
        pytest.param(ask(ids=["GPU-hhhh"]), None, "MIG-1 MIG-2", id="the card of instances"),
        pytest.param(ask(ids=["MIG-GPU-hhhh/1/0"]), None, "MIG-1 MIG-2", id="an old driver's name"),
        pytest.param(ask(count=-1), None, ALL, id="--gpus all"),
        pytest.param(ask(count=2), None, "GPU-aaaa GPU-bbbb", id="--gpus 2: the first two"),
        pytest.param(ask(ids=["who knows"]), None, ALL, id="not understood: every one"),
        pytest.param(ask("cdi", ids=["nvidia.com/gpu=MIG-1"]), None, "MIG-1", id="CDI"),
        pytest.param(ask("cdi", ids=["nvidia.com/gpu=all"]), None, ALL, id="CDI, all"),
        pytest.param(ask("cdi", ids=["example.com/net=all"]), None, "", id="CDI, no GPU"),
        pytest.param(ask("amd", Capabilities=[["amd"]], ids=["0"]), None, "", id="another maker"),
        pytest.param(ask(), "all", ALL, id="a request that leaves it to the environment"),
        pytest.param({"Runtime": "nvidia"}, "GPU-bbbb", "GPU-bbbb", id="by NVIDIA's runtime"),
        pytest.param({"Runtime": "nvidia"}, "all", ALL, id="all by NVIDIA's runtime"),
        pytest.param({"Runtime": "nvidia"}, "void", "", id="void"),
        pytest.param({"Runtime": "nvidia"}, "none", "", id="none by name"),
        pytest.param({"Runtime": "nvidia"}, None, "", id="NVIDIA's runtime, nothing asked"),
        pytest.param({"Runtime": "runc"}, "all", "", id="a CUDA image without a GPU"),
        pytest.param(
            {"Devices": [{"PathOnHost": "/dev/nvidia1"}, {"PathOnHost": "/dev/nvidiactl"}]},
            None, "GPU-bbbb", id="by its device node",
        ),
    ],
)  # fmt: skip
def test_what_a_container_holds(host: dict[str, Any], visible: str | None, held: str) -> None:
    env = ["PATH=/bin", *([f"NVIDIA_VISIBLE_DEVICES={visible}"] if visible else [])]
    what = holding({"HostConfig": {"Runtime": "runc", **host}, "Config": {"Env": env}})
    assert " ".join(d.uuid for d in DEVICES if what.holds(d)) == held


def test_an_answer_with_nulls_is_understood() -> None:
    assert not holding({"HostConfig": None, "Config": None}).uuids
    nulls = {"DeviceRequests": None, "Devices": None, "Runtime": "runc"}
    assert not holding({"HostConfig": nulls, "Config": {"Env": None}}).every


def test_a_container_in_the_engines_list() -> None:
    listed = {
        "Id": "c1", "Names": ["/ds01.ada"], "State": "running", "Created": 1767225600,
        "Labels": {
            "ds01.lease": "L", "ds01.lease_generation": "7", "ds01.gpu.uuids": "GPU-a,GPU-b",
            "ds01.user": "ada",
        },
    }  # fmt: skip
    container = seen(listed)
    assert (container.id, container.name, container.alive) == ("c1", "ds01.ada", True)
    assert (container.lease, container.generation) == ("L", 7)
    assert container.devices == ("GPU-a", "GPU-b")
    assert container.created == datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert container.who == "container ds01.ada of ada"
    bare = seen({"Id": "c2", "Labels": None})
    assert (bare.name, bare.alive, bare.lease, bare.generation) == ("c2", False, "", None)
    assert bare.devices == ()


@pytest.mark.parametrize(
    ("state", "labels", "keeps"),
    [
        ("running", {}, True),
        ("paused", {}, True),
        ("created", {}, True),
        ("exited", {}, False),
        ("exited", {"aime.mlc.USER": "eve"}, True),
        ("exited", {"ds01.user": "eve"}, True),
    ],
)
def test_a_stopped_container_keeps_its_gpus_where_its_tools_say_so(
    state: str, labels: dict[str, str], keeps: bool
) -> None:
    created = datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert keeps_devices(Seen("c", "theirs", state, labels, created)) is keeps


def test_holders_are_named() -> None:
    created = datetime(2026, 1, 1, tzinfo=timezone.utc)
    eve = Seen("c", "theirs", "running", {"aime.mlc.USER": "eve"}, created)
    what = holding({"HostConfig": {"Runtime": "runc", **ask(ids=["GPU-hhhh", "GPU-gone"])}})
    assert holders([(eve, what)], Snapshot(devices=DEVICES)) == {
        "MIG-1": "container theirs of eve",
        "MIG-2": "container theirs of eve",
    }
