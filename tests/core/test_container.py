"""The create body: every limit, every reserved label, and nothing that opens the host."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ds01_spawner.core.container import (
    RESERVED_ENV,
    ContainerPlan,
    Mount,
    Resources,
    create_body,
)
from ds01_spawner.core.devices import Device
from ds01_spawner.core.injection import Way

GIB = 1 << 30
RESOURCES = Resources(
    cpus=1.5, memory=4 * GIB, memory_swap=4 * GIB, shm_size=GIB, pids_limit=512,
    tmp_size=GIB, log_size=10 << 20, log_files=2, open_files=4096,
)  # fmt: skip
PLAN = ContainerPlan(
    hub="lab", user="alice", server="", image="ds01-alice/default:0123",
    command=("/opt/ds01/server/bin/jupyterhub-singleuser",),
    environment={"JUPYTERHUB_USER": "alice", "NVIDIA_VISIBLE_DEVICES": "all", "LD_PRELOAD": "x"},
    owner="200000:200000", home="/workspace", resources=RESOURCES, network="ds01",
    mounts=(Mount("ds01.home.alice", "/workspace"), Mount("/srv/data", "/data", True)),
    work_mount="ds01.home.alice", lease="abc", generation="7", framework="Pytorch", version="2.8.0",
    architecture="CUDA_AMPERE", catalog_image="aimehub/pytorch", recipe="d" * 64,
    project="thesis", created_at="2026-01-02T03:04:05+00:00",
)  # fmt: skip


def gpus(*uuids: str, way: Way = "request", **more: object) -> ContainerPlan:
    """The plan with these devices."""
    devices = tuple(Device(u, "gpu", "A100", "CUDA_AMPERE", 2520, 40 * GIB) for u in uuids)
    return replace(PLAN, devices=devices, way=way, **more)  # type: ignore[arg-type]


def env(body: dict) -> dict[str, str]:
    return dict(item.split("=", 1) for item in body["Env"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("CapDrop", ["ALL"]),
        ("SecurityOpt", ["no-new-privileges"]),
        ("Privileged", False),
        ("IpcMode", "private"),
        ("NetworkMode", "ds01"),
        ("RestartPolicy", {"Name": "no"}),
        ("AutoRemove", False),
        ("Init", True),
        ("PidsLimit", 512),
        ("Memory", 4 * GIB),
        ("MemorySwap", 4 * GIB),
        ("NanoCpus", 1_500_000_000),
        ("ShmSize", GIB),
        ("LogConfig", {"Type": "json-file", "Config": {"max-size": "10485760", "max-file": "2"}}),
    ],
)
def test_every_limit_is_in_the_create_call(key: str, value: object) -> None:
    assert create_body(PLAN)["HostConfig"][key] == value


@pytest.mark.parametrize(
    "key",
    ["PidMode", "UsernsMode", "UTSMode", "CapAdd", "Devices", "Binds", "PortBindings", "Links",
     "Runtime", "CgroupnsMode", "Sysctls", "VolumesFrom"],
)  # fmt: skip
def test_what_opens_the_host_is_absent(key: str) -> None:
    assert key not in create_body(PLAN)["HostConfig"]


def test_no_limit_of_processes_is_said_in_the_engines_way() -> None:
    plan = replace(PLAN, resources=replace(RESOURCES, pids_limit=None))
    assert create_body(plan)["HostConfig"]["PidsLimit"] == -1


def test_the_server_is_told_its_limits() -> None:
    assert env(create_body(PLAN))["MEM_LIMIT"] == str(4 * GIB)
    assert env(create_body(PLAN))["CPU_LIMIT"] == "1.5"


def test_without_devices_the_container_has_none_whatever_image_and_admin_say() -> None:
    body = create_body(PLAN)
    assert env(body)["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert env(body)["CUDA_VISIBLE_DEVICES"] == ""
    assert "DeviceRequests" not in body["HostConfig"]


@pytest.mark.parametrize("name", RESERVED_ENV)
def test_reserved_variables_are_never_taken_over(name: str) -> None:
    plan = replace(PLAN, environment={name: "theirs"})
    assert "theirs" not in env(create_body(plan)).values()


def test_devices_get_in_by_their_way() -> None:
    """What each way is, is told by the tests of the injection."""
    body = create_body(gpus("GPU-0", "GPU-3"))
    (request,) = body["HostConfig"]["DeviceRequests"]
    assert request["DeviceIDs"] == ["GPU-0", "GPU-3"]
    assert env(body)["NVIDIA_VISIBLE_DEVICES"] == "GPU-0,GPU-3"
    body = create_body(gpus("GPU-0", way="cdi"))
    (request,) = body["HostConfig"]["DeviceRequests"]
    assert request["DeviceIDs"] == ["nvidia.com/gpu=GPU-0"]
    assert env(body)["NVIDIA_VISIBLE_DEVICES"] == "void"


@pytest.mark.parametrize(
    ("seats", "jax", "part"),
    [(2, "0.47", "0.5000"), (8, "0.11", "0.1250"), (3, "0.31", "0.3333"), (48, "0.01", "0.0208")],
)
def test_a_seat_tells_the_frameworks_their_part(seats: int, jax: str, part: str) -> None:
    alone, seat = create_body(gpus("GPU-1")), gpus("GPU-1", seat=f"2/{seats}", seats=seats)
    body = create_body(replace(seat, environment={"TF_FORCE_GPU_ALLOW_GROWTH": "false"}))
    assert body["Labels"]["ds01.gpu.seat"] == f"2/{seats}"
    told = {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": jax, "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true", "DS01_GPU_MEMORY_FRACTION": part,
    }  # fmt: skip
    assert told.items() <= env(body).items()
    assert not told.keys() & env(alone).keys()
    # The device is given as to a server that has it alone.
    assert body["HostConfig"] == alone["HostConfig"]


def test_simulated_devices_are_environment_and_labels_only() -> None:
    body = create_body(gpus("GPU-0", way="simulated", simulated=True))
    assert body["HostConfig"].keys() == create_body(PLAN)["HostConfig"].keys()
    assert env(body)["NVIDIA_VISIBLE_DEVICES"] == "GPU-0"
    assert body["Labels"]["ds01.simulated"] == "true"


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("ds01.hub", "lab"),
        ("ds01.user", "alice"),
        ("ds01.server", ""),
        ("ds01.managed", "true"),
        ("ds01.interface", "jupyterhub"),
        ("ds01.container_type", "atomic"),
        ("ds01.lease", "abc"),
        ("ds01.lease_generation", "7"),
        ("ds01.framework", "Pytorch-2.8.0"),
        ("ds01.arch", "CUDA_AMPERE"),
        ("ds01.gpu.uuid", ""),
        ("ds01.gpu.uuids", "GPU-1,GPU-2"),
        ("ds01.gpus", "2"),
        ("ds01.gpu.slots", "1,2"),
        ("ds01.units", "5040"),
        ("ds01.recipe", "d" * 64),
        ("ds01.created_at", "2026-01-02T03:04:05+00:00"),
        ("ds01.work_mount", "ds01.home.alice"),
        ("aime.mlc", "alice"),
        ("aime.mlc.FRAMEWORK", "Pytorch-2.8.0"),
    ],
)
def test_labels(label: str, value: str) -> None:
    plan = gpus("GPU-1", "GPU-2", slots=("1", "2"), units="5040")
    assert create_body(plan)["Labels"][label] == value


def test_only_an_image_that_is_not_the_catalogs_is_labelled_as_custom() -> None:
    names = ("ds01.image", "ds01.custom_image", "aime.mlc.CUSTOM_IMAGE", "ds01.framework")
    told = create_body(PLAN)["Labels"]
    assert [told[n] for n in names] == ["aimehub/pytorch", "", "", "Pytorch-2.8.0"]
    plan = replace(
        PLAN, custom=True, catalog_image="lab/genomics:1", framework="custom", version="genomics"
    )
    told = create_body(plan)["Labels"]
    assert [told[n] for n in names] == [*["lab/genomics:1"] * 3, "custom-genomics"]


def test_aime_labels_have_no_commas() -> None:
    body = create_body(gpus("GPU-1", "GPU-2", user="a,b", slots=("1", "2")))
    aime = {k: v for k, v in body["Labels"].items() if k.startswith("aime.")}
    assert aime
    assert not any("," in value for value in aime.values())


def test_the_reserved_labels_are_the_same_whatever_the_server() -> None:
    """None may be missing in one kind of start, or it would be inherited from the image."""
    cpu = create_body(PLAN)["Labels"].keys()
    gpu = create_body(gpus("GPU-1", server="two", hours="2"))["Labels"].keys()
    assert cpu == gpu


def test_an_extra_label_cannot_replace_a_reserved_one() -> None:
    body = create_body(replace(PLAN, extra_labels={"ds01.user": "mallory", "course": "dl101"}))
    assert body["Labels"]["ds01.user"] == "alice"
    assert body["Labels"]["course"] == "dl101"


def test_mounts_are_volumes_and_folders_by_their_kind() -> None:
    assert create_body(PLAN)["HostConfig"]["Mounts"] == [
        {
            "Type": "volume",
            "Source": "ds01.home.alice",
            "Target": "/workspace",
            "ReadOnly": False,
            "VolumeOptions": {
                "NoCopy": True,
                "Labels": {"ds01.hub": "lab", "ds01.user": "alice"},
            },
        },
        {"Type": "bind", "Source": "/srv/data", "Target": "/data", "ReadOnly": True},
    ]


def test_equal_plans_give_equal_bodies() -> None:
    assert create_body(PLAN) == create_body(replace(PLAN))
