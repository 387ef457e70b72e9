"""What the engine's contract works with: an engine, an image, names and labels of one test."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ds01_spawner.services.engine import Engine, Json

SLEEP = ["sleep", "600"]
TALK = ["sh", "-c", "printf 'one\\ntwo\\n\\033[31mthree\\n'; exit 3"]
OUTPUT = "one\ntwo\n\x1b[31mthree\n"


@dataclass(frozen=True)
class Bench:
    """An engine to test, an image that is there, and labels for what the test makes."""

    engine: Engine
    image: str
    labels: Mapping[str, str]
    prefix: str  # for names

    def body(self, command: list[str] = SLEEP, **more: Any) -> Json:
        """A create call's body."""
        return {"Image": self.image, "Cmd": command, "Labels": dict(self.labels), **more}

    async def container(self, name: str = "a", **more: Any) -> str:
        """A container that was created."""
        return await self.engine.create_container(f"{self.prefix}-{name}", self.body(**more))

    async def running(self, name: str = "a", **more: Any) -> str:
        """A container that was started."""
        id = await self.container(name, **more)
        await self.engine.start_container(id)
        return id

    async def state(self, id: str) -> Json:
        """What the engine says of the container's state."""
        state: Json = (await self.engine.inspect_container(id))["State"]
        return state

    async def build(self, dockerfile: str, lines: list[str], **more: Any) -> str:
        """Build an image named `<prefix>:1`."""
        return await self.engine.build(
            tar({"Dockerfile": dockerfile.encode()}),
            tag=f"{self.prefix}:1",
            labels={**self.labels, "by": "argument"},
            buildargs={},
            memory=256 * 2**20,
            cpus=1,
            network=None,
            on_line=lines.append,
            **more,
        )


def tar(files: Mapping[str, bytes]) -> bytes:
    """A tar of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition holds; the minute is a guard against hanging."""

    async def poll() -> None:
        while not await condition():
            await asyncio.sleep(0.02)

    await asyncio.wait_for(poll(), 60)
