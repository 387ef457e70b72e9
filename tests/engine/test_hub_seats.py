"""A class on shared GPUs, on a real engine: the runtime's hook is the witness of who has which."""

from __future__ import annotations

import signal
import sqlite3
from collections import Counter
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import wait_for
from tests.engine.hub_process import Hub

if TYPE_CHECKING:
    from tests.conftest import HookWitness
    from tests.engine.conftest import MakeHub

USERS = tuple(f"user{number}" for number in range(1, 6))
POLICY = """\
sharing: {seats: 2}
defaults: {max_gpu_equivalents: 1}
"""
CARD = "gpu {uuid} NVIDIA_H100_80GB_HBM3 9 0 81559 0 0 0\n"
DEVICES = ("GPU-1", "GPU-2")
SEAT = {"gpus": 1, "gpu": "shared"}


@pytest.fixture(scope="module")
def hub(make_hub: MakeHub, driver: Path, state: Path) -> Hub:
    state.write_text("".join(CARD.format(uuid=uuid) for uuid in DEVICES))
    environment = {"LD_LIBRARY_PATH": str(driver), "FAKE_NVML_STATE": str(state)}
    hub = make_hub(light=True, gpus="auto", policy=POLICY, environment=environment)
    for user in USERS:
        hub.make_user(user)
    return hub


def held(hub: Hub) -> list[tuple[str, str, int, int, int]]:
    """User, device, seat, seats and units of each lease, read from the ledger's file."""
    query = (
        "SELECT user, device, seat, seats, units FROM lease JOIN lease_device ON lease = id "
        "ORDER BY user"
    )
    file = hub.folder / "data/ledger.sqlite"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as db:
        return db.execute(query).fetchall()


def test_four_sit_on_two_gpus_and_stay_there_when_the_ledger_is_lost(
    hub: Hub, hook: HookWitness
) -> None:
    hook.set_devices([*DEVICES])
    with hub.behind() as go:
        starts = {user: go(hub.start, user, **SEAT) for user in USERS}
        outcomes = {user: start.result() for user, start in starts.items()}
    lucky = [user for user, outcome in outcomes.items() if outcome.status == 201]
    assert len(lucky) == 4, outcomes
    (late,) = set(USERS) - {*lucky}
    assert outcomes[late].status == 409
    assert "No seat on a shared GPU is free" in outcomes[late].message
    given = [start["devices"] for start in hook.starts()]
    assert Counter(chain(*given)) == {"GPU-1": 2, "GPU-2": 2}
    seats = {user: hub.container_of(user)["Config"]["Labels"]["ds01.gpu.seat"] for user in lucky}
    assert sorted(seats.values()) == ["1/2", "1/2", "2/2", "2/2"]

    before = held(hub)
    hub.kill(signal.SIGKILL)
    for file in (hub.folder / "data").glob("ledger.sqlite*"):
        file.unlink()
    hub.up()
    assert all(hub.runs(user) for user in lucky)
    wait_for(lambda: held(hub) == before, "the leases to come back")
    assert hub.start(late, **SEAT).status == 409
    for user in lucky:
        hub.stop(user)
    assert hub.holds()
