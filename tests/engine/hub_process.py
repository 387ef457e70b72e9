"""A real JupyterHub with DS01Spawner as a process of its own, on the tests' engine.

The engine and browser tiers start it with the interpreter that runs the tests, so that each
JupyterHub is tested with its own. Everything of one hub carries its `id`: containers (label
`ds01.hub`), volumes and network (name).
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from tests.conftest import wait_for
from tests.ports import free_port

if TYPE_CHECKING:
    from docker import APIClient

HERE = Path(__file__).parent
CATALOG = "Pytorch, 2.8.0, [CUDA_ADA], aimehub/pytorch-2.8.0-cuda12.6.3\n"
POLICY = """\
defaults:
  max_cpus: 1
  memory: 1G
  memory_swap: 1G
  shm_size: 96M
  pids_limit: 300
  max_gpu_equivalents: 1
  max_gpu_slots_per_container: 1
  allow_full_gpu: true
  max_containers_per_user: 2
"""
CONFIG = """\
from pathlib import Path

import ds01_spawner

c = get_config()
folder = Path({folder!r})
c.JupyterHub.bind_url = {url!r}
c.JupyterHub.hub_port = {hub_port}
c.ConfigurableHTTPProxy.api_url = {proxy_api!r}
c.ConfigurableHTTPProxy.pid_file = str(folder / "proxy.pid")
c.JupyterHub.db_url = f"sqlite:///{{folder}}/jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = str(folder / "cookie_secret")
c.JupyterHub.tornado_settings = {{
    "slow_spawn_timeout": {slow_spawn}, "slow_stop_timeout": 120,
}}
c.JupyterHub.authenticate_prometheus = False
c.JupyterHub.allow_named_servers = True
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {password!r}
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {{"admin"}}
c.JupyterHub.services = [{{"name": "bench", "api_token": {token!r}}}]
c.JupyterHub.load_roles = [{{
    "name": "bench",
    "services": ["bench"],
    "scopes": ["admin:users", "admin:servers", "tokens", "access:servers"],
}}]
c.DS01Spawner.hub_id = c.DS01Spawner.prefix = c.DS01Spawner.network = {id!r}
c.DS01Spawner.network_subnet = {subnet!r}
c.DS01Spawner.engine_url = {engine_url!r}
c.DS01Spawner.data_dir = str(folder / "data")
c.DS01Spawner.catalog_file = str(folder / "catalog.repo")
c.DS01Spawner.policy_file = str(folder / "policy.yaml")
c.DS01Spawner.image_map = {{"*": {base_image!r}}}
c.DS01Spawner.architectures = ["CUDA_ADA"]
c.DS01Spawner.gpus = {gpus!r}
c.DS01Spawner.ca_file = str(folder / "ca.pem")
c.DS01Spawner.min_free_disk = 1 << 30
c.DS01Spawner.start_concurrency = 4  # on small machines too: tests pause several at once
if {light}:
    program = Path({light_server!r}).read_text()
    c.DS01Spawner.cmd = ["/opt/ds01/server/bin/python", "-I", "-c", program]
{extra}
ds01_spawner.configure(c)
if {pauses}:
    from tests.engine import hub_pauses

    hub_pauses.install(folder)
"""
_numbers = itertools.count(16)


@dataclass(frozen=True)
class Outcome:
    """How a start ended: HTTP status (201: it runs), the words, and the progress events read."""

    status: int
    message: str = ""
    events: tuple[Mapping[str, Any], ...] = ()


class Hub:
    """One hub: its files, its process, and calls to it as an administrator or as a user.

    `light`: containers run `light_server.py` instead of a notebook server. `wait`: a request for
    a start is answered when it has ended; otherwise at once (202), and the progress is read.
    """

    def __init__(
        self,
        folder: Path,
        docker: APIClient,
        *,
        engine_url: str,
        base_image: str,
        ca_pem: bytes,
        light: bool = False,
        wait: bool = True,
        pauses: bool = False,
        gpus: str = "none",
        policy: str = POLICY,
        extra: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.docker = folder, docker
        self.id = f"t{secrets.token_hex(4)}"
        self.password = secrets.token_hex(8)
        self.url = f"http://127.0.0.1:{free_port()}"
        self.gateway = f"172.30.{next(_numbers)}.1"
        self.hub_port = free_port()
        self.token = secrets.token_hex(16)
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "hub-0.log"
        self._starts = 0
        self._environment = dict(environment or {})
        self._tokens: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "catalog.repo").write_text(CATALOG)
        (folder / "policy.yaml").write_text(policy)
        (folder / "ca.pem").write_bytes(ca_pem)
        (folder / "config.py").write_text(
            CONFIG.format(
                id=self.id,
                folder=str(folder),
                url=self.url,
                hub_port=self.hub_port,
                proxy_api=f"http://127.0.0.1:{free_port()}",
                slow_spawn=600 if wait else 0,
                password=self.password,
                token=self.token,
                subnet=f"{self.gateway}/24".replace(".1/", ".0/"),
                engine_url=engine_url,
                base_image=base_image,
                gpus=gpus,
                light=light,
                light_server=str(HERE / "light_server.py"),
                pauses=pauses,
                extra=extra,
            )
        )

    # --- the process -----------------------------------------------------------------------------

    def up(self) -> None:
        """Start the hub, and its proxy with it; returns when it serves."""
        self._starts += 1
        self.log = self.folder / f"hub-{self._starts}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "-f", "config.py"],
                cwd=self.folder,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_for(self._serves, "the hub to serve", 120)

    def _serves(self) -> bool:
        assert self.process is not None
        code = self.process.poll()
        assert code is None, f"the hub ended with {code}:\n{self.log.read_text()[-3000:]}"
        if "JupyterHub is now running" not in self.log.read_text():
            return False
        try:
            return requests.get(f"{self.url}/hub/api", timeout=10).status_code == 200
        except requests.ConnectionError:
            return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the hub a signal and wait for its end. After SIGKILL its proxy goes on."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(60)

    def crash(self) -> None:
        """Kill the hub and its proxy, as a service manager does with all of a service."""
        self.kill(signal.SIGKILL)
        self._end_proxy(signal.SIGKILL)

    def restart(self, number: int) -> None:
        """End the hub by the signal and start it again."""
        self.kill(number)
        self.up()

    def close(self) -> None:
        """End hub and proxy; remove its containers, volumes and network, not its images."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        self._end_proxy()
        for container in self.containers():
            self.docker.remove_container(container["Id"], force=True, v=True)
        for volume in self.docker.volumes(filters={"name": self.id})["Volumes"] or ():
            self.docker.remove_volume(volume["Name"], force=True)
        for network in self.docker.networks(names=[self.id]):
            self.docker.remove_network(network["Id"])

    def _end_proxy(self, number: int = signal.SIGTERM) -> None:
        try:
            pid = int((self.folder / "proxy.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_text()
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return
        if "configurable-http-proxy" in command and self.url.rpartition(":")[2] in command:
            os.kill(pid, number)
            wait_for(lambda: not _lives(pid), f"the end of the proxy {pid}")

    # --- calls -----------------------------------------------------------------------------------

    def api(self, method: str, path: str, token: str | None = None, **more: Any) -> Any:
        """A call of the hub's REST API, as the administrator or with another token."""
        headers = {"Authorization": f"token {self.token if token is None else token}"}
        more.setdefault("timeout", 700)
        return requests.request(method, f"{self.url}/hub/api{path}", headers=headers, **more)

    def page(self, path: str, token: str = "", **more: Any) -> Any:
        """A page through the proxy, such as /user/alice/; redirects are not followed."""
        headers = {"Authorization": f"token {token}"} if token else {}
        more = {"timeout": 60, "allow_redirects": False, **more}
        return requests.get(f"{self.url}{path}", headers=headers, **more)

    def token_of(self, user: str) -> str:
        """A token with all that the user may do; the user is made where missing."""
        if user not in self._tokens:
            self.make_user(user)
            answer = self.api("POST", f"/users/{user}/tokens", json={"note": "test"})
            assert answer.status_code == 201, answer.text
            self._tokens[user] = answer.json()["token"]
        return self._tokens[user]

    def make_user(self, user: str) -> None:
        """Have the user, as a log-in would make it."""
        answer = self.api("POST", f"/users/{user}")
        assert answer.status_code in (201, 409), answer.text

    def start(self, user: str, server: str = "", **options: Any) -> Outcome:
        """Start a server with these options, as an API client does, and wait for the outcome."""
        answer = self.api("POST", _server(user, server), json={"user_options": options})
        if answer.status_code == 202:
            events = tuple(self.progress(user, server))
            if events and events[-1].get("ready"):
                return Outcome(201, "", events)
            return Outcome(0, events[-1]["message"] if events else "", events)
        return Outcome(answer.status_code, _message(answer))

    def stop(self, user: str, server: str = "") -> int:
        """Stop a server and wait for it; the status of the answer."""
        status: int = self.api("DELETE", _server(user, server)).status_code
        if status == 202:
            wait_for(lambda: not self.runs(user, server), f"{user}'s server to stop")
        return status

    def progress(self, user: str, server: str = "") -> Iterator[Mapping[str, Any]]:
        """The events of the start that runs, until it has ended."""
        path = f"{_server(user, server)}/progress"
        with closing(self.api("GET", path, stream=True)) as answer:
            assert answer.status_code == 200, answer.text
            for line in answer.iter_lines():
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])

    def runs(self, user: str, server: str = "") -> bool:
        """Whether the hub has the server as ready."""
        answer = self.api("GET", f"/users/{user}")
        return bool(answer.json().get("servers", {}).get(server, {}).get("ready"))

    def active(self, user: str, server: str = "") -> bool:
        """Whether the hub has the server at all: ready, starting or stopping."""
        answer = self.api("GET", f"/users/{user}").json()
        return server in answer["servers"] or bool(answer.get("pending"))

    @contextmanager
    def behind(self) -> Iterator[Callable[..., Future[Any]]]:
        """Run calls in the background: `with hub.behind() as go: go(hub.start, "alice")`."""
        with ThreadPoolExecutor(8) as pool:
            yield pool.submit

    # --- what is there, from the outside ---------------------------------------------------------

    def containers(self) -> list[Any]:
        """The engine's own list of this hub's containers, ended ones too."""
        found: list[Any] = self.docker.containers(
            all=True, filters={"label": f"ds01.hub={self.id}"}
        )
        return found

    def container_of(self, user: str) -> Any:
        """What the engine says of the user's one container."""
        (found,) = [c for c in self.containers() if c["Labels"]["ds01.user"] == user]
        return self.docker.inspect_container(found["Id"])

    def address_of(self, user: str) -> str:
        """The address of the user's container in the servers' network."""
        return str(self.container_of(user)["NetworkSettings"]["Networks"][self.id]["IPAddress"])

    def leases(self) -> dict[str, str]:
        """user -> state of the live leases, read from the ledger's file."""
        file = self.folder / "data/ledger.sqlite"
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as db:
            return dict(db.execute("SELECT user, state FROM lease").fetchall())

    def holds(self, *users: str) -> bool:
        """Whether exactly these users have a container and a lease, one each."""
        have = sorted(c["Labels"]["ds01.user"] for c in self.containers())
        return have == sorted(users) == sorted(self.leases())

    def metric(self, name: str, **labels: str) -> float:
        """One of the hub's metrics; 0 where it has no value yet."""
        told = ",".join(f'{key}="{value}"' for key, value in labels.items())
        series = f"{name}{{{told}}}" if told else name
        for line in self.page("/hub/metrics").text.splitlines():
            if line.startswith(f"{series} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    # --- pauses ----------------------------------------------------------------------------------

    def pause(self, point: str) -> None:
        """Let whoever comes to this point of `hub_pauses` wait there."""
        for marker in self.folder.glob("at-*"):
            marker.unlink()
        (self.folder / "pause").write_text(point)

    def wait_paused(self, point: str, number: int = 1) -> None:
        """Wait until so many are there."""
        there = lambda: len(list(self.folder.glob(f"at-{point}.*"))) >= number  # noqa: E731
        wait_for(there, f"{number} at the point {point}", 120)

    def go_on(self) -> None:
        """Let them go on, and later ones pass."""
        (self.folder / "pause").unlink(missing_ok=True)


def inside(docker: APIClient, container: str, command: list[str] | str) -> str:
    """Run a command in a container as its user, text by a shell; what it printed."""
    if isinstance(command, str):
        command = ["bash", "-c", command]
    made = docker.exec_create(container, command)
    output: str = docker.exec_start(made["Id"]).decode()
    code = docker.exec_inspect(made["Id"])["ExitCode"]
    assert code == 0, f"{command} ended with {code}:\n{output}"
    return output


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _server(user: str, server: str) -> str:
    return f"/users/{user}/servers/{server}" if server else f"/users/{user}/server"


def _message(answer: Any) -> str:
    try:
        return str(answer.json().get("message", ""))
    except (ValueError, AttributeError):
        return str(answer.text)
