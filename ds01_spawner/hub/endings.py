"""What a user is told of the end of their servers, and what they can do.

It is on every page of the hub, and in JupyterLab, where the server asks for it.

A server that ends because nothing uses its GPU can be kept for a while, with a button; a server
whose time is over can not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.scopes import needs_scope
from tornado.web import HTTPError, authenticated

from ds01_spawner.core.lifetime import notice
from ds01_spawner.errors import DS01Error, NothingToKeep
from ds01_spawner.hub.refusals import to_http_error
from ds01_spawner.services import wiring
from ds01_spawner.services.ledger import Lease, Ledger
from ds01_spawner.services.settings import Settings

if TYPE_CHECKING:
    from ds01_spawner.hub.runtime import Runtime

MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Ending:
    """A server that ends soon: in how many minutes, and why.

    `keep_h` is for how long the button keeps it, in hours; None: nothing can be done.
    """

    server: str
    at: datetime
    minutes: int
    idle: bool
    keep_h: float | None

    @property
    def message(self) -> str:
        """The words for its user."""
        name = f" {self.server}" if self.server else ""
        when = f"in {self.minutes} minute" + ("s" if self.minutes != 1 else "")
        if self.idle:
            return (
                f"Your server{name} has a GPU that nothing uses. It is stopped {when}, unless the "
                "GPU is used."
            )
        return f"The time of your server{name} is over {when}. Save your work; your files are kept."


def broken_off(server: str) -> str:
    """What to tell of a start that ended with the hub's process."""
    name = f" {server}" if server else ""
    return (
        f"The last start of your server{name} was broken off, because the hub was restarted. Start "
        "it again: what was built of your environment by then is used."
    )


def ending_of(lease: Lease, now: datetime, settings: Settings) -> Ending | None:
    """What to tell of a server's end; None while it is far."""
    end = lease.end
    before = timedelta(minutes=settings.warn_before_minutes)
    if end is None or lease.state != "bound" or now < end.at - notice(end, lease.idle_h, before):
        return None
    keep = kept_until(lease, now, settings)
    return Ending(
        server=lease.server,
        at=end.at,
        minutes=max(1, round((end.at - now) / MINUTE)),
        idle=end.kind == "idle",
        keep_h=None if keep is None else round((keep - now) / timedelta(hours=1), 1),
    )


def kept_until(lease: Lease, now: datetime, settings: Settings) -> datetime | None:
    """Until when the button keeps an idle server; None where that hardly puts its end off."""
    end = lease.end
    if end is None or end.kind != "idle" or lease.state != "bound":
        return None
    ceiling = lease.use.busy + timedelta(hours=settings.keep_alive_ceiling_h)
    until = min(now + timedelta(hours=settings.keep_alive_h), ceiling)
    return until if until - end.at >= MINUTE else None


async def keep(runtime: Runtime, user: str, server: str, by: str) -> datetime:
    """Count a user's server as used for a while; `by` is who asks. Raises NothingToKeep."""
    lease = await runtime.in_ledger(Ledger.lease_of, runtime.settings.hub_id, user, server)
    until = None if lease is None else kept_until(lease, wiring.now(), runtime.settings)
    if lease is None or until is None:
        raise NothingToKeep(server)
    kept = await runtime.in_ledger(Ledger.keep, lease.id, until)
    runtime.watch.note(kept)
    runtime.events.write("maintenance.keep_alive", user, server=server, lease=lease.id, by=by)
    return until


class KeepHandler(BaseHandler):
    """The button's form: POST hub/ds01/keep with the server's name."""

    @authenticated  # type: ignore[untyped-decorator]
    async def post(self) -> None:
        """Keep the server, then go home, where its new end is."""
        try:
            user = self.current_user
            server = self.get_body_argument("server", "")
            await keep(user.spawner.runtime, user.name, server, user.name)
        except DS01Error as error:
            raise to_http_error(error) from None
        self.redirect(f"{self.hub.base_url}home")


class EndingHandler(APIHandler):
    """The same for the server itself: hub/api/ds01/ending/USER/SERVER, with the server's token.

    The answer is `{"ending": {"at", "message", "keep_h"} or null}`; POST keeps the server. Of a
    server that lost its GPU it tells that, too; what has another `at` is told anew.
    """

    @needs_scope("access:servers")  # type: ignore[untyped-decorator]
    async def get(self, user_name: str, server_name: str) -> None:
        """Tell of its end."""
        spawner = self._runtime(user_name).servers.get((user_name, server_name))
        told, ending = None, spawner.ending if spawner else None
        loss = spawner.loss if spawner else None
        notices = [notice for notice in (loss, ending) if notice is not None]
        if notices:
            at = [*([loss.why] if loss else []), *([ending.at.isoformat()] if ending else [])]
            told = {
                "at": " ".join(at),
                "message": " ".join(notice.message for notice in notices),
                "keep_h": ending.keep_h if ending else None,
            }
        self.finish({"ending": told})

    @needs_scope("access:servers")  # type: ignore[untyped-decorator]
    async def post(self, user_name: str, server_name: str) -> None:
        """Keep it, then tell of its new end."""
        try:
            by = self.current_user.name
            await keep(self._runtime(user_name), user_name, server_name, by)
        except DS01Error as error:
            raise to_http_error(error) from None
        await self.get(user_name, server_name)

    def _runtime(self, user_name: str) -> Runtime:
        user = self.find_user(user_name)
        if user is None:
            raise HTTPError(404)
        return user.spawner.runtime  # type: ignore[no-any-return]
