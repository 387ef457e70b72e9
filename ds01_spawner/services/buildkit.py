"""Builds by BuildKit, through Docker's own command line, for sites that ask for it.

BuildKit takes its context and its answers through a session that only its own client speaks. It
applies no limits of memory or cores to steps, and knows no network but the engine's default one.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import IO, cast

from ds01_spawner.services.build_output import BuildOutput
from ds01_spawner.services.docker_engine import DockerEngine
from ds01_spawner.services.engine import EngineStreamError, Json
from ds01_spawner.services.threads import ThreadStream

COMMAND = "docker"
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY")
_COUNTED = ("FROM", "RUN", "COPY", "ADD", "WORKDIR")  # instructions that are steps of BuildKit's
_STEP = re.compile(r"#\d+ \[(?:\S+ +)?(\d+)/\d+\] ")
_TEXT = re.compile(r"#\d+ \d+\.\d+ (.*)")
_ERROR = re.compile(r"#\d+ ERROR: (.*)|ERROR: (.*)|(.* executor failed running .*)")
_CODE = re.compile(r"exit code: (\d+)")


class BuildKitEngine(DockerEngine):
    """A Docker engine whose builds are BuildKit's."""

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
        """As the engine's, without limits and on the engine's default network."""
        with tempfile.TemporaryDirectory(prefix="ds01-build-") as folder:
            image = Path(folder) / "image"
            command = [COMMAND, "build", "--progress=plain", f"--iidfile={image}", f"--tag={tag}"]
            command += [f"--label={key}={value}" for key, value in labels.items()]
            command += [f"--build-arg={key}={value}" for key, value in buildargs.items()]
            environment = {key: os.environ[key] for key in _KEPT_VARIABLES if key in os.environ}
            environment |= {
                "DOCKER_BUILDKIT": "1",
                "DOCKER_HOST": self.url,
                "DOCKER_CONFIG": folder,  # no log-ins, no proxies of whoever runs the hub
            }
            stream = ThreadStream("engine-build", _source([*command, "-"], environment, context))
            async with aclosing(stream) as lines:
                async for line in lines:
                    on_line(line)
            return image.read_text().strip()


def _source(
    command: list[str], environment: Mapping[str, str], context: bytes
) -> Callable[[Callable[[Callable[[], None]], None]], Generator[str, None, None]]:
    def source(opened: Callable[[Callable[[], None]], None]) -> Generator[str, None, None]:
        with tempfile.TemporaryFile() as given:
            given.write(context)
            given.seek(0)
            process = subprocess.Popen(  # noqa: S603
                command,
                env=dict(environment),
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        opened(process.kill)  # its session ends with it, and the build with the session
        problem = Problem()
        try:
            with io.TextIOWrapper(cast(IO[bytes], process.stdout), "utf-8", "replace") as output:
                items = classic(_bounded(output), numbers_of(context), problem)
                yield from BuildOutput(time.monotonic).lines(items)
            if process.wait():
                raise EngineStreamError(problem.message, problem.code)
        finally:
            process.kill()
            process.wait()

    return source


class Problem:
    """Why a build failed, as far as its output has said."""

    def __init__(self) -> None:
        self.message = "the build failed"
        self.code: int | None = None

    def add(self, message: str) -> None:
        """Keep what says more: the exit status of a step, else the last words."""
        code = _CODE.search(message)
        if code:
            self.message, self.code = f"{message} (a non-zero code: {code[1]})", int(code[1])
        elif self.code is None:
            self.message = message


def numbers_of(context: bytes) -> list[tuple[int, str]]:
    """Of each step of BuildKit's, which instruction of the Dockerfile it is, from 1, and its text.

    The Dockerfile has an instruction on each line, as ours have.
    """
    with tarfile.open(fileobj=io.BytesIO(context)) as files:
        content = files.extractfile("Dockerfile")
        lines = content.read().decode().splitlines() if content else []
    told = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    numbered = enumerate(told, 1)
    return [(n, line) for n, line in numbered if line.split()[0].upper() in _COUNTED]


def classic(
    lines: Iterable[str], numbers: list[tuple[int, str]], problem: Problem
) -> Iterator[Json]:
    """BuildKit's plain output -> the items that the classic builder would have sent."""
    told = 0
    for line in lines:
        text = line.rstrip("\n")
        step = _STEP.match(text)
        if step:
            place = int(step[1])
            if told < place <= len(numbers):
                told = place
                number, instruction = numbers[place - 1]
                yield {"stream": f"Step {number}/{numbers[-1][0]} : {instruction}\n"}
            continue
        error = _ERROR.match(text)
        if error:
            problem.add(next(part for part in error.groups() if part))
            continue
        output = _TEXT.match(text)
        if output:
            yield {"stream": f"{output[1]}\n"}


def _bounded(output: io.TextIOWrapper) -> Iterator[str]:
    """Its lines; a long one in parts, so that none is kept whole."""
    while line := output.readline(1 << 16):
        yield line
