"""The fake engine's images: names, pulls, and builds that read a Dockerfile."""

from __future__ import annotations

import hashlib
import io
import shlex
import tarfile
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ds01_spawner.core.registries import Login
from ds01_spawner.services.engine import (
    EngineConflict,
    EngineNotFound,
    EngineStreamError,
    Json,
    Labels,
)
from tests.fakes.events import has
from tests.fakes.stores import FakeStores


@dataclass(frozen=True)
class Build:
    """One build that was asked for."""

    tag: str
    files: Mapping[str, bytes]
    labels: Mapping[str, str]
    buildargs: Mapping[str, str]
    memory: int | None
    cpus: float | None
    network: str | None
    steps: list[str] = field(default_factory=list)  # those that were begun


BUILT_AT = 1_767_225_600  # 2026-01-01 UTC
A_STEP = 1_000_000  # bytes of a step of a build


async def _succeed(command: str) -> int:
    return 0


class FakeImages(FakeStores):
    """Images by id. `registry` names what can be pulled, `run` plays a build's RUN lines.

    `run` gets the command and gives its exit code; it may take its time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.images: dict[str, Json] = {}
        self.registry: set[str] = set()
        self.logins: list[Login | None] = []  # one for each pull
        self.run: Callable[[str], Awaitable[int]] = _succeed
        self.builds: list[Build] = []

    def add_image(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        digests: Iterable[str] = (),
        env: Iterable[str] = (),
        layers: Mapping[str, int] | None = None,
    ) -> str:
        """Put an image there; without `digests` it is one that was made on this host.

        `layers` are command -> bytes, the oldest first.
        """
        layers = {name: 290_000_000} if layers is None else layers
        id = "sha256:" + hashlib.sha256(f"{name} {len(self.images)}".encode()).hexdigest()
        self.images[id] = {
            "Id": id,
            "RepoTags": [],
            "RepoDigests": list(digests),
            "Size": sum(layers.values()),
            "Created": BUILT_AT,
            "layers": dict(layers),  # as an engine does not tell them
            "Config": {"Labels": dict(labels or {}), "Env": list(env)},
        }
        self._name(id, name)
        return id

    def image(self, name: str) -> Json:
        """An image by name, digest or id; EngineNotFound."""
        for image in self.images.values():
            names = (image["Id"], *image["RepoTags"], *image["RepoDigests"])
            if name in names or _tagged(name) in names:
                return image
        raise EngineNotFound(f"No such image: {_tagged(name)}")

    def _name(self, id: str, name: str) -> None:
        for image in self.images.values():
            image["RepoTags"] = [tag for tag in image["RepoTags"] if tag != _tagged(name)]
        self.images[id]["RepoTags"].append(_tagged(name))

    async def inspect_image(self, name: str) -> Json:
        return await self.call("inspect_image", (name,), lambda: self.image(name))

    async def list_images(self, labels: Labels) -> list[Json]:
        def effect() -> list[Json]:
            found = (i for i in self.images.values() if has(i["Config"]["Labels"], labels))
            return [{**image, "Labels": image["Config"]["Labels"]} for image in found]

        return await self.call("list_images", (labels,), effect)

    async def history(self, image: str) -> list[Json]:
        def effect() -> list[Json]:
            layers = [*self.image(image)["layers"].items()]
            return [
                {"CreatedBy": command, "Created": BUILT_AT, "Size": size, "Id": "<missing>"}
                for command, size in reversed(layers)
            ]

        return await self.call("history", (image,), effect)

    async def tag_image(self, image: str, repository: str, tag: str) -> None:
        await self.call(
            "tag_image",
            (image, repository, tag),
            lambda: self._name(self.image(image)["Id"], f"{repository}:{tag}"),
        )

    async def remove_image(self, name: str) -> None:
        def effect() -> None:
            image = self.image(name)
            names = image["RepoTags"]
            in_use = any(c["Image"] == image["Id"] for c in self.containers.values())
            if in_use and len(names) <= 1:
                raise EngineConflict(f"unable to remove {name}: a container is using it")
            if _tagged(name) in names:
                names.remove(_tagged(name))
            elif len(names) > 1:
                raise EngineConflict(f"unable to delete {name} (must be forced)")
            else:
                names.clear()
            if not names:
                del self.images[image["Id"]]

        await self.call("remove_image", (name,), effect)

    async def pull(
        self, image: str, on_event: Callable[[Json], None], login: Login | None = None
    ) -> None:
        async def effect() -> None:
            self.logins.append(login)
            if image not in self.registry:
                raise EngineNotFound(f"pull access denied for {image}")
            for status in ("Pulling fs layer", "Pull complete"):
                on_event({"status": status, "progressDetail": {}, "id": "0123456789ab"})
            repository = image.partition("@")[0].rpartition(":")[0] or image
            digest = hashlib.sha256(image.encode()).hexdigest()
            self.add_image(image, digests=[f"{repository}@sha256:{digest}"])

        await self.stream_call("pull", (image,), effect)

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
        build = Build(tag, files_of(context), labels, buildargs, memory, cpus, network)

        async def effect() -> str:
            self.builds.append(build)
            return await self._build(build, on_line)

        return await self.stream_call("build", (tag,), effect)

    async def _build(self, build: Build, on_line: Callable[[str], None]) -> str:
        instructions = _instructions(build.files["Dockerfile"].decode())
        labels: dict[str, str] = {}
        layers: dict[str, int] = {}
        for number, (word, rest) in enumerate(instructions, 1):
            await self.passing("step")
            build.steps.append(f"{word} {rest}")
            on_line(f"Step {number}/{len(instructions)} : {word} {rest}")
            if word == "FROM" and rest != "scratch":
                labels.update(self._base(rest)["Config"]["Labels"])
                layers.update(self._base(rest)["layers"])
            elif word == "LABEL":
                labels.update(dict(pair.split("=", 1) for pair in shlex.split(rest)))
            elif word == "RUN" and (code := await self.run(rest)):
                message = f"The command '/bin/sh -c {rest}' returned a non-zero code: {code}"
                raise EngineStreamError(message, code)
            elif word in ("RUN", "COPY"):
                layers[f"{build.tag} {word} {rest}"] = A_STEP
        id = self.add_image(build.tag, labels={**labels, **build.labels}, layers=layers)
        on_line(f"Successfully built {id.removeprefix('sha256:')[:12]}")
        return id

    def _base(self, name: str) -> Json:
        try:
            return self.image(name)
        except EngineNotFound as error:
            raise EngineStreamError(f"pull access denied for {name}") from error


def _tagged(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest"


def files_of(context: bytes) -> dict[str, bytes]:
    files = {}
    with tarfile.open(fileobj=io.BytesIO(context)) as tar:
        for member in tar:
            if content := tar.extractfile(member):
                files[member.name.removeprefix("./")] = content.read()
    return files


def _instructions(dockerfile: str) -> list[tuple[str, str]]:
    lines = dockerfile.replace("\\\n", " ").splitlines()
    parts = (line.strip().partition(" ") for line in lines)
    return [(word.upper(), rest.strip()) for word, _, rest in parts if word and word[0] != "#"]
