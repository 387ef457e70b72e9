"""An engine's socket with canned answers: what the adapter makes of any answer, and of none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


@dataclass
class Answer:
    """One answer. With `stream` it is sent in chunks, and `cut` leaves out the last, empty one."""

    body: Any = None
    status: int = 200
    stream: list[Any] | None = None
    cut: bool = False
    until: asyncio.Event | None = None  # the answer, or its end when it is a stream, waits for it

    def head(self) -> bytes:
        """Status line and headers."""
        kind = "Transfer-Encoding: chunked"
        if self.stream is None:
            kind = f"Content-Length: {len(_encoded(self.body))}"
        return f"HTTP/1.1 {self.status} X\r\nContent-Type: text/plain\r\n{kind}\r\n\r\n".encode()


@dataclass
class Wire:
    """Gives each request the answer for the first path that its own ends with, else 404."""

    url: str
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)  # "GET /v1.41/info"
    heads: list[str] = field(default_factory=list)  # the same with their headers
    closed: asyncio.Event = field(default_factory=asyncio.Event)  # a peer has left its stream
    arrival: asyncio.Event = field(default_factory=asyncio.Event)
    connections: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        version = {"ApiVersion": "1.41", "Version": "20.10"}
        self.answers = {"/version": Answer(version), "/_ping": Answer("OK")}

    async def reached(self, request: str) -> None:
        """Wait until this was asked, such as `GET /v1.41/info`."""
        while request not in self.requests:
            self.arrival.clear()
            await asyncio.wait_for(self.arrival.wait(), 60)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        task = asyncio.current_task()
        if task is not None:
            self.connections.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target = head.split(" ", 2)[:2]
        path = target.partition("?")[0]
        for line in head.lower().splitlines():
            if line.startswith("content-length:"):
                await reader.readexactly(int(line.partition(":")[2]))
        self.heads.append(head)
        self.requests.append(f"{method} {path}")
        self.arrival.set()
        found = [answer for end, answer in self.answers.items() if path.endswith(end)]
        answer = found[0] if found else Answer({"message": "no such thing"}, 404)
        if answer.stream is None:
            if answer.until is not None:
                await answer.until.wait()
            writer.write(answer.head() + _encoded(answer.body))
            await writer.drain()
            return True
        writer.write(answer.head())
        for part in answer.stream:
            chunk = _encoded(part)
            writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await writer.drain()
        if answer.until is not None:
            await self._left(reader, answer.until)
        if not answer.cut:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        return not answer.cut

    async def _left(self, reader: asyncio.StreamReader, until: asyncio.Event) -> None:
        """Wait for the event, or for the peer to leave."""
        waits = {asyncio.ensure_future(reader.read()), asyncio.ensure_future(until.wait())}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not until.is_set():
            self.closed.set()
        for wait in waits:
            wait.cancel()


def _encoded(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


@asynccontextmanager
async def wire() -> AsyncIterator[Wire]:
    """A socket with canned answers."""
    # pytest's own folders have names too long for a socket
    with TemporaryDirectory(prefix="wire") as folder:
        path = Path(folder) / "s"
        wire = Wire(f"unix://{path}")
        server = await asyncio.start_unix_server(wire.serve, path)
        yield wire
        server.close()
        for task in wire.connections:
            task.cancel()
        await asyncio.gather(*wire.connections, return_exceptions=True)
