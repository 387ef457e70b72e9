"""From a REST call to a notebook server in a container with its limits: hub, engine, image real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.engine.hub_process import Hub, Outcome, inside

if TYPE_CHECKING:
    from docker import APIClient

    from tests.engine.conftest import MakeHub

MIB = 1 << 20
PACKAGE = "iniconfig"  # no image of another test has it
PYTHON = "/opt/ds01/env/bin/python"


@pytest.fixture(scope="module")
def hub(make_hub: MakeHub) -> Hub:
    return make_hub(wait=False)


@pytest.fixture(scope="module")
def alice(hub: Hub) -> Outcome:
    """Alice's default start; the first one on this engine builds the image."""
    return start(hub, "alice")


@pytest.fixture(scope="module")
def bob(hub: Hub) -> Outcome:
    return start(hub, "bob")


@pytest.fixture
def container(hub: Hub, alice: Outcome) -> Any:
    """The engine's words about Alice's container."""
    return hub.container_of("alice")


def start(hub: Hub, user: str, **options: Any) -> Outcome:
    hub.make_user(user)
    outcome = hub.start(user, **options)
    assert outcome.status == 201, outcome.message
    return outcome


def phases(outcome: Outcome) -> list[str]:
    return [event["phase"] for event in outcome.events if "phase" in event]


def build_events(outcome: Outcome) -> list[str]:
    """What a start told of building: nothing, when its image was there."""
    first, last = (phases(outcome).index(name) for name in ("image", "lease"))
    marks = [n for n, event in enumerate(outcome.events) if "phase" in event]
    return [event["message"] for event in outcome.events[marks[first] + 1 : marks[last]]]


def images(docker: APIClient) -> set[str]:
    return {image["Id"] for image in docker.images(all=True)}


# --- one start -------------------------------------------------------------------------------


def test_a_start_tells_its_phases_and_ends_with_a_server(hub: Hub, alice: Outcome) -> None:
    assert phases(alice) == ["resolve", "admit", "image", "lease", "create", "start", "ready"]
    progress = [event["progress"] for event in alice.events]
    assert progress == sorted(progress)
    assert hub.leases()["alice"] == "bound"


def test_the_server_answers_through_the_proxy(hub: Hub, alice: Outcome) -> None:
    answer = hub.page("/user/alice/api/status", hub.token_of("alice"))
    assert answer.status_code == 200, answer.text
    assert "last_activity" in answer.json()


def test_a_tool_with_pages_of_its_own_is_reached_through_the_server(
    hub: Hub, docker_client: APIClient, container: Any
) -> None:
    """As TensorBoard is, which reads its address from TENSORBOARD_PROXY_URL."""
    env = dict(entry.split("=", 1) for entry in container["Config"]["Env"])
    where = env["TENSORBOARD_PROXY_URL"].replace("%PORT%", "6006")
    assert where.endswith("/user/alice/proxy/6006/")
    serve = "mkdir -p /tmp/logs && echo curves >/tmp/logs/page && cd /tmp/logs && "
    serve += f"{PYTHON} -m http.server --bind 127.0.0.1 6006 >/dev/null 2>&1 & "
    ask = "import urllib.request as r; r.urlopen('http://127.0.0.1:6006/page')"
    inside(
        docker_client,
        container["Id"],
        f'{serve} until {PYTHON} -c "{ask}" 2>/dev/null; do sleep 0.1; done',
    )
    answer = hub.page("/user/alice/proxy/6006/page", hub.token_of("alice"))
    assert (answer.status_code, answer.text) == (200, "curves\n")
    refused = hub.page("/user/alice/proxy/other-host:80/", hub.token_of("alice"))
    assert refused.status_code == 403


def test_its_python_has_the_framework(docker_client: APIClient, container: Any) -> None:
    printed = inside(docker_client, container["Id"], [PYTHON, "-c", "import torch; print(torch)"])
    assert "torch" in printed


def test_a_second_start_builds_nothing(hub: Hub, docker_client: APIClient, alice: Outcome) -> None:
    first, before = hub.container_of("alice")["Id"], images(docker_client)
    assert hub.stop("alice") in (202, 204)
    assert "alice" not in hub.leases()
    again = start(hub, "alice")
    assert build_events(again) == []
    assert images(docker_client) == before
    assert hub.container_of("alice")["Id"] != first


def test_one_more_package_is_built_once_for_all_who_want_it(
    hub: Hub, docker_client: APIClient
) -> None:
    remove_images_with(docker_client, PACKAGE)
    first = start(hub, "carol", pip=[PACKAGE])
    assert any(f"Your packages: {PACKAGE}" in message for message in build_events(first))
    code = f"import {PACKAGE}, torch; print({PACKAGE}.__file__)"
    container = hub.container_of("carol")["Id"]
    assert inside(docker_client, container, [PYTHON, "-c", code]).startswith("/opt/ds01/env/")
    before = images(docker_client)
    hub.stop("carol")
    assert build_events(start(hub, "carol", pip=[PACKAGE])) == []
    assert build_events(start(hub, "dave", pip=[PACKAGE])) == []
    assert images(docker_client) == before
    hub.stop("carol")
    hub.stop("dave")


def remove_images_with(docker: APIClient, package: str) -> None:
    """Remove what an earlier run left, so that there is something to build."""
    for image in docker.images(filters={"label": f"ds01.pip={package}"}):
        docker.remove_image(image["Id"], force=True)


# --- the container, from inside ----------------------------------------------------------------


@pytest.mark.parametrize("process", ["self", "1"])
def test_it_has_no_capability_and_gains_none(
    docker_client: APIClient, container: Any, process: str
) -> None:
    text = inside(docker_client, container["Id"], ["cat", f"/proc/{process}/status"])
    status = dict(line.split(":\t", 1) for line in text.splitlines())
    sets = {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert sets == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert set(status["Uid"].split()) == {"200000"}


# limit: its file under cgroup v1, under v2, and what is in each
CGROUP_FILES = {
    "memory": ("memory/memory.limit_in_bytes", "memory.max", "1073741824", "1073741824"),
    "swap": ("memory/memory.memsw.limit_in_bytes", "memory.swap.max", "1073741824", "0"),
    "processes": ("pids/pids.max", "pids.max", "300", "300"),
    "cores": ("cpu/cpu.cfs_quota_us", "cpu.max", "100000", "100000 100000"),
}


@pytest.mark.parametrize("limit", CGROUP_FILES)
def test_the_kernel_has_its_limits(docker_client: APIClient, container: Any, limit: str) -> None:
    v1_file, v2_file, v1_value, v2_value = CGROUP_FILES[limit]
    mounts = inside(docker_client, container["Id"], ["cat", "/proc/self/mounts"])
    v2 = " /sys/fs/cgroup cgroup2 " in mounts
    file = f"/sys/fs/cgroup/{v2_file if v2 else v1_file}"
    if limit == "swap" and not inside(
        docker_client, container["Id"], f"test -e {file} && echo there || true"
    ):
        pytest.skip("the kernel has no swap accounting")
    text = inside(docker_client, container["Id"], ["cat", file])
    assert text.strip() == (v2_value if v2 else v1_value)


def test_its_memory_file_systems_have_their_sizes(docker_client: APIClient, container: Any) -> None:
    command = ["df", "--block-size=1", "--output=target,size", "/dev/shm", "/tmp"]
    lines = inside(docker_client, container["Id"], command).splitlines()[1:]
    assert dict(line.split() for line in lines) == {
        "/dev/shm": str(96 * MIB),
        "/tmp": str(2048 * MIB),
    }


def test_its_user_is_known_and_at_home(docker_client: APIClient, container: Any) -> None:
    printed = inside(
        docker_client, container["Id"],
        "id -un; id -u; id -g; echo $HOME $USER; cd && pwd && touch here && stat -c %u here",
    )  # fmt: skip
    assert printed.splitlines() == [
        "alice", "200000", "200000", "/workspace alice", "/workspace", "200000",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["/opt/ds01/env", "/opt/ds01/server", "/etc/passwd", "/usr"])
def test_its_user_cannot_write_the_image(
    docker_client: APIClient, container: Any, path: str
) -> None:
    assert inside(docker_client, container["Id"], f"test -w {path} && echo writable || true") == ""


def test_pip_installs_for_this_environment_alone(docker_client: APIClient, container: Any) -> None:
    printed = inside(
        docker_client, container["Id"],
        "pip install --user --quiet docopt-ng && python -c 'import docopt; print(docopt.__file__)'"
        " && echo $PYTHONUSERBASE",
    )  # fmt: skip
    file, base = printed.splitlines()[-2:]
    assert base.startswith("/workspace/")
    assert file.startswith(f"{base}/lib/python")


def test_it_sees_no_gpu(docker_client: APIClient, container: Any) -> None:
    assert inside(docker_client, container["Id"], "echo $NVIDIA_VISIBLE_DEVICES") == "void\n"


# --- the container, from outside ---------------------------------------------------------------


def test_the_create_call_has_every_limit_and_default(hub: Hub, container: Any) -> None:
    host = container["HostConfig"]
    wanted = {
        "CapAdd": None,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Privileged": False,
        "NetworkMode": hub.id,
        "IpcMode": "private",
        "PidMode": "",
        "UTSMode": "",
        "UsernsMode": "",
        "Devices": None,
        "DeviceRequests": None,
        "PortBindings": None,
        "Binds": None,
        "VolumesFrom": None,
        "PublishAllPorts": False,
        "Init": True,
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "Memory": 1024 * MIB,
        "MemorySwap": 1024 * MIB,
        "NanoCpus": 1_000_000_000,
        "PidsLimit": 300,
        "ShmSize": 96 * MIB,
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-file": "2", "max-size": str(10 * MIB)},
        },
    }
    # What is not set, an engine tells as null, as "" or as an empty list, by its version.
    assert {key: host[key] or None for key in wanted} == {k: v or None for k, v in wanted.items()}
    assert {(limit["Name"], limit["Hard"]) for limit in host["Ulimits"]} == {
        ("nofile", 16384),
        ("core", 0),
    }
    assert list(container["NetworkSettings"]["Networks"]) == [hub.id]
    work, server = sorted(container["Mounts"], key=lambda mount: mount["RW"], reverse=True)
    assert (work["Type"], work["Name"], work["RW"]) == ("volume", f"{hub.id}.home.alice", True)
    assert (server["Type"], server["Destination"], server["RW"]) == (
        "volume", "/opt/ds01/server", False
    )  # fmt: skip


LABELS = (
    "ds01.arch", "ds01.container_type", "ds01.created_at", "ds01.custom_image", "ds01.data_mount",
    "ds01.framework", "ds01.gpu.allocated", "ds01.gpu.slot_count", "ds01.gpu.slots",
    "ds01.gpu.uuid", "ds01.gpu.uuids", "ds01.gpus", "ds01.hours", "ds01.hub", "ds01.image",
    "ds01.interface", "ds01.lease", "ds01.lease_generation", "ds01.managed", "ds01.models_mount",
    "ds01.monitoring", "ds01.name", "ds01.project", "ds01.protected", "ds01.recipe",
    "ds01.schema", "ds01.server", "ds01.simulated", "ds01.units", "ds01.user", "ds01.work_mount",
    "aime.mlc", "aime.mlc.ARCH", "aime.mlc.DATA_MOUNT", "aime.mlc.FRAMEWORK", "aime.mlc.GPUS",
    "aime.mlc.MLC_VERSION", "aime.mlc.MODELS_MOUNT", "aime.mlc.NAME", "aime.mlc.USER",
    "aime.mlc.WORK_MOUNT",
)  # fmt: skip


def test_it_has_every_reserved_label(hub: Hub, container: Any) -> None:
    labels = container["Config"]["Labels"]
    assert set(LABELS) - set(labels) == set()
    assert (labels["ds01.user"], labels["ds01.hub"]) == ("alice", hub.id)
    assert (labels["ds01.interface"], labels["ds01.container_type"]) == ("jupyterhub", "atomic")
    secret = {entry.partition("=")[2] for entry in container["Config"]["Env"] if "TOKEN" in entry}
    assert secret
    assert not secret & set(labels.values())


# --- between users -----------------------------------------------------------------------------

REACH = """\
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1.5).close()
    print("reached")
except OSError as error:
    print("not reached:", error)
"""


def test_a_container_reaches_the_hub_and_no_neighbour(
    hub: Hub, docker_client: APIClient, alice: Outcome, bob: Outcome
) -> None:
    def reach(user: str, address: str, port: int) -> str:
        command = [PYTHON, "-c", REACH, address, str(port)]
        return inside(docker_client, hub.container_of(user)["Id"], command)

    ours, theirs = hub.address_of("alice"), hub.address_of("bob")
    assert reach("alice", hub.gateway, hub.hub_port) == "reached\n"
    assert reach("bob", theirs, 8888) == "reached\n"
    assert reach("alice", theirs, 8888).startswith("not reached")
    assert reach("bob", ours, 8888).startswith("not reached")


def server_token(container: Any) -> str:
    """The token that a user finds in the environment of the own server."""
    env = dict(entry.split("=", 1) for entry in container["Config"]["Env"])
    return str(env["JUPYTERHUB_API_TOKEN"])


def test_a_server_is_its_user_s_alone(hub: Hub, alice: Outcome, bob: Outcome) -> None:
    path = "/user/bob/api/status"
    assert hub.page(path, hub.token_of("bob")).status_code == 200
    own = server_token(hub.container_of("alice"))
    for token in ("", hub.token_of("alice"), own, "no-such-token"):
        assert hub.page(path, token).status_code == 403, token
    answer = hub.page("/user/bob/lab")
    assert answer.status_code == 302
    assert "/hub/api/oauth2/authorize" in answer.headers["Location"]


def test_a_user_s_tokens_move_nobody_else_s_server(hub: Hub, alice: Outcome, bob: Outcome) -> None:
    before = hub.container_of("bob")["Id"]
    for token in (hub.token_of("alice"), server_token(hub.container_of("alice"))):
        for method, path in (
            ("DELETE", "/users/bob/server"),
            ("POST", "/users/bob/servers/more"),
            ("GET", "/users/bob"),
        ):
            assert hub.api(method, path, token).status_code in (403, 404), (method, path)
    own = server_token(hub.container_of("alice"))
    assert hub.api("POST", "/users/alice/servers/more", own).status_code in (403, 404)
    assert hub.container_of("bob")["Id"] == before
    assert hub.runs("bob")


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": "debian"}, "'image': is not an option"),
        ({"framework": "Pytorsh"}, "'Pytorsh' is not in the catalog"),
        ({"memory": "2G"}, "memory:"),
        ({"gpus": 1}, "gpus:"),
    ],
)
def test_options_beyond_what_is_allowed_touch_nothing(
    hub: Hub, options: dict[str, Any], words: str
) -> None:
    hub.make_user("erin")
    before = len(hub.containers())
    outcome = hub.start("erin", **options)
    assert outcome.status != 201
    assert words in outcome.message
    assert len(hub.containers()) == before
    assert "erin" not in hub.leases()


def test_the_event_log_tells_what_was_done(hub: Hub, alice: Outcome) -> None:
    file: Path = hub.folder / "data/events.jsonl"
    events = [json.loads(line) for line in file.read_text().splitlines()]
    ours = [e["event_type"] for e in events if e.get("user") == "alice"]
    assert ours[:3] == ["container.lease", "container.create", "container.start"]
    assert file.stat().st_mode & 0o777 == 0o600
