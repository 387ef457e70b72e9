"""Invariant 16, its other half: what the parents' traits promise is in the create call."""

from __future__ import annotations

import os

from traitlets.config import Config

from tests.hub.clients import environment
from tests.hub.world import World

POLICY = "defaults: {memory: 8G, max_cpus: 4}\n"
hooks: list[str] = []


def configure(c: Config) -> None:
    s = c.DS01Spawner
    s.args = ["--ServerApp.answer=42"]
    s.cpu_limit = 2.0
    s.mem_limit = "2G"
    s.debug = True
    s.default_url = "/lab/tree/start.ipynb"
    s.disable_user_config = True
    s.env_keep = ["DS01_KEPT"]
    s.environment = {
        "COURSE": lambda spawner: f"course of {spawner.user.name}",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "LD_PRELOAD": "/evil.so",
    }
    s.http_timeout = 77
    s.hub_connect_url = "http://hub.example.org:8081"
    s.ip = "::"
    s.notebook_dir = "/workspace/notebooks"
    s.post_stop_hook = lambda spawner: hooks.append(f"stopped {spawner.user.name}")
    s.pre_spawn_hook = lambda spawner: hooks.append(f"starts {spawner.user.name}")
    s.prefix = "lab"
    s.read_only_volumes = {"/srv/datasets": "/data"}
    s.volumes = {"/srv/{username}": {"bind": "/mine", "mode": "rw"}}
    os.environ["DS01_KEPT"] = "kept"
    os.environ["DS01_NOT_KEPT"] = "secret of the hub"


async def test_the_create_call_has_what_the_admin_set(world: World, user: str) -> None:
    assert (await world.start(user, {"user_options": {}})).code == 201
    body = world.created(user)
    env, host = environment(body), body["HostConfig"]
    assert env["COURSE"] == f"course of {user}"
    assert env["DS01_KEPT"] == "kept"
    assert "DS01_NOT_KEPT" not in env
    assert env["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "LD_PRELOAD" not in env
    assert env["JUPYTERHUB_API_URL"] == "http://hub.example.org:8081/under/hub/api"
    assert env["JUPYTERHUB_DEFAULT_URL"] == "/lab/tree/start.ipynb"
    assert env["JUPYTERHUB_ROOT_DIR"] == "/workspace/notebooks"
    assert env["JUPYTERHUB_DISABLE_USER_CONFIG"] == "1"
    assert env["JUPYTERHUB_DEBUG"] == "1"
    assert body["Cmd"][-1] == "--ServerApp.answer=42"
    assert (host["Memory"], host["NanoCpus"]) == (2 << 30, 2 * 10**9)  # ceilings of the policy
    mounts = {m["Target"]: (m["Source"], m["ReadOnly"]) for m in host["Mounts"]}
    assert mounts["/data"] == ("/srv/datasets", True)
    assert mounts["/mine"] == (f"/srv/{user}", False)
    assert world.container(user)["Name"].startswith("/lab.")
    await world.stop(user)
    assert hooks == [f"starts {user}", f"stopped {user}"]


async def test_the_server_listens_and_is_waited_for_as_the_admin_set(
    world: World, user: str
) -> None:
    await world.api("POST", f"users/{user}")
    spawner = world.spawner(user)
    asker = spawner.asker()
    port = world.notebooks.port  # not the default; nothing would answer at another
    assert (asker.port, asker.ready_timeout) == (port, 77)
    assert spawner.get_env()["JUPYTERHUB_SERVICE_URL"].startswith(f"http://[::]:{port}/")


async def test_a_ceiling_is_one_of_the_options_too(world: World, user: str) -> None:
    answer = await world.start(user, {"memory": "4G", "cpus": 3})
    assert answer.code == 400
    assert "at most 2 GiB" in answer.body.decode()
    assert "at most 2 cores" in answer.body.decode()
