"""N users start at once on M devices: who got what, by the engine's own record.

The witness is the stub of NVIDIA's runtime hook (`record`), which the engine runs at each start
with devices and which refuses unknown ones. The hub reads the devices through NVML's real bindings
from a driver library of the tests' own. Containers run the light server, so that 20 rounds are
quick: what runs inside makes no difference to who gets which device.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine.hub_process import Hub, Outcome
from tests.engine.record import Record

if TYPE_CHECKING:
    from docker import APIClient

    from tests.conftest import HookWitness
    from tests.engine.conftest import MakeHub

pytestmark = pytest.mark.any_hub

USERS = ("user1", "user2", "user3", "user4")
ROUNDS = 10  # of each kind
# After these rounds' starts, with the servers running; and after these rounds, with none.
RESTARTS_WITH_SERVERS = {3: signal.SIGTERM, 7: signal.SIGKILL}
RESTARTS_WITHOUT = {1: signal.SIGKILL, 5: signal.SIGTERM}
CARD = "gpu {uuid} NVIDIA_H100_80GB_HBM3 9 0 81559 {mig} {mig} 0\n"
SLICE = "mig {slot} {uuid} NVIDIA_H100_80GB_HBM3_MIG_1g.10gb 9984 1\n"
# kind of device: what the driver says, the devices that can be given out, what users ask for
HOSTS = {
    "whole": (
        "".join(CARD.format(uuid=uuid, mig=0) for uuid in ("GPU-1", "GPU-2")),
        {"GPU-1", "GPU-2"},
        {"gpus": 1, "gpu": "full"},
    ),
    "mig": (
        CARD.format(uuid="GPU-3", mig=1)
        + "".join(SLICE.format(slot=n, uuid=f"MIG-{n}") for n in range(3)),
        {"MIG-0", "MIG-1", "MIG-2"},
        {"gpus": 1, "gpu": "1g.10gb"},
    ),
}


@pytest.fixture(scope="module")
def hub(make_hub: MakeHub, driver: Path, state: Path) -> Hub:
    environment = {"LD_LIBRARY_PATH": str(driver), "FAKE_NVML_STATE": str(state)}
    hub = make_hub(light=True, gpus="auto", environment=environment)
    for user in USERS:
        hub.make_user(user)
    return hub


def all_at_once(hub: Hub, options: Mapping[str, Any]) -> dict[str, Outcome]:
    with hub.behind() as go:
        starts = {user: go(hub.start, user, **options) for user in USERS}
        return {user: start.result() for user, start in starts.items()}


def stop_all(hub: Hub, users: list[str]) -> None:
    with hub.behind() as go:
        assert {stop.result() for stop in [go(hub.stop, user) for user in users]} <= {204, None}


@pytest.mark.parametrize("kind", HOSTS)
def test_disjoint_devices_and_clear_refusals(
    hub: Hub, state: Path, hook: HookWitness, docker_client: APIClient, kind: str
) -> None:
    text, devices, options = HOSTS[kind]
    state.write_text(text)
    hook.set_devices(sorted(devices))
    hub.restart(signal.SIGTERM)  # it has other devices now
    record = Record(docker_client, hook)
    for number in range(1, ROUNDS + 1):
        seen = len(hook.starts())
        outcomes = all_at_once(hub, options)
        lucky = [user for user, outcome in outcomes.items() if outcome.status == 201]
        assert len(lucky) == len(devices), outcomes
        for user in set(USERS) - set(lucky):
            assert outcomes[user].status == 409, outcomes[user]
            assert f"0 of the {len(devices)} that would do are free" in outcomes[user].message
        starts = hook.starts()[seen:]
        given = {start["id"]: start["devices"] for start in starts}
        assert sorted(chain(*given.values())) == sorted(devices)
        for user in lucky:
            container = hub.container_of(user)
            assert container["Config"]["Labels"]["ds01.gpu.uuids"].split(",") == given.pop(
                container["Id"]
            )
        if number in RESTARTS_WITH_SERVERS:
            hub.restart(RESTARTS_WITH_SERVERS[number])
            assert all(hub.runs(user) for user in lucky)
            assert hub.start(*(set(USERS) - set(lucky)), **options).status == 409
        stop_all(hub, lucky)
        assert hub.holds()
        record.assert_no_device_in_two()
        if number in RESTARTS_WITHOUT:
            hub.restart(RESTARTS_WITHOUT[number])
    assert len(hook.starts()) == ROUNDS * len(devices)
