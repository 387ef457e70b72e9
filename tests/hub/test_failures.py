"""A start that fails, at each of its calls to the engine, leaves nothing, and says it in words."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from ds01_spawner.errors import EngineUnavailable
from ds01_spawner.services.engine import EngineRefused
from tests.fakes.engine import Ran
from tests.hub.world import World

SECRET = "secret of unix:///run/engine.sock"
ERRORS = {"refused": EngineRefused(500, SECRET), "unavailable": EngineUnavailable(SECRET)}
CALLS = [  # of a start that builds, in their order
    "free_disk",
    "list_containers",
    "inspect_image",
    "build",
    "tag_image",
    "create_container",
    "put_archive",
    "start_container",
    "inspect_container",
]
WITH_GPU = {"gpus": 1, "gpu": "full"}


def options(user: str) -> dict[str, object]:
    """Those of a server with a GPU and an environment that nobody has built yet."""
    return {"framework": "Pytorch", "pip": [f"only-{user}"], **WITH_GPU}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", CALLS)
async def test_a_call_that_fails_once(
    world: World, user: str, call: str, error: str, after: bool
) -> None:
    async with world.undisturbed():
        world.engine.fail_next(call, ERRORS[error], after=after)
        answer = await world.start(user, options(user))
    assert answer.code in (422, 503), answer.body
    message = json.loads(answer.body)["message"]
    assert ("secret" in message) == (call == "build" and error == "refused")  # a build's own words
    assert len(message) > 40  # a sentence, not a name
    assert await world.left_of(user) == ([], [])
    assert (await world.start(user, options(user))).code == 201
    await world.stop(user)


@pytest.mark.parametrize("call", ["create_container", "put_archive", "start_container"])
async def test_an_engine_that_goes_away_and_comes_back(world: World, user: str, call: str) -> None:
    async with world.starting(user, options(user), at=call) as gate:
        world.engine.unreachable = True
        gate.set()
        await world.settled(user)
        assert [lease.state for lease in await world.leases(user)] == ["releasing"]
        world.engine.unreachable = False
    world.passed += timedelta(minutes=2)
    await world.runtime.reconciler.run()
    assert await world.left_of(user) == ([], [])
    assert (await world.start(user, options(user))).code == 201
    await world.stop(user)


async def test_the_next_start_does_not_wait_for_reconcile(world: World, user: str) -> None:
    async with world.starting(user, options(user), at="put_archive") as gate:
        world.engine.unreachable = True
        gate.set()
        await world.settled(user)
        world.engine.unreachable = False
    assert len(world.containers(user)) == 1
    assert (await world.start(user, options(user))).code == 201
    assert len(world.containers(user)) == len(await world.leases(user)) == 1
    await world.stop(user)


@pytest.mark.parametrize("error", ERRORS)
async def test_a_removal_that_fails_is_left_to_reconcile(
    world: World, user: str, error: str
) -> None:
    world.engine.fail_next("start_container", ERRORS["refused"])
    world.engine.fail_next("remove_container", ERRORS[error])
    answer = await world.start(user, options(user))
    assert "secret" not in answer.body.decode()
    assert await world.left_of(user) == ([f"ds01.{user}"], ["releasing"])
    world.passed += timedelta(minutes=2)
    await world.runtime.reconciler.run()
    assert await world.left_of(user) == ([], [])


@pytest.mark.parametrize(
    ("ran", "words"),
    [(Ran(1, f"Traceback: {SECRET}\n"), "it ended with status 1"), (Ran(137), "status 137")],
)
async def test_a_server_that_ends_at_once(world: World, user: str, ran: Ran, words: str) -> None:
    world.engine.program = lambda container: ran
    try:
        answer = await world.start(user, options(user))
    finally:
        world.engine.program = lambda container: None
    assert answer.code == 500
    message = json.loads(answer.body)["message"]
    assert words in message
    assert "secret" not in message
    assert await world.left_of(user) == ([], [])


async def test_a_server_that_never_answers(world: World, user: str) -> None:
    world.engine.ready = lambda container: container["Config"]["Labels"]["ds01.user"] != user
    await world.browser(user)  # so that the hub has a spawner of the user
    world.spawner(user).http_timeout = 1
    try:
        answer = await world.start(user, options(user))
    finally:
        world.engine.ready = lambda container: True
    assert answer.code == 500
    assert "did not answer within 1 seconds" in json.loads(answer.body)["message"]
    assert await world.left_of(user) == ([], [])


async def test_a_limit_that_the_kernel_cannot_apply_ends_the_start(world: World, user: str) -> None:
    world.engine.warnings = ["Your kernel does not support swap limit capabilities"]
    try:
        answer = await world.start(user, options(user))
    finally:
        world.engine.warnings = []
    assert answer.code == 503
    assert "cannot apply one of the limits" in json.loads(answer.body)["message"]
    assert await world.left_of(user) == ([], [])


async def test_a_name_that_another_hub_has(world: World, user: str) -> None:
    foreign = await world.engine.create_container(
        f"ds01.{user}", {"Image": "base:1", "Labels": {"ds01.hub": "another"}}
    )
    answer = await world.start(user, options(user))
    assert answer.code == 503
    assert "it is not this hub's" in json.loads(answer.body)["message"]
    assert foreign in world.engine.containers
    assert await world.leases(user) == []


async def test_a_container_of_ours_in_the_way_is_removed(world: World, user: str) -> None:
    body = {"Image": "base:1", "Labels": {"ds01.hub": "jupyterhub", "ds01.lease": "lost"}}
    left = await world.engine.create_container(f"ds01.{user}", body)
    assert (await world.start(user, options(user))).code == 201
    assert left not in world.engine.containers
    await world.stop(user)


async def test_a_build_that_fails_says_so_in_its_own_words(world: World, user: str) -> None:
    async def no_such_package(command: str) -> int:
        return 1 if "pip" in command else 0

    world.engine.run = no_such_package
    try:
        answer = await world.start(user, options(user))
    finally:

        async def fine(command: str) -> int:
            return 0

        world.engine.run = fine
    assert answer.code == 422
    assert "Your environment could not be built" in json.loads(answer.body)["message"]
    assert await world.left_of(user) == ([], [])
