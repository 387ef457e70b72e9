"""The bench itself: what the tests of this tier, and of those above it, stand on."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from docker import APIClient
from docker.errors import APIError

if TYPE_CHECKING:
    from tests.conftest import EngineProcess, HookWitness

pytestmark = pytest.mark.any_hub


def run(
    client: APIClient, image: str, labels: dict[str, str], command: list[str], **body: object
) -> str:
    """Run a container to its end and give what it printed; a failure shows it too."""
    container = client.create_container(image, command, labels=labels, **body)["Id"]
    client.start(container)
    code = client.wait(container)["StatusCode"]
    output: str = client.logs(container).decode()
    client.remove_container(container, v=True)
    assert code == 0, output
    return output


def devices(*uuids: str) -> dict[str, object]:
    return {
        "Driver": "nvidia",
        "DeviceIDs": list(uuids),
        "Capabilities": [["gpu", "compute", "utility"]],
    }


def test_engine_is_the_tests_own(docker_client: APIClient, engine_url: str) -> None:
    assert docker_client.info()["DockerRootDir"].startswith("/")
    assert engine_url.startswith("unix:///run/ds01-bench-")


def test_the_stand_in_has_a_torch_that_says_what_it_is(
    docker_client: APIClient, standin_image: str, run_labels: dict[str, str]
) -> None:
    listed = run(
        docker_client, standin_image, run_labels, ["python3", "-m", "pip", "list", "--format=json"]
    )
    assert {"name": "torch", "version": "2.8.0+standin"} in json.loads(listed)
    frozen = run(docker_client, standin_image, run_labels, ["python3", "-m", "pip", "freeze"])
    assert "torch==2.8.0+standin" in frozen.splitlines()
    assert "stand-in" in run(
        docker_client,
        standin_image,
        run_labels,
        ["python3", "-c", "import torch; print(torch.__doc__)"],
    )


@pytest.mark.parametrize(
    ("assigned", "seen"),
    [("void", "False 0"), ("none", "False 0"), ("", "False 0"), ("GPU-a,GPU-b", "True 2")],
)
def test_its_torch_tells_the_assigned_devices(
    docker_client: APIClient,
    standin_image: str,
    run_labels: dict[str, str],
    assigned: str,
    seen: str,
) -> None:
    code = "import torch; print(torch.cuda.is_available(), torch.cuda.device_count())"
    printed = run(
        docker_client,
        standin_image,
        run_labels,
        ["python3", "-c", code],
        environment={"NVIDIA_VISIBLE_DEVICES": assigned},
    )
    assert printed.strip() == seen


def test_a_container_reaches_the_package_index(
    docker_client: APIClient,
    standin_image: str,
    run_labels: dict[str, str],
    ca_pem: bytes,
    tmp_path: Path,
) -> None:
    (tmp_path / "ca.pem").write_bytes(ca_pem)
    run(
        docker_client,
        standin_image,
        run_labels,
        ["python3", "-m", "pip", "download", "--no-deps", "--dest", "/tmp/x", "iniconfig==2.0.0"],
        environment={"PIP_CERT": "/ca.pem"},
        host_config=docker_client.create_host_config(binds=[f"{tmp_path}/ca.pem:/ca.pem:ro"]),
    )


def test_the_hook_witnesses_who_got_which_device(
    docker_client: APIClient, standin_image: str, run_labels: dict[str, str], hook: HookWitness
) -> None:
    hook.set_devices(["GPU-1", "GPU-2"])
    config = docker_client.create_host_config()
    config["DeviceRequests"] = [devices("GPU-2", "GPU-1")]
    printed = run(
        docker_client,
        standin_image,
        run_labels,
        ["printenv", "NVIDIA_VISIBLE_DEVICES"],
        host_config=config,
    )
    assert printed.strip() == "GPU-2,GPU-1"
    (start,) = hook.starts()
    assert start["devices"] == ["GPU-2", "GPU-1"]
    assert len(start["id"]) == 64
    assert start["pid"] > 1
    assert start["time"] > 0


def test_the_hook_refuses_an_unknown_device(
    docker_client: APIClient, standin_image: str, run_labels: dict[str, str], hook: HookWitness
) -> None:
    hook.set_devices(["GPU-1"])
    config = docker_client.create_host_config()
    config["DeviceRequests"] = [devices("GPU-1", "GPU-9")]
    container = docker_client.create_container(
        standin_image, ["true"], labels=run_labels, host_config=config
    )["Id"]
    with pytest.raises(APIError, match="device error: GPU-9: unknown device"):
        docker_client.start(container)
    assert hook.starts() == []
    docker_client.remove_container(container)


def test_no_devices_no_hook(
    docker_client: APIClient, standin_image: str, run_labels: dict[str, str], hook: HookWitness
) -> None:
    run(
        docker_client,
        standin_image,
        run_labels,
        ["true"],
        environment={"NVIDIA_VISIBLE_DEVICES": "void"},
    )
    assert hook.starts() == []


def test_a_killed_engine_comes_back_with_its_containers(
    docker_client: APIClient,
    standin_image: str,
    run_labels: dict[str, str],
    engine_process: EngineProcess,
) -> None:
    container = docker_client.create_container(
        standin_image, ["tini", "sleep", "600"], labels=run_labels
    )["Id"]
    docker_client.start(container)
    engine_process.kill(signal.SIGKILL)
    engine_process.start()
    assert docker_client.inspect_container(container)["Id"] == container
    docker_client.remove_container(container, force=True)
