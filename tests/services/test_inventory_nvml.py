"""The probe with the real bindings and a driver library of our own, and what becomes of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ds01_spawner.core.devices import Snapshot
from ds01_spawner.services.inventory.nvml import NvmlInventory

MIB = 1 << 20
SOURCE = Path(__file__).with_name("fake_nvml.c")
A100 = "gpu GPU-a NVIDIA_A100-SXM4-40GB 8 0 40960 0 0 0"
H100_MIG = """gpu GPU-h NVIDIA_H100_80GB_HBM3 9 0 81559 1 1 0
mig 0 MIG-0 NVIDIA_H100_80GB_HBM3_MIG_1g.10gb 9984 1
mig 2 MIG-2 NVIDIA_H100_80GB_HBM3_MIG_3g.40gb 40448 3"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libnvidia-ml.so.1 that answers from a file."""
    if not shutil.which("gcc"):
        pytest.skip("there is no gcc to compile the fake driver library")
    folder = tmp_path_factory.mktemp("nvml")
    output = folder / "libnvidia-ml.so.1"
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-Wl,-soname,libnvidia-ml.so.1", "-o", output, SOURCE], check=True)
    return folder


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


Make = Callable[..., NvmlInventory]


@pytest.fixture
def driver(library: Path, tmp_path: Path) -> Make:
    """An inventory on a host whose driver says what the test writes."""

    def make(state: str, *, deadline_s: float = 60, clock: Clock | None = None) -> NvmlInventory:
        file = tmp_path / "state"
        file.write_text(state)
        environment = {**os.environ, "LD_LIBRARY_PATH": str(library), "FAKE_NVML_STATE": str(file)}
        return NvmlInventory(
            deadline_s=deadline_s, monotonic=clock or Clock(), environment=environment
        )

    return make


async def test_whole_gpus(driver: Make) -> None:
    state = f"driver 570.124.06\ncuda 12080\n{A100}\ngpu GPU-l NVIDIA_L4 8 9 23034 0 0 0"
    snapshot = await driver(state).snapshot()
    assert (snapshot.known, snapshot.simulated, snapshot.problems) == (True, False, ())
    assert (snapshot.driver, snapshot.cuda) == ("570.124.06", (12, 8))
    a100, l4 = snapshot.devices
    assert (a100.uuid, a100.kind, a100.name) == ("GPU-a", "gpu", "NVIDIA A100-SXM4-40GB")
    assert (a100.architecture, a100.units, a100.memory) == ("CUDA_AMPERE", 2520, 40960 * MIB)
    assert (l4.architecture, l4.index, l4.compute_capability) == ("CUDA_ADA", 1, (8, 9))
    assert a100.healthy
    assert l4.healthy


async def test_mig_instances_with_a_hole_between(driver: Make) -> None:
    snapshot = await driver(f"{A100}\n{H100_MIG}").snapshot()
    whole, small, large = snapshot.devices
    assert whole.uuid == "GPU-a"
    assert (small.uuid, small.kind, small.profile, small.parent) == (
        "MIG-0", "mig", "1g.10gb", "GPU-h",
    )  # fmt: skip
    assert (small.units, small.memory, small.index) == (360, 9984 * MIB, 1)
    assert (large.profile, large.units, large.architecture) == ("3g.40gb", 1080, "CUDA_ADA")


async def test_mig_without_instances_offers_nothing_and_says_so(driver: Make) -> None:
    snapshot = await driver("gpu GPU-h NVIDIA_H100 9 0 81559 1 1 0").snapshot()
    assert snapshot.known
    assert snapshot.devices == ()
    assert "MIG is on and it has no instances" in snapshot.problems[0]


@pytest.mark.parametrize("line", ["NVIDIA_H100 9 0 81559 0 1 0", "NVIDIA_H100 9 0 81559 1 0 0"])
async def test_a_card_whose_mig_mode_is_about_to_change_is_not_given_out(
    driver: Make, line: str
) -> None:
    instance = "mig 0 MIG-0 NVIDIA_H100_MIG_1g.10gb 9984 1"
    snapshot = await driver(f"gpu GPU-h {line}\n{instance}").snapshot()
    (device,) = snapshot.devices
    assert not device.healthy
    assert "next reset" in device.problem


async def test_a_lost_gpu_hides_no_other(driver: Make) -> None:
    lost = "gpu GPU-x NVIDIA_A100 8 0 40960 0 0 1"
    snapshot = await driver(f"{lost}\n{A100}").snapshot()
    assert [(d.uuid, d.healthy) for d in snapshot.devices] == [
        ("unknown-0", False),
        ("GPU-a", True),
    ]
    assert "GPU is lost" in snapshot.devices[0].problem
    assert "GPU is lost" in snapshot.problems[0]


async def test_a_host_without_gpus(driver: Make) -> None:
    snapshot = await driver("").snapshot()
    assert (snapshot.known, snapshot.devices) == (True, ())


@pytest.mark.skipif(bool(shutil.which("nvidia-smi")), reason="this host has an NVIDIA driver")
async def test_a_host_without_a_driver_has_no_devices_for_sure() -> None:
    snapshot = await NvmlInventory().snapshot()
    assert (snapshot.known, snapshot.devices) == (True, ())
    assert snapshot.problems == ("there is no NVIDIA driver on this host",)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (9, "Driver Not Loaded"),
        (18, "version mismatch"),
        (4, "Permissions"),
        (999, "Unknown Error"),
    ],
)
async def test_a_broken_driver_means_not_known(driver: Make, code: int, words: str) -> None:
    snapshot = await driver(f"init {code}\n{A100}").snapshot()
    assert (snapshot.known, snapshot.simulated, snapshot.devices) == (False, False, ())
    assert words in snapshot.problems[0]


@pytest.mark.parametrize("call", ["nvmlInitWithFlags", "nvmlDeviceGetMemoryInfo"])
async def test_a_driver_that_hangs_means_not_known(driver: Make, call: str) -> None:
    snapshot = await driver(f"hang {call}\n{A100}", deadline_s=0.5).snapshot()
    assert not snapshot.known
    assert "did not answer within 0.5 s" in snapshot.problems[0]


async def test_what_the_library_prints_does_not_matter(driver: Make) -> None:
    snapshot = await driver(f"say hello\n{A100}").snapshot()
    assert [d.uuid for d in snapshot.devices] == ["GPU-a"]


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        ("print('{}')", "cannot be read"),
        ("print('no JSON')", "cannot be read"),
        ('print(\'{"library": true, "cards": [{"index": "x"}]}\')', "cannot be read"),
        ("pass", "cannot be read"),
        ("raise SystemExit('it broke')", "it broke"),
        ("import os; os.abort()", "failed"),
    ],
)
async def test_nonsense_means_not_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, probe: str, words: str
) -> None:
    script = tmp_path / "probe.py"
    script.write_text(probe)
    monkeypatch.setattr("ds01_spawner.services.inventory.nvml.PROBE", script)
    snapshot = await NvmlInventory().snapshot()
    assert (snapshot.known, snapshot.devices) == (False, ())
    assert words in snapshot.problems[0]


# --- how often it asks ---------------------------------------------------------------------------


class Counting(NvmlInventory):
    """Counts its probes, which answer what the test says."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(monotonic=clock, fresh_s=5, backoff_s=(2, 8))
        self.probes = 0
        self.known = True
        self.gate = asyncio.Event()
        self.gate.set()

    async def _probe(self) -> Snapshot:
        self.probes += 1
        await self.gate.wait()
        return Snapshot(known=self.known)


async def test_an_answer_is_kept_for_a_while() -> None:
    clock = Clock()
    inventory = Counting(clock)
    for clock.time, probes in [(0, 1), (4.9, 1), (5, 2), (9, 2), (10.1, 3)]:
        await inventory.snapshot()
        assert inventory.probes == probes


async def test_failures_are_asked_about_ever_more_slowly() -> None:
    clock = Clock()
    inventory = Counting(clock)
    inventory.known = False
    for clock.time, probes in [(0, 1), (1, 1), (2, 2), (5, 2), (6, 3), (13, 3), (14, 4), (22, 5)]:
        assert not (await inventory.snapshot()).known
        assert inventory.probes == probes
    inventory.known = True
    clock.time = 30
    assert (await inventory.snapshot()).known
    inventory.known = False
    clock.time = 35
    assert not (await inventory.snapshot()).known
    clock.time = 37
    await inventory.snapshot()
    assert inventory.probes == 8


async def test_callers_at_the_same_time_share_one_probe() -> None:
    inventory = Counting(Clock())
    inventory.gate.clear()
    callers = [asyncio.ensure_future(inventory.snapshot()) for _ in range(5)]
    await asyncio.sleep(0)
    callers[0].cancel()  # who started it goes; the others get their answer
    await asyncio.sleep(0)
    inventory.gate.set()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [Snapshot()] * 4
    assert inventory.probes == 1


async def test_no_second_probe_while_the_first_cannot_be_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "probe.py"
    script.write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)"
    )
    monkeypatch.setattr("ds01_spawner.services.inventory.nvml.PROBE", script)
    monkeypatch.setattr("ds01_spawner.services.inventory.nvml.TERMINATE_S", 0.1)
    clock = Clock()
    inventory = NvmlInventory(deadline_s=2, monotonic=clock)
    assert "did not answer" in (await inventory.snapshot()).problems[0]
    stuck = inventory._stuck
    assert stuck
    try:
        clock.time += 1000
        assert "still hangs" in (await inventory.snapshot()).problems[0]
        assert inventory._stuck is stuck
    finally:
        stuck.kill()
        await stuck.wait()
    script.write_text("print('{\"library\": false}')")
    clock.time += 1000
    assert (await inventory.snapshot()).known
