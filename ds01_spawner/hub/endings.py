"""What a user is told of the end of their servers, on every page of the hub, and what they can do.

A server that ends because nothing uses its GPU can be kept for a while, with a button; a server
whose time is over can not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from jupyterhub.handlers.base import BaseHandler
from tornado.web import authenticated

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
    minutes: int
    idle: bool
    keep_h: float | None


def ending_of(lease: Lease, now: datetime, settings: Settings) -> Ending | None:
    """What to tell of a server's end; None while it is far."""
    end = lease.end
    before = timedelta(minutes=settings.warn_before_minutes)
    if end is None or lease.state != "bound" or now < end.at - notice(end, lease.idle_h, before):
        return None
    keep = kept_until(lease, now, settings)
    return Ending(
        server=lease.server,
        minutes=max(1, round((end.at - now) / MINUTE)),
        idle=end.kind == "idle",
        keep_h=None if keep is None else round((keep - now) / timedelta(hours=1), 1),
    )


def kept_until(lease: Lease, now: datetime, settings: Settings) -> datetime | None:
    """Until when the button keeps an idle server; None where that would not put its end off."""
    end = lease.end
    if end is None or end.kind != "idle":
        return None
    ceiling = lease.use.busy + timedelta(hours=settings.keep_alive_ceiling_h)
    until = min(now + timedelta(hours=settings.keep_alive_h), ceiling)
    return until if until > end.at else None


async def keep(runtime: Runtime, user: str, server: str) -> datetime:
    """Count a user's server as used for a while. Raises NothingToKeep."""
    lease = await runtime.in_ledger(Ledger.lease_of, runtime.settings.hub_id, user, server)
    until = None if lease is None else kept_until(lease, wiring.now(), runtime.settings)
    if lease is None or until is None:
        raise NothingToKeep(server)
    kept = await runtime.in_ledger(Ledger.keep, lease.id, until)
    runtime.watch.note(kept)
    runtime.events.write("maintenance.keep_alive", user, server=server, lease=lease.id)
    return until


class KeepHandler(BaseHandler):
    """The button's form: POST hub/ds01/keep with the server's name."""

    @authenticated  # type: ignore[untyped-decorator]
    async def post(self) -> None:
        """Keep the server, then go home, where its new end is."""
        try:
            user = self.current_user
            await keep(user.spawner.runtime, user.name, self.get_body_argument("server", ""))
        except DS01Error as error:
            raise to_http_error(error) from None
        self.redirect(f"{self.hub.base_url}home")
