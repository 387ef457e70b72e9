"""The process that asks the driver: how it is asked, and how it hangs, dies and ends."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ds01_spawner.core.devices import Process, Snapshot, Usage
from ds01_spawner.services.inventory.nvml import NvmlInventory
from ds01_spawner.services.inventory.probing import OPENING_S, ProbeProcess
from tests.fakes.nvml import NAME
from tests.services.conftest import TAKEN, Clock, Driver, Listening

A100 = "gpu GPU-a NVIDIA_A100-SXM4-40GB 8 0 40960 0 0 0"


def process_of(inventory: NvmlInventory) -> ProbeProcess:
    process = inventory._prober._process
    assert process is not None
    return process


def known(snapshot: Snapshot) -> list[str]:
    assert snapshot.known, snapshot.problems
    return [device.uuid for device in snapshot.devices]


def unknown(snapshot: Snapshot) -> str:
    assert (snapshot.known, snapshot.simulated, snapshot.devices) == (False, False, ())
    assert snapshot.taken == TAKEN
    return snapshot.problems[0]


async def test_one_process_answers_all_questions(driver: Driver) -> None:
    driver.says(A100)
    inventory = driver.inventory()
    await inventory.snapshot()
    process = process_of(inventory)
    os.kill(process.pid, signal.SIGINT)  # Ctrl-C at the hub's terminal
    for uuid in ("GPU-b", "GPU-c"):
        driver.says(A100, f"used GPU-a {len(uuid)} 0")
        driver.later()
        assert known(await inventory.snapshot()) == ["GPU-a"]
        assert process_of(inventory) is process
    await inventory.close()
    assert process.ended.is_set()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (9, "Driver Not Loaded"),
        (18, "version mismatch"),
        (4, "Permissions"),
        (999, "Unknown Error"),
    ],
)
async def test_a_broken_driver_means_not_known_until_it_works(
    driver: Driver, code: int, words: str
) -> None:
    driver.says(f"init {code}", A100)
    inventory = driver.inventory()
    assert words in unknown(await inventory.snapshot())
    driver.says(A100)
    driver.later()
    assert known(await inventory.snapshot()) == ["GPU-a"]


async def test_a_driver_that_takes_its_time_to_open_is_waited_for(driver: Driver) -> None:
    driver.says("hang nvmlInitWithFlags", A100)
    inventory = driver.inventory(deadline_s=0.1)
    assert "did not answer within 0.1 s" in unknown(await inventory.snapshot())
    opening = process_of(inventory)
    driver.later()
    assert "did not answer" in unknown(await inventory.snapshot())
    assert process_of(inventory) is opening
    driver.says(A100)
    inventory._prober._deadline_s = 60
    driver.later(5)
    assert known(await inventory.snapshot()) == ["GPU-a"]
    assert process_of(inventory) is opening


async def test_but_not_for_ever(driver: Driver) -> None:
    driver.says("hang nvmlInitWithFlags", A100)
    inventory = driver.inventory(deadline_s=0.1)
    await inventory.snapshot()
    opening = process_of(inventory)
    driver.later(OPENING_S)
    assert "did not answer" in unknown(await inventory.snapshot())
    assert opening.ended.is_set()
    driver.says(A100)
    inventory._prober._deadline_s = 60
    driver.later(5)
    assert known(await inventory.snapshot()) == ["GPU-a"]


async def late_answer(driver: Driver, inventory: NvmlInventory, *records: str) -> None:
    """The driver opens and answers after the one who asked has given up."""
    assert "did not answer within 0.1 s" in unknown(await inventory.snapshot())
    answer = process_of(inventory)._answer
    assert answer
    driver.says(*records)
    await answer
    inventory._prober._deadline_s = 60
    driver.later(5)


async def test_an_answer_that_comes_late_is_none_to_the_next_question(driver: Driver) -> None:
    driver.says("hang nvmlInitWithFlags", A100)
    inventory = driver.inventory(deadline_s=0.1)
    await late_answer(driver, inventory, A100)
    opening = process_of(inventory)
    driver.says(A100, "used GPU-a 900 0")
    assert (await inventory.snapshot()).usage["GPU-a"].memory == 900 << 20
    assert process_of(inventory) is opening


async def test_an_error_that_comes_late_is_told(driver: Driver) -> None:
    driver.says("hang nvmlInitWithFlags", A100)
    inventory = driver.inventory(deadline_s=0.1)
    await late_answer(driver, inventory, "init 18", A100)
    assert "version mismatch" in unknown(await inventory.snapshot())


async def test_a_call_that_hangs_means_not_known_until_it_answers(driver: Driver) -> None:
    driver.says(A100)
    inventory = driver.inventory()
    await inventory.snapshot()
    process = process_of(inventory)
    driver.says("hang nvmlDeviceGetMemoryInfo_v2", A100)
    driver.later()
    inventory._prober._deadline_s = 0.1
    assert "did not answer within 0.1 s" in unknown(await inventory.snapshot())
    assert process.ended.is_set()
    # Told while it lasts, without asking again before its time.
    assert "did not answer" in unknown(await inventory.snapshot())
    driver.says(A100)
    inventory._prober._deadline_s = 60
    driver.later()
    assert known(await inventory.snapshot()) == ["GPU-a"]


async def test_a_hanging_wait_for_events_keeps_no_answer_back(driver: Driver) -> None:
    driver.says("hang nvmlEventSetWait_v2", A100)
    assert known(await driver.inventory().snapshot()) == ["GPU-a"]


async def test_a_probe_that_died_is_replaced(driver: Driver) -> None:
    driver.says(A100)
    inventory = driver.inventory()
    await inventory.snapshot()
    process = process_of(inventory)
    os.kill(process.pid, signal.SIGKILL)
    await process.ended.wait()
    driver.later()
    assert known(await inventory.snapshot()) == ["GPU-a"]
    assert process_of(inventory) is not process


# --- another driver, or none ---------------------------------------------------------------------


@pytest.fixture
def upgradable(driver: Driver, tmp_path: Path) -> Callable[[], None]:
    """Moves the driver's library to a folder of its own; what is given puts another one there."""
    folder = tmp_path / "library"
    folder.mkdir()
    original, driver.library = driver.library / NAME, folder
    shutil.copy(original, folder / NAME)

    def upgrade() -> None:
        shutil.copy(original, folder / "new")
        (folder / "new").replace(folder / NAME)

    return upgrade


async def test_an_upgraded_driver_is_noticed(
    driver: Driver, upgradable: Callable[[], None]
) -> None:
    """The open library would answer on, while no new container could start."""
    driver.says("driver 570.124.06", A100)
    inventory = driver.inventory()
    assert (await inventory.snapshot()).driver == "570.124.06"
    upgradable()
    driver.says("driver 580.65.06", "init 18", A100)  # until the host's reboot
    driver.later()
    assert "version mismatch" in unknown(await inventory.snapshot())
    driver.says("driver 580.65.06", A100)
    driver.later()
    assert (await inventory.snapshot()).driver == "580.65.06"


@pytest.mark.skipif(bool(shutil.which("nvidia-smi")), reason="this host has an NVIDIA driver")
async def test_a_driver_that_goes_away_means_not_known(
    driver: Driver, upgradable: Callable[[], None]
) -> None:
    driver.says(A100)
    inventory = driver.inventory()
    await inventory.snapshot()
    (driver.library / NAME).unlink()
    driver.later()
    assert "Library Not Found" in unknown(await inventory.snapshot())
    upgradable()
    driver.later()
    assert known(await inventory.snapshot()) == ["GPU-a"]


# --- probes that are none ------------------------------------------------------------------------


@pytest.fixture
def scripted(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Has this program run in place of the probe."""
    folder = tmp_path / "probe"
    folder.mkdir()
    monkeypatch.setattr("ds01_spawner.services.inventory.probing.PROBE", folder)
    monkeypatch.setattr("ds01_spawner.services.inventory.probing.END_S", 0.2)

    def script(text: str) -> None:
        (folder / "__main__.py").write_text(text)

    return script


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        ("print('no JSON')", "cannot be read"),
        ('print(\'{"answer": {"library": true, "cards": [{"index": "x"}]}}\')', "cannot be read"),
        ('print(\'{"answer": {"surprise": 1}}\')', "cannot be read"),
        ("pass", "failed (0)"),
        ("raise SystemExit(3)", "failed (3)"),
        ("import os; os.abort()", "failed (-6)"),
        ("print('{}')", "failed (0)"),
    ],
)
async def test_nonsense_means_not_known(
    driver: Driver, scripted: Callable[[str], None], probe: str, words: str
) -> None:
    scripted(f"input()\n{probe}")
    assert words in unknown(await driver.inventory().snapshot())


async def test_without_an_interpreter_nothing_is_known(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ds01_spawner.services.inventory.probing.sys.executable", "/no/python")
    assert "cannot be asked" in unknown(await driver.inventory().snapshot())


STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: log.open("a").write("asked to end\\n"))
log = pathlib.Path(sys.argv[0], "log")
log.open("a").write("started\\n")
input()
print('{"answer": {"library": true}}', flush=True)
while True:
    time.sleep(600)
"""


async def test_a_probe_that_cannot_be_ended_is_asked_once_and_left_alone(
    driver: Driver, scripted: Callable[[str], None], tmp_path: Path
) -> None:
    scripted(STUBBORN)
    inventory = driver.inventory()
    assert known(await inventory.snapshot()) == []
    driver.later()
    inventory._prober._deadline_s = 0.1
    assert "did not answer" in unknown(await inventory.snapshot())
    stuck = inventory._prober._stuck
    assert stuck
    try:
        for _ in range(3):
            driver.later(1000)
            assert "still hangs" in unknown(await inventory.snapshot())
            assert inventory._prober._stuck is stuck
        log = (tmp_path / "probe/log").read_text().splitlines()
        assert log == ["started", "asked to end"]
    finally:
        os.kill(stuck.pid, signal.SIGKILL)
        await stuck.ended.wait()
    scripted('input()\nprint(\'{"answer": {"library": false}}\', flush=True)\ninput()')
    driver.later(1000)
    assert known(await inventory.snapshot()) == []


# --- when the hub goes ---------------------------------------------------------------------------

HUB = """
import asyncio, sys
from datetime import datetime, timezone
from ds01_spawner.services.inventory.nvml import NvmlInventory

async def main():
    inventory = NvmlInventory(now=lambda: datetime.now(timezone.utc))
    asking = asyncio.ensure_future(inventory.snapshot())
    if sys.argv[1] == "idle":
        await asking
    while inventory._prober._process is None:
        await asyncio.sleep(0)
    print(inventory._prober._process.pid, flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, None])
@pytest.mark.parametrize("state", ["idle", "hanging"])
def test_the_probe_ends_with_the_hub(
    driver: Driver, state: str, how: signal.Signals | None
) -> None:
    driver.says(A100, *(["hang nvmlInitWithFlags"] if state == "hanging" else []))
    hub = subprocess.Popen(
        [sys.executable, "-c", HUB, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=driver.state.environment(driver.library),
    )  # fmt: skip
    with hub:
        assert hub.stdin
        assert hub.stdout
        probe = os.pidfd_open(int(hub.stdout.readline()))
        try:
            if how is not None:
                hub.send_signal(how)
            else:
                hub.stdin.close()
            assert select.select([probe], [], [], 60)[0], "the probe outlives its hub"
        finally:
            os.close(probe)


# --- how often it asks ---------------------------------------------------------------------------


class Counting(Listening):
    """Counts its questions, which are answered as the test says."""

    def __init__(self, clock: Clock, proc: Path = Path("/proc")) -> None:
        super().__init__(now=lambda: TAKEN, monotonic=clock, fresh_s=5, backoff_s=(2, 8), proc=proc)
        self.questions = 0
        self.answer = Snapshot()
        self.gate = asyncio.Event()
        self.gate.set()

    async def _look(self) -> Snapshot:
        self.questions += 1
        await self.gate.wait()
        return self.answer


async def test_an_answer_is_kept_for_a_while() -> None:
    clock = Clock()
    inventory = Counting(clock)
    for clock.time, questions in [(0, 1), (4.9, 1), (5, 2), (9, 2), (10.1, 3)]:
        await inventory.snapshot()
        assert inventory.questions == questions


async def test_failures_are_asked_about_ever_more_slowly() -> None:
    clock = Clock()
    inventory = Counting(clock)
    inventory.answer = Snapshot(known=False)
    for clock.time, asked in [(0, 1), (1, 1), (2, 2), (5, 2), (6, 3), (13, 3), (14, 4), (22, 5)]:
        assert not (await inventory.snapshot()).known
        assert inventory.questions == asked
    inventory.answer = Snapshot()
    clock.time = 30
    assert (await inventory.snapshot()).known
    inventory.answer = Snapshot(known=False)
    clock.time = 35
    assert not (await inventory.snapshot()).known
    clock.time = 37
    await inventory.snapshot()
    assert inventory.questions == 8


async def test_callers_at_the_same_time_share_one_question() -> None:
    inventory = Counting(Clock())
    inventory.gate.clear()
    callers = [asyncio.ensure_future(inventory.snapshot()) for _ in range(5)]
    await asyncio.sleep(0)
    callers[0].cancel()  # who started it goes; the others get their answer
    await asyncio.sleep(0)
    inventory.gate.set()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [Snapshot(taken=TAKEN)] * 4
    assert inventory.questions == 1


async def test_who_needs_it_fresh_is_told_what_was_asked_after_their_call() -> None:
    inventory = Counting(Clock())
    await inventory.snapshot()
    await inventory.snapshot(fresh=True)
    assert inventory.questions == 2
    inventory.gate.clear()
    callers = [asyncio.ensure_future(inventory.snapshot(fresh=True))]
    await asyncio.sleep(0)
    callers += [asyncio.ensure_future(inventory.snapshot(fresh=True)) for _ in range(5)]
    await asyncio.sleep(0)
    assert inventory.questions == 3
    inventory.gate.set()
    await asyncio.gather(*callers)
    assert inventory.questions == 4  # the first's was begun before the others called


async def test_a_failure_is_not_asked_about_more_often_for_those() -> None:
    inventory = Counting(Clock())
    inventory.answer = Snapshot(known=False)
    inventory.gate.clear()
    callers = [asyncio.ensure_future(inventory.snapshot(fresh=True)) for _ in range(3)]
    await asyncio.sleep(0)
    inventory.gate.set()
    assert not any(snapshot.known for snapshot in await asyncio.gather(*callers))
    assert not (await inventory.snapshot(fresh=True)).known
    assert inventory.questions == 1


async def test_the_end_of_a_process_is_not_waited_for(driver: Driver) -> None:
    """Its device may be free now: who comes next should not hear that it is in use."""
    driver.runs(11, 12)
    inventory = Counting(driver.clock, driver.proc)
    inventory.answer = Snapshot(usage={"GPU-a": Usage(processes=(Process(11), Process(12)))})
    driver.later(100)
    await inventory.snapshot()
    driver.later(1)
    await inventory.snapshot()
    assert inventory.questions == 1
    (driver.proc / "12").rmdir()
    for _ in range(3):
        await inventory.snapshot()
    assert inventory.questions == 2  # that it is told of all the same is no reason to hurry
    driver.later(1)
    await inventory.snapshot()
    assert inventory.questions == 3
