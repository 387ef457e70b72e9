"""A few words with a Docker engine, for the set-up scripts: `engine.py URL COMMAND [ARGUMENT]`.

ping [SECONDS]         0 if it answers (within that time)
load FILE.tar NAME     import a root file system as an image of that name, unless it is there
have NAME              0 if the image is there or its registry would give it
clean [LABEL=VALUE]    remove the containers and networks with that label; without one, all of
                       them, all volumes, and unused images made more than a week ago
"""

from __future__ import annotations

import socket
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docker import APIClient


def ping(url: str, seconds: float = 0) -> bool:
    """Whether the engine answers; without docker-py where it can: its import takes longer."""
    end = time.monotonic() + seconds
    while not (_ping_socket(url[7:]) if url.startswith("unix://") else _ping_any(url)):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _ping_socket(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        try:
            sock.connect(path)
            sock.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
            return b" 200 " in sock.recv(64)
        except OSError:
            return False


def _ping_any(url: str) -> bool:
    from docker.errors import DockerException

    try:
        return bool(connect(url).ping())
    except DockerException:
        return False


def connect(url: str) -> APIClient:
    """A docker-py client of the API that the engine speaks."""
    from docker import APIClient

    return APIClient(base_url=url, version="auto", timeout=300)


def load(client: APIClient, tar: str, name: str) -> bool:
    """Import the tar file, unless the image is there."""
    if not present(client, name):
        repository, _, tag = name.rpartition(":")
        client.import_image_from_file(tar, repository, tag, changes=['CMD ["/bin/bash"]'])
    return present(client, name)


def present(client: APIClient, name: str) -> bool:
    """Whether the engine has the image."""
    return bool(client.images(name))


def offered(client: APIClient, name: str) -> bool:
    """Whether the image is there, or a registry that the engine reaches has it."""
    from docker.errors import DockerException

    if present(client, name):
        return True
    try:
        client.inspect_distribution(name)
    except DockerException:
        return False
    return True


def clean(client: APIClient, label: str = "") -> bool:
    """Remove what has the label, or everything but recent images."""
    from docker.errors import APIError

    own = {"label": label} if label else {}
    removals = [
        partial(client.remove_container, container["Id"], force=True, v=True)
        for container in client.containers(all=True, filters=own)
    ]
    removals += [
        partial(client.remove_network, network["Id"])
        for network in client.networks(filters=own)
        if network["Name"] not in ("bridge", "host", "none")
    ]
    if not label:
        volumes = client.volumes()["Volumes"] or ()
        removals += [
            partial(client.remove_volume, volume["Name"], force=True) for volume in volumes
        ]
        removals.append(partial(client.prune_images, {"dangling": False, "until": "168h"}))
    done = True
    for removal in removals:
        try:
            removal()
        except APIError as error:
            done = error.status_code == 404 and done  # 404: somebody was faster
            print(error, file=sys.stderr)
    return done


if __name__ == "__main__":
    url, command, *arguments = sys.argv[1:]
    if command == "ping":
        sys.exit(not ping(url, *map(float, arguments)))
    actions = {"load": load, "present": present, "offered": offered, "clean": clean}
    sys.exit(not actions[command](connect(url), *arguments))
