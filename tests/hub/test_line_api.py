"""The line by REST: a ticket taken, read, taken up and given up, and refused in words."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from tornado.httpclient import HTTPResponse
from traitlets.config import Config

from ds01_spawner.services.ledger import Ledger
from tests.hub.clients import server_path, until
from tests.hub.conftest import hub_of
from tests.hub.world import TOKEN, World

GPUS = "simulated:1xA100-40GB"
GPU = {"framework": "Pytorch", "architecture": "CUDA_AMPERE", "gpus": 1, "gpu": "full", "hours": 4}
READER = "token-that-reads"


def configure(c: Config) -> None:
    c.JupyterHub.services.append({"name": "reader", "api_token": READER})
    scopes = ["read:servers"]
    c.JupyterHub.load_roles.append({"name": "reader", "services": ["reader"], "scopes": scopes})


@pytest.fixture
async def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """A hub for each test: there is one device."""
    async with hub_of(request.module, tmp_path_factory) as world:
        yield world


def ticket(user: str, server: str = "") -> str:
    return f"{server_path(user, server)}/ticket"


def told(answer: HTTPResponse) -> Any:
    assert answer.headers["Content-Type"].startswith("application/json")
    return json.loads(answer.body)


async def test_from_a_refusal_to_a_start_in_turn(world: World, user: str, other: str) -> None:
    await world.start(user, GPU)
    (lease,) = await world.leases(user)
    refused = await world.start(other, GPU)
    assert refused.code == 409
    assert "0 of the 1 that would do are free" in told(refused)["message"]
    taken = await world.api("POST", ticket(other), {"user_options": GPU})
    assert taken.code == 201
    place = told(taken)
    assert place == {
        "user": other, "server": "", "position": 1, "of": 1, "waits_for": "devices",
        "expected": lease.until and lease.until.isoformat(), "held_until": None, "options": GPU,
    }  # fmt: skip
    assert told(await world.api("GET", ticket(other))) == place
    await world.stop(user)
    await until(lambda: "queue.offer" in world.told(other))
    offered = told(await world.api("GET", ticket(other)))
    assert datetime.fromisoformat(offered["held_until"]) > world.now()
    assert (await world.start(other, offered["options"])).code == 201
    assert [lease.state for lease in await world.leases(other)] == ["bound"]
    assert (await world.api("GET", ticket(other))).code == 404
    await world.stop(other)


async def test_a_named_server_waits_and_leaves(world: World, user: str, other: str) -> None:
    await world.start(user, GPU)
    place = told(await world.api("POST", ticket(other, "thesis"), GPU))
    assert (place["server"], place["position"]) == ("thesis", 1)
    assert "thesis" not in (await world.model(other))["servers"]
    answer = await world.api("POST", ticket(other, "b"), GPU)
    assert answer.code == 409
    assert "You wait in line with 1 of your servers" in told(answer)["message"]
    answer = await world.api("GET", ticket(other))
    assert answer.code == 404
    assert "The default server does not wait" in told(answer)["message"]
    assert (await world.api("DELETE", ticket(other, "thesis"))).code == 204
    assert (await world.api("DELETE", ticket(other, "thesis"))).code == 404
    assert world.told(other) == ["queue.join", "queue.leave"]
    await world.stop(user)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"gpus": 0}, 400, "Choose a GPU to wait for"),
        ({}, 400, "Choose a GPU to wait for"),
        ({"gpus": 1, "image": "x"}, 400, "'image': is not an option"),
        ([], 400, "JSON object"),
        ({"gpus": 2, "gpu": "full"}, 400, "gpus"),
    ],
)
async def test_what_cannot_be_waited_for_is_refused_in_words(
    world: World, user: str, options: object, code: int, words: str
) -> None:
    answer = await world.api("POST", ticket(user), options)
    assert answer.code == code, answer.body
    assert words.lower() in told(answer)["message"].lower()


async def as_(world: World, token: str, path: str) -> HTTPResponse:
    return await world.fetch(f"api/{path}", headers={"Authorization": f"token {token}"})


async def test_only_its_users_look_keeps_a_place(world: World, user: str, other: str) -> None:
    async def asked() -> datetime:
        (waiting,) = await world.runtime.in_ledger(Ledger.tickets)
        return waiting.asked

    await world.start(user, GPU)
    assert (await world.api("POST", ticket(other), GPU)).code == 201
    own = world.spawner(other).user.new_api_token()
    before = await asked()
    world.passed += timedelta(minutes=1)
    for token in (READER, TOKEN):
        answer = await as_(world, token, ticket(other))
        assert told(answer)["position"] == 1
        assert await asked() == before
    assert told(await as_(world, own, ticket(other)))["position"] == 1
    assert await asked() >= before + timedelta(minutes=1)
    await world.stop(user)


async def test_no_ticket_for_a_server_that_the_hub_would_not_start(
    world: World, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(server: str, words: str) -> None:
        answer = await world.api("POST", ticket(user, server), GPU)
        assert answer.code == 400
        assert words in told(answer)["message"]
        assert await world.runtime.in_ledger(Ledger.tickets) == ()

    await refused("a%2Fb", "Invalid server_name")
    settings = world.hub.tornado_application.settings
    monkeypatch.setitem(settings, "named_server_limit_per_user", 1)
    assert (await world.api("POST", ticket(user, "first"), GPU)).code == 201
    assert (await world.start(user, {"gpus": 0}, "first")).code == 201
    await refused("second", f"User {user} already has the maximum of 1 named servers.")
    monkeypatch.setitem(settings, "allow_named_servers", False)
    await refused("first", "Named servers are not enabled.")
    await world.stop(user, "first")


async def test_who_may_and_who_may_not(world: World, user: str) -> None:
    async def asked(method: str, path: str) -> HTTPResponse:
        headers = {"Authorization": f"token {READER}"}
        return await world.fetch(f"api/{path}", method, headers=headers, body=None)

    assert (await asked("GET", ticket(user))).code == 404  # allowed, and there is none
    assert (await asked("POST", ticket(user))).code == 403
    assert (await asked("DELETE", ticket(user))).code == 403
    assert (await world.fetch(f"api/{ticket(user)}")).code == 403
    answer = await world.api("GET", ticket("nobody"))
    assert answer.code == 404
    assert told(answer)["message"] == "There is no such user."
