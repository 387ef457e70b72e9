"""A lab afternoon in small, for real: eight students, two GPUs, and what goes wrong on such a day.

A hub with a clock that runs faster makes minutes of policy and line seconds; the rest is as always.
"""

from __future__ import annotations

import re
import signal
import sqlite3
import time
from contextlib import closing
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.conftest import wait_for
from tests.engine.hub_process import Hub
from tests.engine.record import Record
from tests.fakes.nvml import DriverState
from tests.hub.clients import Form

if TYPE_CHECKING:
    from docker import APIClient

    from tests.conftest import HookWitness
    from tests.engine.conftest import MakeHub

pytestmark = pytest.mark.any_hub

STUDENTS = tuple(f"student{number}" for number in range(8))
DEVICES = ("GPU-1", "GPU-2")
CARDS = [f"gpu {uuid} NVIDIA_H100_80GB_HBM3 9 0 81559 0 0 0" for uuid in DEVICES]
FASTER = 40  # an offer is held for 3 seconds
LATE = timedelta(seconds=5) * FASTER  # the time of a busy machine to notice and to end it
IDLE = timedelta(minutes=2)
IDLES = 2 * IDLE + LATE  # as long as the hub's word of activity may put it off
NOTICE = timedelta(minutes=3)  # whoever was not told in time has so much from then
TURN = timedelta(minutes=12)  # more than that by far, so that the one is told from the other
POLICY = f"""\
defaults:
  max_gpu_equivalents: 1
  max_runtime_h: {TURN / timedelta(hours=1)}
  idle_timeout_h: {IDLE / timedelta(hours=1):.4f}
  gpu_hold_after_stop_h: 0
"""
CLASS = """\
sharing: {seats: 4}
defaults: {max_gpu_equivalents: 1}
"""
SEAT = {"gpus": 1, "gpu": "shared"}
CLOCK = f"""
from ds01_spawner.services import wiring

real, epoch = wiring.now, folder / "epoch"
if not epoch.exists():
    epoch.write_text(real().isoformat())
began = type(real()).fromisoformat(epoch.read_text())
wiring.now = lambda: began + {FASTER} * (real() - began)
c.DS01Spawner.reconcile_interval = 1
c.DS01Spawner.warn_before_minutes = {NOTICE // timedelta(minutes=1)}
"""


class Student:
    """Waits in line with a browser, and starts when it is their turn."""

    def __init__(self, hub: Hub, name: str) -> None:
        self.hub, self.name = hub, name
        self.joined = self.started = self.stopped = False
        self.closed = False  # the laptop
        self._session = requests.Session()
        self._session.headers["Sec-Fetch-Mode"] = "navigate"
        self._send("GET", "login")
        answer = self._send("POST", "login", {"username": name, "password": hub.password})
        assert answer.status_code == 302, answer.text

    def look(self) -> None:
        """Do what is to do on the page; nothing while the laptop is closed."""
        if self.closed or self.started:
            return
        page = self._send("GET", "spawn")
        if not self.joined:
            fields = Form(SimpleNamespace(body=page.content)).fields  # type: ignore[arg-type]
            fields |= {"gpus": ["1:full"], "line": ["wait"]}
            answer = self._send("POST", "spawn", fields)
            assert answer.status_code == 200, answer.text
            self.joined = True
        elif 'id="ds01-turn"' in page.text:
            self.started = self._send("POST", "spawn", {"line": ["start"]}).status_code == 302

    def stop(self) -> None:
        """Have the result, and stop the server."""
        if self.started and not self.stopped:
            self.stopped = self.hub.stop(self.name) == 204

    def _send(self, method: str, path: str, fields: dict[str, Any] | None = None) -> Any:
        data = fields and {**fields, "_xsrf": self._session.cookies["_xsrf"]}
        url = f"{self.hub.url}/hub/{path}"
        return self._session.request(method, url, data=data, allow_redirects=False, timeout=60)


def hub_of(make_hub: MakeHub, driver: Path, state: Path, policy: str, extra: str = "") -> Hub:
    DriverState(state).write(*CARDS, *(f"utilization {uuid} 90" for uuid in DEVICES))
    environment = {"LD_LIBRARY_PATH": str(driver), "FAKE_NVML_STATE": str(state)}
    hub = make_hub(light=True, gpus="auto", policy=policy, extra=extra, environment=environment)
    hub.make_user("teacher")  # has seen to it that nobody's turn is spent on a build
    assert hub.start("teacher").status == 201
    assert hub.stop("teacher") == 204
    return hub


def turns(hub: Hub) -> dict[str, tuple[timedelta, str]]:
    """Of who had a turn: how long it was, and the device."""
    file = hub.folder / "data/ledger.sqlite"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as db:
        rows = db.execute("SELECT user, since, released, devices FROM history").fetchall()
    return {
        user: (datetime.fromisoformat(until) - datetime.fromisoformat(since), devices)
        for user, since, until, devices in rows
    }


def test_everybody_has_had_a_turn(
    make_hub: MakeHub, driver: Path, state: Path, hook: HookWitness, docker_client: APIClient
) -> None:
    hook.set_devices([*DEVICES])
    record = Record(docker_client, hook)
    hub = hub_of(make_hub, driver, state, POLICY, CLOCK)
    students = [Student(hub, name) for name in STUDENTS]
    idler, sleeper = students[0], students[4]  # one starts and goes away, one only waits
    workers, quick = students[1:3], [students[3], *students[5:]]  # to the end, and not
    down: list[timedelta] = []  # for how long there was no hub

    def pass_by() -> bool:
        for student in quick:
            student.stop()
        for student in students:
            student.look()
        if idler.started and not idler.closed:
            idler.closed = True
            wait_for(lambda: idler.name in hub.leases(), "the lease of who goes away")
            uuids = device_of(hub, idler.name)
            DriverState(state).write(
                *CARDS, *(f"utilization {uuid} {90 * (uuid not in uuids)}" for uuid in DEVICES)
            )
        elif idler.name in turns(hub):  # whoever has the device now computes
            DriverState(state).write(*CARDS, *(f"utilization {uuid} 90" for uuid in DEVICES))
        sleeper.closed = sleeper.joined
        if sum(student.started for student in students) == 4 and not down:
            begun = time.monotonic()
            hub.restart(signal.SIGKILL)
            down.append(timedelta(seconds=time.monotonic() - begun) * FASTER)
        return turns(hub).keys() >= {*STUDENTS} - {sleeper.name}

    wait_for(pass_by, "a turn of everybody who came for it", 150)
    wait_for(hub.holds, "everything to be gone")
    events = hub.folder / "data/events.jsonl"
    lapse = re.compile(f'queue.lapse.*"{sleeper.name}"')
    wait_for(lambda: lapse.search(events.read_text()) is not None, "an offer to move on")
    had = turns(hub)
    assert sleeper.name not in had
    assert IDLE <= had[idler.name][0] <= IDLES < TURN
    whole = [had[worker.name][0] for worker in workers]
    assert TURN <= min(whole) <= max(whole) <= TURN + NOTICE + LATE + down[0]
    assert re.search(f'runtime_kill.*"{idler.name}".*nothing used its GPU', events.read_text())
    record.assert_no_device_in_two()
    assert {*record.intervals()} == {*DEVICES}


def device_of(hub: Hub, user: str) -> set[str]:
    """The devices of a user's lease, read from the ledger's file."""
    file = hub.folder / "data/ledger.sqlite"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as db:
        query = "SELECT device FROM lease JOIN lease_device ON lease = id WHERE user = ?"
        return {*chain(*db.execute(query, (user,)).fetchall())}


def test_a_class_has_seats_for_all_at_once(
    make_hub: MakeHub, driver: Path, state: Path, hook: HookWitness, docker_client: APIClient
) -> None:
    """The hub dies while they start: who had a server keeps it, the others click again."""
    hook.set_devices([*DEVICES])
    record = Record(docker_client, hook)
    hub = hub_of(make_hub, driver, state, CLASS)
    for name in STUDENTS:
        hub.make_user(name)
    with hub.behind() as go:
        for name in STUDENTS:
            go(hub.start, name, **SEAT)
        wait_for(lambda: [*hub.leases().values()].count("bound") >= 3, "the first of them")
        hub.kill()
    hub.up()
    late = [name for name in STUDENTS if not hub.runs(name)]
    with hub.behind() as go:
        outcomes = [start.result() for start in [go(hub.start, name, **SEAT) for name in late]]
    assert [outcome.status for outcome in outcomes] == [201] * len(late)
    assert all(hub.runs(name) for name in STUDENTS)
    assert hub.holds(*STUDENTS)
    assert {uuid: len(seats) for uuid, seats in record.holders().items()} == dict.fromkeys(
        DEVICES, 4
    )
    record.assert_no_device_in_two(seats=4)
    for name in STUDENTS:
        hub.stop(name)
    wait_for(hub.holds, "everything to be gone")
