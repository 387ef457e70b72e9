"""An old copy of the ledger beside today's containers: the containers' labels win.

The witness of who has which device is the runtime's hook.
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import wait_for
from tests.engine.hub_process import Hub
from tests.engine.record import Record

if TYPE_CHECKING:
    from docker import APIClient

    from tests.conftest import HookWitness
    from tests.engine.conftest import MakeHub

USERS = ("anna", "bert", "cora")
DEVICES = ("GPU-1", "GPU-2")
CARD = "gpu {uuid} NVIDIA_H100_80GB_HBM3 9 0 81559 0 0 0\n"
GPU = {"gpus": 1, "gpu": "full"}


@pytest.fixture(scope="module")
def hub(make_hub: MakeHub, driver: Path, state: Path) -> Hub:
    state.write_text("".join(CARD.format(uuid=uuid) for uuid in DEVICES))
    environment = {"LD_LIBRARY_PATH": str(driver), "FAKE_NVML_STATE": str(state)}
    hub = make_hub(light=True, gpus="auto", environment=environment)
    for user in USERS:
        hub.make_user(user)
    return hub


def ledger_of(hub: Hub) -> Path:
    return hub.folder / "data/ledger.sqlite"


def copy(hub: Hub) -> Path:
    """A copy of the ledger as it is now, as a backup makes it."""
    aside = hub.folder / "yesterday.sqlite"
    with closing(sqlite3.connect(ledger_of(hub))) as ledger, closing(sqlite3.connect(aside)) as to:
        ledger.backup(to)
    return aside


def held(hub: Hub) -> list[tuple[str, str, str, int]]:
    """User, device, lease and its number, read from the ledger's file."""
    query = (
        "SELECT user, device, id, generation FROM lease JOIN lease_device ON lease = id "
        "ORDER BY user"
    )
    uri = f"file:{ledger_of(hub)}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=30)) as db:
        return db.execute(query).fetchall()


def test_yesterdays_ledger_ends_nobodys_server_and_gives_nothing_twice(
    hub: Hub, hook: HookWitness, docker_client: APIClient
) -> None:
    hook.set_devices([*DEVICES])
    record = Record(docker_client, hook)
    for user in ("anna", "bert"):
        assert hub.start(user, **GPU).status == 201
    yesterday = copy(hub)  # anna and bert have the devices
    assert hub.stop("anna") == 204
    assert hub.stop("bert") == 204
    for user in ("bert", "cora"):  # bert again, and somebody else
        assert hub.start(user, **GPU).status == 201
    before, containers = held(hub), [hub.container_of(user)["Id"] for user in ("bert", "cora")]

    hub.kill(signal.SIGKILL)
    for file in ledger_of(hub).parent.glob("ledger.sqlite*"):
        file.unlink()
    shutil.copy(yesterday, ledger_of(hub))
    hub.up()
    assert hub.start("anna", **GPU).status == 409
    wait_for(lambda: held(hub) == before, "the leases of the containers that run")
    assert [hub.container_of(user)["Id"] for user in ("bert", "cora")] == containers
    for user in ("bert", "cora"):
        assert hub.runs(user)
        assert hub.page(f"/user/{user}/").json()["user"] == user
    record.assert_no_device_in_two()

    assert hub.stop("bert") == 204
    assert hub.start("anna", **GPU).status == 201
    assert held(hub)[0][3] > max(number for *_, number in before), "numbers go on"
    assert hub.holds("anna", "cora")
    record.assert_no_device_in_two()
