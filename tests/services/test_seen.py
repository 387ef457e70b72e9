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
RENDER = {n: f"/dev/dri/renderD{n}" for n in range(128, 132)}
DEVICES += (
    Device("0x000000000000000a", "amd", "MI210", "ROCM6", 2520, 1 << 30, index=0,
           nodes=("/dev/kfd", RENDER[128])),
    Device("0x000000000000000b", "amd", "MI210", "ROCM6", 2520, 1 << 30, index=1,
           nodes=("/dev/kfd", RENDER[129])),
    *(
        Device(f"0x000000000000000c.{i}", "amd", "MI300X", "ROCM6", 1260, 1 << 30, "dpx",
               "pci-0000:05:00", index=2, nodes=("/dev/kfd", RENDER[130 + i]))
        for i in (0, 1)
    ),
)  # fmt: skip
ALL = "GPU-aaaa GPU-bbbb MIG-1 MIG-2"
A, B, C0, C1 = (device.uuid for device in DEVICES[4:])
ALL_AMD = f"{A} {B} {C0} {C1}"
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
        pytest.param(ask("cdi", ids=["management.nvidia.com/gpu=all"]), None, ALL,
                     id="CDI, the management kind"),
        pytest.param(ask("cdi", ids=["runtime.nvidia.com/gpu=GPU-bbbb"]), None, "GPU-bbbb",
                     id="CDI, the kind of NVIDIA's runtime"),
        pytest.param(ask("cdi", ids=["k8s.device-plugin.nvidia.com/gpu=GPU-aaaa"]), None,
                     "GPU-aaaa", id="CDI, a kind of Kubernetes"),
        pytest.param(ask("cdi", ids=["nvidia.com/pgpu=0000:01:00.0"]), None, ALL,
                     id="CDI, another class"),
        pytest.param(ask("cdi", ids=["notnvidia.com/gpu=all"]), None, "", id="CDI, another's"),
        pytest.param(ask("amd", Capabilities=[["amd"]], ids=["1"]), None, f"{B} {C0} {C1}",
                     id="another maker"),
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


def nodes(*paths: str) -> dict[str, Any]:
    return {"Devices": [{"PathOnHost": path} for path in paths]}


@pytest.mark.parametrize(
    ("host", "env", "held"),
    [
        pytest.param(nodes("/dev/kfd", RENDER[128]), "", A, id="a render node"),
        pytest.param(nodes("/dev/kfd", RENDER[129], RENDER[131]), "", f"{B} {C1}", id="two"),
        pytest.param(nodes("/dev/dri/renderD999"), "", "", id="a render node of no device"),
        pytest.param(nodes("/dev/kfd"), "", "", id="the driver alone reaches no card"),
        pytest.param(nodes("/dev/kfd", "/dev/dri"), "", ALL_AMD, id="as AMD's own command"),
        pytest.param(nodes("/dev/dri/"), "", ALL_AMD, id="all render nodes"),
        pytest.param(nodes("/dev/dri/card1"), "", ALL_AMD, id="a node that names no device"),
        pytest.param(nodes("/dev/nvidia0", RENDER[128]), "", f"GPU-aaaa {A}", id="of each maker"),
        pytest.param({"Runtime": "amd"}, "AMD_VISIBLE_DEVICES=0xB", B, id="by AMD's runtime"),
        pytest.param({"Runtime": "amd"}, "AMD_VISIBLE_DEVICES=0xc", f"{C0} {C1}", id="a card"),
        pytest.param({"Runtime": "amd"}, "AMD_VISIBLE_DEVICES=all", ALL_AMD, id="all"),
        pytest.param({"Runtime": "amd"}, "AMD_VISIBLE_DEVICES=what", ALL_AMD, id="who knows"),
        pytest.param({"Runtime": "amd"}, "AMD_VISIBLE_DEVICES=1", f"{B} {C0} {C1}",
                     id="by index: parts have numbers of their own"),
        pytest.param({"Runtime": "amd"}, "AMD_VISIBLE_DEVICES=0-1", ALL_AMD, id="a range"),
        pytest.param({"Runtime": "amd"}, "AMD_VISIBLE_DEVICES=none", "", id="none by name"),
        pytest.param({"Runtime": "amd"}, "NVIDIA_VISIBLE_DEVICES=all", "", id="a CUDA image there"),
        pytest.param({"Runtime": "nvidia"}, "AMD_VISIBLE_DEVICES=all", "", id="and the other way"),
        pytest.param({"Runtime": "runc"}, "AMD_VISIBLE_DEVICES=all", "", id="no runtime for it"),
        pytest.param({"Runtime": "kata"}, "AMD_VISIBLE_DEVICES=0xa", A, id="an unknown runtime"),
        pytest.param(ask("cdi", ids=["amd.com/gpu=all"]), "", ALL_AMD, id="CDI, all"),
        pytest.param(ask("cdi", ids=["amd.com/gpu=0", "nvidia.com/gpu=1", "x.org/net=all"]), "",
                     f"GPU-bbbb {A} {C0} {C1}", id="CDI of both makers"),
        pytest.param(ask("cdi", ids=["x.amd.com/gpu=all"]), "", ALL_AMD, id="CDI, another kind"),
        pytest.param(ask("amd", ids=["0xa"]), "", A, id="a request to AMD's driver"),
        pytest.param(ask("amd"), "AMD_VISIBLE_DEVICES=0xb", B, id="left to the environment"),
        pytest.param(ask("nvidia", count=-1), "", ALL, id="a request to NVIDIA's driver"),
    ],
)  # fmt: skip
def test_what_a_container_holds_on_a_host_of_both_makers(
    host: dict[str, Any], env: str, held: str
) -> None:
    what = holding({"HostConfig": {"Runtime": "runc", **host}, "Config": {"Env": [env]}})
    assert " ".join(d.uuid for d in DEVICES if what.holds(d)) == held


@pytest.mark.parametrize(
    ("asked", "held", "beside_nvidia"),
    [
        (ask(count=-1), ALL_AMD, ALL),
        (ask(ids=["0"]), f"{A} {C0} {C1}", "GPU-aaaa"),
        (ask(ids=["0xa"]), A, A),
        (ask("nvidia", count=-1), "", ALL),
        (ask("amd", count=-1), ALL_AMD, ALL_AMD),
    ],
)
def test_a_request_without_a_maker_is_for_amd_where_there_is_no_nvidia(
    asked: dict[str, Any], held: str, beside_nvidia: str
) -> None:
    what = holding({"HostConfig": {"Runtime": "runc", **asked}})
    eve = Seen("c", "theirs", "running", {}, datetime(2026, 1, 1, tzinfo=timezone.utc))
    assert " ".join(holders([(eve, what)], Snapshot(devices=DEVICES[4:]))) == held
    assert " ".join(holders([(eve, what)], Snapshot(devices=DEVICES))) == beside_nvidia


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
