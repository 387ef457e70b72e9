"""Descriptions of simulated devices, and what becomes of them."""

from __future__ import annotations

import pytest

from ds01_spawner.core.devices import Snapshot
from ds01_spawner.errors import SimulationRefused
from ds01_spawner.services.inventory.base import NoDevices
from ds01_spawner.services.inventory.simulated import MODELS, SimulatedInventory

GIB = 1 << 30


async def snapshot(description: str, host: str = "host") -> Snapshot:
    return await SimulatedInventory(description, host).snapshot()


@pytest.mark.parametrize(
    ("description", "devices"),
    [
        ("1xA100-80GB", ["gpu CUDA_AMPERE 2520 80 None"]),
        ("2xRTX4090", ["gpu CUDA_ADA 2520 24 None"] * 2),
        ("1xMI210", ["amd ROCM6 2520 64 None"]),
        ("1xV100,1xB200", ["gpu CUDA 2520 32 None", "gpu CUDA_BLACKWELL 2520 180 None"]),
        ("1xH100-80GB:mig=7x1g.10gb", ["mig CUDA_ADA 360 10 1g.10gb"] * 7),
        (
            "1xA100-80GB:mig=1x3g.40gb+2x2g.20gb",
            ["mig CUDA_AMPERE 1080 40 3g.40gb", *["mig CUDA_AMPERE 720 20 2g.20gb"] * 2],
        ),
        (
            "2xA100-40GB,1xH100-80GB:mig=1x1g.10gb,1xMI210,1xRX7900XTX",
            [
                *["gpu CUDA_AMPERE 2520 40 None"] * 2,
                "mig CUDA_ADA 360 10 1g.10gb",
                "amd ROCM6 2520 64 None",
                "amd ROCM6 2520 24 None",
            ],
        ),
        (" 1xT4 , 1xL4 ", ["gpu CUDA 2520 16 None", "gpu CUDA_ADA 2520 24 None"]),
        ("0xA100", []),
    ],
)
async def test_description(description: str, devices: list[str]) -> None:
    found = await snapshot(description)
    assert found.known
    assert found.simulated
    assert [
        f"{d.kind} {d.architecture} {d.units} {d.memory // GIB} {d.profile}" for d in found.devices
    ] == devices


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ("", "COUNTxMODEL"),
        ("A100", "COUNTxMODEL"),
        ("2xA100-40", "COUNTxMODEL"),
        ("2xA1000", "the models are"),
        ("2xA100,", "COUNTxMODEL"),
        ("999xA100,999xA100", "more than 1024"),
        ("1xL4:mig=7x1g.10gb", "no MIG instances"),
        ("1xMI210:mig=7x1g.10gb", "AMD Instinct MI210 has no MIG instances"),
        ("1xMI210:cpx", "COUNTxMODEL"),
        ("1xA100:mig=1g.10gb", "COUNTxPROFILE"),
        ("1xA100:mig=1x8g.40gb", "COUNTxPROFILE"),
        ("1xA100-80GB:mig=8x1g.10gb", "do not fit"),
        ("1xA100-40GB:mig=7x1g.10gb", "do not fit"),
    ],
)
async def test_a_bad_description_is_refused_in_words(description: str, words: str) -> None:
    with pytest.raises(SimulationRefused, match=words):
        await snapshot(description)


async def test_uuids_are_stable_unique_and_the_hosts_own() -> None:
    description = "2xA100-40GB,2xH100:mig=7x1g.10gb,2xMI300X"
    uuids = [d.uuid for d in (await snapshot(description)).devices]
    assert uuids == [d.uuid for d in (await snapshot(description)).devices]
    assert uuids[:2] == [d.uuid for d in (await snapshot("2xA100-40GB")).devices]
    assert len(set(uuids)) == len(uuids) == 18
    assert not set(uuids) & {d.uuid for d in (await snapshot(description, "other")).devices}


async def test_each_makers_cards_are_numbered_from_0_and_amds_have_no_device_files() -> None:
    devices = (await snapshot("1xMI210,1xA100,2xH100:mig=1x1g.10gb,1xMI100")).devices
    assert [(d.kind, d.index) for d in devices] == [
        ("amd", 0), ("gpu", 0), ("mig", 1), ("mig", 2), ("amd", 1),
    ]  # fmt: skip
    assert {(d.nodes, d.groups) for d in devices} == {((), ())}


async def test_the_card_of_mig_instances_is_no_device() -> None:
    devices = (await snapshot("1xH100:mig=2x1g.10gb")).devices
    assert {d.kind for d in devices} == {"mig"}
    assert len({d.parent for d in devices}) == 1
    assert not {d.parent for d in devices} & {d.uuid for d in devices}


@pytest.mark.parametrize("model", MODELS)
async def test_every_model_has_an_architecture(model: str) -> None:
    (device,) = (await snapshot(f"1x{model}")).devices
    assert device.architecture


async def test_no_devices_is_known() -> None:
    assert await NoDevices().snapshot() == Snapshot(known=True)
