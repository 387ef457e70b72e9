"""`ds01_spawner.configure(c)`: what a hub needs besides the spawner class, in one call."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from traitlets.config import Config

from ds01_spawner.errors import EngineUnavailable
from ds01_spawner.hub.endings import EndingHandler, KeepHandler
from ds01_spawner.hub.inherited import check_inherited
from ds01_spawner.hub.line_api import TicketHandler
from ds01_spawner.hub.runtime import Runtime, network_of, told
from ds01_spawner.services import wiring
from ds01_spawner.services.settings import Settings, from_config

log = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent / "templates" / "hub"


class QuietFormFilter(logging.Filter):
    """Takes the traceback of a form that was opened by a link out of the hub's log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every other record."""
        error = record.exc_info[1] if record.exc_info else None
        return type(error).__name__ != "QuietForm"


def configure(c: Config) -> None:
    """Set the spawner class, the pages and the hub's address; start the shared parts.

    Call it at the end of `jupyterhub_config.py`. Raises TraitRefused for a setting that would
    not be honoured, and the files' own errors for a policy or catalog that cannot be used.
    """
    check_inherited(c)
    c.JupyterHub.spawner_class = "ds01_spawner.DS01Spawner"
    c.JupyterHub.cleanup_servers = False  # servers outlive the hub
    _prepend(c, TEMPLATES)
    handlers = c.JupyterHub.get("extra_handlers")
    handlers = list(handlers) if isinstance(handlers, list) else []
    c.JupyterHub.extra_handlers = [
        *handlers,
        (r"/ds01/keep", KeepHandler),
        (r"/api/ds01/ending/([^/]+)/([^/]*)", EndingHandler),
        (r"/api/users/([^/]+)/server/ticket", TicketHandler),
        (r"/api/users/([^/]+)/servers/([^/]*)/ticket", TicketHandler),
    ]
    settings = from_config(c)
    if "hub_ip" not in c.JupyterHub and "hub_bind_url" not in c.JupyterHub:
        c.JupyterHub.hub_ip = gateway(settings.network_subnet)
    if "consecutive_failure_limit" not in c.Spawner:
        # JupyterHub 5 counts every refusal of a start as a failure and ends itself at the limit.
        c.Spawner.consecutive_failure_limit = 0
    logging.getLogger("JupyterHub").addFilter(QuietFormFilter())
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return  # no hub is starting: the configuration is only read
    make_network(settings)
    loop.call_soon(Runtime.of(settings).begin)


def make_network(settings: Settings) -> None:
    """Have the servers' network before the hub listens in it.

    In a thread with a loop of its own, as the hub's loop runs this very file. While the engine
    is away, the bridge may still be there, and the hub can serve what runs.
    """

    async def make() -> None:
        engine = wiring.engine(settings)
        try:
            await network_of(engine, settings)
        finally:
            await engine.close()

    with ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(asyncio.run, make()).result()
        except EngineUnavailable as error:
            log.warning("The servers' network could not be looked at: %s", told(error))


def gateway(subnet: str) -> str:
    """The host's address in the servers' network: the first of its subnet."""
    return str(next(ipaddress.ip_network(subnet).hosts()))


def _prepend(c: Any, path: Path) -> None:
    paths = c.JupyterHub.get("template_paths")
    known = list(paths) if isinstance(paths, list) else []
    c.JupyterHub.template_paths = [str(path), *known]
