"""Derived images, built on a real engine from the stand-in: they work, once, and fail in words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from ds01_spawner.core.build_plan import Step
from ds01_spawner.core.recipe import Recipe
from ds01_spawner.errors import BuildFailed
from ds01_spawner.services.builder import BuildEvent
from tests.engine.image_bench import ImageBench, image_bench
from tests.engine.loop_watch import loop_watch

USER = "test-images"


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
        user=USER,
    ) as made:
        yield made


@pytest.fixture(scope="module")
async def made(bench: ImageBench) -> Recipe:
    return bench.recipe(pip=("tabulate",), apt=("tree",))


@pytest.fixture(scope="module")
async def events(bench: ImageBench, made: Recipe) -> list[BuildEvent]:
    """What the first build told; the image is there afterwards."""
    told: list[BuildEvent] = []
    await bench.build(made, told.append)
    return told


@pytest.fixture(scope="module")
def image(bench: ImageBench, events: list[BuildEvent], made: Recipe) -> str:
    return bench.name(made)


def test_the_build_tells_its_steps(events: list[BuildEvent]) -> None:
    titles = list(dict.fromkeys(event.title for event in events))
    assert titles == [
        "Framework image",
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


def test_what_the_image_says_of_itself(bench: ImageBench, image: str, made: Recipe) -> None:
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


def test_the_server_answers(bench: ImageBench, image: str, made: Recipe) -> None:
    assert bench.answer(image, made) == 200


def test_the_kernel_is_the_framework_s_python_with_the_added_package(
    bench: ImageBench, image: str, made: Recipe
) -> None:
    code = "import sys, torch, tabulate; print(sys.prefix, torch.__version__, tabulate.__file__)"
    output = bench.in_kernel(image, made, code)
    assert "/opt/ds01/env 2.8.0+standin /opt/ds01/env/lib/" in output


def test_what_is_installed_from_a_notebook_is_the_user_s_alone(
    bench: ImageBench, image: str, made: Recipe
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
    bench: ImageBench, image: str, made: Recipe, standin_image: str
) -> None:
    listing = ["/usr/bin/python3", "-m", "pip", "list", "--format=freeze", "--no-input"]
    _, before = bench.run(standin_image, listing, made)
    _, after = bench.run(image, listing, made)
    packages = [line for line in before.splitlines() if "==" in line]
    assert any(line.startswith("torch==") for line in packages)
    assert [line for line in after.splitlines() if "==" in line] == packages


async def test_an_image_that_is_there_is_not_built_again(
    bench: ImageBench, image: str, made: Recipe
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
    bench: ImageBench, image: str, lists: dict[str, Any], why: str
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


async def test_a_build_that_is_given_up_leaves_no_container(bench: ImageBench, image: str) -> None:
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


async def test_a_build_that_prints_without_end_ends_and_holds_nobody_up(bench: ImageBench) -> None:
    # under a new label, for a layer of an earlier run prints nothing
    endless = (f"FROM {bench.base.tag}", f"LABEL of={bench.labels['ds01.test']}", "RUN yes")
    plan = replace(
        bench.plan(bench.recipe(pip=("ds01-endless",))),
        steps=tuple(Step("Step", line) for line in endless),
    )
    async with loop_watch() as longest:
        with pytest.raises(BuildFailed, match="it printed without end"):
            await bench.builder.ensure(plan, lambda event: None)
        # without bounds it was 11 to 18 seconds
        assert longest() < 2
    assert bench.builder.log_path(plan).stat().st_size < 2**21
