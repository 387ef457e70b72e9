"""Derived images, built on a real engine from the stand-in: they work, once, and fail in words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from ds01_spawner.core.build_gate import doors
from ds01_spawner.core.dockerfile import BuildSite, build_context, run_environment
from ds01_spawner.core.recipe import Recipe, image_name
from ds01_spawner.errors import BaseImageRefused, BuildFailed
from ds01_spawner.services.base_images import BaseImage, BaseImages
from ds01_spawner.services.build_network import GatedNetwork
from ds01_spawner.services.builder import Builder, BuildEvent, Remembered
from ds01_spawner.services.docker_engine import DockerEngine
from ds01_spawner.services.image_files import image_files

USER = "test-images"
UID = 200_001
MADE = (f"ds01-{USER}", f"ds01-base/{USER}-", f"ds01-base/ds01-{USER}-")
# Plays the hub for one server: it answers the one question that a server asks before it listens.
SINGLEUSER = """
import http.client, http.server, json, os, subprocess, sys, threading, time
class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'{"version": "0"}')
    do_POST = do_GET
    def log_message(self, *args): pass
hub = http.server.ThreadingHTTPServer(("127.0.0.1", 8081), Hub)
threading.Thread(target=hub.serve_forever, daemon=True).start()
env = {
    **os.environ,
    "JUPYTERHUB_API_URL": "http://127.0.0.1:8081/hub/api",
    "JUPYTERHUB_API_TOKEN": "t",
    "JUPYTERHUB_BASE_URL": "/",
    "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-alice",
    "JUPYTERHUB_HOST": "",
    "JUPYTERHUB_OAUTH_CALLBACK_URL": "/user/alice/oauth_callback",
    "JUPYTERHUB_SERVICE_PREFIX": "/user/alice/",
    "JUPYTERHUB_SERVICE_URL": "http://0.0.0.0:8888",
    "JUPYTERHUB_USER": "alice",
}
began = time.monotonic()
server = subprocess.Popen(["/opt/ds01/server/bin/jupyterhub-singleuser"], env=env)
while server.poll() is None:
    try:
        asked = http.client.HTTPConnection("127.0.0.1", 8888)
        asked.request("GET", "/user/alice/api")
        status = asked.getresponse().status
        print(json.dumps({"status": status, "seconds": time.monotonic() - began}))
        break
    except OSError:
        time.sleep(0.01)
server.kill()
"""
KERNEL = """
import sys
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3")
reply = client.execute_interactive(sys.argv[1], timeout=60)
client.stop_channels(); manager.shutdown_kernel(now=True)
sys.exit(reply["content"]["status"] != "ok")
"""


class Bench:
    """A builder on the tests' engine, and containers of what it builds."""

    def __init__(self, engine: DockerEngine, client: Any, log_dir: Path, site: BuildSite) -> None:
        self.engine, self.client, self.site = engine, client, site
        self.builder = Builder(
            engine,
            concurrency=2,
            memory=2 << 30,
            cpus=2,
            timeout_s=600,
            log_dir=log_dir,
            now=lambda: datetime.now(timezone.utc),
            made=Remembered(),
            network=GatedNetwork(
                engine, hub=USER, doors=doors(site, ()), seconds=720, new_id=lambda: uuid4().hex
            ),
        )
        self.base: BaseImage
        self.hub_major = 6
        self.labels: Mapping[str, str] = {}

    def recipe(self, **lists: Any) -> Recipe:
        return Recipe(
            base=self.base.identity,
            framework="Pytorch",
            version="2.8.0",
            architecture="CUDA_ADA",
            hub_major=self.hub_major,
            site=self.site.fingerprint,
            **lists,
        )

    async def build(
        self,
        made: Recipe,
        on_event: Callable[[BuildEvent], None] = lambda event: None,
        user: str = USER,
    ) -> str:
        files = build_context(made, self.base.tag, self.site, image_files("derived"))
        name = image_name(made, user, "p")
        return await self.builder.ensure(made, name, self.base.tag, lambda: files, on_event)

    def run(self, image: str, command: list[str], made: Recipe) -> tuple[int, str]:
        """Run a command as a user of the hub would; its exit code and output."""
        home = "/home/alice"
        environment = {**run_environment(made, self.site, home), "HOME": home}
        container = self.client.create_container(
            image,
            command,
            user=f"{UID}:{UID}",
            working_dir=home,
            environment=environment,
            labels=dict(self.labels),
            host_config=self.client.create_host_config(
                tmpfs={home: f"uid={UID},gid={UID},mode=0700,exec"},
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
            ),
        )["Id"]
        try:
            self.client.start(container)
            code = self.client.wait(container, timeout=300)["StatusCode"]
            return code, self.client.logs(container).decode()
        finally:
            self.client.remove_container(container, force=True, v=True)

    def containers(self) -> set[str]:
        """All containers of images made from the base, the steps of builds too."""
        of_base = {"ancestor": self.base.tag}
        return {found["Id"] for found in self.client.containers(all=True, filters=of_base)}

    def names(self) -> dict[str, str]:
        """Every name of every image, except the tests' own namespace."""
        return {
            tag: image["Id"]
            for image in self.client.images()
            for tag in image["RepoTags"] or ()
            if not tag.startswith((f"ds01-{USER}", "ds01-base/", "<none>"))
        }


@pytest.fixture(scope="module")
async def bench(
    engine_url: str,
    docker_client: Any,
    standin_image: str,
    ca_pem: bytes,
    hub_major: int,
    run_labels: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Bench]:
    remove_made(docker_client)
    engine = DockerEngine(engine_url)
    folder = tmp_path_factory.mktemp("logs")
    made = Bench(engine, docker_client, folder, BuildSite(ca_pem=ca_pem))
    made.hub_major, made.labels = hub_major, run_labels
    made.base = await BaseImages(engine, {"test-images/*": standin_image}).resolve(
        "test-images/pytorch", lambda event: None
    )
    yield made
    remove_made(docker_client)
    await engine.close()


def remove_made(client: Any) -> None:
    """Remove the images of this module, those of a run that was killed too."""
    for image in client.images():
        for tag in image["RepoTags"] or ():
            if tag.startswith(MADE):
                client.remove_image(tag, force=True)


@pytest.fixture(scope="module")
async def made(bench: Bench) -> Recipe:
    return bench.recipe(pip=("tabulate",), apt=("tree",))


@pytest.fixture(scope="module")
async def events(bench: Bench, made: Recipe) -> list[BuildEvent]:
    """What the first build told; the image is there afterwards."""
    told: list[BuildEvent] = []
    await bench.build(made, told.append)
    return told


@pytest.fixture(scope="module")
def image(events: list[BuildEvent], made: Recipe) -> str:
    return image_name(made, USER, "p")


def test_the_build_tells_its_steps(events: list[BuildEvent]) -> None:
    titles = list(dict.fromkeys(event.title for event in events))
    assert titles == [
        "Framework image",
        "Notebook server",
        "Python kernel",
        "System packages: tree",
        "Your packages: tabulate",
        "Check of the result",
        "Finishing",
    ]
    assert [event.step for event in events] == sorted(event.step for event in events)
    lines = [event.line for event in events if event.line]
    assert lines
    assert all(line.isprintable() for line in lines)


def test_what_the_image_says_of_itself(bench: Bench, image: str, made: Recipe) -> None:
    found = bench.client.inspect_image(image)
    config = found["Config"]
    assert config["Labels"]["ds01.recipe"] == made.digest
    assert config["Labels"]["ds01.pip"] == "tabulate"
    assert "ds01.managed" not in config["Labels"]
    assert not config["Entrypoint"]
    assert config["User"] == "65500:65500"
    history = "\n".join(layer["CreatedBy"] for layer in bench.client.history(image))
    assert USER not in history
    assert "BEGIN CERTIFICATE" not in history


def test_the_server_answers(bench: Bench, image: str, made: Recipe) -> None:
    code, output = bench.run(image, ["/opt/ds01/server/bin/python", "-I", "-c", SINGLEUSER], made)
    assert code == 0, output
    (answer,) = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert answer["status"] == 200, output


def test_the_kernel_is_the_framework_s_python_with_the_added_package(
    bench: Bench, image: str, made: Recipe
) -> None:
    code = "import sys, torch, tabulate; print(sys.prefix, torch.__version__, tabulate.__file__)"
    status, output = bench.run(
        image, ["/opt/ds01/server/bin/python", "-I", "-c", KERNEL, code], made
    )
    assert status == 0, output
    assert "/opt/ds01/env 2.8.0+standin /opt/ds01/env/lib/" in output


def test_what_is_installed_from_a_notebook_is_the_user_s_alone(
    bench: Bench, image: str, made: Recipe
) -> None:
    script = (
        "pip install --quiet --no-input iniconfig && python -c 'import iniconfig; "
        "print(iniconfig.__file__)'; which tree; touch /opt/ds01/env/x; pip install torch==2.0"
    )
    _, output = bench.run(image, ["bash", "-lc", script], made)
    assert f"/home/alice/.local/share/ds01/{made.short}/lib/python" in output, output
    assert "/usr/bin/tree" in output
    assert "Permission denied" in output
    assert "(constraint) torch==2.8.0+standin" in output


def test_the_framework_s_own_packages_are_as_they_were(
    bench: Bench, image: str, made: Recipe, standin_image: str
) -> None:
    listing = ["/usr/bin/python3", "-m", "pip", "list", "--format=freeze", "--no-input"]
    _, before = bench.run(standin_image, listing, made)
    _, after = bench.run(image, listing, made)
    packages = [line for line in before.splitlines() if "==" in line]
    assert any(line.startswith("torch==") for line in packages)
    assert [line for line in after.splitlines() if "==" in line] == packages


async def test_an_image_that_is_there_is_not_built_again(
    bench: Bench, image: str, made: Recipe
) -> None:
    told: list[BuildEvent] = []
    found = await bench.build(made, told.append)
    other = await bench.build(made, told.append, user=f"{USER}-2")
    assert found == other == bench.client.inspect_image(image)["Id"]
    assert told == []


@pytest.mark.parametrize(
    ("lists", "why"),
    [
        ({"pip": ("tabulate", "ds01-no-such-package")}, "found for ds01-no-such-package"),
        ({"pip": ("docopt",)}, "docopt has no ready-made package"),
        ({"pip": ("torch==2.0",)}, "what the framework image has, torch==2.8.0"),
        ({"apt": ("ds01-no-such-package",)}, "Unable to locate package ds01-no-such-package"),
    ],
)
async def test_a_package_that_cannot_be_had_is_told_in_its_own_words(
    bench: Bench, image: str, lists: dict[str, Any], why: str
) -> None:
    names, containers = bench.names(), bench.containers()
    old = bench.client.inspect_image(image)["Id"]
    with pytest.raises(BuildFailed) as failed:
        await bench.build(bench.recipe(**lists))
    assert why in failed.value.message
    assert next(iter(lists.values()))[-1].partition("=")[0] in failed.value.message
    assert failed.value.log_tail
    assert bench.client.inspect_image(image)["Id"] == old
    assert bench.client.inspect_image(f"ds01-{USER}/p:latest")["Id"] == old
    assert bench.names() == names
    assert bench.containers() <= containers


async def test_a_build_that_is_given_up_leaves_no_container(bench: Bench, image: str) -> None:
    containers = bench.containers()
    begun = asyncio.Event()

    def listen(event: BuildEvent) -> None:
        if event.title.startswith("Your packages"):
            begun.set()

    building = asyncio.ensure_future(bench.build(bench.recipe(pip=("colorama",)), listen))
    await asyncio.wait_for(begun.wait(), 120)
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    # The engine removes the step's container a moment after the stream is closed.
    for _ in range(600):
        if bench.containers() <= containers:
            break
        await asyncio.sleep(0.05)
    assert bench.containers() <= containers


async def test_a_build_that_prints_without_end_ends_and_holds_nobody_up(bench: Bench) -> None:
    longest, loop = 0.0, asyncio.get_running_loop()

    async def tick() -> None:
        nonlocal longest
        while True:
            before = loop.time()
            await asyncio.sleep(0.01)
            longest = max(longest, loop.time() - before)

    def context() -> dict[str, bytes]:
        # under a new label, for a layer of an earlier run prints nothing
        text = f"FROM {bench.base.tag}\nLABEL of={bench.labels['ds01.test']}\nRUN yes\n"
        return {"Dockerfile": text.encode()}

    ticker = asyncio.ensure_future(tick())
    made = bench.recipe(pip=("ds01-endless",))
    with pytest.raises(BuildFailed, match="it printed without end"):
        name = image_name(made, USER, "p")
        await bench.builder.ensure(made, name, bench.base.tag, context, lambda event: None)
    ticker.cancel()
    # without bounds it was 11 to 18 seconds
    assert longest < 2
    assert bench.builder.log_path(made).stat().st_size < 2**21


@pytest.fixture
def odd_base(bench: Bench, run_labels: dict[str, str]) -> Iterator[Callable[[str], str]]:
    """Makes a base image from lines of a Dockerfile on top of the stand-in."""
    import io

    made: list[str] = []

    def make(lines: str) -> str:
        tag = f"ds01-{USER}-base/odd:{len(made)}"
        dockerfile = io.BytesIO(f"FROM {bench.base.tag}\n{lines}\n".encode())
        answers = bench.client.build(
            fileobj=dockerfile, tag=tag, rm=True, forcerm=True, decode=True
        )
        assert not [answer for answer in answers if "error" in answer]
        made.append(tag)
        return tag

    yield make
    for tag in made:
        bench.client.remove_image(tag, force=True)


async def test_a_base_that_acts_in_builds_is_refused(
    bench: Bench, odd_base: Callable[[str], str]
) -> None:
    for line in ("ONBUILD RUN touch /x", "ENV LD_PRELOAD=/x.so"):
        with pytest.raises(BaseImageRefused):
            await BaseImages(bench.engine, {}).resolve(odd_base(line), lambda event: None)


ODD = """\
RUN python3 -m venv /opt/conda && mv /usr/local/lib/python3.11/dist-packages/torch* \
/opt/conda/lib/python3.11/site-packages/ && dpkg -r python3-venv python3.11-venv
ENV PATH=/opt/conda/bin:$PATH PIP_CONSTRAINT=/nowhere PIP_INDEX_URL=http://127.0.0.1:1/ \
PYTHONPATH=/nowhere NVIDIA_VISIBLE_DEVICES=all
LABEL ds01.recipe=imitated ds01.image.managed=true
SHELL ["/bin/false"]
USER nobody
WORKDIR /var
ENTRYPOINT ["/bin/false"]
CMD ["x"]
HEALTHCHECK CMD false
"""


@pytest.mark.long
async def test_a_base_with_its_framework_elsewhere_and_odd_settings(
    bench: Bench, odd_base: Callable[[str], str]
) -> None:
    """A venv first on PATH, no ensurepip, another user, an entry point, pip settings of its own."""
    standin = bench.base
    name = odd_base(ODD)
    bench.base = await BaseImages(bench.engine, {}).resolve(name, lambda event: None)
    try:
        made = bench.recipe(pip=("tabulate",))
        image = await bench.build(made)
        code = "import sys, torch; print(torch.__file__)"
        status, output = bench.run(
            image, ["/opt/ds01/server/bin/python", "-I", "-c", KERNEL, code], made
        )
    finally:
        bench.base = standin
    assert status == 0, output
    assert "/opt/conda/lib/python3.11/site-packages/torch/__init__.py" in output
