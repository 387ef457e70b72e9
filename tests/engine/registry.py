"""A real registry on loopback, with a log-in, and what gets in the way of one."""

from __future__ import annotations

import base64
import io
import os
import shutil
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import wait_for
from tests.ports import free_port

PROGRAM = "docker-registry"
USER, PASSWORD = "hub", "kein Geheimnis: 0x5eed"
# The password's bcrypt hash, the only kind that the registry takes.
HTPASSWD = "hub:$2b$05$Ow64eLUEEiJL7TguwsqEw.WO1yFlXny6iFsBL9ASYcV7hHfLAUc9.\n"
CONFIG = """\
version: 0.1
log: {{level: info, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: bench, path: {folder}/htpasswd}}}}
"""


class Registry:
    """A registry's process, its folder, and the images that a test puts into it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.name = f"127.0.0.1:{self.port}"
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "htpasswd").write_text(HTPASSWD)
        (folder / "config.yml").write_text(CONFIG.format(folder=folder, port=self.port))

    def start(self) -> None:
        """Start it; returns when it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "serve", str(self.folder / "config.yml")],
                env={"PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._answers, "the registry to answer")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"http://{self.name}/v2/", timeout=10).status_code == 401
        except requests.ConnectionError:
            return False

    def stop(self) -> None:
        """End it: its port is closed then."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)

    def push(self, client: Any, name: str, layers: Sequence[bytes]) -> str:
        """An image of these layers, which is in the registry and nowhere else; its full name."""
        context = io.BytesIO()
        lines = [f"COPY layer-{i} /" for i in range(len(layers))]
        files = {f"layer-{i}": content for i, content in enumerate(layers)}
        files["Dockerfile"] = "\n".join(["FROM scratch", *lines]).encode()
        with tarfile.open(fileobj=context, mode="w") as tar:
            for path, content in files.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        context.seek(0)
        image = f"{self.name}/{name}"
        told = client.build(fileobj=context, custom_context=True, tag=image, rm=True, decode=True)
        assert not [item for item in told if "error" in item]
        self.push_image(client, image)
        client.remove_image(image)
        return image

    def push_image(self, client: Any, image: str) -> None:
        """Put an image that has a name of this registry into it."""
        login = {"username": USER, "password": PASSWORD, "serveraddress": self.name}
        told = client.push(image, stream=True, decode=True, auth_config=login)
        assert not [item for item in told if "error" in item]

    def blob(self, image: str) -> Path:
        """The file of the image's last layer, on the registry's disk."""
        repository, _, tag = image.partition("/")[2].rpartition(":")
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        url = f"http://{self.name}/v2/{repository}/manifests/{tag}"
        answer = requests.get(url, headers={"Accept": kind}, auth=(USER, PASSWORD), timeout=10)
        digest = answer.json()["layers"][-1]["digest"].partition(":")[2]
        return self.folder / f"data/docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"

    def asked(self, what: str) -> int:
        """How often the registry's log has a request with these words."""
        return sum(what in line for line in self.log.read_text().splitlines())


def encoded(user: str, password: str) -> str:
    """Both in base64, as in a header or a file of log-ins."""
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@contextmanager
def registry(folder: Path) -> Iterator[Registry]:
    """A registry of its own, ended afterwards."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"there is no {PROGRAM}, and the package of that name could not be installed")
    made = Registry(folder)
    made.start()
    try:
        yield made
    finally:
        made.stop()


class Stall:
    """A port that passes connections on to another, and falls silent after so many bytes."""

    def __init__(self, port: int, after: int) -> None:
        self._target, self._left = port, after
        self.silent = threading.Event()
        self._connections: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listening.accept()[0]
                server = socket.create_connection(("127.0.0.1", self._target))
                self._connections += [client, server]
                for way in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pass, args=way, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if counted:
                    self._left -= len(data)
                    if self._left < 0:
                        self.silent.set()
                        return
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close all connections."""
        for connection in (self._listening, *self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
