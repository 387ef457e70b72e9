"""The engine's adapter for Docker.

docker-py blocks and its client belongs to one thread, so calls run in pools of threads with a
client each: questions in one pool and changes in another, so that no slow stop, start or removal
delays a poll. A pull, a build and an event stream have a thread each for as long as they last;
whoever asks bounds how many there are.
"""

# ruff: noqa: D102  what the methods do is said once, in Engine

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar
from weakref import WeakSet

from ds01_spawner.core.registries import Login
from ds01_spawner.errors import EngineUnavailable
from ds01_spawner.services.build_output import BuildOutput
from ds01_spawner.services.docker_client import (
    DockerClient,
    Timeouts,
    common_version,
    filters_of,
    small_file,
    stream_error,
    translate,
)
from ds01_spawner.services.engine import Engine, EventStream, Json, Labels
from ds01_spawner.services.threads import Pool, PoolClosed, ThreadStream

T = TypeVar("T")
S = TypeVar("S")

QUESTION_THREADS = 8
CHANGE_THREADS = 32  # a stop holds one for as long as its container takes to end
LOG_CHARACTERS = 64 * 1024
CPU_PERIOD_US = 100_000
CLOSE_S = 5.0


class DockerEngine(Engine):
    """A Docker engine at `url`, such as `unix:///var/run/docker.sock`.

    Without `api_version` the first call asks the engine and takes the newest that both know; so
    does the first call after the engine was away, for it may come back as another version.
    """

    def __init__(
        self, url: str, *, api_version: str | None = None, timeouts: Timeouts | None = None
    ) -> None:
        self.url = url
        self._given_version = api_version
        self._version = api_version
        self._timeouts = timeouts or Timeouts()
        self._local = threading.local()
        self._questions = Pool("engine-question", QUESTION_THREADS, self._close_client)
        self._changes = Pool("engine-change", CHANGE_THREADS, self._close_client)
        self._streams: WeakSet[ThreadStream[Any]] = WeakSet()
        self._closed = False

    async def version(self) -> Json:
        return await self._ask(lambda c: c.version(api_version=False))

    async def info(self) -> Json:
        return await self._ask(lambda c: c.newest_info())

    async def free_disk(self) -> int | None:
        if not self.url.startswith("unix://"):
            return None  # the engine's disk is another host's
        return await self._ask(_free_disk)

    async def inspect_image(self, name: str) -> Json:
        return await self._ask(lambda c: c.inspect_image(name))

    async def list_images(self, labels: Labels) -> list[Json]:
        return await self._ask(lambda c: c.images(filters=filters_of(labels)))

    async def history(self, image: str) -> list[Json]:
        return await self._ask(lambda c: c.history(image))

    async def tag_image(self, image: str, repository: str, tag: str) -> None:
        await self._change(lambda c: c.tag(image, repository, tag))

    async def remove_image(self, name: str) -> None:
        await self._change(lambda c: c.remove_image(name))

    async def pull(
        self, image: str, on_event: Callable[[Json], None], login: Login | None = None
    ) -> None:
        pull = self._stream("pull", lambda c: c.pull_stream(image, login), iter)
        async with aclosing(pull) as items:
            async for event in items:
                on_event(event)

    async def build(
        self,
        context: bytes,
        *,
        tag: str,
        labels: Mapping[str, str],
        buildargs: Mapping[str, str],
        memory: int | None,
        cpus: float | None,
        network: str | None,
        on_line: Callable[[str], None],
    ) -> str:
        params = {
            "t": tag,
            "labels": json.dumps(dict(labels)),
            "buildargs": json.dumps(dict(buildargs)),
            "networkmode": network,
            "rm": "true",
            "forcerm": "true",
            "memory": memory,
            "memswap": memory,
            "cpuperiod": None if cpus is None else CPU_PERIOD_US,
            "cpuquota": None if cpus is None else int(cpus * CPU_PERIOD_US),
        }
        output = BuildOutput(time.monotonic)
        build = self._stream("build", lambda c: c.build_stream(context, params), output.lines)
        async with aclosing(build) as lines:
            async for line in lines:
                on_line(line)
        return output.image or str((await self.inspect_image(tag))["Id"])

    async def create_container(
        self, name: str, body: Json, on_warning: Callable[[str], None] | None = None
    ) -> str:
        made: Json = await self._change(lambda c: c.create_container_from_config(body, name))
        for warning in made.get("Warnings") or ():
            if on_warning is not None:
                on_warning(str(warning))
        return str(made["Id"])

    async def start_container(self, id: str) -> None:
        await self._change(lambda c: c.start(id))

    async def stop_container(self, id: str, timeout: int) -> None:
        # docker-py reads for the client's timeout and the container's together
        await self._change(lambda c: c.stop(id, timeout=timeout))

    async def remove_container(self, id: str, force: bool = False, volumes: bool = False) -> None:
        await self._change(lambda c: c.remove_container(id, force=force, v=volumes))

    async def inspect_container(self, name_or_id: str) -> Json:
        return await self._ask(lambda c: c.inspect_container(name_or_id))

    async def list_containers(self, labels: Labels, all: bool = True) -> list[Json]:
        return await self._ask(lambda c: c.containers(all=all, filters=filters_of(labels)))

    async def logs(self, id: str, tail: int) -> str:
        # a record of the engine is 16 KiB at most, so `tail` bounds the answer
        output: bytes = await self._ask(lambda c: c.logs(id, tail=max(0, tail)))
        return output.decode("utf-8", "replace")[-LOG_CHARACTERS:]

    async def put_archive(self, id: str, path: str, tar: bytes) -> None:
        await self._change(lambda c: c.put_archive(id, path, tar))

    async def read_file(self, id: str, path: str) -> bytes:
        return await self._ask(lambda c: small_file(c.get_archive(id, path)[0]))

    async def inspect_volume(self, name: str) -> Json:
        return await self._ask(lambda c: c.inspect_volume(name))

    async def create_volume(self, name: str, labels: Mapping[str, str]) -> Json:
        return await self._change(lambda c: c.create_volume(name, labels=dict(labels)))

    async def remove_volume(self, name: str) -> None:
        await self._change(lambda c: c.remove_volume(name))

    async def inspect_network(self, name: str) -> Json:
        return await self._ask(lambda c: c.inspect_network(name))

    async def create_network(self, body: Json) -> None:
        await self._change(
            lambda c: c.create_network(
                body["Name"],
                driver=body["Driver"],
                options=body["Options"],
                ipam=body["IPAM"],
                check_duplicate=body["CheckDuplicate"],
                labels=body["Labels"],
            )
        )

    async def remove_network(self, name: str) -> None:
        await self._change(lambda c: c.remove_network(name))

    async def events(self, labels: Labels, types: Sequence[str] = ("container",)) -> EventStream:
        filters = {**filters_of(labels), "type": list(types)}
        stream = self._stream(
            "events", lambda c: c.events(filters=filters, decode=True), iter, endless=True
        )
        try:
            await stream.opened()
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def close(self) -> None:
        self._closed = True
        for stream in tuple(self._streams):
            await stream.aclose()
        await self._questions.close(CLOSE_S)
        await self._changes.close(CLOSE_S)

    # --- how a call reaches its thread and its client ------------------------------------------

    async def _ask(self, call: Callable[[DockerClient], T]) -> T:
        return await self._run(self._questions, self._timeouts.question, call)

    async def _change(self, call: Callable[[DockerClient], T]) -> T:
        return await self._run(self._changes, self._timeouts.change, call)

    async def _run(self, pool: Pool, read_s: float, call: Callable[[DockerClient], T]) -> T:
        def in_thread() -> T:
            with self._typed_errors():
                return call(self._client(read_s))

        try:
            return await pool.run(in_thread)
        except PoolClosed as error:
            raise EngineUnavailable("the hub's connection to it was closed") from error

    def _client(self, read_s: float) -> DockerClient:
        """This thread's client, of an API version that both sides know."""
        version = self._version = self._version or common_version(self.url, self._timeouts)
        client: DockerClient | None = getattr(self._local, "client", None)
        if client is None or client.api_version != version:
            self._close_client()
            client = self._local.client = DockerClient(self.url, version, self._timeouts)
        client.timeout = read_s
        return client

    def _close_client(self) -> None:
        client: DockerClient | None = getattr(self._local, "client", None)
        self._local.client = None
        if client is not None:
            client.close()

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            typed = translate(error)
            if isinstance(typed, EngineUnavailable):
                self._version = self._given_version
            if typed is error:
                raise
            raise typed from None  # all that can be told without secrets is in it

    def _stream(
        self,
        name: str,
        call: Callable[[DockerClient], Iterator[Json]],
        read: Callable[[Iterator[Json]], Iterator[S]],
        endless: bool = False,
    ) -> ThreadStream[S]:
        """Run a streaming call, and `read` what it gives, in a thread of its own.

        An `endless` one is lost when it ends.
        """

        def source(opened: Callable[[Callable[[], None]], None]) -> Generator[S, None, None]:
            try:
                with self._typed_errors():
                    client = self._client(self._timeouts.question)
                    client.ping()  # a stream may be silent for long, an engine may not
                    items = call(client)
                    opened(client.stream_closer())
                    yield from read(_without_errors(items))
                    if endless:
                        raise EngineUnavailable(f"its stream of {name} ended")
            finally:
                self._close_client()

        if self._closed:
            raise EngineUnavailable("the hub's connection to it was closed")
        stream = ThreadStream(f"engine-{name}", source)
        self._streams.add(stream)
        return stream


def _without_errors(items: Iterator[Json]) -> Iterator[Json]:
    for item in items:
        if "error" in item or "errorDetail" in item:
            raise stream_error(item)
        yield item


def _free_disk(client: DockerClient) -> int | None:
    try:
        return shutil.disk_usage(str(client.info()["DockerRootDir"])).free
    except FileNotFoundError:  # the engine sees other file systems than we do
        return None
