"""How devices get into the create body, by way and maker."""

from __future__ import annotations

from typing import Any

import pytest

from ds01_spawner.core.devices import Device
from ds01_spawner.core.injection import Way, parts, way_of
from ds01_spawner.errors import DeviceGone


def nvidia(uuid: str, **more: Any) -> Device:
    return Device(uuid, "gpu", "A100", "CUDA_AMPERE", 2520, 40 << 30, **more)


def amd(number: int, *, groups: tuple[int, ...] = (44, 109)) -> Device:
    nodes = ("/dev/kfd", f"/dev/dri/renderD{128 + number}")
    return Device(
        f"0x{number}", "amd", "MI210", "ROCM6", 2520, 64 << 30, nodes=nodes, groups=groups
    )


TWO = (nvidia("GPU-0"), nvidia("GPU-3"))
MIG = (Device("MIG-7", "mig", "A100", "CUDA_AMPERE", 360, 5 << 30, profile="1g.5gb"),)


def node(path: str) -> dict[str, str]:
    return {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"}


@pytest.mark.parametrize(
    ("devices", "way", "expected"),
    [
        ((), "none", {}),
        (
            TWO,
            "request",
            {
                "DeviceRequests": [
                    {
                        "Driver": "nvidia",
                        "DeviceIDs": ["GPU-0", "GPU-3"],
                        "Capabilities": [["gpu", "compute", "utility"]],
                    }
                ]
            },
        ),
        (
            (*TWO, *MIG),
            "cdi",
            {
                "DeviceRequests": [
                    {
                        "Driver": "cdi",
                        "DeviceIDs": [
                            "nvidia.com/gpu=GPU-0",
                            "nvidia.com/gpu=GPU-3",
                            "nvidia.com/gpu=MIG-7",
                        ],
                        "Capabilities": [],
                    }
                ]
            },
        ),
        (
            (amd(0), amd(2, groups=(109,))),
            "nodes",
            {
                "Devices": [
                    node("/dev/kfd"),
                    node("/dev/dri/renderD128"),
                    node("/dev/dri/renderD130"),
                ],
                "GroupAdd": ["44", "109"],
            },
        ),
        (TWO, "simulated", {}),
        ((amd(0),), "simulated", {}),
    ],
)
def test_what_the_engine_is_told(
    devices: tuple[Device, ...], way: Way, expected: dict[str, Any]
) -> None:
    assert parts(devices, way).host == expected


@pytest.mark.parametrize(
    ("devices", "way", "expected"),
    [
        ((), "none", {"NVIDIA_VISIBLE_DEVICES": "void", "CUDA_VISIBLE_DEVICES": ""}),
        (TWO, "request", {"NVIDIA_VISIBLE_DEVICES": "GPU-0,GPU-3"}),
        # a runtime of NVIDIA's that reads the variable would add the devices a second time
        (TWO, "cdi", {"NVIDIA_VISIBLE_DEVICES": "void"}),
        (
            (amd(0), amd(2)),
            "nodes",
            {
                "NVIDIA_VISIBLE_DEVICES": "void",
                "ROCR_VISIBLE_DEVICES": "0,1",
                "HIP_VISIBLE_DEVICES": "0,1",
                "GPU_DEVICE_ORDINAL": "0,1",
            },
        ),
        (TWO, "simulated", {"NVIDIA_VISIBLE_DEVICES": "GPU-0,GPU-3"}),
        (
            (amd(0),),
            "simulated",
            {
                "NVIDIA_VISIBLE_DEVICES": "void",
                "ROCR_VISIBLE_DEVICES": "0",
                "HIP_VISIBLE_DEVICES": "0",
                "GPU_DEVICE_ORDINAL": "0",
            },
        ),
    ],
)
def test_what_the_processes_are_told(
    devices: tuple[Device, ...], way: Way, expected: dict[str, str]
) -> None:
    """And a runtime of AMD's, in every case, that it has nothing to add."""
    assert parts(devices, way).environment == {**expected, "AMD_VISIBLE_DEVICES": "none"}


@pytest.mark.parametrize(
    ("devices", "simulated", "expected"),
    [
        ((), False, "none"),
        ((), True, "none"),
        (TWO, False, "cdi"),
        (MIG, False, "cdi"),
        (TWO, True, "simulated"),
        ((amd(0),), False, "nodes"),
        ((amd(0),), True, "simulated"),
    ],
)
def test_the_way_of_a_lease(devices: tuple[Device, ...], simulated: bool, expected: Way) -> None:
    assert way_of(devices, simulated=simulated, nvidia="cdi") == expected


def test_devices_of_two_makers_have_no_way() -> None:
    with pytest.raises(ValueError, match="two makers"):
        way_of((*TWO, amd(0)), simulated=False, nvidia="request")


def test_devices_without_a_way_are_an_error_and_no_silence() -> None:
    with pytest.raises(ValueError, match="no way"):
        parts(TWO, "none")


def test_a_device_without_its_files_is_refused() -> None:
    bare = Device("0x1", "amd", "MI210", "ROCM6", 2520, 64 << 30)
    with pytest.raises(DeviceGone):
        parts((amd(0), bare), "nodes")


def test_parts_are_made_anew_each_time() -> None:
    parts((), "none").environment["NVIDIA_VISIBLE_DEVICES"] = "all"
    parts(TWO, "cdi").environment["NVIDIA_VISIBLE_DEVICES"] = "all"
    assert parts(TWO, "cdi").environment["NVIDIA_VISIBLE_DEVICES"] == "void"
