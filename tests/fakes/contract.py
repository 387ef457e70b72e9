"""What every engine does, the fake and Docker's: one suite, run on both.

A test module for an engine subclasses `EngineContract` and gives it the fixture `bench`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing

import pytest

from ds01_spawner.errors import NetworkUnusable
from ds01_spawner.services.engine import (
    ICC_OPTION,
    Engine,
    EngineConflict,
    EngineNotFound,
    EngineRefused,
    EngineStreamError,
    Json,
)
from tests.fakes.contract_bench import OUTPUT, TALK, Bench, tar, until

SUBNET, OTHER_SUBNET = "10.213.71.0/24", "10.213.72.0/24"


class EngineContract:
    """The contract of `ds01_spawner.services.engine.Engine`."""

    async def test_a_container_lives_from_created_to_gone(self, bench: Bench) -> None:
        engine = bench.engine
        id = await bench.container()
        assert (await bench.state(id))["Status"] == "created"
        for _ in range(2):  # starting, like stopping, may be said twice
            await engine.start_container(id)
        state = await bench.state(id)
        assert (state["Status"], state["Running"]) == ("running", True)
        for _ in range(2):
            await engine.stop_container(id, 0)
        state = await bench.state(id)
        assert (state["Status"], state["Running"], state["OOMKilled"]) == ("exited", False, False)
        await engine.remove_container(id)
        assert await engine.wait_removed(id, 60)
        with pytest.raises(EngineNotFound):
            await engine.inspect_container(id)

    async def test_a_name_is_given_once_and_finds_its_container(self, bench: Bench) -> None:
        id = await bench.container("once")
        found = await bench.engine.inspect_container(f"{bench.prefix}-once")
        assert (found["Id"], found["Name"]) == (id, f"/{bench.prefix}-once")
        with pytest.raises(EngineConflict, match="already in use"):
            await bench.container("once")

    async def test_without_its_image_there_is_no_container(self, bench: Bench) -> None:
        body = {**bench.body(), "Image": "no-such-image:1"}
        with pytest.raises(EngineNotFound, match="No such image: no-such-image:1"):
            await bench.engine.create_container(f"{bench.prefix}-a", body)

    async def test_what_the_engine_cannot_give_is_refused_in_its_words(self, bench: Bench) -> None:
        with pytest.raises(EngineRefused, match="Range of CPUs") as refused:
            await bench.container(HostConfig={"NanoCpus": 4096 * 10**9})
        assert refused.value.status == 400

    @pytest.mark.parametrize(
        "call",
        [
            lambda e: e.inspect_container("no-such-container"),
            lambda e: e.start_container("no-such-container"),
            lambda e: e.stop_container("no-such-container", 0),
            lambda e: e.remove_container("no-such-container"),
            lambda e: e.logs("no-such-container", 10),
            lambda e: e.put_archive("no-such-container", "/", tar({"a": b""})),
            lambda e: e.read_file("no-such-container", "/a"),
            lambda e: e.inspect_image("no-such-image:1"),
            lambda e: e.history("no-such-image:1"),
            lambda e: e.tag_image("no-such-image:1", "other", "1"),
            lambda e: e.remove_image("no-such-image:1"),
            lambda e: e.inspect_volume("no-such-volume"),
            lambda e: e.remove_volume("no-such-volume"),
            lambda e: e.inspect_network("no-such-network"),
            lambda e: e.remove_network("no-such-network"),
        ],
    )
    async def test_what_is_not_there_is_not_found(
        self, bench: Bench, call: Callable[[Engine], Awaitable[object]]
    ) -> None:
        with pytest.raises(EngineNotFound):
            await call(bench.engine)

    async def test_a_running_container_is_removed_only_by_force(self, bench: Bench) -> None:
        id = await bench.running()
        with pytest.raises(EngineConflict):
            await bench.engine.remove_container(id)
        assert not await bench.engine.wait_removed(id, 0)
        await bench.engine.remove_container(id, force=True)
        assert await bench.engine.wait_removed(id, 60)

    async def test_containers_are_listed_by_label(self, bench: Bench) -> None:
        one = await bench.running("one", Labels={**bench.labels, "n": "1"})
        two = await bench.container("two", Labels={**bench.labels, "n": "2"})

        async def ids(labels: Mapping[str, str | None], **more: bool) -> set[str]:
            found = await bench.engine.list_containers({**bench.labels, **labels}, **more)
            return {container["Id"] for container in found}

        assert await ids({}) == await ids({"n": None}) == {one, two}
        assert await ids({"n": "2"}) == {two}
        assert await ids({}, all=False) == {one}
        assert await ids({"m": None}) == set()
        [listed] = await bench.engine.list_containers({**bench.labels, "n": "2"})
        assert listed["Names"] == [f"/{bench.prefix}-two"]
        assert listed["State"] == "created"
        assert listed["Labels"]["n"] == "2"

    async def test_the_end_of_a_container_is_told(self, bench: Bench) -> None:
        id = await bench.running(command=TALK)

        async def exited() -> bool:
            return bool((await bench.state(id))["Status"] == "exited")

        await until(exited)
        assert (await bench.state(id))["ExitCode"] == 3
        assert await bench.engine.logs(id, 10) == OUTPUT
        assert await bench.engine.logs(id, 2) == "two\n\x1b[31mthree\n"
        assert await bench.engine.logs(id, 0) == await bench.engine.logs(id, -1) == ""

    async def test_files_can_be_put_into_a_container_before_it_starts(self, bench: Bench) -> None:
        id = await bench.container()
        await bench.engine.put_archive(id, "/", tar({"srv/a": b"hello"}))
        assert await bench.engine.read_file(id, "/srv/a") == b"hello"
        with pytest.raises(EngineNotFound):
            await bench.engine.read_file(id, "/srv/b")

    async def test_a_device_that_is_not_there_is_refused_at_start(self, bench: Bench) -> None:
        request = {"Driver": "", "DeviceIDs": ["GPU-none"], "Capabilities": [["gpu"]]}
        id = await bench.container(HostConfig={"DeviceRequests": [request]})
        with pytest.raises(EngineRefused) as refused:
            await bench.engine.start_container(id)
        assert refused.value.status == 500
        state = await bench.state(id)
        assert (state["Status"], state["ExitCode"]) == ("created", 128)
        assert state["Error"]

    async def test_a_cancelled_creation_goes_on_and_its_id_can_be_learnt(
        self, bench: Bench
    ) -> None:
        creation = asyncio.ensure_future(bench.container())
        caller = asyncio.ensure_future(asyncio.wait_for(asyncio.shield(creation), 60))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert (await bench.state(await creation))["Status"] == "created"

    # --- events ----------------------------------------------------------------------------------

    async def test_events_tell_of_what_has_the_labels(self, bench: Bench) -> None:
        wanted = {**bench.labels, "seen": "yes"}
        async with aclosing(await bench.engine.events(wanted)) as events:
            other = await bench.running("other")
            id = await bench.running("mine", Labels=wanted)
            await bench.engine.remove_container(other, force=True)
            await bench.engine.remove_container(id, force=True)
            seen = []
            while "destroy" not in seen:
                event = await asyncio.wait_for(events.__anext__(), 60)
                assert event["Actor"]["ID"] == id
                assert event["Actor"]["Attributes"]["name"] == f"{bench.prefix}-mine"
                seen.append(event["Action"])
        assert [a for a in seen if a != "kill"] == ["create", "start", "die", "destroy"]

    async def test_an_event_stream_ends_when_it_is_closed(self, bench: Bench) -> None:
        events = await bench.engine.events(bench.labels)
        waiting = asyncio.ensure_future(events.__anext__())
        await asyncio.sleep(0)
        await events.aclose()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(waiting, 60)

    # --- images ----------------------------------------------------------------------------------

    async def test_a_build_makes_an_image_and_tells_its_lines(self, bench: Bench) -> None:
        lines: list[str] = []
        id = await bench.build(
            f"FROM {bench.image}\nLABEL by=file of=file\nRUN echo hello\n", lines
        )
        assert any(line.endswith(": RUN echo hello") for line in lines)
        assert not any("\n" in line for line in lines)
        image = await bench.engine.inspect_image(f"{bench.prefix}:1")
        assert image["Id"] == id
        assert image["RepoDigests"] == []
        assert image["Config"]["Labels"].items() >= {"by": "argument", "of": "file"}.items()
        await bench.engine.remove_image(f"{bench.prefix}:1")

    async def test_a_failing_build_says_which_command_and_leaves_no_image(
        self, bench: Bench
    ) -> None:
        lines: list[str] = []
        with pytest.raises(EngineStreamError, match=r"exit 7.* non-zero code: 7") as failed:
            await bench.build(f"FROM {bench.image}\nRUN exit 7\n", lines)
        assert failed.value.code == 7
        assert any(line.endswith(": RUN exit 7") for line in lines)
        with pytest.raises(EngineNotFound):
            await bench.engine.inspect_image(f"{bench.prefix}:1")

    async def test_a_cancelled_build_ends(self, bench: Bench) -> None:
        begun = asyncio.Event()

        class Lines(list[str]):
            def append(self, line: str) -> None:
                if line.endswith(": RUN sleep 600"):
                    begun.set()

        build = asyncio.ensure_future(bench.build(f"FROM {bench.image}\nRUN sleep 600\n", Lines()))
        await asyncio.wait_for(begun.wait(), 60)
        build.cancel()
        with pytest.raises(asyncio.CancelledError):
            await build
        with pytest.raises(EngineNotFound):
            await bench.engine.inspect_image(f"{bench.prefix}:1")

    async def test_an_image_has_as_many_names_as_it_is_given(self, bench: Bench) -> None:
        engine = bench.engine
        id = await bench.build(f"FROM {bench.image}\nENV a={bench.prefix}\n", [])
        await engine.tag_image(f"{bench.prefix}:1", f"{bench.prefix}/other", "latest")
        assert (await engine.inspect_image(f"{bench.prefix}/other"))["Id"] == id
        assert id in {image["Id"] for image in await engine.list_images(bench.labels)}
        with pytest.raises(EngineConflict):
            await engine.remove_image(id)
        await engine.remove_image(f"{bench.prefix}:1")
        assert (await engine.inspect_image(id))["RepoTags"] == [f"{bench.prefix}/other:latest"]
        await engine.remove_image(f"{bench.prefix}/other:latest")
        with pytest.raises(EngineNotFound):
            await engine.inspect_image(id)

    async def test_images_from_one_base_share_its_layers(self, bench: Bench) -> None:
        base = _layers(await bench.engine.history(bench.image))
        for text in ("a", "b"):
            id = await bench.build(f"FROM {bench.image}\nRUN echo {text} {bench.prefix} >/x\n", [])
            (own, _, size), *older = _layers(await bench.engine.history(id))
            assert f"echo {text} " in own
            assert size > 0
            assert older == base
        await bench.engine.remove_image(f"{bench.prefix}:1")

    async def test_an_image_in_use_is_not_removed(self, bench: Bench) -> None:
        await bench.build(f"FROM {bench.image}\nENV b={bench.prefix}\n", [])
        id = await bench.engine.create_container(
            f"{bench.prefix}-a", {**bench.body(), "Image": f"{bench.prefix}:1"}
        )
        with pytest.raises(EngineConflict):
            await bench.engine.remove_image(f"{bench.prefix}:1")
        await bench.engine.remove_container(id)
        await bench.engine.remove_image(f"{bench.prefix}:1")

    async def test_an_image_that_cannot_be_fetched_is_refused(self, bench: Bench) -> None:
        with pytest.raises(EngineRefused):
            await bench.engine.pull("127.0.0.1:9/nobody-serves-this:1", lambda event: None)

    # --- volumes and networks --------------------------------------------------------------------

    async def test_a_volume_is_made_once_and_not_removed_while_in_use(self, bench: Bench) -> None:
        name = f"{bench.prefix}-volume"
        await bench.engine.create_volume(name, {**bench.labels, "owner": "alice"})
        await bench.engine.create_volume(name, {**bench.labels, "owner": "mallory"})
        volume = await bench.engine.inspect_volume(name)
        assert (volume["Name"], volume["Labels"]["owner"]) == (name, "alice")
        mount = {"Type": "volume", "Source": name, "Target": "/home/alice"}
        ids = [await bench.container(n, HostConfig={"Mounts": [mount]}) for n in ("a", "b")]
        await bench.engine.put_archive(ids[0], "/home/alice", tar({"a": b"hello"}))
        assert await bench.engine.read_file(ids[1], "/home/alice/a") == b"hello"
        for id in ids:
            with pytest.raises(EngineConflict):
                await bench.engine.remove_volume(name)
            await bench.engine.remove_container(id, volumes=True)  # takes nameless ones along
        await bench.engine.remove_volume(name)

    async def test_the_network_is_made_once_without_traffic_between_containers(
        self, bench: Bench
    ) -> None:
        name = f"{bench.prefix}-network"
        try:
            for _ in range(2):
                made = bench.engine.ensure_network(name, subnet=SUBNET, labels=bench.labels)
                assert await made == "10.213.71.1"
            network = await bench.engine.inspect_network(name)
            assert network["Options"][ICC_OPTION] == "false"
            id = await bench.running(HostConfig={"NetworkMode": name})
            seen = await bench.engine.inspect_container(id)
            assert seen["NetworkSettings"]["Networks"][name]["IPAddress"].startswith("10.213.71.")
            with pytest.raises(EngineRefused, match="active endpoints"):
                await bench.engine.remove_network(name)
            await bench.engine.remove_container(id, force=True)
        finally:
            await bench.engine.remove_network(name)

    async def test_a_network_that_is_not_as_wanted_is_told(self, bench: Bench) -> None:
        engine, name, labels = bench.engine, f"{bench.prefix}-network", bench.labels
        await engine.ensure_network(name, subnet=SUBNET, labels=labels)
        try:
            with pytest.raises(NetworkUnusable, match=r"has .*10\.213\.71|subnet 10\.213\.71"):
                await engine.ensure_network(name, subnet=OTHER_SUBNET, labels=labels)
            with pytest.raises(NetworkUnusable, match="not made by this hub"):
                await engine.ensure_network(name, subnet=SUBNET, labels={"ds01.hub": "other"})
            with pytest.raises(NetworkUnusable, match=f"{ICC_OPTION}=false"):
                await engine.ensure_network(name, subnet=SUBNET, labels=labels, icc=True)
            with pytest.raises(NetworkUnusable, match="overlap"):
                await engine.ensure_network(f"{name}-2", subnet=SUBNET, labels=labels)
        finally:
            await engine.remove_network(name)

    async def test_the_engine_tells_of_itself_and_its_host(self, bench: Bench) -> None:
        assert (await bench.engine.version())["ApiVersion"].startswith("1.")
        info = await bench.engine.info()
        assert info["NCPU"] >= 1
        assert info["MemTotal"] > 2**20
        assert info["DockerRootDir"].startswith("/")


def _layers(history: list[Json]) -> list[tuple[str, int, int]]:
    """Of an image's history, what has a size."""
    return [(x["CreatedBy"], x["Created"], x["Size"]) for x in history if x["Size"]]
