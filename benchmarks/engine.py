"""The engine, for the benchmarks: the reference image, raw starts, and cleaning up."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jupyterhub
from docker import APIClient
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from benchmarks.systems import CLICK_SECONDS, CannotMeasure, Outcome, Probes

REFERENCE = Path(__file__).parent / "reference"
LABEL = "ds01.benchmark"
PORT = 8888
T = TypeVar("T")


def connect(url: str) -> APIClient:
    """A client of the API that the engine speaks."""
    try:
        return APIClient(base_url=url, version="auto", timeout=600)
    except DockerException as error:
        raise CannotMeasure(f"no container engine answers at {url} ({error})") from error


def ca_bundle() -> str:
    """The host's certificate authorities: a network that signs TLS again needs them in builds."""
    path = os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt"
    return path if Path(path).is_file() else ""


def reference_image(client: APIClient, base: str) -> str:
    """The name of the reference image, which is there then. One build per base and versions."""
    major = jupyterhub.version_info[0]
    requirements = REFERENCE / f"requirements-hub{major}.txt"
    if not requirements.is_file():
        raise CannotMeasure(f"there is no reference for JupyterHub {major}: {requirements.name}")
    try:
        base_id = client.inspect_image(base)["Id"]
    except ImageNotFound:
        raise CannotMeasure(f"the engine has no image {base}; give another with --base") from None
    dockerfile = (REFERENCE / "Dockerfile").read_bytes()
    key = hashlib.sha256(dockerfile + requirements.read_bytes() + base_id.encode())
    name = f"ds01-reference:{key.hexdigest()[:16]}"
    with suppress(ImageNotFound):
        client.inspect_image(name)
        return name
    ca = ca_bundle()
    context = _tar(
        {
            "Dockerfile": dockerfile,
            "requirements.txt": requirements.read_bytes(),
            "ca.pem": Path(ca).read_bytes() if ca else b"",
        }
    )
    index = os.environ.get("PIP_INDEX_URL")
    said = []
    for line in client.build(
        fileobj=io.BytesIO(context),
        custom_context=True,
        tag=name,
        buildargs={"BASE": base, **({"PIP_INDEX_URL": index} if index else {})},
        labels={LABEL: "reference"},
        rm=True,
        forcerm=True,
        decode=True,
    ):
        said.append(str(line.get("stream") or line.get("error") or ""))
        if "error" in line:
            raise CannotMeasure("the reference image was not built:\n" + "".join(said[-30:]))
    return name


def make_network(client: APIClient, name: str, subnet: str, gateway: str, label: str) -> None:
    """A plain bridge, as an admin of stock DockerSpawner makes one."""
    pools = {"Config": [{"Subnet": subnet, "Gateway": gateway}]}
    try:
        client.create_network(name, "bridge", ipam=pools, labels={LABEL: label})
    except APIError as error:
        raise CannotMeasure(f"no network {subnet} ({error.explanation}); see --subnet") from error


def remove_containers(client: APIClient, labels: Sequence[str]) -> int:
    """Remove all containers with one of these labels; how many there were."""
    found = [c["Id"] for label in labels for c in client.containers(all=True, filters=_by(label))]
    for container in found:
        with suppress(APIError):  # gone, or on its way
            client.remove_container(container, force=True, v=True)
    return len(found)


def clean(client: APIClient, labels: Sequence[str]) -> None:
    """Remove containers, volumes and networks with one of these labels; images stay for reuse."""
    end = time.monotonic() + 60
    while remove_containers(client, labels) and time.monotonic() < end:
        time.sleep(0.2)  # a call that had begun when its hub ended may still make one
    for label in labels:
        for volume in client.volumes(filters=_by(label))["Volumes"] or ():
            with suppress(APIError):
                client.remove_volume(volume["Name"], force=True)
        for network in client.networks(filters=_by(label)):
            with suppress(APIError):
                client.remove_network(network["Id"])


class Raw:
    """Create, start, first answer: what the engine does without any hub, a thread a container."""

    def __init__(self, name: str, url: str, label: str, body: dict[str, Any], users: int) -> None:
        self.name = name
        self._label = label
        self._body = body
        self._url = url
        self._probes = Probes()
        self._local = threading.local()
        self._version = connect(url).api_version
        self._threads = ThreadPoolExecutor(users, f"raw-{name}")
        self._containers: set[str] = set()

    async def begin(self, users: Sequence[str]) -> None:
        """Nothing: the engine runs."""

    async def warm_up(self, users: Sequence[str]) -> None:
        """One start, and a connection to the engine in each thread."""
        together = threading.Barrier(len(users))
        await asyncio.gather(
            *(self._in_thread(lambda c: (c.ping(), together.wait(60))) for _ in users)
        )
        first = await self.click(users[0])
        if first.seconds is None:
            raise CannotMeasure(f"{self.name}: the image does not start: {first.why}")
        await self.clear(users)

    async def click(self, user: str) -> Outcome:
        """Start a container and wait until its server answers."""
        began = time.monotonic()
        try:
            address = await self._in_thread(self._start)
        except (DockerException, OSError) as error:
            return Outcome(None, str(error))
        if await self._probes.until_ready(address, PORT, "/api", began + CLICK_SECONDS):
            return Outcome(time.monotonic() - began)
        return Outcome(None, f"no answer in {CLICK_SECONDS:g} s")

    def _start(self, client: APIClient) -> str:
        container = client.create_container(labels={LABEL: self._label}, **self._body)["Id"]
        self._containers.add(container)
        client.start(container)
        settings = client.inspect_container(container)["NetworkSettings"]
        return str(settings["IPAddress"])

    async def clear(self, users: Sequence[str]) -> None:
        """Remove the containers."""
        containers, self._containers = self._containers, set()

        def remove(container: str, client: APIClient) -> None:
            with suppress(NotFound):
                client.remove_container(container, force=True, v=True)

        await asyncio.gather(*(self._in_thread(partial(remove, id)) for id in containers))

    async def phases(self) -> dict[str, tuple[float, float]]:
        """None are told."""
        return {}

    def end(self) -> None:
        """Wait for calls that have begun."""
        self._threads.shutdown(cancel_futures=True)

    async def _in_thread(self, call: Callable[[APIClient], T]) -> T:
        def work() -> T:
            if not hasattr(self._local, "client"):
                self._local.client = APIClient(self._url, version=self._version, timeout=300)
            return call(self._local.client)

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _by(label: str) -> dict[str, str]:
    return {"label": label}


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()
