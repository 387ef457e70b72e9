"""Derived images on the tests' engine, and containers of them as a hub would run them."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import jupyterhub
from docker.types import Mount

from ds01_spawner.core.build_gate import doors
from ds01_spawner.core.build_plan import BuildPlan
from ds01_spawner.core.build_site import BuildSite
from ds01_spawner.core.dockerfile import run_environment
from ds01_spawner.core.recipe import Recipe, image_name
from ds01_spawner.core.server_image import SERVER_ROOT, ServerRecipe
from ds01_spawner.services.base_images import BaseImage, BaseImages
from ds01_spawner.services.build_network import BuildNetwork, GatedNetwork
from ds01_spawner.services.builder import Builder, BuildEvent, Remembered
from ds01_spawner.services.docker_engine import DockerEngine
from ds01_spawner.services.engine import Engine
from ds01_spawner.services.images import plan_of
from ds01_spawner.services.server_volume import ServerVolume

UID = 200_001
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


class ImageBench:
    """A builder on the tests' engine, and containers of what it builds, as of one user."""

    def __init__(
        self, engine: DockerEngine, client: Any, log_dir: Path, site: BuildSite, user: str
    ) -> None:
        self.engine, self.client, self.site, self.user = engine, client, site, user
        self.ours = (f"ds01-{user}", f"ds01-base:{user}-", f"ds01-base:ds01-{user}-")
        self.log_dir = log_dir
        gated = GatedNetwork(
            engine, hub=user, doors=doors(site, ()), seconds=720, new_id=lambda: uuid4().hex
        )
        self.builder = self.new_builder(engine, gated)
        self.base: BaseImage
        self.standin: str
        self.server: ServerRecipe
        self.labels: Mapping[str, str] = {}

    def new_builder(self, engine: Engine, network: BuildNetwork) -> Builder:
        return Builder(
            engine,
            concurrency=2,
            memory=2 << 30,
            cpus=2,
            timeout_s=600,
            log_dir=self.log_dir,
            now=lambda: datetime.now(timezone.utc),
            made=Remembered(),
            gate_image=self._gate_image,
            network=network,
        )

    async def _gate_image(self) -> str:
        return self.standin

    def recipe(self, **lists: Any) -> Recipe:
        return Recipe(
            base=self.base.identity,
            framework="Pytorch",
            version="2.8.0",
            architecture="CUDA_ADA",
            site=self.site.fingerprint,
            **lists,
        )

    async def build(
        self,
        made: Recipe,
        on_event: Callable[[BuildEvent], None] = lambda event: None,
        user: str = "",
    ) -> str:
        return await self.builder.ensure(self.plan(made, user), on_event)

    def plan(self, made: Recipe, user: str = "") -> BuildPlan:
        return plan_of(made, self.name(made, user), self.base.tag, self.site)

    def name(self, made: Recipe, user: str = "") -> str:
        return image_name(made, user or self.user, "p")

    def run(self, image: str, command: list[str], made: Recipe, **more: Any) -> tuple[int, str]:
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
            **more,
            host_config=self.client.create_host_config(
                tmpfs={home: f"uid={UID},gid={UID},mode=0700,exec"},
                mounts=[Mount(SERVER_ROOT, self.server.volume, read_only=True)],
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
            if not tag.startswith((f"ds01-{self.user}", "ds01-base:", "ds01-server:", "<none>"))
        }

    def make_base(self, name: str, lines: str, base: str = "") -> str:
        """A framework image: these lines of a Dockerfile on top of the stand-in; its name."""
        tag = f"ds01-{self.user}-base/{name}:1"
        dockerfile = io.BytesIO(f"FROM {base or self.base.tag}\n{lines}\n".encode())
        answers = self.client.build(fileobj=dockerfile, tag=tag, rm=True, forcerm=True, decode=True)
        assert not [answer for answer in answers if "error" in answer]
        return tag

    def answer(self, image: str, made: Recipe) -> int:
        """The HTTP status of a notebook server in the image."""
        command = [f"{SERVER_ROOT}/bin/python", "-I", "-c", SINGLEUSER]
        code, output = self.run(image, command, made)
        assert code == 0, output
        (told,) = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        return int(told["status"])

    def in_kernel(self, image: str, made: Recipe, code: str) -> str:
        """What the code prints in a kernel of the image."""
        command = [f"{SERVER_ROOT}/bin/python", "-I", "-c", KERNEL, code]
        status, output = self.run(image, command, made)
        assert status == 0, output
        return output

    def remove_made(self) -> None:
        """Remove the images of this user, those of a run that was killed too."""
        for image in self.client.images():
            for tag in image["RepoTags"] or ():
                if tag.startswith(self.ours):
                    self.client.remove_image(tag, force=True)


@asynccontextmanager
async def image_bench(
    engine_url: str,
    client: Any,
    log_dir: Path,
    *,
    standin_image: str,
    ca_pem: bytes,
    labels: Mapping[str, str],
    user: str,
) -> AsyncIterator[ImageBench]:
    """A bench with the stand-in as its base, and the notebook server; nothing of it is left."""
    engine = DockerEngine(engine_url)
    made = ImageBench(engine, client, log_dir, BuildSite(ca_pem=ca_pem), user)
    made.remove_made()
    made.labels = labels
    bases = BaseImages(engine, {"*": standin_image})
    made.standin = standin_image
    made.base = await bases.resolve(f"{user}/pytorch", lambda event: None)
    made.server = ServerRecipe("python:3", jupyterhub.__version__)
    server = ServerVolume(engine, made.builder, bases, made.server, made.site, user)
    await server.ready(lambda event: None)
    yield made
    made.remove_made()
    await engine.close()
