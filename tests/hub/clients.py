"""What tests speak to a hub with: a browser in small, and waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from typing import Any, Protocol
from urllib.parse import urlencode

from tornado.httpclient import HTTPResponse
from tornado.httputil import HTTPHeaders

PATIENCE_S = 30.0  # a guard against hanging, not a measure


class Fetch(Protocol):
    """`await fetch("hub/home", "GET", headers=…)`."""

    async def __call__(self, path: str, method: str, **more: Any) -> HTTPResponse: ...


class Browser:
    """Cookies and forms."""

    def __init__(self, fetch: Fetch) -> None:
        self._send = fetch
        self._cookies: dict[str, str] = {}

    async def get(self, path: str) -> HTTPResponse:
        return await self._fetch(path, "GET")

    async def post(self, path: str, fields: dict[str, Any]) -> HTTPResponse:
        """Post a form; fields may be lists."""
        body = urlencode({**fields, "_xsrf": self._cookies["_xsrf"]}, doseq=True)
        return await self._fetch(path, "POST", body=body)

    async def upload(
        self, path: str, fields: dict[str, Any], name: str, file: bytes | None
    ) -> HTTPResponse:
        """Post a form as its page does, with a file in the input `name`; None: none was chosen."""
        edge = "edge-of-the-tests"
        parts = [(f'name="{key}"', value.encode()) for key, value in fields.items()]
        parts.append(('name="_xsrf"', self._cookies["_xsrf"].encode()))
        chosen = "requirements.txt" if file is not None else ""
        parts.append(
            (f'name="{name}"; filename="{chosen}"\r\nContent-Type: text/plain', file or b"")
        )
        body = b"".join(
            f"--{edge}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + value + b"\r\n"
            for head, value in parts
        )
        kind = f"multipart/form-data; boundary={edge}"
        return await self._fetch(path, "POST", kind, body=body + f"--{edge}--\r\n".encode())

    async def _fetch(self, path: str, method: str, kind: str = "", **more: Any) -> HTTPResponse:
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        headers = HTTPHeaders({"Cookie": cookies, "Sec-Fetch-Mode": "navigate"})
        if kind:
            headers["Content-Type"] = kind
        answer = await self._send(path, method, headers=headers, **more)
        for line in answer.headers.get_list("Set-Cookie"):
            for name, morsel in SimpleCookie(line).items():
                self._cookies[name] = morsel.coded_value
        return answer


def server_path(user: str, server: str = "") -> str:
    return f"users/{user}/servers/{server}" if server else f"users/{user}/server"


def environment(body: dict[str, Any]) -> dict[str, str]:
    """The environment that a create call gives."""
    return dict(pair.split("=", 1) for pair in body["Env"])


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; fails loudly when it never comes."""

    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), PATIENCE_S)


class Form(HTMLParser):
    """What the options form of a page would post: its fields as they are filled in."""

    def __init__(self, page: HTTPResponse) -> None:
        super().__init__()
        self.page = page.body.decode()
        self.fields: dict[str, list[str]] = {}
        self._area = ""
        self.feed(self.page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name, value = given.get("name") or "", given.get("value") or ""
        if tag == "textarea":
            self._area = name
            self.fields[name] = [""]
        elif tag == "input" and given.get("type") in ("radio", "checkbox"):
            if "checked" in given:
                self.fields.setdefault(name, []).append(value)
        elif tag == "input" and name:
            self.fields.setdefault(name, []).append(value)

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._area = ""

    def handle_data(self, data: str) -> None:
        if self._area:
            self.fields[self._area][0] += data
