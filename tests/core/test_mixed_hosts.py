"""A host with cards of both makers: from what was chosen to the device, never the other maker's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.architectures import family
from ds01_spawner.core.catalog import parse as parse_catalog
from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.options import Offer, Request, parse
from ds01_spawner.core.placement import Wanted, place
from ds01_spawner.errors import DS01Error, NoDeviceFree, NoSuchDevice, NotEnoughDevices

GIB = 1 << 30
MANY = Limits(max_gpu_equivalents=None, max_gpu_slots_per_container=None)
CATALOG = parse_catalog(
    "Pytorch, 2.8.0, [CUDA_AMPERE], a/pytorch-2.8.0\n"
    "Pytorch, 2.7.0, [ROCM6], a/pytorch-2.7.0-rocm\n"
    "Pytorch, 2.6.0, [CUDA_AMPERE], a/pytorch-2.6.0\n"
    "Pytorch, 2.6.0, [ROCM6], a/pytorch-2.6.0-rocm\n"
    "Tensorflow, 2.14.0, [ROCM5;ROCM6], a/tensorflow-rocm\n"
)
A100 = Device("GPU-a", "gpu", "NVIDIA A100", "CUDA_AMPERE", 2520, 40 * GIB)
SLICE = Device("MIG-1", "mig", "NVIDIA A100", "CUDA_AMPERE", 360, 5 * GIB, "1g.5gb", "GPU-m")
MI210 = Device("0x1", "amd", "AMD Instinct MI210", "ROCM6", 2520, 64 * GIB)
PARTS = tuple(
    Device(
        f"0x2.{n}", "amd", "AMD Instinct MI300X", "ROCM6", 315, 24 * GIB, "cpx", "pci-0000:05:00"
    )
    for n in range(2)
)
IGPU = Device("0x3", "amd", "AMD gfx1036", None, 2520, GIB)  # no image runs on it


def offer(*devices: Device) -> Offer:
    snapshot = Snapshot(devices=devices)
    profiles = tuple(sorted({d.profile for d in devices if d.profile}))
    return Offer(CATALOG, snapshot.architectures, MANY, profiles=profiles, has_gpus=True)


def given_to(options: dict[str, Any], *devices: Device, taken: str = "") -> tuple[Request, str]:
    request = parse(options, offer(*devices))
    wanted = Wanted(request.gpus, request.gpu, request.needs)
    holders = dict.fromkeys(taken.split(), "someone")
    placed = place(Snapshot(devices=devices), holders, wanted, MANY, 0)
    return request, " ".join(d.uuid for d in placed.devices)


ROCM: dict[str, Any] = {"framework": "Pytorch", "architecture": "ROCM6"}
CUDA: dict[str, Any] = {"framework": "Pytorch", "architecture": "CUDA_AMPERE"}


@pytest.mark.parametrize(
    ("options", "image", "device"),
    [
        ({"framework": "Pytorch", "gpus": 1}, "a/pytorch-2.8.0", "GPU-a"),
        ({"framework": "Pytorch", "version": "2.7.0", "gpus": 1}, "a/pytorch-2.7.0-rocm", "0x1"),
        ({"framework": "Tensorflow", "gpus": 1}, "a/tensorflow-rocm", "0x1"),
        ({**ROCM, "gpus": 1}, "a/pytorch-2.7.0-rocm", "0x1"),
        ({**ROCM, "version": "2.6.0", "gpus": 1}, "a/pytorch-2.6.0-rocm", "0x1"),
        ({**CUDA, "version": "2.6.0", "gpus": 1, "gpu": "full"}, "a/pytorch-2.6.0", "GPU-a"),
        ({**ROCM, "gpus": 1, "gpu": "full"}, "a/pytorch-2.7.0-rocm", "0x1"),
        ({**ROCM, "gpus": 0}, "a/pytorch-2.7.0-rocm", ""),
    ],
)
@pytest.mark.parametrize("devices", [(A100, MI210), (IGPU, A100, MI210)])
def test_an_image_gets_a_device_of_its_maker(
    options: dict[str, Any], image: str, device: str, devices: tuple[Device, ...]
) -> None:
    request, uuids = given_to(options, *devices)
    assert (request.entry.image, uuids) == (image, device)


@pytest.mark.parametrize(
    ("options", "taken", "error"),
    [
        # The other maker's device is free, and yet it is not given instead.
        ({**CUDA, "gpus": 1}, "GPU-a", NoDeviceFree),
        ({**ROCM, "gpus": 1}, "0x1", NoDeviceFree),
        ({**ROCM, "gpus": 1, "gpu": "full"}, "0x1", NoDeviceFree),
        ({**CUDA, "gpus": 2}, "", NotEnoughDevices),  # there are two GPUs, one of each
        ({**ROCM, "gpus": 2}, "", NotEnoughDevices),
        ({**ROCM, "gpus": 1, "gpu": "1g.5gb"}, "", NoSuchDevice),
        ({**CUDA, "gpus": 1, "gpu": "cpx"}, "", NoSuchDevice),
    ],
)
def test_nothing_of_the_other_maker_is_given_instead(
    options: dict[str, Any], taken: str, error: type[DS01Error]
) -> None:
    devices = (A100, MI210)
    if options.get("gpu") not in (None, "full"):
        devices += (SLICE, *PARTS)
    with pytest.raises(error):
        given_to(options, *devices, taken=taken)


def test_a_part_of_an_amd_card_is_a_slice_as_a_mig_instance_is() -> None:
    devices = (A100, SLICE, MI210, *PARTS)
    assert given_to({**ROCM, "gpus": 1}, *devices)[1] == "0x2.0"
    assert given_to({**ROCM, "gpus": 1, "gpu": "cpx"}, *devices, taken="0x2.0")[1] == "0x2.1"
    assert given_to({**ROCM, "gpus": 1, "gpu": "full"}, *devices)[1] == "0x1"
    assert given_to({**ROCM, "gpus": 1}, *devices, taken="pci-0000:05:00")[1] == "0x1"


DEVICES = (A100, SLICE, MI210, *PARTS, IGPU)


@given(
    st.lists(st.sampled_from(DEVICES), unique=True),
    st.sets(st.sampled_from([d.uuid for d in DEVICES])),
    st.fixed_dictionaries(
        {"gpus": st.integers(1, 3)},
        optional={
            "framework": st.sampled_from(["Pytorch", "Tensorflow"]),
            "version": st.sampled_from(["2.6.0", "2.7.0", "latest"]),
            "architecture": st.sampled_from(["CUDA_AMPERE", "ROCM6"]),
            "gpu": st.sampled_from(["any", "full", "1g.5gb", "cpx"]),
        },
    ),
)
def test_whatever_is_asked_for_maker_and_image_go_together(
    devices: list[Device], taken: set[str], options: dict[str, Any]
) -> None:
    try:
        request, uuids = given_to(options, *devices, taken=" ".join(taken))
    except DS01Error:
        return
    kinds = {d.kind == "amd" for d in devices if d.uuid in uuids.split()}
    assert kinds == {family(a) == "rocm" for a in request.entry.architectures}
