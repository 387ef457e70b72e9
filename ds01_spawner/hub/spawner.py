"""DS01Spawner: the order of a start's phases, and how a server is watched and ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any

from dockerspawner import DockerSpawner
from tornado.web import HTTPError
from traitlets import Any as AnyTrait
from traitlets import default

from ds01_spawner.core.container import Mount
from ds01_spawner.core.server_image import SERVER_COMMAND
from ds01_spawner.errors import DS01Error, LedgerBusy, RenameRefused
from ds01_spawner.hub import containers, pages
from ds01_spawner.hub.endings import Ending, broken_off, ending_of
from ds01_spawner.hub.inherited import check_inherited
from ds01_spawner.hub.losses import Loss, loss_of
from ds01_spawner.hub.offers import Ceilings
from ds01_spawner.hub.phases import Start
from ds01_spawner.hub.planning import Asker
from ds01_spawner.hub.progress import ProgressLog
from ds01_spawner.hub.refusals import QuietForm, to_http_error
from ds01_spawner.hub.runtime import Runtime
from ds01_spawner.services import wiring
from ds01_spawner.services.engine import EngineNotFound, EngineRefused
from ds01_spawner.services.ledger import Ledger
from ds01_spawner.services.metrics import REFUSALS, STARTS, UNKNOWN_POLLS
from ds01_spawner.services.settings import Settings

STATE_SCHEMA = 1
STOP_SECONDS = 10


class DS01Spawner(Settings, DockerSpawner):
    """Notebook servers from a catalog of framework images, with GPUs given out exactly once.

    Its own traits are the wiring (`Settings`); limits and presets are in the policy file. Of the
    parents' traits, `hub/inherited.py` says which are honoured, a ceiling, or refused.
    """

    # --- traits of the parents: other defaults ------------------------------------------------

    # JupyterHub 5 saves any JSON that a REST call sends, before anybody can refuse it; as a Dict,
    # saved junk would then keep its user from every page.
    user_options = AnyTrait({})

    @default("start_timeout")
    def _start_timeout_default(self) -> int:
        # start() contains the pull of an image and a build; each tells by itself that it is late.
        return self.pull_timeout + self.build_timeout + 300

    @default("http_timeout")
    def _http_timeout_default(self) -> int:
        return 120

    @default("port")
    def _port_default(self) -> int:
        return 8888

    @default("ip")
    def _ip_default(self) -> str:
        return "0.0.0.0"  # noqa: S104 - in the container's own network namespace

    @default("prefix")
    def _prefix_default(self) -> str:
        return "ds01"

    @default("options_form")
    def _options_form_default(self) -> Callable[..., Any]:
        return pages.render_form

    @default("options_from_form")
    def _options_from_form_default(self) -> Callable[..., Any]:
        return pages.read_form

    @default("apply_user_options")
    def _apply_user_options_default(self) -> Callable[..., Any]:
        return pages.validate_options

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_inherited(self.config)
        self.progress_log: ProgressLog | None = None
        self.lease_id = ""
        self._starting: asyncio.Task[Any] | None = None
        self._undoing: asyncio.Task[None] | None = None

    @property
    def runtime(self) -> Runtime:
        """What all servers of this hub share."""
        runtime = Runtime.of(self)
        runtime.begin()
        return runtime

    @property
    def group_names(self) -> tuple[str, ...]:
        """The user's groups in JupyterHub."""
        return tuple(group.name for group in self.user.groups) if self.user else ()

    @property
    def ceilings(self) -> Ceilings:
        """What the traits of the parents allow at most."""
        return Ceilings(cpus=self.cpu_limit, memory=self.mem_limit)

    @property
    def _key(self) -> tuple[str, str]:
        return (self.user.name, self.name)

    @property
    def ending(self) -> Ending | None:
        """What the hub's pages tell of its end; None while that is far."""
        lease = self.runtime.watch.lease_of(*self._key) if self.object_id else None
        return ending_of(lease, wiring.now(), self.runtime.settings) if lease else None

    @property
    def loss(self) -> Loss | None:
        """What the hub's pages tell of its GPU; None while that is well."""
        return loss_of(self.runtime.watch.lease_of(*self._key)) if self.object_id else None

    @property
    def broken_off(self) -> tuple[str, ...]:
        """What the hub's pages tell of this user's starts that an earlier hub process began."""
        told = self.runtime.broken_off.items()
        return tuple(message for (user, _), message in told if user == self.user.name)

    # --- the way of one start -------------------------------------------------------------------

    def options_from_query(self, query: Mapping[str, list[str]]) -> dict[str, Any]:
        """A GET never starts a server: the form opens, filled in."""
        raise QuietForm

    async def start(self) -> tuple[str, int]:
        """Start the server; its address and port. Leaves nothing behind when it fails."""
        self.progress_log = progress = ProgressLog()
        self.runtime.broken_off.pop(self._key, None)
        start = Start(self.runtime, self.asker(), progress)
        self._starting = asyncio.current_task()
        try:
            await start.resolve()
            await start.admit()
            await start.prepare_image()
            await start.take_lease()
            await start.create()
            await start.start()
            self.object_id = start.container
            self.object_name = start.name
            address = await start.answers()
            self.lease_id = start.lease.id if start.lease else ""
            self.runtime.servers[self._key] = self
        except BaseException as error:
            self.object_id = ""
            self._undoing = self.runtime.keep(start.undo(error))
            if isinstance(error, Exception):  # who cancels comes to stop(), and waits there
                await asyncio.shield(self._undoing)
            raise self._told(error) from None
        finally:
            self._starting = None
            progress.close()
        STARTS.labels(outcome="ready").inc()
        return address

    def _told(self, error: BaseException) -> BaseException:
        """The error as the hub shows it; a cancel stays a cancel."""
        if not isinstance(error, Exception):
            STARTS.labels(outcome="cancelled").inc()
            return error
        refused = isinstance(error, DS01Error) and error.status < 500
        STARTS.labels(outcome="refused" if refused else "failed").inc()
        if isinstance(error, DS01Error):
            REFUSALS.labels(code=error.code).inc()
            if error.detail:
                self.log.warning("%s: %s (%s)", self._log_name, error.message, error.detail)
        elif not isinstance(error, HTTPError):
            self.log.error("Start of %s failed", self._log_name, exc_info=error)
        return to_http_error(error)

    def asker(self) -> Asker:
        """The facts of a start that only the spawner knows."""
        return Asker(
            user=self.user.name,
            server=self.name,
            groups=self.group_names,
            options=self.user_options,
            prefix=self.prefix,
            port=self.port,
            ready_path=f"{self.server.base_url if self.server else '/'}api",
            ready_timeout=float(self.http_timeout),
            ceilings=self.ceilings,
            mounts=self._admin_mounts(),
            environment=self.get_env,
            command=lambda: tuple([*(self.cmd or [SERVER_COMMAND]), *self.get_args()]),
        )

    def _admin_mounts(self) -> tuple[Mount, ...]:
        """The admin's `volumes` and `read_only_volumes`, their templates filled in."""
        return tuple(
            Mount(source, bind["bind"], bind.get("mode") == "ro")
            for source, bind in self.volume_binds.items()
        )

    def get_env(self) -> dict[str, str]:
        """The environment of the server, from the hub; devices are added by the plan."""
        env = super().get_env()
        env.pop("JUPYTER_IMAGE_SPEC", None)
        # Where TensorBoard's pages are for the browser; the server passes them on.
        prefix = env.get("JUPYTERHUB_SERVICE_PREFIX", "/")  # none before the first start
        env["TENSORBOARD_PROXY_URL"] = f"{prefix}proxy/%PORT%/"
        return {key: str(value) for key, value in env.items()}

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """The events of the start that runs, from its beginning, for each reader."""
        if self.progress_log is not None:
            async for event in self.progress_log.read():
                yield event

    # --- watching and ending ----------------------------------------------------------------------

    async def poll(self) -> int | None:
        """None while it runs or nobody knows; else its exit status. Never raises."""
        if self._starting or (self._undoing is not None and not self._undoing.done()):
            return None  # so that the hub calls stop(), which waits
        if not self.object_id:
            return 0
        try:
            seen = await self.runtime.engine.inspect_container(self.object_id)
        except EngineNotFound:
            return 0
        except Exception as error:
            UNKNOWN_POLLS.inc()
            self.log.warning("The state of %s is not known: %s", self._log_name, error)
            return None
        state = seen["State"]
        if state["Running"] or state.get("Paused") or state.get("Restarting"):
            return 0 if await self._is_left_to_reconcile() else None
        self.runtime.reconcile_soon()
        return int(state.get("ExitCode") or 0)

    async def _is_left_to_reconcile(self) -> bool:
        """Whether an earlier hub process began to stop it: nobody shall wait for its answer."""
        runtime = self.runtime
        with suppress(DS01Error):
            hub = runtime.settings.hub_id
            lease = await runtime.in_ledger(Ledger.lease_of, hub, *self._key)
            if lease is not None and lease.state == "releasing" and lease.changed is not None:
                return lease.id == self.lease_id and lease.changed < runtime.began
        return False

    async def stop(self, now: bool = False) -> None:
        """Stop and remove the container, wait until it is gone, then release its lease.

        Raises while the engine does not answer: the lease stays, as the container may.
        """
        if self._starting is not None:  # the hub's cancel did not reach it
            self._starting.cancel()
            await asyncio.wait([self._starting])
        if self._undoing is not None:
            await asyncio.shield(self._undoing)
        if not self.object_id:
            return
        await asyncio.shield(self.runtime.keep(self._stop(0 if now else STOP_SECONDS)))

    async def _stop(self, seconds: int) -> None:
        runtime, container, lease = self.runtime, self.object_id, self.lease_id
        if lease:
            with suppress(LedgerBusy):  # as on a full disk: reconcile then finds the lease without
                await runtime.in_ledger(Ledger.releasing, lease)
        with suppress(EngineNotFound):
            await runtime.engine.stop_container(container, seconds)
        await containers.remove(runtime, container)
        if lease:
            await runtime.in_ledger(Ledger.release, lease)
            runtime.line.soon()
        for event in ("container.stop", "gpu.release"):
            runtime.events.write(event, self.user.name, server=self.name, lease=lease)
        self.clear_state()

    def get_state(self) -> dict[str, Any]:
        """What a hub that restarts needs to find the server again."""
        state: dict[str, Any] = super().get_state()
        if self.object_id:
            state["ds01"] = {"schema": STATE_SCHEMA, "lease": self.lease_id}
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Find the server of an earlier hub process again."""
        super().load_state(state)
        self.lease_id = str((state.get("ds01") or {}).get("lease", ""))
        if self.object_id:
            self.runtime.servers[self._key] = self
        elif self.server is not None:  # the hub has that from a start's beginning on
            self.runtime.broken_off[self._key] = broken_off(self.name)

    def clear_state(self) -> None:
        """Forget the container; its lease is the ledger's, and not released here."""
        super().clear_state()
        if self.runtime.servers.get(self._key) is self:
            del self.runtime.servers[self._key]
        self.object_id = ""
        self.lease_id = ""

    async def get_url(self) -> str:
        """The address now: it changes when the engine restarts the container.

        Never raises: the hub asks at its start, and would not start.
        """
        address = ""
        with suppress(DS01Error, EngineRefused):
            address = await containers.address(self.runtime, self.object_id)
        if not address:
            return str(self.server.url)
        return f"http://{address}:{self.port}{self.server.base_url}"

    async def rename(self, old_name: str, new_name: str) -> None:
        """Refused while it runs: the name is in the container's name and labels."""
        if self.object_id:
            raise to_http_error(RenameRefused(old_name))
