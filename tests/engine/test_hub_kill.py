"""The hub is killed, or a start is cancelled, at every point: nothing is left, nothing is lost.

Containers run the light server, and the hub is made to wait at named points (`hub_pauses`).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import steps_of_builds, wait_for
from tests.engine.hub_pauses import LAST_POINTS, START_POINTS, STOP_POINTS
from tests.engine.hub_process import Hub, Outcome

if TYPE_CHECKING:
    from concurrent.futures import Future

    from docker import APIClient

    from tests.conftest import EngineProcess
    from tests.engine.conftest import MakeHub

USERS = ("anna", "bert", "cora")
GPU = {"gpus": 1, "gpu": "full"}
PACKAGE = "toolz"  # no image of another test has it
Go = Callable[..., "Future[Any]"]


@pytest.fixture(scope="module")
def shared(make_hub: MakeHub) -> Hub:
    hub = make_hub(light=True, pauses=True, gpus="simulated:2xH100-80GB")
    for user in USERS:
        hub.make_user(user)
    return hub


@pytest.fixture
def hub(shared: Hub) -> Iterator[Hub]:
    """The hub with nothing on it, before and after."""
    shared.go_on()
    settled(shared)
    yield shared
    shared.go_on()
    if shared.process is None or shared.process.poll() is not None:
        shared.up()
    for user in USERS:
        if shared.active(user):
            shared.stop(user)


@pytest.fixture
def go(hub: Hub) -> Iterator[Go]:
    """Runs calls in the background."""
    with hub.behind() as submit:
        yield submit
        hub.go_on()


def settled(hub: Hub, *users: str) -> None:
    """Wait until exactly these users have a container and a lease."""
    wait_for(lambda: hub.holds(*users), f"containers and leases of {users or 'nobody'}")


def starts_at_once(hub: Hub, user: str) -> None:
    outcome = hub.start(user, **GPU)
    assert outcome.status == 201, outcome.message
    assert hub.page(f"/user/{user}/").json()["user"] == user


# --- SIGKILL -----------------------------------------------------------------------------------


@pytest.mark.parametrize("point", START_POINTS)
def test_a_killed_hub_leaves_nothing_of_a_start(hub: Hub, go: Go, point: str) -> None:
    """Two starts had both devices: one of the two comes again, and somebody else."""
    hub.pause(point)
    go(hub.start, "anna", **GPU)
    go(hub.start, "bert", **GPU)
    hub.wait_paused(point, 2)
    hub.crash()
    hub.go_on()
    hub.up()
    again = [go(starts_at_once, hub, user) for user in ("anna", "cora")]
    assert [start.result() for start in again] == [None, None]
    settled(hub, "anna", "cora")
    assert hub.leases() == {"anna": "bound", "cora": "bound"}


def test_a_container_of_a_dead_start_is_removed_whenever_it_comes(
    hub: Hub, docker_client: APIClient
) -> None:
    """The engine does what was asked of it, when nobody waits for the answer any more."""
    starts_at_once(hub, "anna")
    old = hub.container_of("anna")
    assert hub.stop("anna") in (202, 204)
    settled(hub)

    def come() -> str:
        body = {**old["Config"], "HostConfig": old["HostConfig"]}
        made = docker_client.create_container_from_config(body, old["Name"].lstrip("/"))
        return str(made["Id"])

    hub.crash()
    come()
    hub.up()
    settled(hub)
    docker_client.start(come())
    settled(hub)
    starts_at_once(hub, "anna")
    settled(hub, "anna")


@pytest.mark.parametrize("point", ["imaging", "leased", "started"])
def test_a_hub_that_is_ended_politely_leaves_nothing_of_a_start(
    hub: Hub, go: Go, point: str
) -> None:
    hub.pause(point)
    go(hub.start, "anna", **GPU)
    hub.wait_paused(point)
    hub.kill(signal.SIGTERM)
    hub.go_on()
    hub.up()
    starts_at_once(hub, "anna")
    settled(hub, "anna")


@pytest.mark.parametrize("point", LAST_POINTS)
def test_a_server_that_was_ready_outlives_a_hub_that_did_not_say_so(
    hub: Hub, go: Go, point: str
) -> None:
    hub.pause(point)
    go(hub.start, "anna", **GPU)
    hub.wait_paused(point)
    container = hub.container_of("anna")["Id"]
    hub.crash()
    hub.go_on()
    hub.up()
    wait_for(lambda: hub.runs("anna"), "the hub to find the server")
    assert hub.container_of("anna")["Id"] == container
    assert hub.page("/user/anna/").json()["user"] == "anna"
    assert hub.leases() == {"anna": "bound"}


@pytest.mark.parametrize("point", STOP_POINTS)
def test_a_killed_hub_leaves_nothing_of_a_stop(hub: Hub, go: Go, point: str) -> None:
    starts_at_once(hub, "anna")
    hub.pause(point)
    go(hub.stop, "anna")
    hub.wait_paused(point)
    hub.crash()
    hub.go_on()
    hub.up()
    settled(hub)
    wait_for(lambda: not hub.active("anna"), "the hub to see that the server is gone")
    starts_at_once(hub, "anna")
    settled(hub, "anna")


# --- cancel ------------------------------------------------------------------------------------


def cancel(hub: Hub, go: Go, user: str) -> Future[int]:
    """Cancel a start that is paused; returns when the hub has cancelled it."""
    cancels = hub.log.read_text().count("Interrupting spawner")
    answer = go(hub.stop, user)
    wait_for(
        lambda: hub.log.read_text().count("Interrupting spawner") > cancels, "the cancel to arrive"
    )
    return answer


@pytest.mark.parametrize("point", [*START_POINTS, *LAST_POINTS])
def test_a_cancelled_start_leaves_nothing(hub: Hub, go: Go, point: str) -> None:
    hub.pause(point)
    start = go(hub.start, "anna", **GPU)
    hub.wait_paused(point)
    answer = cancel(hub, go, "anna")
    hub.go_on()  # what cannot be cancelled, as the engine's create, ends in its own time
    assert answer.result() in (202, 204)
    assert start.result().status != 201
    assert hub.holds()
    assert not hub.active("anna")
    starts_at_once(hub, "anna")
    settled(hub, "anna")


@pytest.mark.parametrize("point", ["created", "bound"])
def test_a_cancel_that_takes_its_time_is_waited_for(hub: Hub, go: Go, point: str) -> None:
    """JupyterHub gives a cancelled start one second; removing its container may take longer."""
    hub.pause(point)
    go(hub.start, "anna", **GPU)
    hub.wait_paused(point)
    hub.pause("gone")  # from here on nobody gets beyond the end of a removal
    answer = cancel(hub, go, "anna")
    hub.wait_paused("gone")
    wait_for(lambda: pending(hub, "anna") == "stop", "the hub to stop it")
    assert hub.leases() == {"anna": "releasing"}
    assert hub.start("anna", **GPU).status == 400
    hub.go_on()
    assert answer.result() in (202, 204)
    assert hub.holds()
    assert not hub.active("anna")
    starts_at_once(hub, "anna")


def pending(hub: Hub, user: str) -> object:
    return hub.api("GET", f"/users/{user}").json()["pending"]


# --- in the middle of a build ------------------------------------------------------------------


def built_of(docker: APIClient) -> list[str]:
    """The images that have the package."""
    return [image["Id"] for image in docker.images(filters={"label": f"ds01.pip={PACKAGE}"})]


@pytest.fixture
def building(hub: Hub, docker_client: APIClient, go: Go) -> Future[Outcome]:
    """The start of a hub in the middle of the step that installs a user's package."""
    for image in built_of(docker_client):
        docker_client.remove_image(image, force=True)
    start = go(hub.start, "anna", pip=[PACKAGE])
    wait_for(lambda: pending(hub, "anna") == "spawn", "the start to begin")
    step = f"Your packages: {PACKAGE}"
    assert any(step in event["message"] for event in hub.progress("anna"))
    wait_for(lambda: bool(steps_of_builds(hub.docker)), "the container of this step")
    return start


def nothing_left(hub: Hub) -> bool:
    """Whether there is no step, no gate and no image of the build."""
    gates = hub.docker.containers(all=True, filters={"label": f"ds01.build={hub.id}"})
    return not (gates or steps_of_builds(hub.docker) or built_of(hub.docker))


def builds_on_what_is_there(hub: Hub) -> None:
    """The next build does the step with the package, and nothing that was done before it."""
    outcome = hub.start("anna", pip=[PACKAGE])
    assert outcome.status == 201, outcome.message
    settled(hub, "anna")
    logs = [file.read_text() for file in (hub.folder / "data/builds").iterdir()]
    (told,) = [text for text in logs if f"ds01.pip={PACKAGE}" in text or PACKAGE in text]
    before, _, after = told.partition("/opt/ds01/build/pip.sh")
    assert "Using cache" in before
    assert "Running in" not in before
    assert "Running in" in after


@pytest.mark.parametrize("way", ["kill", "cancel"])
def test_a_build_that_lost_its_hub_or_user_leaves_its_layers_and_nothing_else(
    hub: Hub, building: Future[Outcome], way: str
) -> None:
    if way == "kill":
        hub.crash()
        hub.up()
    else:
        assert hub.stop("anna") in (202, 204)
    assert hub.holds()
    wait_for(lambda: nothing_left(hub), "the build's containers to go")
    builds_on_what_is_there(hub)


def test_a_build_that_lost_its_engine_ends_in_words(
    hub: Hub, building: Future[Outcome], engine_process: EngineProcess
) -> None:
    engine_process.kill(signal.SIGKILL)
    outcome = building.result()
    assert outcome.status == 503
    assert "The container engine of this server does not answer" in outcome.message
    assert hub.page("/hub/login").status_code == 200
    engine_process.start()
    wait_for(lambda: nothing_left(hub), "the build's containers to go")
    assert hub.holds()
    builds_on_what_is_there(hub)
