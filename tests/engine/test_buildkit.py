"""Builds by BuildKit on a real engine: the same contract, and a derived image that works."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ds01_spawner.services.build_network import SharedNetwork
from ds01_spawner.services.builder import BuildEvent
from ds01_spawner.services.buildkit import BuildKitEngine
from tests.engine.image_bench import image_bench
from tests.fakes.contract import EngineContract
from tests.fakes.contract_bench import Bench

pytestmark = pytest.mark.any_hub

names = (f"ds01-test-buildkit-{secrets.token_hex(3)}-{number}" for number in itertools.count())


@pytest.fixture(autouse=True)
def distribution_s_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command of the package with the engine, which needs no plug-in for BuildKit."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


@pytest.fixture
async def bench(
    engine_url: str, standin_image: str, run_labels: dict[str, str]
) -> AsyncIterator[Bench]:
    engine = BuildKitEngine(engine_url)
    prefix = next(names)
    yield Bench(engine, standin_image, {"ds01.test.case": prefix, **run_labels}, prefix)
    await engine.close()


class TestBuildKit:
    """What the contract says of builds."""

    test_made = EngineContract.test_a_build_makes_an_image_and_tells_its_lines
    test_failing = EngineContract.test_a_failing_build_says_which_command_and_leaves_no_image
    test_cancelled = EngineContract.test_a_cancelled_build_ends


async def test_a_derived_image_with_a_package(
    engine_url: str,
    docker_client: Any,
    standin_image: str,
    ca_pem: bytes,
    run_labels: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with image_bench(
        engine_url,
        docker_client,
        tmp_path_factory.mktemp("logs"),
        standin_image=standin_image,
        ca_pem=ca_pem,
        labels=run_labels,
        user="test-buildkit",
    ) as bench:
        engine = BuildKitEngine(engine_url)
        builder = bench.new_builder(engine, SharedNetwork("bridge", {}))
        made = bench.recipe(pip=("iniconfig",))
        told: list[BuildEvent] = []
        image = await builder.ensure(bench.plan(made), told.append)
        await engine.close()
        titles = list(dict.fromkeys(event.title for event in told))
        assert titles[:3] == ["Framework image", "Python kernel", "Your packages: iniconfig"]
        assert bench.answer(image, made) == 200
        assert "iniconfig" in bench.in_kernel(image, made, "import iniconfig; print(iniconfig)")
