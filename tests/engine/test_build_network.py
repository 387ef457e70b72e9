"""What is installed during a build reaches the package index and nothing else, on a real engine."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from ds01_spawner.core.build_gate import doors
from ds01_spawner.core.build_plan import BuildPlan, Step
from ds01_spawner.core.build_site import BuildSite
from ds01_spawner.core.recipe import Recipe, image_name
from ds01_spawner.errors import BuildFailed, EngineUnavailable
from ds01_spawner.services.base_images import BaseImage, BaseImages
from ds01_spawner.services.build_network import GatedNetwork
from ds01_spawner.services.builder import Builder, Remembered
from ds01_spawner.services.docker_engine import DockerEngine
from ds01_spawner.services.images import plan_of
from tests.conftest import EngineProcess, steps_of_builds
from tests.engine import curious

if TYPE_CHECKING:
    from docker import APIClient

pytestmark = pytest.mark.any_hub

USER = "test-network"
PORT = 8000
NEIGHBOUR = ["python3", "-m", "http.server", str(PORT)]
# On top of an environment of the site without this index: what a user's packages would add to it.
DOCKERFILE = """\
FROM {image}
USER root
COPY build/ca.pem /opt/ds01/ca.pem
COPY build/site.env requirements.txt /opt/ds01/build/
USER 65500:65500
RUN ["/bin/sh", "/opt/ds01/build/pip.sh", "/opt/ds01/build/requirements.txt", "{kind}"]
RUN ["/bin/sh", "/opt/ds01/build/prove.sh", "torch"]
"""


def steps_of(text: str) -> tuple[Step, ...]:
    return tuple(Step("Step", line) for line in text.splitlines())


class Bench:
    """Builds on the tests' engine, and what around them may not be reached."""

    def __init__(
        self, engine: DockerEngine, client: APIClient, base: BaseImage, folder: Path
    ) -> None:
        self.engine, self.client, self.base, self.folder = engine, client, base, folder
        self.hub = f"{USER}-{uuid4().hex[:8]}"

    def recipe(self, *pip: str) -> Recipe:
        return Recipe(self.base.identity, "Pytorch", "2.8.0", "CUDA_ADA", pip=pip)

    def network(self, site: BuildSite, seconds: int = 600) -> GatedNetwork:
        return GatedNetwork(
            self.engine,
            hub=self.hub,
            doors=doors(site, ()),
            seconds=seconds,
            new_id=lambda: uuid4().hex,
        )

    async def _gate_image(self) -> str:
        return self.base.tag

    def plan(self, made: Recipe, site: BuildSite) -> BuildPlan:
        return plan_of(made, image_name(made, USER, "p"), self.base.tag, site)

    def added(self, made: Recipe, site: BuildSite, image: str, kind: str) -> BuildPlan:
        """The recipe's packages on top of an image that has the environment."""
        steps = steps_of(DOCKERFILE.format(image=image, kind=kind))
        return replace(self.plan(made, site), steps=steps)

    async def build(self, network: GatedNetwork, plan: BuildPlan, timeout_s: float = 600) -> str:
        builder = Builder(
            self.engine,
            concurrency=1,
            memory=2 << 30,
            cpus=2,
            timeout_s=timeout_s,
            log_dir=self.folder,
            now=lambda: datetime.now(timezone.utc),
            made=Remembered(),
            network=network,
            gate_image=self._gate_image,
        )
        return await builder.ensure(plan, lambda event: None)

    def gates(self) -> list[Any]:
        found: list[Any] = self.client.containers(
            all=True, filters={"label": f"ds01.build={self.hub}"}
        )
        return found


@pytest.fixture(scope="module")
async def bench(
    engine_url: str,
    docker_client: APIClient,
    standin_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Bench]:
    engine = DockerEngine(engine_url)
    base = await BaseImages(engine, {"test-network/*": standin_image}).resolve(
        "test-network/pytorch", lambda event: None
    )
    made = Bench(engine, docker_client, base, tmp_path_factory.mktemp("logs"))
    yield made
    assert made.gates() == []
    for image in docker_client.images():
        for tag in image["RepoTags"] or ():
            if tag.startswith((f"ds01-{USER}", f"ds01-base:{USER}-")):
                docker_client.remove_image(tag, force=True)
    await engine.close()


@pytest.fixture(scope="module")
def host(docker_client: APIClient) -> str:
    """The address by which containers reach this host."""
    network = docker_client.inspect_network("bridge")
    return str(network["IPAM"]["Config"][0]["Gateway"])


@pytest.fixture(scope="module")
def index(host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[curious.Index]:
    made = curious.Index(host, tmp_path_factory.mktemp("index"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def listener() -> curious.Listener:
    return curious.Listener()


@pytest.fixture(scope="module")
def run(
    docker_client: APIClient, standin_image: str, run_labels: dict[str, str]
) -> Iterator[Callable[..., str]]:
    """Starts a container of an image on the engine's default network; its id."""
    made: list[str] = []

    def start(command: list[str], image: str = standin_image) -> str:
        id = docker_client.create_container(image, command, labels=run_labels)["Id"]
        made.append(id)
        docker_client.start(id)
        return str(id)

    yield start
    for id in made:
        docker_client.remove_container(id, force=True, v=True)


@pytest.fixture(scope="module")
def targets(
    host: str, listener: curious.Listener, docker_client: APIClient, run: Callable[..., str]
) -> list[tuple[str, int]]:
    """What a build may not reach: this host's ports, a neighbour, where clouds keep credentials."""
    neighbour = docker_client.inspect_container(run(NEIGHBOUR))["NetworkSettings"]["IPAddress"]
    return [(host, listener.port), (neighbour, PORT), ("169.254.169.254", 80)]


@dataclass(frozen=True)
class Installed:
    """What the package found each time it looked, and who came to the listener meanwhile."""

    found: list[dict[str, Any]]
    heard: list[str]


@pytest.fixture(scope="module")
async def environment(bench: Bench, ca_pem: bytes) -> str:
    """An image that has the environment, and no package of a user."""
    site = BuildSite(ca_pem=ca_pem)
    return await bench.build(bench.network(site), bench.plan(bench.recipe(), site))


@pytest.fixture(scope="module")
async def installed(
    bench: Bench,
    environment: str,
    index: curious.Index,
    host: str,
    listener: curious.Listener,
    targets: list[tuple[str, int]],
    ca_pem: bytes,
    run: Callable[..., str],
) -> Installed:
    """What the package found in two builds, one after the other, at its build and at a start."""
    listener.heard.clear()
    seen = [*targets, (host, index.port)]
    for version in ("1", "2"):
        index.files[f"ds01_curious-{version}.tar.gz"] = curious.sdist(version, seen, "iniconfig")
    site = BuildSite(extra_index_urls=(index.url,), ca_pem=ca_pem + index.authority)
    found = []
    for version in ("1", "2"):
        made = bench.recipe(f"{curious.NAME}=={version}")
        plan = bench.added(made, site, environment, "source-allowed")
        built = await bench.build(bench.network(site), plan)
        for name in ("at_build", "at_start"):
            script = f"cat /opt/ds01/env/lib/python3*/site-packages/ds01_curious/{name}.json"
            container = run(["sh", "-c", script], built)
            assert bench.client.wait(container)["StatusCode"] == 0
            found.append(dict(curious.findings(bench.client.logs(container).decode())))
    return Installed(found, list(listener.heard))


def test_the_probe_reaches_what_is_there(
    targets: list[tuple[str, int]], docker_client: APIClient, run: Callable[..., str]
) -> None:
    """Without this, what a build does not reach would say nothing."""
    near = [list(target) for target in targets[:2]]
    script = f"{curious.PROBE}\nprint(json.dumps(probe({near})))"
    container = run(["python3", "-c", script])
    docker_client.wait(container, timeout=60)
    found = curious.findings(docker_client.logs(container).decode())
    assert found["reached"] == near
    assert found["names"]


def test_a_package_reaches_nothing_while_it_is_installed(
    installed: Installed, index: curious.Index
) -> None:
    for found in installed.found:
        assert found["uid"] == 65500
        assert found["reached"] == []
        assert found["names"] == []
        assert found["interfaces"] == ["lo"]
    assert installed.heard == []
    assert index.asked


def test_a_package_is_let_through_to_its_index_alone(
    installed: Installed, index: curious.Index, host: str
) -> None:
    for found in installed.found:
        answers = found["proxy"]
        assert answers.pop(f"{host}:{index.port}").startswith("HTTP/1.1 200")
        assert set(answers.values()) == {"HTTP/1.1 403 HTTP/1.1 403"}


def test_a_package_finds_no_credential_and_nothing_of_another_build(
    installed: Installed,
) -> None:
    for found in installed.found:
        assert found["sockets"] == []
        words = ("token", "secret", "password", "jupyterhub", "ds01_test")
        assert not [name for name in found["environment"] if any(w in name.lower() for w in words)]
    assert [found["left by others"] for found in installed.found if "left by others" in found] == [
        [],
        [],
    ]


def test_what_the_package_needs_comes_from_the_other_index(
    installed: Installed, bench: Bench, run: Callable[..., str]
) -> None:
    name = image_name(bench.recipe(f"{curious.NAME}==2"), USER, "p")
    container = run(["/opt/ds01/env/bin/python", "-c", "import iniconfig, ds01_curious"], name)
    assert bench.client.wait(container)["StatusCode"] == 0
    history = "\n".join(layer["CreatedBy"] for layer in bench.client.history(name))
    assert "127.0.0.1:3128" not in history


async def test_what_nobody_removes_ends_by_itself(bench: Bench) -> None:
    async with bench.network(BuildSite(), seconds=2).open(bench.base.tag):
        assert len(bench.gates()) == 2
        volumes = {mount["Name"] for gate in bench.gates() for mount in gate["Mounts"]}
        assert len(volumes) == 1
        for _ in range(600):
            if not bench.gates():
                break
            await asyncio.sleep(0.05)
        assert bench.gates() == []
        left = {volume["Name"] for volume in bench.client.volumes()["Volumes"] or ()}
        assert not volumes & left


@asynccontextmanager
async def a_step(bench: Bench, network: GatedNetwork) -> AsyncIterator[asyncio.Task[str]]:
    """A build in the middle of a step."""
    made = bench.recipe(f"ds01-{uuid4().hex}")
    steps = steps_of(f"FROM {bench.base.tag}\nLABEL of={made.short}\nRUN sleep 300")
    plan = replace(bench.plan(made, BuildSite()), steps=steps)
    building = asyncio.ensure_future(bench.build(network, plan))
    for _ in range(600):
        if any(c["Command"] == "/bin/sh -c 'sleep 300'" for c in bench.client.containers()):
            break
        await asyncio.sleep(0.05)
    assert len(bench.gates()) == 2
    yield building


async def test_a_build_that_is_given_up_leaves_no_gate(bench: Bench) -> None:
    async with a_step(bench, bench.network(BuildSite())) as building:
        building.cancel()
        with pytest.raises(asyncio.CancelledError):
            await building
        assert bench.gates() == []


async def test_an_engine_that_is_killed_leaves_no_gate(
    bench: Bench, engine_process: EngineProcess
) -> None:
    network = bench.network(BuildSite())
    async with a_step(bench, network) as building:
        await asyncio.to_thread(engine_process.kill, signal.SIGKILL)
        with pytest.raises(EngineUnavailable):
            await building
        await asyncio.to_thread(engine_process.start)
        await network.sweep()
        assert bench.gates() == []
        assert steps_of_builds(bench.client) == []


# --- a mirror that is slow or broken -------------------------------------------------------------


def half(body: bytes, send: Callable[[bytes], object]) -> None:
    send(body[: len(body) // 2])


def trickling(body: bytes, send: Callable[[bytes], object]) -> None:
    for byte in body:
        send(bytes([byte]))
        time.sleep(0.1)


@dataclass(frozen=True)
class Mirror:
    """One package on the index, and its installation."""

    bench: Bench
    index: curious.Index
    site: BuildSite
    environment: str
    name: str

    @property
    def file(self) -> str:
        """The path of its wheel."""
        return f"/{self.name}-1-py3-none-any.whl"

    async def why_not(self, timeout_s: float = 600) -> str:
        """The sentence of the failed build; nothing of it is left."""
        made = self.bench.recipe(self.name.replace("_", "-"))
        plan = self.bench.added(made, self.site, self.environment, "wheels-only")
        with pytest.raises(BuildFailed) as failed:
            await self.bench.build(self.bench.network(self.site), plan, timeout_s)
        assert self.bench.gates() == []
        return failed.value.message.partition("failed: ")[2]


@pytest.fixture
def mirror(bench: Bench, environment: str, index: curious.Index, ca_pem: bytes) -> Mirror:
    """A new package, whose index is the only one."""
    site = BuildSite(index_url=index.url, ca_pem=ca_pem + index.authority)
    made = Mirror(bench, index, site, environment, f"ds01_{uuid4().hex[:8]}")
    index.files[made.file.lstrip("/")] = curious.wheel(made.name, 4000)
    return made


async def test_a_mirror_that_only_trickles(mirror: Mirror) -> None:
    mirror.index.senders[mirror.file] = trickling
    why = await mirror.why_not(timeout_s=30)
    assert why.startswith("it took longer than the 0.5 minutes that a build may take;")
    assert mirror.file in mirror.index.asked


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ("half", "only a part of {file} came from the package index; try again in a few minutes."),
        ("no wheel", "what the package index gave as {file} is no package;"),
        ("hash", "the file that the package index gave for {name} does not match its hash;"),
        ("500", "the package index could not be reached; try again in a few minutes."),
        ("500 of the list", "the package index {host} failed with status 500; try again"),
    ],
)
async def test_a_mirror_that_is_broken(mirror: Mirror, way: str, why: str) -> None:
    index, file = mirror.index, mirror.file.lstrip("/")
    if way == "half":
        index.senders[mirror.file] = half
    elif way == "no wheel":
        index.files[file] = b"<html>Please log in</html>"
    elif way == "hash":
        index.hashes[file] = f"sha256={'0' * 64}"
    else:
        of_list = f"/simple/{mirror.name.replace('_', '-')}/"
        index.failing.add(of_list if way.endswith("list") else mirror.file)
    told = await mirror.why_not()
    assert told.startswith(
        why.format(file=file, name=mirror.name.replace("_", "-"), host=index.url.split("/")[2])
    )
