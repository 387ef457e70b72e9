"""The demonstration of `./run` as a process of its own, on the tests' engine."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from docker.errors import APIError

from tests.conftest import steps_of_builds, wait_for
from tests.ports import free_port

if TYPE_CHECKING:
    from docker import APIClient

REPO = Path(__file__).resolve().parents[2]
POLICY = """\
defaults:
  max_cpus: 1
  memory: 1G
  max_gpu_equivalents: 1
  max_gpu_slots_per_container: 2
  max_containers_per_user: 2
  max_runtime_h: 12
user_overrides:
  student30: {idle_timeout_h: 0.02}
presets:
  course:
    title: Deep Learning 101
    description: What the course uses.
    framework: Pytorch
    gpus: 1
"""
_numbers = itertools.count(16)  # of the hubs: each has a subnet
STUDENTS = 30
IDLER = "student30"  # whose GPU is idle after a minute
BUILD_S = 400  # guards against hanging: the first build of all fetches the notebook server


class DemoHub:
    """One hub of `jupyterhub_config.py` with made-up A100s; `base_url` is where its pages are."""

    def __init__(
        self,
        folder: Path,
        docker: APIClient,
        *,
        engine_url: str,
        standin_image: str,
        ca_pem: bytes,
        base_url: str = "/",
        gpus: str = "6xA100-40GB",
    ) -> None:
        self.docker = docker
        self.id = f"b{secrets.token_hex(4)}"
        self.log = folder / "hub.log"
        self.data = folder / "data"
        self.data.mkdir(mode=0o700)
        self.passwords = {f"student{n}": secrets.token_hex(6) for n in range(1, STUDENTS + 1)}
        self._unused = (name for name in self.passwords if name != IDLER)
        (self.data / "demo-users.json").write_text(json.dumps(self.passwords))
        (folder / "policy.yaml").write_text(POLICY)
        (folder / "ca.pem").write_bytes(ca_pem)
        self._port = free_port(2)  # the next is the proxy's own
        self.url = f"http://127.0.0.1:{self._port}{base_url}"
        environment = {
            "DS01_DEMO": "1",
            "DS01_DATA": str(self.data),
            "DS01_PORT": str(self._port),
            "DS01_HUB_ID": self.id,
            "DS01_SUBNET": f"172.30.{next(_numbers)}.0/24",
            "DS01_POLICY": str(folder / "policy.yaml"),
            "DS01_GPUS": f"simulated:{gpus}",
            "DS01_ENGINE": engine_url,
            "DS01_STANDIN": standin_image,
            "DS01_CA": str(folder / "ca.pem"),
        }
        command = [sys.executable, "-m", "jupyterhub", "-f", str(REPO / "jupyterhub_config.py")]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, f"--JupyterHub.bind_url={self.url}"],
                cwd=self.data,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> None:
        """Return when it serves."""
        wait_for(self._serves, "the hub to serve", 120)

    def _serves(self) -> bool:
        assert self._process.poll() is None, f"the hub ended:\n{self.log.read_text()[-3000:]}"
        with suppress(requests.ConnectionError):
            return requests.get(f"{self.url}hub/health", timeout=10).status_code == 200
        return False

    def close(self) -> None:
        """End hub and proxy; remove its containers, volumes and network, not its images."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(30)
        self._end_proxy()
        for container in self.containers():
            self.docker.remove_container(container["Id"], force=True, v=True)
        for volume in self.docker.volumes(filters={"name": self.id})["Volumes"] or ():
            self.docker.remove_volume(volume["Name"], force=True)
        for network in self.docker.networks(names=[self.id]):
            self.docker.remove_network(network["Id"])

    def _end_proxy(self) -> None:
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = int((self.data / "proxy.pid").read_text())
            if str(self._port) in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGTERM)

    def new_student(self) -> str:
        """The name of a user whom no other test has."""
        return next(self._unused)

    # --- what is there, from the outside ---------------------------------------------------------

    def containers(self, user: str = "") -> list[Any]:
        """The engine's own list of this hub's containers, or of one user's."""
        labels = [f"ds01.hub={self.id}", *([f"ds01.user={user}"] if user else [])]
        found: list[Any] = self.docker.containers(all=True, filters={"label": labels})
        return found

    def leased(self, user: str) -> list[str]:
        """The devices that the ledger says the user has."""
        return [uuid for uuid, in self._rows("SELECT device FROM lease JOIN lease_device "
                "ON lease.id = lease_device.lease WHERE user = ?", user)]  # fmt: skip

    def leases(self, user: str) -> int:
        """How many leases the user has, with devices or without."""
        return len(list(self._rows("SELECT id FROM lease WHERE user = ?", user)))

    def kept(self, user: str) -> bool:
        """Whether the user's server was kept for more than an hour from now."""
        ((until,),) = self._rows("SELECT keep_until FROM lease WHERE user = ?", user)
        hour = timedelta(hours=1)
        return bool(until) and datetime.fromisoformat(until) > datetime.now(timezone.utc) + hour

    def places(self, user: str) -> int:
        """How many of the user's servers wait in the line."""
        return len(list(self._rows("SELECT id FROM ticket WHERE user = ?", user)))

    def _rows(self, query: str, user: str) -> Iterator[tuple[str]]:
        file = self.data / "simulated/ledger.sqlite"
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as db:
            yield from db.execute(query, (user,)).fetchall()

    def in_container(self, user: str, *command: str) -> str:
        """What a command printed in the user's one container, run as its user."""
        (container,) = self.containers(user)
        made = self.docker.exec_create(container["Id"], list(command))
        output: str = self.docker.exec_start(made["Id"]).decode()
        return output

    def building(self) -> list[Any]:
        """The containers that are nobody's: each is a step of a build."""
        return steps_of_builds(self.docker)

    @contextmanager
    def held_build(self) -> Iterator[Future[Any]]:
        """Freezes the next install of a student's packages until the end; the result: it is frozen.

        It is over so quickly that a page about it might never be seen.
        """
        with ThreadPoolExecutor(1) as pool:
            frozen = pool.submit(wait_for, self._freeze, "an install of packages", BUILD_S)
            yield frozen
            for container in self.building():
                with suppress(APIError):  # it was given up
                    self.docker.unpause(container["Id"])

    def _freeze(self) -> bool:
        for container in self.building():
            if "requirements.txt" in container["Command"]:
                with suppress(APIError):  # not yet running
                    self.docker.pause(container["Id"])
                    return True
        return False

    def forget_images(self, pip: str) -> None:
        """Remove derived images with just this Python package: the next start builds again."""
        made = {"label": ["ds01.image.managed=true", f"ds01.pip={pip}"]}
        for image in self.docker.images(filters=made):
            self.docker.remove_image(image["Id"], force=True)
        self.docker.prune_images({"dangling": True})  # layers of builds that were given up
