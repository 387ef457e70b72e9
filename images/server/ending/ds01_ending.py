"""Server extension: JupyterLab asks it, at its own origin, when the server ends; the hub knows."""

import os
from urllib.parse import quote

from jupyter_server.base.handlers import APIHandler
from tornado import web
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

PATIENCE_S = 20


class EndingHandler(APIHandler):
    """GET tells of the end, POST keeps the server; the answers are the hub's."""

    _track_activity = False  # who only looks does not use the server

    @web.authenticated
    async def get(self) -> None:
        """What `remoteEntry.js` asks once a minute."""
        await self._ask("GET")

    @web.authenticated
    async def post(self) -> None:
        """What its button does."""
        await self._ask("POST")

    async def _ask(self, method: str) -> None:
        env = os.environ
        names = (env["JUPYTERHUB_USER"], env.get("JUPYTERHUB_SERVER_NAME", ""))
        user, server = (quote(name, safe="") for name in names)
        try:
            answer = await AsyncHTTPClient().fetch(
                f"{env['JUPYTERHUB_API_URL']}/ds01/ending/{user}/{server}",
                method=method,
                headers={"Authorization": f"token {env['JUPYTERHUB_API_TOKEN']}"},
                body="" if method == "POST" else None,
                request_timeout=PATIENCE_S,
                raise_error=False,
            )
        except (HTTPClientError, OSError):
            raise web.HTTPError(502, "The hub does not answer.") from None
        self.set_status(answer.code)
        self.finish(answer.body)


def _jupyter_server_extension_points() -> list:
    return [{"module": "ds01_ending"}]


def _load_jupyter_server_extension(server: object) -> None:
    if "JUPYTERHUB_API_TOKEN" in os.environ:  # a plain JupyterLab has no end
        app = server.web_app
        app.add_handlers(".*", [(f"{app.settings['base_url']}ds01/ending", EndingHandler)])
