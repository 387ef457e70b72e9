"""Docker, through the adapter: the engine's contract, and what only a real engine can show."""

from __future__ import annotations

import asyncio
import io
import itertools
import secrets
import signal
import tarfile
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from ds01_spawner.errors import EngineUnavailable
from ds01_spawner.services.docker_client import Timeouts
from ds01_spawner.services.docker_engine import DockerEngine
from ds01_spawner.services.engine import EngineConflict, EngineNotFound, EngineStreamError
from tests.fakes.contract import EngineContract
from tests.fakes.contract_bench import Bench, tar, until

if TYPE_CHECKING:
    from tests.conftest import EngineProcess

pytestmark = pytest.mark.any_hub

STUBBORN = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]

names = (f"ds01-test-{secrets.token_hex(3)}-{number}" for number in itertools.count())


@pytest.fixture
async def engine(engine_url: str) -> AsyncIterator[DockerEngine]:
    engine = DockerEngine(engine_url)
    yield engine
    await engine.close()


@pytest.fixture
async def bench(
    engine: DockerEngine, standin_image: str, run_labels: dict[str, str]
) -> AsyncIterator[Bench]:
    prefix = next(names)
    bench = Bench(engine, standin_image, {"ds01.test.case": prefix, **run_labels}, prefix)
    yield bench
    for container in await engine.list_containers({"ds01.test.case": prefix}):
        with suppress(EngineNotFound, EngineConflict):  # the engine itself is about to remove it
            await engine.remove_container(container["Id"], force=True, volumes=True)


class TestDockerEngine(EngineContract):
    """The contract, on Docker."""


async def exited(bench: Bench, id: str) -> bool:
    return bool((await bench.state(id))["Status"] == "exited")


async def test_a_container_that_will_not_end_delays_nobody(bench: Bench) -> None:
    stubborn = [await bench.running(f"stubborn-{n}", command=STUBBORN) for n in range(10)]
    other = await bench.running("other")
    stops = [asyncio.ensure_future(bench.engine.stop_container(id, 3)) for id in stubborn]
    for _ in range(50):
        await bench.engine.inspect_container(other)
    await bench.engine.stop_container(other, 0)
    await bench.engine.remove_container(other)
    assert not any(stop.done() for stop in stops)
    await asyncio.gather(*stops)
    assert (await bench.state(stubborn[0]))["ExitCode"] == 137


async def test_with_a_container_go_its_nameless_volumes_and_no_others(bench: Bench) -> None:
    """Those that an image's VOLUME makes; the user's have a name."""
    name = f"{bench.prefix}-home"
    await bench.engine.create_volume(name, bench.labels)
    named = {"Type": "volume", "Source": name, "Target": "/home/alice"}
    id = await bench.running(HostConfig={"Mounts": [named]}, Volumes={"/data": {}})
    mounts = {m["Destination"]: m for m in (await bench.engine.inspect_container(id))["Mounts"]}
    await bench.engine.remove_container(id, force=True, volumes=True)
    assert (await bench.engine.inspect_volume(name))["Name"] == name
    with pytest.raises(EngineNotFound):
        await bench.engine.inspect_volume(mounts["/data"]["Name"])
    await bench.engine.remove_volume(name)


async def test_a_build_has_its_limits(bench: Bench) -> None:
    lines: list[str] = []
    limits = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max 2>/dev/null || cat "
    limits += "/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us"
    await bench.build(f"FROM {bench.image}\nENV c={bench.prefix}\nRUN {limits}\n", lines)
    assert str(256 * 2**20) in lines
    assert {"100000", "100000 100000"} & set(lines)
    await bench.engine.remove_image(f"{bench.prefix}:1")


async def test_a_cancelled_build_takes_its_container_along(bench: Bench) -> None:
    begun = asyncio.Event()

    class Lines(list[str]):
        def append(self, line: str) -> None:
            if line == "begun":
                begun.set()

    async def nothing_left() -> bool:
        return not await bench.engine.list_containers(bench.labels)

    label = f"LABEL ds01.test.case={bench.prefix} ds01.test={bench.labels['ds01.test']}"
    dockerfile = f"FROM {bench.image}\n{label}\nRUN echo begun && sleep 600\n"
    build = asyncio.ensure_future(bench.build(dockerfile, Lines()))
    await asyncio.wait_for(begun.wait(), 60)
    assert not await nothing_left()
    build.cancel()
    with pytest.raises(asyncio.CancelledError):
        await build
    await until(nothing_left)


async def test_a_build_that_needs_too_much_memory_fails(bench: Bench) -> None:
    greedy = "python3 -c 'bytearray(2**30)'"
    with pytest.raises(EngineStreamError) as failed:
        await bench.build(f"FROM {bench.image}\nENV d={bench.prefix}\nRUN {greedy}\n", [])
    assert failed.value.code == 137


async def test_the_base_of_a_build_that_is_missing_is_told(bench: Bench) -> None:
    with pytest.raises(EngineStreamError) as failed:
        await bench.build("FROM 127.0.0.1:9/nobody-serves-this:1\n", [])
    assert failed.value.code is None


async def test_files_put_into_a_container_are_there_when_it_runs(bench: Bench) -> None:
    id = await bench.container(command=["stat", "-c", "%n %u %a", "/home/alice", "/home/alice/x"])
    await bench.engine.put_archive(id, "/", home("home/alice", 12345))
    await bench.engine.start_container(id)
    await until(lambda: exited(bench, id))
    assert await bench.engine.logs(id, 10) == "/home/alice 12345 700\n/home/alice/x 12345 600\n"


def home(path: str, uid: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folder = tarfile.TarInfo(path)
        folder.type, folder.uid, folder.mode = tarfile.DIRTYPE, uid, 0o700
        archive.addfile(folder)
        file = tarfile.TarInfo(f"{path}/x")
        file.uid, file.mode = uid, 0o600
        archive.addfile(file, io.BytesIO())
    return buffer.getvalue()


async def test_a_log_without_line_ends_is_cut(bench: Bench) -> None:
    noise = "head -c 3000000 /dev/zero | tr '\\0' x"
    id = await bench.running(command=["sh", "-c", noise])
    await until(lambda: exited(bench, id))
    log = await bench.engine.logs(id, 50)
    assert len(log) == 64 * 1024
    assert set(log) == {"x"}


async def test_free_disk_is_that_of_the_engines_own_folder(bench: Bench) -> None:
    free = await bench.engine.free_disk()
    assert free is None or free > 0


async def test_an_engine_that_is_killed_is_unavailable_until_it_is_back(
    bench: Bench, engine_process: EngineProcess
) -> None:
    id = await bench.running()
    events = await bench.engine.events(bench.labels)
    await asyncio.to_thread(engine_process.kill, signal.SIGKILL)
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(events.__anext__(), 60)
    with pytest.raises(EngineUnavailable):
        await bench.engine.inspect_container(id)
    await events.aclose()
    await asyncio.to_thread(engine_process.start)
    assert (await bench.engine.inspect_container(id))["Id"] == id


async def test_an_engine_that_hangs_is_unavailable(
    engine_url: str, engine_process: EngineProcess
) -> None:
    engine = DockerEngine(engine_url, timeouts=Timeouts(question=0.5, change=0.5))
    await engine.info()
    await asyncio.to_thread(engine_process.kill, signal.SIGSTOP)
    try:
        for call in (engine.info(), engine.inspect_volume("x"), engine.events({})):
            with pytest.raises(EngineUnavailable):
                await call
    finally:
        await asyncio.to_thread(engine_process.kill, signal.SIGCONT)
    await engine.close()


async def test_archives_of_any_size_reach_the_container(bench: Bench) -> None:
    id = await bench.container(command=["sh", "-c", "cat /srv/big | wc -c"])
    await bench.engine.put_archive(id, "/", tar({"srv/big": bytes(20 * 2**20)}))
    await bench.engine.start_container(id)
    await until(lambda: exited(bench, id))
    assert (await bench.engine.logs(id, 1)).strip() == str(20 * 2**20)
