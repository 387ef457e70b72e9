"""Hubs for the tests of this tier."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine.hub_process import Hub
from tests.fakes.nvml import build_library

if TYPE_CHECKING:
    from docker import APIClient

MakeHub = Callable[..., Hub]


@pytest.fixture(scope="module", autouse=True)
def _nothing_left(docker_client: APIClient, run_labels: dict[str, str]) -> Iterator[None]:
    """What a module's tests leave holds no device in the next one's."""
    yield
    (run,) = (f"{key}={value}" for key, value in run_labels.items())
    for container in docker_client.containers(all=True, filters={"label": run}):
        docker_client.remove_container(container["Id"], force=True, v=True)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libnvidia-ml.so.1 that answers from a file."""
    return build_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="module")
def state(driver: Path) -> Path:
    """The file with the devices that the driver has."""
    file = driver / "state"
    file.write_text("")
    return file


@pytest.fixture(scope="module")
def make_hub(
    engine_url: str,
    docker_client: APIClient,
    standin_image: str,
    ca_pem: bytes,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[MakeHub]:
    """Starts hubs (the arguments are those of `Hub`); they and theirs are gone after the module.

    The end of each hub's log is printed, so that a failing test shows it.
    """
    hubs: list[Hub] = []

    def make(**settings: Any) -> Hub:
        hub = Hub(
            tmp_path_factory.mktemp("hub"),
            docker_client,
            engine_url=engine_url,
            base_image=standin_image,
            ca_pem=ca_pem,
            **settings,
        )
        hubs.append(hub)
        hub.up()
        return hub

    yield make
    for hub in hubs:
        hub.close()


@pytest.fixture(autouse=True)
def _show_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test, its hub's log: pytest shows it where the test failed."""
    yield
    hub = request.node.funcargs.get("hub")
    if isinstance(hub, Hub) and hub.log.exists():
        print(f"--- {hub.log.name}\n{hub.log.read_text()[-6000:]}")
