"""The line for GPUs by the hub's REST API, for who has no page open."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.scopes import needs_scope, scope_definitions
from tornado.web import HTTPError

from ds01_spawner.core.options import parse, unwrap
from ds01_spawner.errors import DS01Error, NoTicket
from ds01_spawner.hub.line import Place
from ds01_spawner.hub.refusals import to_http_error

if TYPE_CHECKING:
    from ds01_spawner.hub.spawner import DS01Spawner

# As the hub's own handler of servers asks for; JupyterHub 5 has no scope for starting alone.
START = "start:servers" if "start:servers" in scope_definitions else "servers"


class TicketHandler(APIHandler):
    """A server's place in the line: `users/NAME/server/ticket`, `users/NAME/servers/SERVER/ticket`.

    Who was refused a start with 409 takes a ticket and asks for it now and then, which is what an
    open page does; others who may look keep nobody's place by it. Once `held_until` is told, the
    same options start the server until then.
    """

    @needs_scope(START)  # type: ignore[untyped-decorator]
    async def post(self, user_name: str, server_name: str = "") -> None:
        """Take a place with options as a start has them; 201 and the place, as `get` tells it.

        With the same devices as before it is the old place.
        """
        spawner = self._spawner_of(user_name)
        if server_name:
            await self._check_name(spawner, server_name)
        try:
            options = unwrap(self.get_json_body())
            user, runtime = spawner.user.name, spawner.runtime
            offer, _ = await runtime.offer(user, spawner.group_names, spawner.ceilings)
            asked = parse(options, offer)
            await runtime.line.join(user, server_name, asked, offer, options)
            self.set_status(201)
            await self._tell_place(spawner, server_name)
        except DS01Error as error:
            raise to_http_error(error) from None

    @needs_scope("read:servers")  # type: ignore[untyped-decorator]
    async def get(self, user_name: str, server_name: str = "") -> None:
        """The place: position, of how many, expected time; 404 where the server has none.

        `{"user", "server", "position", "of", "waits_for", "expected", "held_until", "options"}`,
        times in ISO 8601 or null. `expected` is the latest, as far as it can be told.
        """
        spawner = self._spawner_of(user_name)
        try:
            others = self.current_user is not spawner.user
            await self._tell_place(spawner, server_name, to_others=others)
        except DS01Error as error:
            raise to_http_error(error) from None

    @needs_scope("delete:servers")  # type: ignore[untyped-decorator]
    async def delete(self, user_name: str, server_name: str = "") -> None:
        """Give the place up: 204; 404 where the server has none."""
        spawner = self._spawner_of(user_name)
        try:
            if not await spawner.runtime.line.leave(spawner.user.name, server_name):
                raise NoTicket(server_name)
        except DS01Error as error:
            raise to_http_error(error) from None
        self.set_status(204)

    def _spawner_of(self, user_name: str) -> DS01Spawner:
        """The user's default spawner, which has the facts of the user."""
        user = self.find_user(user_name)
        if user is None:
            raise HTTPError(404, "There is no such user.")
        spawner: DS01Spawner = user.spawner
        return spawner

    async def _check_name(self, spawner: DS01Spawner, server: str) -> None:
        """Refuse a server that the hub would not start, in its words. HTTPError."""
        if hasattr(self, "_check_named_server_request"):  # from JupyterHub 6 on
            await self._check_named_server_request(spawner.user, server, server)
            return
        if not self.allow_named_servers:
            raise HTTPError(400, "Named servers are not enabled.")
        if "/" in server:
            raise HTTPError(400, f"Invalid server_name (may not contain '/'): {server}")
        user, most = spawner.user, await self.get_current_user_named_server_limit()
        named = list(user.all_spawners(include_default=False))
        if 0 < most <= len(named) and server not in user.orm_spawners:
            raise HTTPError(
                400,
                f"User {user.name} already has the maximum of {most} named servers."
                "  One must be deleted before a new server can be created",
            )

    async def _tell_place(
        self, spawner: DS01Spawner, server: str, *, to_others: bool = False
    ) -> None:
        user, runtime = spawner.user.name, spawner.runtime
        offer, _ = await runtime.offer(user, spawner.group_names, spawner.ceilings)
        place = await runtime.line.place(user, server, offer, to_others=to_others)
        if place is None:
            raise NoTicket(server)
        self.write(json.dumps({"user": user, "server": server, **_model(place)}))


def _model(place: Place) -> Mapping[str, Any]:
    return {
        "position": place.position,
        "of": place.of,
        "waits_for": place.waits_for,
        "expected": place.expected and place.expected.isoformat(),
        "held_until": place.held_until and place.held_until.isoformat(),
        "options": dict(place.options),
    }
