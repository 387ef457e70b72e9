"""Servers, hub and engine outlive each other's ends, and one user's trouble is no other's.

Containers run the light server.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.conftest import wait_for
from tests.engine.hub_process import Hub

if TYPE_CHECKING:
    from docker import APIClient

    from tests.conftest import EngineProcess
    from tests.engine.conftest import MakeHub

USERS = ("anna", "bert", "stubborn")


@pytest.fixture(scope="module")
def shared(make_hub: MakeHub) -> Hub:
    hub = make_hub(light=True, gpus="simulated:2xH100-80GB", extra="c.Spawner.poll_interval = 1")
    for user in USERS:
        hub.make_user(user)
    return hub


@pytest.fixture
def hub(shared: Hub) -> Iterator[Hub]:
    """The hub with no server, before and after."""
    yield shared
    for user in USERS:
        if shared.active(user):
            shared.stop(user)
    wait_for(lambda: shared.holds(), "all servers to go")


def start(hub: Hub, user: str, **options: object) -> str:
    """Start a server; its container's id."""
    outcome = hub.start(user, **options)
    assert outcome.status == 201, outcome.message
    return str(hub.container_of(user)["Id"])


# --- the hub goes ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_servers_outlive_the_hub(hub: Hub, number: signal.Signals) -> None:
    containers = {user: start(hub, user, gpus=1) for user in ("anna", "bert")}
    devices = {user: hub.page(f"/user/{user}/").json()["devices"] for user in containers}
    for _ in range(2):
        hub.restart(number)
        for user, container in containers.items():
            assert hub.runs(user)
            assert hub.container_of(user)["Id"] == container
            page = hub.page(f"/user/{user}/").json()
            assert (page["container"], page["devices"]) == (container[:12], devices[user])
        assert hub.leases() == {"anna": "bound", "bert": "bound"}
    outcome = hub.start("stubborn", gpus=1)
    assert outcome.status == 409
    assert "0 of the 2" in outcome.message
    assert hub.stop("anna") == 204
    assert hub.holds("bert")
    start(hub, "anna", gpus=1)


def test_what_ended_while_the_hub_was_away_is_settled(hub: Hub, docker_client: APIClient) -> None:
    containers = {user: start(hub, user, gpus=1) for user in ("anna", "bert")}
    hub.kill(signal.SIGTERM)
    docker_client.kill(containers["anna"])
    docker_client.remove_container(containers["bert"], force=True)
    hub.up()
    wait_for(lambda: hub.holds(), "the leases of both to go")
    for user in containers:
        wait_for(lambda user=user: not hub.active(user), f"the hub to see the end of {user}'s")
        start(hub, user, gpus=1)


def test_a_server_that_dies_is_noticed(hub: Hub, docker_client: APIClient) -> None:
    docker_client.kill(start(hub, "anna", gpus=1))
    wait_for(lambda: hub.holds(), "the lease to go")
    wait_for(lambda: not hub.active("anna"), "the hub to see it")
    start(hub, "anna", gpus=1)


# --- the engine goes ---------------------------------------------------------------------------


def test_while_the_engine_is_away_nothing_is_released(
    hub: Hub, engine_process: EngineProcess
) -> None:
    start(hub, "anna", gpus=1)
    polls = hub.metric("ds01_unknown_polls_total")
    engine_process.kill(signal.SIGKILL)
    wait_for(lambda: hub.metric("ds01_unknown_polls_total") >= polls + 2, "polls without answer")
    assert hub.runs("anna")
    assert hub.leases() == {"anna": "bound"}
    assert hub.page("/user/anna/").json()["user"] == "anna"  # the container outlived its engine
    outcome = hub.start("bert")
    assert outcome.status == 503
    assert "engine of this server does not answer" in outcome.message
    hub.restart(signal.SIGKILL)
    wait_for(lambda: hub.runs("anna"), "the new hub to have the server")
    assert hub.page("/user/anna/").json()["user"] == "anna"
    assert hub.leases() == {"anna": "bound"}
    engine_process.start()
    # This engine ends the containers that it finds when it starts; so the lease ends too.
    wait_for(lambda: hub.holds(), "ledger and engine to agree")
    wait_for(lambda: not hub.active("anna"), "the hub to see it")
    start(hub, "anna", gpus=1)
    start(hub, "bert", gpus=1)


def test_a_start_waits_for_an_engine_that_comes_after_the_hub(
    hub: Hub, engine_process: EngineProcess
) -> None:
    hub.kill(signal.SIGTERM)
    engine_process.kill(signal.SIGKILL)
    hub.up()
    with hub.behind() as go:
        outcome = go(hub.start, "anna")
        wait_for(lambda: "Not ready to start servers yet" in hub.log.read_text(), "its first try")
        assert hub.leases() == {}
        engine_process.start()
        assert outcome.result().status == 201
    assert hub.holds("anna")


@pytest.mark.long
def test_a_hub_that_starts_while_its_engine_hangs_drops_no_server(
    hub: Hub, engine_process: EngineProcess
) -> None:
    container = start(hub, "anna", gpus=1)
    engine_process.kill(signal.SIGSTOP)
    try:
        hub.restart(signal.SIGKILL)
        wait_for(lambda: hub.runs("anna"), "the hub to give up asking", 120)
        # The proxy is a new one: the hub gives it the way to a server after it says that it runs.
        wait_for(lambda: hub.page("/user/anna/").status_code == 200, "the way to the server")
        assert hub.page("/user/anna/").json()["container"] == container[:12]
        assert hub.leases() == {"anna": "bound"}
    finally:
        engine_process.kill(signal.SIGCONT)
    assert hub.start("bert", gpus=1).status == 201
    assert hub.runs("anna")
    assert hub.container_of("anna")["Id"] == container
    assert hub.stop("anna") == 204
    assert hub.holds("bert")


def test_a_stop_without_its_engine_keeps_the_lease(hub: Hub, engine_process: EngineProcess) -> None:
    start(hub, "anna", gpus=1)
    engine_process.kill(signal.SIGKILL)
    hub.stop("anna")
    assert hub.leases() == {"anna": "releasing"}
    engine_process.start()
    start(hub, "anna", gpus=1)  # ends what was left, and does not wait for the timer
    assert hub.holds("anna")


# --- one user's trouble ------------------------------------------------------------------------


def test_a_slow_stop_delays_nobody_else(hub: Hub) -> None:
    """Its container ignores SIGTERM, so it takes the 10 s until it is killed."""
    start(hub, "stubborn", gpus=1)
    start(hub, "bert")
    with hub.behind() as go:
        stop = go(hub.stop, "stubborn")
        wait_for(lambda: hub.leases()["stubborn"] == "releasing", "the stop to begin")
        for _ in range(3):
            start(hub, "anna")
            # To say so, the hub asks the engine for bert's container.
            assert "already running" in hub.start("bert").message
            assert hub.stop("anna") == 204
        assert hub.start("stubborn", gpus=1).status == 400  # its stop is pending
        assert hub.leases() == {"stubborn": "releasing", "bert": "bound"}
        assert not stop.done()
        assert stop.result() == 204
    assert hub.holds("bert")
