"""docker-py's client, used by one thread, and its errors in the engine's terms.

The only module that imports docker-py. Traps of docker-py that are dealt with here: it asks the
engine for its version in the constructor, has no read timeout on streams, takes a lost stream for
one that ended, and reads proxies and passwords for the engine's address from the environment.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import docker
import requests
import urllib3
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.errors import DockerException, StreamParseError
from docker.transport.unixconn import (
    UnixHTTPAdapter,
    UnixHTTPConnection,
    UnixHTTPConnectionPool,
)
from docker.types import CancellableStream
from docker.utils.json_stream import json_stream

from ds01_spawner.core.registries import Login
from ds01_spawner.errors import EngineUnavailable
from ds01_spawner.services.engine import (
    EngineConflict,
    EngineNotFound,
    EngineRefused,
    EngineStreamError,
    Json,
    Labels,
)

FILE_BYTES = 1 << 20
AWAY = (502, 503, 504)  # a proxy before the engine, or an engine that starts or stops


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds without an answer until the engine counts as unavailable."""

    connect: float = 15.0  # and for the engine to take each piece of what is sent
    question: float = 30.0
    change: float = 120.0  # on top of a stop's own timeout; removing big layers takes a while
    stream: float = 3600.0  # silence of a pull, of one build step, or of all containers


class DockerClient(docker.APIClient):
    """docker-py's client with finite timeouts, whose open stream another thread can close.

    `timeout` is the read timeout of calls that are not streams; it may be set before each.
    """

    def __init__(self, url: str, version: str, timeouts: Timeouts) -> None:
        self._connect_s = timeouts.connect
        self._stream_s = timeouts.stream
        self._streaming: requests.Response | None = None
        super().__init__(base_url=url, version=version, timeout=timeouts.question)
        self.trust_env = False
        if self.base_url == "http+docker://localhost":
            self.mount("http+docker://", _UnixAdapter(url.partition("://")[2], timeouts.connect))

    def send(self, request: requests.PreparedRequest, **kwargs: object) -> requests.Response:
        """Send with a timeout for each phase; docker-py's streams come without any."""
        read = kwargs.get("timeout")
        kwargs["timeout"] = (self._connect_s, self._stream_s if read is None else read)
        response: requests.Response = super().send(request, **kwargs)
        if kwargs.get("stream"):
            self._streaming = response
        response.raise_for_status()  # docker-py's own check takes only errors in one form
        return response

    def newest_info(self) -> Json:
        """/info of the engine's newest API: an older one leaves out the devices it found."""
        info: Json = self._result(self._get(self._url("/info", versioned_api=False)), json=True)
        return info

    def pull_stream(self, image: str, login: Login | None) -> Iterator[Json]:
        """Pull with this log-in, and never with those of the hub's own account, as docker-py."""
        given = (
            {
                "username": login.user,
                "password": login.password,
                "identitytoken": login.token,
                "serveraddress": login.registry,
            }
            if login
            else {}
        )
        items: Iterator[Json] = self.pull(image, stream=True, decode=True, auth_config=given)
        return items

    def build_stream(self, context: bytes, params: Mapping[str, Any]) -> Iterator[Json]:
        """Build with the classic builder; unlike docker-py's own call, with a CPU quota."""
        response = self.post(
            f"{self.base_url}/v{self.api_version}/build",
            params=params,
            data=context,
            headers={"Content-Type": "application/x-tar"},
            stream=True,
            timeout=None,
        )
        items: Iterator[Json] = json_stream(response.iter_content(chunk_size=None))
        return items

    def stream_closer(self) -> Callable[[], None]:
        """What ends the open stream, from any thread and without waiting."""
        stream = CancellableStream(iter(()), self._streaming)

        def close() -> None:
            with suppress(OSError, AttributeError):  # its own thread is closing it
                stream.close()

        return close

    def close(self) -> None:
        """Close all connections, that of an unfinished stream too."""
        if self._streaming is not None:
            self._streaming.close()
        super().close()


class _UnixAdapter(UnixHTTPAdapter):
    """docker-py's, which leaves a socket open when nobody listens at its other end."""

    def get_connection(self, url: str, proxies: object = None) -> UnixHTTPConnectionPool:
        with self.pools.lock:
            pool = self.pools.get(url)
            if pool is None:
                pool = self.pools[url] = _UnixPool(url, self.socket_path, self.timeout)
        return pool


class _UnixPool(UnixHTTPConnectionPool):
    def _new_conn(self) -> UnixHTTPConnection:
        return _UnixConnection(self.base_url, self.socket_path, self.timeout)


class _UnixConnection(UnixHTTPConnection):
    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout)
            connection.connect(self.unix_socket)
        except BaseException:
            connection.close()
            raise
        self.sock = connection


def common_version(url: str, timeouts: Timeouts) -> str:
    """The newest API version that both the engine and docker-py know; asks the engine."""
    client = DockerClient(url, DEFAULT_DOCKER_API_VERSION, timeouts)
    try:
        theirs = str(client.version(api_version=False).get("ApiVersion"))
    finally:
        client.close()
    if not re.fullmatch(r"\d+\.\d+", theirs):
        raise EngineUnavailable(f"what answers is no engine: its API version is {theirs!r}")
    return min(theirs, str(DEFAULT_DOCKER_API_VERSION), key=_numbers)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def translate(error: Exception) -> Exception:
    """What an exception of docker-py, requests, urllib3 or the socket means to us.

    Any other comes back as it is.
    """
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _refusal(error.response)
    away = (
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        http.client.HTTPException,
        StreamParseError,
        OSError,
    )
    if isinstance(error, away):
        # a request's query can hold a build's arguments, and these a proxy's password
        text = re.sub(r"\?[^\s)]*", "", str(error))
        return EngineUnavailable(f"{type(error).__name__}: {text}")
    if isinstance(error, DockerException):  # docker-py itself refuses an argument
        return EngineRefused(400, str(error) or type(error).__name__)
    return error


def _refusal(response: requests.Response) -> Exception:
    status = response.status_code
    try:
        message = str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        message = response.text.strip() or str(response.reason)
    if status in AWAY:
        return EngineUnavailable(f"status {status}: {message}")
    if status == 404:
        return EngineNotFound(message)
    if status == 409:
        return EngineConflict(message)
    return EngineRefused(status, message)


def filters_of(labels: Labels) -> dict[str, list[str]]:
    """The filter of the engine's list and event calls."""
    pairs = labels.items()
    return {"label": [key if value is None else f"{key}={value}" for key, value in pairs]}


def stream_error(item: Json) -> EngineStreamError:
    """The error that a pull's or build's stream ends with."""
    detail = item.get("errorDetail") or {}
    return EngineStreamError(str(item.get("error") or detail.get("message")), detail.get("code"))


def small_file(tar: Iterable[bytes]) -> bytes:
    """The one file of an archive that the engine sends."""
    got = bytearray()
    for part in tar:
        got += part
        if len(got) > FILE_BYTES:
            raise EngineRefused(413, "the file is too large to be read")
    with tarfile.open(fileobj=io.BytesIO(got)) as archive:
        content = archive.extractfile(archive.getmembers()[0])
        return content.read() if content else b""
