"""A server's time: told beforehand, and kept."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from traitlets.config import Config

from ds01_spawner.services import wiring
from tests.hub.clients import environment
from tests.hub.world import World

POLICY = """\
defaults: {max_containers_per_user: 3, max_runtime_h: 6, max_gpu_equivalents: 2}
groups:
  endless: {max_runtime_h: null, members: [marathon]}
  idlers: {idle_timeout_h: 1, members: [idler, worker, keeper, excused, asker]}
exemptions:
- username: excused
  exempt_from: [idle_timeout_h]
  expires_on: {expires}
  reason: the deadline of a paper
"""
EXPIRES = datetime.now(timezone.utc) + timedelta(hours=3)
POLICY = POLICY.replace("{expires}", EXPIRES.isoformat(timespec="seconds"))


def configure(c: Config) -> None:
    c.DS01Spawner.keep_alive_ceiling_h = 4.0
    c.Authenticator.admin_users = {"admin"}
    c.JupyterHub.load_roles = [
        *c.JupyterHub.load_roles,
        {"name": "looks", "users": ["admin"], "scopes": ["admin:users", "access:servers"]},
    ]


GPU = {"framework": "Pytorch", "architecture": "CUDA_AMPERE", "gpus": 1, "gpu": "full"}


async def later(world: World, **time: float) -> None:
    world.passed += timedelta(**time)
    await world.runtime.reconciler.run()


@pytest.mark.parametrize(
    ("options", "hours"),
    [({"hours": 2}, 2), ({**GPU, "hours": 0.5}, 0.5), ({"user_options": {}}, 6)],
)
async def test_a_server_ends_at_its_time_and_is_told_before(
    world: World, user: str, options: dict[str, object], hours: float
) -> None:
    await world.start(user, options)
    began = world.told(user)
    await later(world, hours=hours, minutes=-16)
    assert world.told(user) == began
    await later(world, minutes=2)
    await later(world, minutes=1)
    assert world.told(user)[len(began) :] == ["maintenance.runtime_warning"]
    assert await world.spawner(user).poll() is None
    await later(world, minutes=14)
    await world.settled(user)
    assert await world.left_of(user) == ([], [])
    assert world.told(user)[len(began) :] == [
        "maintenance.runtime_warning",
        "maintenance.runtime_kill",
        "container.remove",
        "gpu.release",
    ]
    assert (await world.model(user))["servers"] == {}
    assert world.engine.made("stop_container")[-1].args[1] > 0  # it may save its work
    assert (await world.start(user, options)).code == 201
    await world.stop(user)


async def test_without_a_limit_a_gpu_still_has_one(world: World) -> None:
    await world.api("POST", "users/marathon")
    await world.start("marathon", {"user_options": {}}, "cpu")
    await world.start("marathon", GPU, "gpu")
    await later(world, hours=71)
    assert len(world.containers("marathon")) == 2
    await later(world, hours=2)  # nobody could tell of the end before: it is told now
    assert len(world.containers("marathon")) == 2
    await later(world, minutes=15)
    assert [c["Config"]["Labels"]["ds01.server"] for c in world.containers("marathon")] == ["cpu"]
    await world.stop("marathon", "cpu")
    await world.settled("marathon", "gpu")


async def test_more_hours_than_the_policy_gives(world: World, user: str) -> None:
    answer = await world.start(user, {"hours": 7})
    assert answer.code == 400
    assert "at most 6 h" in answer.body.decode()


async def test_the_clock_starts_when_the_server_does(world: World, user: str) -> None:
    """Not when the build of its image began."""
    async with world.starting(user, {"pip": ["slow"], "hours": 1}, at="build") as gate:
        world.passed += timedelta(minutes=50)
        gate.set()
    await later(world, minutes=30)
    assert await world.spawner(user).poll() is None
    await world.stop(user)


async def watched(world: World, minutes: int) -> None:
    """The hub looks every few minutes."""
    for _ in range(0, minutes, 4):
        world.passed += timedelta(minutes=4)
        await world.runtime.watch.look()


async def test_an_idle_gpu_is_given_back_and_that_is_told_before(world: World) -> None:
    await world.api("POST", "users/idler")
    await world.start("idler", GPU, "gpu")
    await world.start("idler", {"user_options": {}}, "cpu")
    began = world.told("idler")
    await watched(world, 44)
    assert world.told("idler") == began
    await watched(world, 4)
    assert world.told("idler")[len(began) :] == ["maintenance.runtime_warning"]
    await watched(world, 16)
    await world.settled("idler", "gpu")
    assert [c["Config"]["Labels"]["ds01.server"] for c in world.containers("idler")] == ["cpu"]
    assert [lease.server for lease in await world.leases("idler")] == ["cpu"]
    await world.stop("idler", "cpu")


async def test_who_is_exempt_is_idle_until_that_expires(world: World) -> None:
    world.passed = EXPIRES - timedelta(hours=3) - datetime.now(timezone.utc)  # however late it is
    await world.api("POST", "users/excused")
    await world.start("excused", GPU)
    began = world.told("excused")
    await watched(world, 160)
    assert world.told("excused") == began
    await watched(world, 12)
    assert world.told("excused")[len(began) :] == ["maintenance.runtime_warning"]
    assert len(world.containers("excused")) == 1
    await watched(world, 12)
    await world.settled("excused")
    assert await world.left_of("excused") == ([], [])
    assert wiring.now() - EXPIRES < timedelta(minutes=6)


async def test_the_pages_tell_of_the_end_and_an_idle_gpu_can_be_kept(world: World) -> None:
    await world.api("POST", "users/keeper")
    browser = await world.browser("keeper")
    await world.start("keeper", GPU)
    assert "nothing uses" not in (await browser.get("home")).body.decode()
    await watched(world, 48)
    page = (await browser.get("home")).body.decode()
    assert re.search(r"Your server has a GPU that nothing uses. It is stopped in 1[45] min", page)
    assert "Keep it for 2 h" in page
    answer = await browser.post("ds01/keep", {"server": ""})
    assert answer.code == 302
    assert "nothing uses" not in (await browser.get("home")).body.decode()
    await watched(world, 60)
    assert len(world.containers("keeper")) == 1
    await watched(world, 52)
    assert "It is stopped in" in (await browser.get("home")).body.decode()
    # Kept again and again, it is over some hours after its GPU was used.
    for _ in range(4):
        await browser.post("ds01/keep", {"server": ""})
        await watched(world, 60)
    assert world.containers("keeper") == []
    refused = await browser.post("ds01/keep", {"server": ""})
    assert refused.code == 409
    assert "cannot be kept longer" in refused.body.decode()


async def test_the_pages_tell_of_the_time(world: World, user: str) -> None:
    browser = await world.browser(user)
    await world.start(user, {"hours": 1}, "thesis")
    await watched(world, 48)
    page = (await browser.get("home")).body.decode()
    assert re.search(r"The time of your server thesis is over in 1[12] minutes", page)
    assert "Keep it" not in page
    refused = await browser.post("ds01/keep", {"server": "thesis"})
    assert refused.code == 409
    await world.stop(user, "thesis")


def token_of(world: World, user: str, server: str = "") -> str:
    """What the server was given to speak to the hub with."""
    return environment(world.created(user, server))["JUPYTERHUB_API_TOKEN"]


async def asked(
    world: World, token: str | None, path: str, method: str = "GET"
) -> tuple[int, dict[str, Any]]:
    """What a server is told when it asks for the end of one."""
    headers = {"Authorization": f"token {token}"} if token else {}
    answer = await world.fetch(
        f"api/ds01/ending/{path}", method, headers=headers, body="" if method == "POST" else None
    )
    return answer.code, json.loads(answer.body)


async def test_a_server_asks_for_its_own_end_and_keeps_itself(world: World) -> None:
    await world.api("POST", "users/asker")
    await world.start("asker", GPU)
    token = token_of(world, "asker")
    assert await asked(world, token, "asker/") == (200, {"ending": None})
    await watched(world, 48)
    code, told = await asked(world, token, "asker/")
    assert code == 200
    assert re.fullmatch(
        r"Your server has a GPU that nothing uses. It is stopped in 1[45] minutes, unless the GPU "
        "is used.",
        told["ending"]["message"],
    )
    assert told["ending"]["keep_h"] == 2.0
    (lease,) = await world.leases("asker")
    assert lease.end is not None
    assert told["ending"]["at"] == lease.end.at.isoformat()
    assert await asked(world, token, "asker/", "POST") == (200, {"ending": None})
    assert "maintenance.keep_alive" in world.told("asker")
    (kept,) = await world.leases("asker")
    assert kept.end is not None
    assert kept.end.at > lease.end.at
    await world.stop("asker")


async def test_a_server_whose_time_is_over_is_not_kept(world: World, user: str) -> None:
    await world.start(user, {"hours": 0.2}, "thesis")
    token = token_of(world, user, "thesis")
    await watched(world, 4)
    code, told = await asked(world, token, f"{user}/thesis")
    assert (code, told["ending"]["keep_h"]) == (200, None)
    assert told["ending"]["message"].startswith("The time of your server thesis is over in ")
    code, refused = await asked(world, token, f"{user}/thesis", "POST")
    assert code == 409
    assert "The server 'thesis' cannot be kept longer." in refused["message"]
    await world.stop(user, "thesis")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_server_asks_for_no_other(world: World, user: str, other: str, method: str) -> None:
    await world.start(user, {"hours": 0.2})
    await world.start(user, {"hours": 0.2}, "thesis")
    await world.start(other, {"hours": 0.2})
    await watched(world, 4)
    token = token_of(world, user)
    refused = [
        (token, f"{user}/thesis"), (token, f"{other}/"), (token, "nobody/"),
        (token_of(world, other), f"{user}/"), ("made-up", f"{user}/"), (None, f"{user}/"),
    ]  # fmt: skip
    for given, path in refused:
        code, told = await asked(world, given, path, method)
        assert code in (403, 404), (path, told)
        assert "ending" not in told
    for name, server in ((user, ""), (user, "thesis"), (other, "")):
        await world.stop(name, server)


async def test_the_page_of_another_s_server_tells_nothing_of_its_end(
    world: World, user: str
) -> None:
    await world.start(user, {"hours": 0.2}, "thesis")  # always near
    await watched(world, 4)
    own = await world.browser(user)
    assert "The time of your server thesis is over" in (await own.get("home")).body.decode()
    admin = await world.browser("admin")
    for path in (f"user/{user}/", f"spawn-pending/{user}/thesis"):
        assert "is over in" not in (await admin.get(path)).body.decode()
    await world.stop(user, "thesis")


async def test_a_gpu_in_use_is_not_idle(world: World) -> None:
    await world.api("POST", "users/worker")
    await world.start("worker", GPU)
    for _ in range(20):
        await watched(world, 8)
        world.spawner("worker").orm_spawner.last_activity = wiring.now().replace(tzinfo=None)
    assert len(world.containers("worker")) == 1
    await world.stop("worker")
