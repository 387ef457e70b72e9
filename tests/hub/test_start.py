"""A server from its start to its end: what the engine is told, and what the hub remembers."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest

from tests.hub.clients import environment
from tests.hub.world import World

FULL = {
    "v": 1, "framework": "Pytorch", "version": "2.7.1", "architecture": "CUDA_AMPERE",
    "pip": ["pandas>=2"], "apt": ["htop"], "project": "my thesis", "gpus": 1, "gpu": "full",
    "cpus": 2, "memory": "4G", "hours": 3,
}  # fmt: skip
NEWEST, CHOSEN = "Pytorch-2.8.0", "Pytorch-2.7.1"


@pytest.mark.parametrize(
    ("body", "framework"),
    [
        (None, NEWEST),
        ({}, NEWEST),
        ({"user_options": {}}, NEWEST),
        ({"framework": "Pytorch", "version": "latest"}, NEWEST),
        ({"user_options": {"framework": "Pytorch", "version": "2.7.1"}}, CHOSEN),
        (FULL, CHOSEN),
    ],
)
async def test_a_start_by_rest(world: World, user: str, body: object, framework: str) -> None:
    answer = await world.start(user, body)
    assert answer.code == 201, answer.body
    container = world.container(user)
    assert container["State"]["Running"]
    assert container["Config"]["Labels"]["ds01.framework"] == framework
    server = (await world.model(user))["servers"][""]
    assert server["ready"] is True
    assert await world.left_of(user) == ([f"ds01.{user}"], ["bound"])
    await world.stop(user)


async def test_a_start_by_form(world: World, user: str) -> None:
    browser = await world.browser(user)
    answer = await browser.post(
        "spawn", {"environment": "Pytorch|2.7.1|CUDA_AMPERE", "pip": "x\ny"}
    )
    assert answer.code == 302, answer.body
    assert "/hub/spawn-pending/" in answer.headers["Location"]
    await world.settled(user)
    assert world.container(user)["Config"]["Labels"]["ds01.framework"] == CHOSEN
    saved = (await world.model(user))["servers"][""]["user_options"]
    assert saved == {
        "framework": "Pytorch", "version": "2.7.1", "architecture": "CUDA_AMPERE",
        "pip": ["x", "y"],
    }  # fmt: skip
    await world.stop(user)


async def test_the_way_to_the_server_is_open(world: World, user: str) -> None:
    await world.start(user, {})
    answer = await world.fetch(f"../user/{user}/api")
    assert (answer.code, answer.body) == (200, b"ok")
    await world.stop(user)


async def test_the_create_call_of_a_server_with_a_gpu(world: World, user: str) -> None:
    await world.start(user, FULL)
    body = world.created(user)
    env, labels, host = environment(body), body["Labels"], body["HostConfig"]
    (lease,) = await world.leases(user)
    token = env["JUPYTERHUB_API_TOKEN"]
    assert len(token) >= 32
    assert token not in repr({k: v for k, v in body.items() if k != "Env"})
    assert re.fullmatch(r"http://127\.77\.0\.1:\d+/under/hub/api", env["JUPYTERHUB_API_URL"])
    assert env["JUPYTERHUB_SERVICE_PREFIX"] == f"/under/user/{user}/"
    assert env["NVIDIA_VISIBLE_DEVICES"] == lease.devices[0]
    assert "CUDA_VISIBLE_DEVICES" not in env
    assert env["HOME"] == body["WorkingDir"] == "/workspace"
    assert labels["ds01.lease"] == lease.id
    assert labels["ds01.gpu.uuids"] == lease.devices[0]
    assert labels["ds01.simulated"] == "true"
    assert labels["ds01.project"] == "my thesis"
    assert labels["ds01.hours"] == "3"
    assert (host["Memory"], host["NanoCpus"]) == (4 << 30, 2 * 10**9)
    assert host["NetworkMode"] == "ds01"
    assert "DeviceRequests" not in host  # simulated devices are environment and labels alone
    assert [(m["Type"], m["Target"], m["ReadOnly"]) for m in host["Mounts"]] == [
        ("volume", "/workspace", False),
        ("volume", "/opt/ds01/server", True),
    ]
    await world.stop(user)


async def test_without_a_gpu_the_container_sees_none(world: World, user: str) -> None:
    await world.start(user, {"user_options": {}})
    env = environment(world.created(user))
    assert (env["NVIDIA_VISIBLE_DEVICES"], env["CUDA_VISIBLE_DEVICES"]) == ("void", "")
    await world.stop(user)


async def test_the_hub_remembers_what_a_restart_needs(world: World, user: str) -> None:
    await world.start(user, {})
    state = (await world.model(user))["servers"][""]["state"]
    (lease,) = await world.leases(user)
    assert state["object_id"] == world.container(user)["Id"]
    assert state["ds01"] == {"schema": 1, "lease": lease.id}
    await world.stop(user)
    assert (await world.model(user))["servers"] == {}


async def test_a_stop_leaves_the_workspace_and_nothing_else(world: World, user: str) -> None:
    await world.start(user, FULL)
    volume = world.container(user)["HostConfig"]["Mounts"][0]["Source"]
    answer = await world.stop(user)
    assert answer.code in (202, 204)
    assert await world.left_of(user) == ([], [])
    assert volume in world.engine.volumes
    assert world.told(user) == [
        "gpu.allocate", "container.create", "container.start", "container.stop", "gpu.release",
    ]  # fmt: skip


async def test_a_second_start_is_a_new_one_with_the_saved_choice(world: World, user: str) -> None:
    await world.start(user, FULL)
    (first,) = await world.leases(user)
    builds = len(world.engine.builds)
    await world.stop(user)
    assert (await world.start(user)).code == 201
    (second,) = await world.leases(user)
    assert second.generation > first.generation
    assert world.container(user)["Config"]["Labels"]["ds01.framework"] == CHOSEN
    assert len(world.engine.builds) == builds
    await world.stop(user)


async def test_two_servers_of_one_user(world: World, user: str) -> None:
    answers = [
        await world.start(user, {"user_options": {}}),
        await world.start(user, FULL, server="work"),
    ]
    assert [a.code for a in answers] == [201, 201]
    (default,) = world.containers(user, "")
    (work,) = world.containers(user, "work")
    assert default["Name"] != work["Name"]
    assert default["HostConfig"]["Mounts"] == work["HostConfig"]["Mounts"]  # one workspace
    prefix = environment(world.created(user, "work"))["JUPYTERHUB_SERVICE_PREFIX"]
    assert prefix == f"/under/user/{user}/work/"
    await world.stop(user)
    assert [lease.server for lease in await world.leases(user)] == ["work"]
    assert world.container(user, "work")["State"]["Running"]
    await world.stop(user, "work")
    assert await world.left_of(user) == ([], [])


async def test_names_that_look_alike_are_told_apart(world: World) -> None:
    names = ["a-b", "a_b", "a.b", "a@b", "a-2db", "x" * 200, "x" * 199 + "y", "zoë", "a b"]
    for name in names:
        assert (await world.api("POST", f"users/{quote(name)}")).code == 201
        answer = await world.start(quote(name), {"user_options": {}})
        assert answer.code == 201, answer.body
    for kind in ("Name", "Volume"):
        found = {
            name: world.container(name)["Name"]
            if kind == "Name"
            else world.container(name)["HostConfig"]["Mounts"][0]["Source"]
            for name in names
        }
        assert len(set(found.values())) == len(names)
        assert max(map(len, found.values())) < 100
    for name in names:
        assert (await world.stop(quote(name))).code == 204
        assert await world.left_of(name) == ([], [])


async def test_a_running_server_is_not_renamed(world: World, user: str) -> None:
    await world.start(user, {"user_options": {}}, server="old")
    with pytest.raises(Exception, match="is running, and its name is part") as refused:
        await world.spawner(user, "old").rename("old", "new")
    assert getattr(refused.value, "status_code", None) == 409
    await world.stop(user, "old")
    await world.spawner(user, "").rename("old", "new")  # nothing runs
