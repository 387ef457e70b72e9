"""Containers are stopped, started and restarted behind the hub's back: no device is in two of them.

The witness is the engine alone (`record`).
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from docker.errors import APIError

from tests.conftest import EngineProcess, wait_for
from tests.engine.hub_process import Hub
from tests.engine.record import Record

if TYPE_CHECKING:
    from docker import APIClient

    from tests.conftest import HookWitness
    from tests.engine.conftest import MakeHub

CARD = "gpu GPU-1 NVIDIA_H100_80GB_HBM3 9 0 81559 0 0 0\n"
GPU = {"gpus": 1, "gpu": "full"}
Meddle = Callable[["APIClient", EngineProcess, str], None]


@pytest.fixture(scope="module")
def hub(make_hub: MakeHub, driver: Path, state: Path) -> Hub:
    state.write_text(CARD)
    environment = {"LD_LIBRARY_PATH": str(driver), "FAKE_NVML_STATE": str(state)}
    hub = make_hub(light=True, gpus="auto", environment=environment)
    for user in ("anna", "bert"):
        hub.make_user(user)
    return hub


def stop_and_start(docker: APIClient, engine: EngineProcess, container: str) -> None:
    docker.stop(container, timeout=0)
    with suppress(APIError):  # the hub was faster and removes it
        docker.start(container)


def restart(docker: APIClient, engine: EngineProcess, container: str) -> None:
    with suppress(APIError):
        docker.restart(container, timeout=0)


def restart_policy(docker: APIClient, engine: EngineProcess, container: str) -> None:
    docker.update_container(container, restart_policy={"Name": "always"})
    with suppress(APIError):
        docker.kill(container)


def restart_policy_and_engine(docker: APIClient, engine: EngineProcess, container: str) -> None:
    docker.update_container(container, restart_policy={"Name": "always"})
    engine.kill(signal.SIGKILL)
    engine.start()


@pytest.mark.parametrize(
    "meddle", [stop_and_start, restart, restart_policy, restart_policy_and_engine]
)
def test_nobody_gets_a_device_that_another_container_has(
    hub: Hub,
    hook: HookWitness,
    docker_client: APIClient,
    engine_process: EngineProcess,
    meddle: Meddle,
) -> None:
    hook.set_devices(["GPU-1"])
    record = Record(docker_client, hook)
    wait_for(lambda: hub.start("anna", **GPU).status in (201, 400), "the device to be anna's")
    meddle(docker_client, engine_process, hub.container_of("anna")["Id"])
    outcome = hub.start("bert", **GPU)  # at this very moment, and then until it is theirs
    assert outcome.status in (201, 409, 503), outcome
    wait_for(lambda: agree(hub), "leases and containers to agree, before the timer", 20)
    if hub.active("anna"):
        hub.stop("anna")
    wait_for(lambda: hub.start("bert", **GPU).status in (201, 400), "the device to be bert's")
    assert hub.stop("bert") in (202, 204)
    wait_for(hub.holds, "everything to be gone")
    record.assert_no_device_in_two()
    assert len(record.intervals()["GPU-1"]) >= 2


def agree(hub: Hub) -> bool:
    """Whether each container that runs has its lease, and each lease its container."""
    running = [c["Labels"]["ds01.user"] for c in hub.containers() if c["State"] == "running"]
    return sorted(running) == sorted(hub.leases())
