"""The machine below the hub: the fake engine, and servers that answer in its containers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import jupyterhub

from tests.fakes.engine import FakeEngine
from tests.ports import free_port


class HubEngine(FakeEngine):
    """Goes on when one of its clients closes; its builds may say more than their steps."""

    output: Callable[[Callable[[str], None]], None] = staticmethod(lambda on_line: None)

    async def build(self, context: bytes, *, on_line: Callable[[str], None], **more: Any) -> str:
        self.output(on_line)
        return await super().build(context, on_line=on_line, **more)

    async def close(self) -> None:
        self.end_events()


class Notebooks:
    """Answers HTTP for every container that runs, at its own address."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._server: asyncio.Server | None = None
        self.port = 0

    async def begin(self) -> None:
        self.port = free_port()
        self._server = await asyncio.start_server(self._answer, "0.0.0.0", self.port)

    async def end(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            if self._engine.answers(writer.get_extra_info("sockname")[0]):
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n"
                    b"X-JupyterHub-Version: %s\r\n\r\nok" % jupyterhub.__version__.encode()
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
