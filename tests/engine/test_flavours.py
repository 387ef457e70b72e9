"""Derived images on base images of every kind that a catalog has, on a real engine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ds01_spawner.core.recipe import Recipe
from ds01_spawner.errors import BaseImageRefused, BuildFailed
from ds01_spawner.services.base_images import BaseImages
from tests.engine.image_bench import ImageBench, image_bench

pytestmark = pytest.mark.any_hub

LOAD_OLD = Path(__file__).parents[1] / "bench/load-old-image"
TORCH = "/usr/local/lib/python3.11/dist-packages/torch"
# Conda's own Python is first on PATH, has the framework, and no ensurepip helps it.
CONDA = f"""\
RUN python3 -m venv /opt/conda && mv {TORCH}* /opt/conda/lib/python3.11/site-packages/ && \
dpkg -r python3-venv python3.11-venv
ENV PATH=/opt/conda/bin:$PATH
"""
USER = """\
USER nobody
WORKDIR /var
ENV HOME=/nonexistent
"""
# What an image may say of devices and of itself, and how it would start and be looked after.
SETTINGS = """\
RUN mkdir /broken && echo broken >/broken/libuuid.so.1
ENV NVIDIA_VISIBLE_DEVICES=all PIP_CONSTRAINT=/nowhere PIP_INDEX_URL=http://127.0.0.1:1/ \
PYTHONPATH=/nowhere LD_LIBRARY_PATH=/broken
LABEL ds01.recipe=imitated ds01.image.managed=true ds01.managed=true ds01.user=mallory
SHELL ["/bin/false"]
ENTRYPOINT ["/bin/false"]
CMD ["x"]
HEALTHCHECK CMD false
STOPSIGNAL SIGUSR1
"""
FLAVOURS = {
    "conda": (CONDA, "/opt/conda/bin/python"),
    "user": (USER, "/usr/bin/python3"),
    "settings": (SETTINGS, "/usr/bin/python3"),
    "old-python": ("", "/usr/bin/python3"),
}
LISTING = (
    "from importlib.metadata import distributions\n"
    "found = {f'{d.metadata[\"Name\"]}=={d.version}' for d in distributions()}\n"
    "print('\\n'.join(sorted(found)))"
)


@dataclass(frozen=True)
class Flavour:
    """A base image and the derived image without packages that was made of it."""

    name: str
    base: str
    python: str  # the framework's
    made: Recipe
    image: str


@pytest.fixture(scope="module")
async def bench(
    engine_url: str,
    docker_client: Any,
    standin_image: str,
    ca_pem: bytes,
    run_labels: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[ImageBench]:
    async with image_bench(
        engine_url,
        docker_client,
        tmp_path_factory.mktemp("logs"),
        standin_image=standin_image,
        ca_pem=ca_pem,
        labels=run_labels,
        user="test-flavours",
    ) as made:
        yield made


@pytest.fixture(scope="module")
def old_image(engine_url: str) -> str:
    done = subprocess.run(
        [str(LOAD_OLD), engine_url, sys.executable],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=600, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module", params=list(FLAVOURS))
async def flavour(bench: ImageBench, request: pytest.FixtureRequest) -> Flavour:
    lines, python = FLAVOURS[request.param]
    old = request.getfixturevalue("old_image") if request.param == "old-python" else ""
    base = bench.make_base(request.param, lines, old)
    standin = bench.base
    bench.base = await BaseImages(bench.engine, {}).resolve(base, lambda event: None)
    made = bench.recipe()
    image = await bench.build(made)
    bench.base = standin
    return Flavour(request.param, base, python, made, image)


def test_the_server_answers(bench: ImageBench, flavour: Flavour) -> None:
    assert bench.answer(flavour.image, flavour.made) == 200


def test_the_kernel_is_the_framework_s_python(bench: ImageBench, flavour: Flavour) -> None:
    code = "import sys, torch; print(sys.version_info[:2], torch.__version__, torch.__file__)"
    output = bench.in_kernel(flavour.image, flavour.made, code)
    _, told = bench.run(flavour.base, [flavour.python, "-c", code], flavour.made, entrypoint=[""])
    assert told.split()[-1].endswith("torch/__init__.py")
    assert told.strip() in output


def test_the_framework_s_own_packages_are_as_they_were(bench: ImageBench, flavour: Flavour) -> None:
    listing = [flavour.python, "-I", "-c", LISTING]
    code, before = bench.run(flavour.base, listing, flavour.made, entrypoint=[""])
    assert code == 0, before
    assert "torch==2.8.0+standin" in before.splitlines()
    assert bench.run(flavour.image, listing, flavour.made) == (0, before)


def test_another_torch_is_held_off_and_told(bench: ImageBench, flavour: Flavour) -> None:
    """By what the image has in its metadata, local version and all, whatever pip there is."""
    script = "pip --version; pip install --no-input torch==2.0"
    code, output = bench.run(flavour.image, ["bash", "-lc", script], flavour.made)
    assert code != 0
    assert "(constraint) torch==2.8.0+standin" in output, output


def test_what_the_image_says_of_itself_does_not_count(bench: ImageBench, flavour: Flavour) -> None:
    config = bench.client.inspect_image(flavour.image)["Config"]
    assert config["Labels"]["ds01.recipe"] == flavour.made.digest
    assert config["User"] == "65500:65500"
    assert "NVIDIA_VISIBLE_DEVICES=void" in config["Env"]
    assert not config["Entrypoint"]
    assert config["Healthcheck"] == {"Test": ["NONE"]}
    assert config["StopSignal"] == "SIGTERM"


def test_the_server_has_its_own_libraries(bench: ImageBench, flavour: Flavour) -> None:
    if flavour.name == "settings":
        load = ["-c", "import _uuid"]
        assert bench.run(flavour.image, [flavour.python, *load], flavour.made)[0] != 0
    maps = "import _uuid, zmq; print(open('/proc/self/maps').read())"
    code, output = bench.run(
        flavour.image, ["/opt/ds01/server/bin/python", "-I", "-c", maps], flavour.made
    )
    assert code == 0, output
    mapped = {line.split()[-1] for line in output.splitlines() if ".so" in line}
    assert mapped
    assert {path for path in mapped if not path.startswith("/opt/ds01/server/")} == set()


async def test_a_base_that_acts_in_builds_is_refused(bench: ImageBench) -> None:
    for name, line in (("onbuild", "ONBUILD RUN touch /x"), ("preload", "ENV LD_PRELOAD=/x.so")):
        with pytest.raises(BaseImageRefused):
            await BaseImages(bench.engine, {}).resolve(
                bench.make_base(name, line), lambda event: None
            )


@pytest.mark.parametrize(
    ("name", "lines", "why"),
    [
        (
            "broken-framework",
            f"RUN echo 'raise ImportError(\"libcudart.so.12 is missing\")' >{TORCH}/__init__.py",
            "The kernel cannot import torch: libcudart.so.12 is missing",
        ),
        ("no-python", "RUN rm /usr/bin/python3*", "This image has no Python."),
    ],
)
async def test_a_base_on_which_the_build_must_fail_is_told_in_words(
    bench: ImageBench, name: str, lines: str, why: str
) -> None:
    standin = bench.base
    base = bench.make_base(name, lines)
    bench.base = await BaseImages(bench.engine, {}).resolve(base, lambda event: None)
    try:
        with pytest.raises(BuildFailed) as failed:
            await asyncio.wait_for(bench.build(bench.recipe()), 300)
    finally:
        bench.base = standin
    assert why in failed.value.message
