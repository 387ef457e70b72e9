"""A hub in the test's own process: the real JupyterHub and proxy, on the fake engine.

The containers' network is in 127.0.0.0/8, so that the addresses the fake gives out are real ones:
`Notebooks` answers HTTP there for each container that runs, and nothing of the way to a server has
to be put aside.
"""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jupyterhub import app
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from traitlets.config import Config

import ds01_spawner
from ds01_spawner.hub.runtime import Runtime
from ds01_spawner.hub.spawner import DS01Spawner
from ds01_spawner.services.engine import Json
from ds01_spawner.services.ledger import Lease
from tests.hub.clients import PATIENCE_S, Browser, server_path, until
from tests.hub.notebooks import HubEngine, Notebooks
from tests.ports import free_port

TOKEN = "token-of-the-tests"
BASE = "base:1"
CATALOG = """\
Pytorch, 2.8.0, [CUDA_AMPERE], aimehub/pytorch-2.8.0
Pytorch, 2.7.1, [CUDA_AMPERE], aimehub/pytorch-2.7.1
Pytorch, 2.8.0, [CUDA_ADA], aimehub/pytorch-2.8.0-ada
Tensorflow, 2.16.1, [CUDA_ADA], aimehub/tensorflow-2.16.1
Pytorch, 2.5.1, [ROCM6], aimehub/pytorch-2.5.1-rocm
"""


class JupyterHub(app.JupyterHub):
    """Configured by hand, on the test's own loop; of the name that its log has."""

    def load_config_file(self, *args: Any, **kwargs: Any) -> None:
        """There is none."""

    def init_signal(self) -> None:
        """Signals are pytest's."""

    def init_logging(self) -> None:
        """Logging is pytest's."""

    def init_eventlog(self) -> None:
        """JupyterHub 5 has a schema whose form is deprecated."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().init_eventlog()

    async def end(self) -> None:
        """What the end of its process ends."""
        for user in list(self.users.values()):
            for spawner in list(user.spawners.values()):
                spawner.stop_polling()
        process = self.proxy.proxy_process
        if self.http_server is not None:  # it had started
            self.http_server.stop()
            await self.http_server.close_all_connections()
            self.metrics_collector.stop()
        for callback in self._periodic_callbacks.values():
            callback.stop()
        await self.cleanup()
        if process is not None:
            process.wait(PATIENCE_S)
        self.db.close()
        self.db.get_bind().dispose()
        type(self).clear_instance()


class World:
    """One hub, its engine, and a clock that tests move."""

    def __init__(
        self,
        folder: Path,
        gpus: str,
        policy: str,
        more: Callable[[Config], None],
    ) -> None:
        self.folder = folder
        self.engine = HubEngine()
        self.notebooks = Notebooks(self.engine)
        self.policy = folder / "policy.yaml"
        self.policy.write_text(policy)
        self.catalog = folder / "catalog.repo"
        self.catalog.write_text(CATALOG)
        self.hub: JupyterHub
        self.passed = timedelta(0)
        self._gpus, self._more = gpus, more
        self._ports = {name: free_port() for name in ("public", "proxy", "hub")}
        self._client = AsyncHTTPClient(force_instance=True, max_clients=100)

    def now(self) -> datetime:
        return datetime.now(timezone.utc) + self.passed

    # --- its life ----------------------------------------------------------------------------

    def config(self) -> Config:
        c = Config()
        c.JupyterHub.bind_url = f"http://127.0.0.1:{self._ports['public']}/under/"
        c.JupyterHub.hub_port = self._ports["hub"]
        c.JupyterHub.db_url = f"sqlite:///{self.folder}/hub.sqlite"
        c.JupyterHub.cookie_secret = b"x" * 32
        c.JupyterHub.authenticator_class = "dummy"
        c.JupyterHub.allow_named_servers = True
        c.JupyterHub.tornado_settings = {"slow_stop_timeout": 1}
        c.JupyterHub.services = [{"name": "tests", "api_token": TOKEN}]
        c.JupyterHub.load_roles = [
            {"name": "tests", "services": ["tests"],
             "scopes": ["admin:users", "admin:servers", "admin:groups", "admin:server_state"]},
        ]  # fmt: skip
        c.Authenticator.allow_all = True
        c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{self._ports['proxy']}"
        c.ConfigurableHTTPProxy.auth_token = TOKEN
        c.ConfigurableHTTPProxy.pid_file = str(self.folder / "proxy.pid")
        s = c.DS01Spawner
        s.data_dir = str(self.folder / "data")
        s.policy_file = str(self.policy)
        s.catalog_file = str(self.catalog)
        s.image_map = {"*": BASE}
        s.gpus = self._gpus
        s.port = self.notebooks.port
        s.network_subnet = "127.77.0.0/24"
        s.build_network = "bridge"  # the fake engine's containers run nothing
        self._more(c)
        return c

    async def begin(self) -> None:
        """Start the hub, as `jupyterhub` with a configuration file does."""
        c = self.config()
        ds01_spawner.configure(c)
        self.hub = JupyterHub.instance(config=c)
        await self.hub.initialize([])
        await self.hub.start()

    async def end(self) -> None:
        """End the hub's process; servers go on."""
        await self.runtime.end()
        await self.hub.end()

    async def close(self) -> None:
        """End everything."""
        await self.end()
        await self.notebooks.end()
        self.engine.end_calls()
        self._client.close()

    # --- speaking to the hub -----------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports['public']}/under/"

    async def fetch(self, path: str, method: str = "GET", **more: Any) -> HTTPResponse:
        """One request to the hub, redirects not followed, no status an exception."""
        return await self._client.fetch(
            f"{self.url}hub/{path}", method=method, follow_redirects=False, raise_error=False,
            allow_nonstandard_methods=True, request_timeout=PATIENCE_S, **more,
        )  # fmt: skip

    async def api(self, method: str, path: str, body: object = None) -> HTTPResponse:
        """One call of the hub's REST API."""
        return await self.fetch(
            f"api/{path}", method, headers={"Authorization": f"token {TOKEN}"},
            body=None if body is None else json.dumps(body),
        )  # fmt: skip

    async def start(self, user: str, options: object = None, server: str = "") -> HTTPResponse:
        """Start a server by REST and wait until the start has ended, well or not."""
        answer = await self.api("POST", server_path(user, server), options)
        if answer.code == 202:
            await self.settled(user, server)
        return answer

    async def stop(self, user: str, server: str = "") -> HTTPResponse:
        answer = await self.api("DELETE", server_path(user, server))
        await self.settled(user, server)
        return answer

    @asynccontextmanager
    async def undisturbed(self) -> AsyncIterator[None]:
        """While it lasts, no reconciliation asks the engine; one that is under way has ended."""
        await self.runtime.ready()  # whose own one comes with a hub's first start
        async with self.runtime.reconciler._one:
            yield

    async def settled(self, user: str, server: str = "") -> None:
        """Wait until nothing is pending of a server."""
        spawners = self.hub.users[unquote(user)].spawners
        await until(lambda: server not in spawners or not spawners[server].pending)

    async def model(self, user: str) -> dict[str, Any]:
        return json.loads((await self.api("GET", f"users/{user}")).body)

    async def browser(self, user: str) -> Browser:
        """A browser in which the user has logged in."""
        browser = Browser(self.fetch)
        page = await browser.get("login")
        answer = await browser.post("login", {"username": user, "password": "x"})
        assert (page.code, answer.code) == (200, 302), answer.body
        await browser.get("home")
        return browser

    async def events(self, user: str, server: str = "") -> list[dict[str, Any]]:
        """What the progress page is sent, to its end."""
        answer = await self.api("GET", f"{server_path(user, server)}/progress")
        lines = answer.body.decode().splitlines()
        return [json.loads(x.removeprefix("data: ")) for x in lines if x.startswith("data: ")]

    # --- looking -----------------------------------------------------------------------------

    @property
    def runtime(self) -> Runtime:
        runtime = Runtime._one
        assert runtime is not None
        return runtime

    def spawner(self, user: str, server: str = "") -> DS01Spawner:
        spawner = self.hub.users[user].spawners[server]
        assert isinstance(spawner, DS01Spawner)
        return spawner

    def containers(self, user: str, server: str | None = None) -> list[Json]:
        return [
            c for c in self.engine.containers.values()
            if c["Config"]["Labels"].get("ds01.user") == user
            and server in (None, c["Config"]["Labels"]["ds01.server"])
        ]  # fmt: skip

    def container(self, user: str, server: str = "") -> Json:
        (container,) = self.containers(user, server)
        return container

    async def leases(self, user: str) -> list[Lease]:
        return [lease for lease in await self.runtime.leases() if lease.user == user]

    async def left_of(self, user: str) -> tuple[list[str], list[str]]:
        """Names of the user's containers, and states of the user's leases."""
        return (
            [c["Name"].strip("/") for c in self.containers(user)],
            [lease.state for lease in await self.leases(user)],
        )

    def told(self, user: str) -> list[str]:
        """The types of the user's events in the event log."""
        lines = (self.folder / "data" / "events.jsonl").read_text().splitlines()
        return [e["event_type"] for e in map(json.loads, lines) if e.get("user") == user]

    def created(self, user: str, server: str = "") -> Json:
        """The body of the last create call for a server."""
        bodies = [call.args[1] for call in self.engine.made("create_container")]
        asked = {"ds01.user": user, "ds01.server": server}
        return next(b for b in reversed(bodies) if asked.items() <= b["Labels"].items())

    def touched(self, before: int) -> list[str]:
        """The engine's calls since then that were more than looking."""
        looks = ("inspect_", "list_", "info", "version", "free_disk", "events")
        return [c.method for c in self.engine.calls[before:] if not c.method.startswith(looks)]

    # --- making trouble ----------------------------------------------------------------------

    @contextmanager
    def blocked(self, method: str) -> Iterator[asyncio.Event]:
        """Let calls of this method wait until the event is set, or the block ends."""
        gate = self.engine.block(method)
        try:
            yield gate
        finally:
            gate.set()

    @contextmanager
    def away(self) -> Iterator[None]:
        """The engine does not answer."""
        self.engine.unreachable = True
        try:
            yield
        finally:
            self.engine.unreachable = False

    @asynccontextmanager
    async def starting(
        self, user: str, options: object = None, server: str = "", at: str = ""
    ) -> AsyncIterator[asyncio.Event]:
        """A start that hangs in a call of the engine, until the event is set."""
        with self.blocked(at) as gate:
            before = len(self.engine.made(at))
            request = asyncio.ensure_future(
                self.api("POST", server_path(user, server), options or {"user_options": {}})
            )
            await asyncio.wait_for(self.engine.reached(at, before + 1), PATIENCE_S)
            yield gate
        await asyncio.wait_for(request, PATIENCE_S)
