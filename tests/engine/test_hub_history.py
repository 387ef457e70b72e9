"""Fifty starts, stops, cancels and kills of the hub in a random order: no device is in two places.

The witness of each step is the engine alone (`record`). The hub is killed at every point that
`hub_pauses` knows; ./test tells the seed where it is not always the same one (`--long`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import wait_for
from tests.engine.hub_pauses import LAST_POINTS, START_POINTS, STOP_POINTS
from tests.engine.hub_process import Hub
from tests.engine.record import Record

if TYPE_CHECKING:
    from concurrent.futures import Future

    from docker import APIClient

    from tests.conftest import HookWitness
    from tests.engine.conftest import MakeHub

pytestmark = pytest.mark.any_hub

USERS = ("anna", "bert", "cora", "dora")
DEVICES = ("GPU-1", "GPU-2")
CARD = "gpu {uuid} NVIDIA_H100_80GB_HBM3 9 0 81559 0 0 0\n"
GPU = {"gpus": 1, "gpu": "full"}
STEPS = 50
STARTING = (*START_POINTS, *LAST_POINTS)
POINTS = (*STARTING, *STOP_POINTS)


@pytest.fixture(scope="module")
def hub(make_hub: MakeHub, driver: Path, state: Path) -> Hub:
    state.write_text("".join(CARD.format(uuid=uuid) for uuid in DEVICES))
    environment = {"LD_LIBRARY_PATH": str(driver), "FAKE_NVML_STATE": str(state)}
    hub = make_hub(light=True, pauses=True, gpus="auto", environment=environment)
    for user in USERS:
        hub.make_user(user)
    return hub


class History:
    """A hub with users who start and stop; `running` are those who have a server."""

    def __init__(self, hub: Hub, record: Record, dice: random.Random) -> None:
        self.hub, self.record, self.dice = hub, record, dice
        self.running: set[str] = set()

    def start(self) -> None:
        """Somebody starts; in vain where both devices are taken."""
        user = self.somebody(running=False)
        free = len(self.running) < len(DEVICES)
        outcome = self.hub.start(user, **GPU)
        assert outcome.status == (201 if free else 409), outcome
        if free:
            self.running.add(user)

    def stop(self) -> None:
        """Somebody stops."""
        user = self.somebody(running=True)
        assert self.hub.stop(user) in (202, 204)
        self.running.remove(user)

    def cancel(self, point: str) -> None:
        """Somebody gives a start up when it has come to this point."""
        user = self.somebody(running=False)
        with self.paused(point) as go:
            go(self.hub.start, user, **GPU)
            self.hub.wait_paused(point)
            before = self.interrupted()
            stop = go(self.hub.stop, user)
            wait_for(lambda: self.interrupted() > before, "the cancel to arrive")
            self.hub.go_on()
            assert stop.result() in (202, 204)

    def kill(self, point: str) -> None:
        """The hub dies when somebody's start or stop has come to this point, and comes back."""
        starting = point in STARTING
        user = self.somebody(running=not starting)
        beside = self.dice.choice([u for u in USERS if u not in {*self.running, user}])
        die: Callable[[], None] = self.dice.choice([self.hub.crash, self.hub.kill])
        with self.paused(point) as go:
            go(self.hub.start if starting else self.hub.stop, user, **(GPU if starting else {}))
            go(self.hub.start, beside, **GPU)
            self.hub.wait_paused(point)
            die()
        self.hub.up()
        wait_for(self.agree, "hub, ledger and engine to agree")
        self.running = {user for user in USERS if self.hub.runs(user)}

    # --- parts -----------------------------------------------------------------------------------

    @contextmanager
    def paused(self, point: str) -> Iterator[Callable[..., Future[Any]]]:
        """Runs calls in the background, and whoever comes to this point waits there meanwhile."""
        with self.hub.behind() as go:
            self.hub.pause(point)
            try:
                yield go
            finally:
                self.hub.go_on()

    def somebody(self, *, running: bool) -> str:
        return self.dice.choice([user for user in USERS if (user in self.running) == running])

    def interrupted(self) -> int:
        return self.hub.log.read_text().count("Interrupting spawner")

    def agree(self) -> bool:
        """Whether hub, ledger and engine have the same servers, and all of them run."""
        users = [user for user in USERS if self.hub.runs(user)]
        states = {container["State"] for container in self.hub.containers()}
        return states <= {"running"} and self.hub.holds(*users)

    def step(self, what: Callable[..., None], *at: str) -> None:
        """Do it, with what it needs before it, and look."""
        needs_room = at and at[0] in STARTING
        if needs_room and len(self.running) == len(DEVICES):
            self.step(self.stop)
        if not self.running and (what == self.stop or (at and not needs_room)):
            self.step(self.start)
        what(*at)
        self.look()

    def look(self) -> None:
        self.record.assert_no_device_in_two()
        wait_for(lambda: self.hub.holds(*self.running), f"servers of {self.running}")
        have = [c["Id"] for c in self.hub.containers()]
        holders = [c for containers in self.record.holders().values() for c in containers]
        assert sorted(holders) == sorted(have)


def test_no_device_is_ever_in_two_running_containers(
    hub: Hub, hook: HookWitness, docker_client: APIClient, request: pytest.FixtureRequest
) -> None:
    hook.set_devices([*DEVICES])
    dice = random.Random(int(request.config.getoption("--hypothesis-seed") or 1))
    history = History(hub, Record(docker_client, hook), dice)
    steps: list[tuple[Callable[..., None], tuple[str, ...]]] = [
        (history.kill, (point,)) for point in POINTS
    ]
    while len(steps) < STEPS:
        what = dice.choice([history.start, history.start, history.stop, history.cancel])
        steps.append((what, (dice.choice(STARTING),) if what == history.cancel else ()))
    dice.shuffle(steps)
    for what, at in steps:
        print(what.__name__, *at, sorted(history.running))  # to be seen where it fails
        history.step(what, *at)
    for user in sorted(history.running):
        hub.stop(user)
    wait_for(hub.holds, "everything to be gone")
    history.record.assert_no_device_in_two()
