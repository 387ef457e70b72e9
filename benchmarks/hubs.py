"""A real JupyterHub as a process of its own, whose users click through its REST API.

A click is a POST; a start that takes longer than the hub's own patience with a request is waited
for on its progress stream, as a browser does; then the server's own `/api` is asked through the
proxy. Nothing is polled while the hub works, so that the asking costs neither system anything.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import AsyncHTTPClient, HTTPError, HTTPRequest, HTTPResponse

from benchmarks.systems import CLICK_SECONDS, CannotMeasure, Outcome, Probes

UP_SECONDS = 120.0
DOWN_SECONDS = 30.0
BUILD_SECONDS = 1800.0
CLEAR_SECONDS = 240.0
TAIL_LINES = 25


class Hub:
    """One hub with its proxy, from a configuration of settings and a last line.

    `each_user`: whether the warm-up starts a server of each user, because their first start does
    more than their second.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        hub_ip: str,
        settings: Mapping[str, object],
        *,
        last_line: str = "",
        environment: Mapping[str, str] | None = None,
        each_user: bool = False,
    ) -> None:
        self.name = name
        self._folder = folder
        self._each_user = each_user
        self._environment = dict(environment or {})
        self._token = secrets.token_hex(16)
        self._port, api_port, hub_port = free_ports(3)
        self._url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._http = AsyncHTTPClient(force_instance=True, max_clients=1000)
        self._probes = Probes()
        lines = [f"c.{key} = {value!r}" for key, value in {
            "JupyterHub.bind_url": self._url,
            "JupyterHub.hub_ip": hub_ip,
            "JupyterHub.hub_port": hub_port,
            "ConfigurableHTTPProxy.api_url": f"http://127.0.0.1:{api_port}",
            "ConfigurableHTTPProxy.pid_file": str(folder / "proxy.pid"),
            "JupyterHub.db_url": f"sqlite:///{folder}/jupyterhub.sqlite",
            "JupyterHub.cookie_secret_file": str(folder / "cookie_secret"),
            "JupyterHub.authenticator_class": "dummy",
            "Authenticator.allow_all": True,
            "JupyterHub.services": [
                {"name": "benchmark", "admin": True, "api_token": self._token}
            ],
            "JupyterHub.authenticate_prometheus": False,
            "JupyterHub.cleanup_servers": False,
            **settings,
        }.items()]  # fmt: skip
        folder.mkdir(mode=0o700)
        self._config = folder / "jupyterhub_config.py"
        self._config.write_text("\n".join(["c = get_config()", *lines, last_line, ""]))

    # --- its life ----------------------------------------------------------------------------

    async def begin(self, users: Sequence[str]) -> None:
        """Start the hub, wait until it answers, and make the users."""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - nobody waits on this loop yet
                [sys.executable, "-m", "jupyterhub", "-f", str(self._config)],
                cwd=self._folder,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches it once, through `end`
            )
        end = time.monotonic() + UP_SECONDS
        while not await self._healthy():
            if self._process.poll() is not None or time.monotonic() > end:
                raise CannotMeasure(f"the hub of {self.name} did not start:\n{self.tail()}")
            await asyncio.sleep(0.2)
        for user in users:
            await self._api("POST", f"/users/{user}")

    async def _healthy(self) -> bool:
        with suppress(OSError, HTTPError):
            return int((await self._ask("GET", f"{self._url}/hub/health")).code) == 200
        return False

    @property
    def log(self) -> Path:
        """What the hub wrote."""
        return self._folder / "hub.log"

    def tail(self) -> str:
        """The end of the hub's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])

    def end(self) -> None:
        """End the hub, politely first, and its proxy, which a hub that broke down leaves."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(DOWN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(OSError, ValueError):
            proxy = int((self._folder / "proxy.pid").read_text())
            if b"configurable-http-proxy" in Path(f"/proc/{proxy}/cmdline").read_bytes():
                os.kill(proxy, signal.SIGTERM)

    # --- as its users ------------------------------------------------------------------------

    async def warm_up(self, users: Sequence[str]) -> None:
        """Start and end servers once; the first start may build an image."""
        first = await self.click(users[0], BUILD_SECONDS)
        if first.seconds is None:
            raise CannotMeasure(f"{self.name}: no server starts: {first.why}\n{self.tail()}")
        await self.clear(users[:1])
        rest = users[1:] if self._each_user else ()
        for at in range(0, len(rest), 2):
            await asyncio.gather(*(self.click(user) for user in rest[at : at + 2]))
            await self.clear(rest[at : at + 2])

    async def click(self, user: str, limit: float = CLICK_SECONDS) -> Outcome:
        """From the POST to the server's own answer through the proxy."""
        began = time.monotonic()
        asked = await self._api("POST", f"/users/{user}/server", limit)
        if asked.code == 202:
            why = await self._wait_on_progress(user, began + limit - time.monotonic())
        else:
            why = "" if asked.code == 201 else f"{asked.code}: {asked.body.decode()[:300]}"
        if why:
            return Outcome(None, why)
        deadline = began + limit
        if await self._probes.until_ready("127.0.0.1", self._port, f"/user/{user}/api", deadline):
            return Outcome(time.monotonic() - began)
        return Outcome(None, f"no answer through the proxy in {limit:g} s")

    async def _wait_on_progress(self, user: str, limit: float) -> str:
        """Wait until the start has ended; why it failed, or nothing."""
        events = bytearray()
        path = f"/users/{user}/server/progress"
        try:
            answer = await self._api("GET", path, limit, streaming_callback=events.extend)
        except (OSError, HTTPError) as error:
            return f"its progress stream ended: {error}"
        lines = [line[5:] for line in bytes(events).splitlines() if line.startswith(b"data:")]
        last: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        if last.get("ready"):
            return ""
        if answer.code == 400:  # it ended before we asked: ready or not, the proxy knows
            return ""
        return str(last.get("message") or f"its progress stream ended ({answer.code})")

    async def clear(self, users: Sequence[str]) -> None:
        """Stop the users' servers and wait until the hub has none."""
        await asyncio.gather(*(self._clear(user) for user in users))

    async def _clear(self, user: str) -> None:
        end = time.monotonic() + CLEAR_SECONDS
        while time.monotonic() < end:
            await self._api("DELETE", f"/users/{user}/server", 120)
            model = json.loads((await self._api("GET", f"/users/{user}")).body)
            if not model["servers"]:
                return
            await asyncio.sleep(0.5)

    async def phases(self) -> dict[str, tuple[float, float]]:
        """The sums and counts of `ds01_phase_seconds`, of phases that were done."""
        text = (await self._ask("GET", f"{self._url}/hub/metrics")).body.decode()
        found: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(text):
            if family.name != "ds01_phase_seconds":
                continue
            for sample in family.samples:
                if sample.labels.get("outcome") == "done":
                    phase = found.setdefault(sample.labels["phase"], {})
                    phase[sample.name.rpartition("_")[2]] = sample.value
        return {phase: (values["sum"], values["count"]) for phase, values in found.items()}

    async def _api(self, method: str, path: str, limit: float = 60.0, **more: Any) -> HTTPResponse:
        return await self._ask(method, f"{self._url}/hub/api{path}", limit, **more)

    async def _ask(self, method: str, url: str, limit: float = 60.0, **more: Any) -> HTTPResponse:
        request = HTTPRequest(
            url,
            method=method,
            headers={"Authorization": f"token {self._token}"},
            body=b"" if method == "POST" else None,
            connect_timeout=limit,
            request_timeout=max(limit, 1),
            **more,
        )
        return await self._http.fetch(request, raise_error=False)


def free_ports(count: int) -> list[int]:
    """Ports of this host on which nothing listens now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("0.0.0.0", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
