"""What the driver's library says, through the real bindings, and what becomes of it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pynvml
import pytest

from ds01_spawner.core.devices import Process, Usage
from ds01_spawner.core.lifetime import computes
from ds01_spawner.services.inventory.nvml import OPEN_AT_MOST_S, NvmlInventory
from tests.fakes.nvml import assertions, build_library
from tests.services.conftest import TAKEN, Driver

MIB = 1 << 20
A100 = "gpu GPU-a NVIDIA_A100-SXM4-40GB 8 0 40960 0 0 0"
B100 = "gpu GPU-b NVIDIA_A100-SXM4-40GB 8 0 40960 0 0 0"
C100 = "gpu GPU-c NVIDIA_A100-SXM4-40GB 8 0 40960 0 0 0"
H100_MIG = (
    "gpu GPU-h NVIDIA_H100_80GB_HBM3 9 0 81559 1 1 0",
    "mig 0 MIG-0 NVIDIA_H100_80GB_HBM3_MIG_1g.10gb 9984 1",
    "mig 2 MIG-2 NVIDIA_H100_80GB_HBM3_MIG_3g.40gb 40448 3",
)


async def test_whole_gpus(driver: Driver) -> None:
    driver.says("driver 570.124.06", "cuda 12080", A100, "gpu GPU-l NVIDIA_L4 8 9 23034 0 0 0")
    snapshot = await driver.inventory().snapshot()
    assert (snapshot.known, snapshot.simulated, snapshot.problems) == (True, False, ())
    assert (snapshot.driver, snapshot.cuda) == ("570.124.06", (12, 8))
    assert snapshot.taken == TAKEN
    a100, l4 = snapshot.devices
    assert (a100.uuid, a100.kind, a100.name) == ("GPU-a", "gpu", "NVIDIA A100-SXM4-40GB")
    assert (a100.architecture, a100.units, a100.memory) == ("CUDA_AMPERE", 2520, 40960 * MIB)
    assert (l4.architecture, l4.index, l4.compute_capability) == ("CUDA_ADA", 1, (8, 9))
    assert a100.healthy
    assert l4.healthy


async def test_mig_instances_with_a_hole_between(driver: Driver) -> None:
    driver.says(A100, *H100_MIG)
    snapshot = await driver.inventory().snapshot()
    whole, small, large = snapshot.devices
    assert whole.uuid == "GPU-a"
    assert (small.uuid, small.kind, small.profile, small.parent) == (
        "MIG-0", "mig", "1g.10gb", "GPU-h",
    )  # fmt: skip
    assert (small.units, small.memory, small.index) == (360, 9984 * MIB, 1)
    assert (large.profile, large.units, large.architecture) == ("3g.40gb", 1080, "CUDA_ADA")


async def test_mig_without_instances_offers_nothing_and_says_so(driver: Driver) -> None:
    driver.says("gpu GPU-h NVIDIA_H100 9 0 81559 1 1 0")
    snapshot = await driver.inventory().snapshot()
    assert snapshot.known
    assert snapshot.devices == ()
    assert "MIG is on and it has no instances" in snapshot.problems[0]


@pytest.mark.parametrize("line", ["NVIDIA_H100 9 0 81559 0 1 0", "NVIDIA_H100 9 0 81559 1 0 0"])
async def test_a_card_whose_mig_mode_is_about_to_change_is_not_given_out(
    driver: Driver, line: str
) -> None:
    driver.says(f"gpu GPU-h {line}", "mig 0 MIG-0 NVIDIA_H100_MIG_1g.10gb 9984 1")
    (device,) = (await driver.inventory().snapshot()).devices
    assert not device.healthy
    assert "next reset" in device.problem


@pytest.mark.parametrize("slices", [0, 8])
async def test_an_instance_of_no_size_is_not_given_out(driver: Driver, slices: int) -> None:
    driver.says(H100_MIG[0], f"mig 0 MIG-0 NVIDIA_H100_MIG_1g.10gb 9984 {slices}")
    (device,) = (await driver.inventory().snapshot()).devices
    assert not device.healthy
    assert f"it has {slices} slices" in device.problem


async def test_a_host_without_gpus(driver: Driver) -> None:
    driver.says()
    snapshot = await driver.inventory().snapshot()
    assert (snapshot.known, snapshot.devices) == (True, ())


@pytest.mark.skipif(bool(shutil.which("nvidia-smi")), reason="this host has an NVIDIA driver")
async def test_a_host_without_a_driver_has_no_devices_for_sure() -> None:
    inventory = NvmlInventory(now=lambda: datetime.now(timezone.utc))
    snapshot = await inventory.snapshot()
    await inventory.close()
    assert (snapshot.known, snapshot.devices) == (True, ())
    assert snapshot.problems == ("there is no NVIDIA driver on this host",)


async def test_what_the_library_prints_does_not_matter(driver: Driver) -> None:
    driver.says('say {"answer":null}', A100)
    assert [d.uuid for d in (await driver.inventory().snapshot()).devices] == ["GPU-a"]


# --- what goes on there --------------------------------------------------------------------------


async def test_what_a_whole_gpu_does(driver: Driver) -> None:
    driver.says(
        A100, "used GPU-a 900 512", "utilization GPU-a 75",
        "process GPU-a 11 300 compute", "process GPU-a 12 -1 compute",
        "process GPU-a 11 400 graphics", "process GPU-a 13 20 graphics",
        "process GPU-a 14 50 mps",
    )  # fmt: skip
    processes = (
        Process(11, 400 * MIB), Process(12, None), Process(13, 20 * MIB), Process(14, 50 * MIB),
    )  # fmt: skip
    snapshot = await driver.inventory().snapshot()
    # Without the 512 MiB that the driver keeps for itself.
    assert snapshot.usage == {"GPU-a": Usage(0.75, 900 * MIB, processes)}


async def test_what_instances_do_is_told_of_each(driver: Driver) -> None:
    driver.says(
        *H100_MIG, "used GPU-h 5000 700", "used MIG-2 3000 0", "utilization MIG-2 40",
        "process MIG-2 21 3000 compute",
    )  # fmt: skip
    # GPM tells what went on between two looks, of which the first answer has both.
    assert (await driver.inventory().snapshot()).usage == {
        "MIG-0": Usage(0.0, 0, ()),
        "MIG-2": Usage(0.4, 3000 * MIB, (Process(21, 3000 * MIB),)),
    }


async def test_an_idle_instance_is_idle_also_when_the_driver_is_opened_again(
    driver: Driver,
) -> None:
    driver.says(*H100_MIG, "process MIG-2 21 3000 compute")
    inventory = driver.inventory()
    for wait in (0, 3, OPEN_AT_MOST_S):
        driver.later(wait)
        assert computes([(await inventory.snapshot()).usage["MIG-2"]]) is False


async def test_an_instance_made_later_tells_at_once_too(driver: Driver) -> None:
    driver.says(*H100_MIG[:2])
    inventory = driver.inventory()
    await inventory.snapshot()
    driver.says(*H100_MIG, "utilization MIG-2 40")
    driver.later()
    assert (await inventory.snapshot()).usage["MIG-2"].utilization == 0.4


@pytest.mark.parametrize(
    "records",
    [
        pytest.param(["ids MIG-2 3 0 4"], id="a GPU instance that others share"),
        pytest.param(["fail nvmlGpmQueryDeviceSupport GPU-h 3"], id="no GPM"),
        pytest.param(["fail nvmlGpmMigSampleGet GPU-h 999"], id="GPM that fails"),
        pytest.param(["gpu GPU-z NVIDIA_A100 8 0 40960 1 1 0", "mig 0 MIG-2 NVIDIA_A100 4864 1"],
                     id="before Hopper"),
    ],
)  # fmt: skip
async def test_an_instance_that_cannot_tell_how_busy_it_is(
    driver: Driver, records: list[str]
) -> None:
    host = records if records[0].startswith("gpu") else [*H100_MIG, *records]
    driver.says(*host, "utilization MIG-2 40")
    inventory = driver.inventory()
    for _ in range(3):
        driver.later()
        assert (await inventory.snapshot()).usage["MIG-2"].utilization is None


@pytest.mark.parametrize(
    ("records", "links"),
    [
        ([], [("GPU-a", "GPU-b", 10), ("GPU-a", "GPU-c", 10), ("GPU-b", "GPU-c", 10)]),
        (
            ["link GPU-a GPU-b 20 0", "link GPU-b GPU-c 30 0"],
            [("GPU-a", "GPU-b", 40), ("GPU-a", "GPU-c", 10), ("GPU-b", "GPU-c", 30)],
        ),
        (
            ["link GPU-a GPU-c 50 2", "link GPU-a GPU-b 50 4"],
            [("GPU-a", "GPU-b", 410), ("GPU-a", "GPU-c", 210), ("GPU-b", "GPU-c", 10)],
        ),
        (
            ["switch GPU-a 12", "switch GPU-b 12", "switch GPU-c 10"],
            [("GPU-a", "GPU-b", 1210), ("GPU-a", "GPU-c", 1010), ("GPU-b", "GPU-c", 1010)],
        ),
        (
            ["fail nvmlDeviceGetTopologyCommonAncestor GPU-a 999", "link GPU-b GPU-c 10 0"],
            [("GPU-b", "GPU-c", 50)],
        ),
    ],
)
async def test_how_close_cards_are(
    driver: Driver, records: list[str], links: list[tuple[str, str, int]]
) -> None:
    driver.says(A100, B100, C100, *records)
    assert sorted((await driver.inventory().snapshot()).links) == links


async def test_a_card_with_instances_is_linked_to_none(driver: Driver) -> None:
    driver.says(A100, *H100_MIG)
    assert (await driver.inventory().snapshot()).links == ()


async def test_the_epoch_changes_with_the_boot_and_the_devices(driver: Driver) -> None:
    async def epoch(*records: str) -> str:
        driver.says(*records)
        return (await driver.inventory().snapshot()).epoch

    first = await epoch(A100, B100)
    assert 8 <= len(first) <= 16
    assert await epoch(B100, A100) == first
    assert await epoch(A100) != first
    assert await epoch(A100, *H100_MIG) != await epoch(A100, *H100_MIG[:2])
    (driver.proc / "sys/kernel/random/boot_id").write_text("another-boot\n")
    assert await epoch(A100, B100) != first


# --- what some drivers do not have ---------------------------------------------------------------


async def test_an_old_driver_tells_what_it_can(old_nvml_library: Path, driver: Driver) -> None:
    driver.library = old_nvml_library
    driver.says(A100, *H100_MIG, "used GPU-a 900 512", "utilization GPU-a 75")
    snapshot = await driver.inventory().snapshot()
    assert [(d.uuid, d.healthy) for d in snapshot.devices] == [
        ("GPU-a", True), ("MIG-0", True), ("MIG-2", True),
    ]  # fmt: skip
    assert snapshot.usage["GPU-a"] == Usage(0.75, 1412 * MIB, None)
    assert (snapshot.links, snapshot.problems) == ((), ())


OPTIONAL = (
    "nvmlDeviceGetFieldValues", "nvmlDeviceGetRemappedRows", "nvmlDeviceGetMigMode",
    "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetSupportedEventTypes", "nvmlDeviceGetPciInfo_v3",
)  # fmt: skip


@pytest.mark.parametrize("code", [3, 4, 13, 25])
async def test_what_a_card_does_not_support_is_no_fault(driver: Driver, code: int) -> None:
    driver.says(A100, *(f"fail {function} GPU-a {code}" for function in OPTIONAL))
    snapshot = await driver.inventory().snapshot()
    assert [(d.uuid, d.healthy) for d in snapshot.devices] == [("GPU-a", True)]
    assert snapshot.problems == ()
    assert snapshot.usage == {"GPU-a": Usage(None, 0, None)}


def test_a_layout_that_is_not_the_bindings_does_not_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    build_library(tmp_path)
    assert len(assertions()) > 50

    class Other(ctypes.Structure):
        _fields_ = (("pid", ctypes.c_uint), ("usedGpuMemory", ctypes.c_ulonglong))

    monkeypatch.setattr(pynvml, "c_nvmlProcessInfo_t", Other)
    with pytest.raises(subprocess.CalledProcessError):
        build_library(tmp_path)
    assert "sizeof(c_nvmlProcessInfo_t)" in capfd.readouterr().err
