"""The reconciler on ledger and engine: what it does when it may, and what when it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ds01_spawner.core.devices import Snapshot
from ds01_spawner.errors import EngineUnavailable, LeaseLost, LedgerUnusable, NoDeviceFree
from ds01_spawner.services.engine import EngineRefused
from ds01_spawner.services.inventory.simulated import SimulatedInventory
from ds01_spawner.services.ledger import Lease, Ledger
from ds01_spawner.services.reconciler import Reconciler
from tests.services.world import DatedEngine, World

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds01_spawner.services.reconciler.GONE_S", 0.0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    inventory = SimulatedInventory("1xA100,1xH100:mig=2x1g.10gb", "host")
    snapshot = await inventory.snapshot()
    world = World(DatedEngine([d.uuid for d in snapshot.devices]), tmp_path / "l" / "db", snapshot)
    yield world
    world.ledger.close()


async def test_nothing_to_do(world: World) -> None:
    await world.serve("ada")
    world.reserve("bob")
    assert await world.run() == []


async def test_a_dead_start_leaves_nothing_and_the_second_pass_nothing_to_do(world: World) -> None:
    first = world.reserve("ada")
    await world.create(first)
    second = world.reserve("bob")
    world.kill_hub()
    done = await world.run()
    assert sorted(done) == sorted(
        ["remove ds01.ada", f"release {first.id}", f"release {second.id}"]
    )
    assert world.engine.containers == {}
    assert world.ledger.leases() == ()
    assert sorted(f"{a.action} {a.object}" for a in world.told) == sorted(done)
    assert await world.run() == []


async def test_a_dry_run_does_nothing(world: World) -> None:
    lease = world.reserve("ada")
    world.kill_hub()
    assert await world.run(dry_run=True) == [f"release {lease.id}"]
    assert [held.id for held in world.ledger.leases()] == [lease.id]
    assert world.told == []


async def test_an_engine_that_does_not_answer_frees_nothing(world: World) -> None:
    await world.serve("ada")
    world.reserve("bob")
    world.kill_hub()
    world.time += timedelta(days=99)
    world.engine.unreachable = True
    with pytest.raises(EngineUnavailable):
        await world.run()
    with pytest.raises(EngineUnavailable):
        await world.reconciler.foreign_devices(world.snapshot)
    assert len(world.ledger.leases()) == 2


async def test_a_ledger_that_is_gone_kills_nothing(world: World) -> None:
    await world.serve("ada")
    world.path.unlink()
    with pytest.raises(LedgerUnusable):
        await world.run()
    assert len(world.engine.containers) == 1


@pytest.mark.parametrize("error", [EngineRefused(500, "driver failed"), EngineUnavailable("late")])
async def test_a_lease_stays_while_its_container_cannot_be_removed(
    world: World, error: Exception
) -> None:
    lease = await world.serve("ada")
    await world.serve("bob")
    world.engine.exit(lease.container or "", 1)
    world.engine.fail_next("remove_container", error)
    assert await world.run() == []
    assert {held.state for held in world.ledger.leases()} == {"releasing", "bound"}
    world.time += timedelta(minutes=2)
    assert await world.run() == ["remove ds01.ada", f"release {lease.id}"]


async def test_a_container_that_appears_late_is_not_forgotten(world: World) -> None:
    """Between the look and the release the engine makes the container that a dead start asked."""
    lease = world.reserve("ada")
    world.kill_hub()
    gate = world.engine.block("inspect_container")
    running = asyncio.ensure_future(world.run())
    await asyncio.wait_for(world.engine.reached("inspect_container"), 60)
    await world.create(lease)
    gate.set()
    assert await running == []
    world.time += timedelta(minutes=2)
    assert await world.run() == ["remove ds01.ada", f"release {lease.id}"]
    assert world.engine.containers == {}


async def test_a_start_while_it_looks_is_left_alone(world: World) -> None:
    """Leases are read before and after the containers are listed."""
    gate = world.engine.block("list_containers")
    running = asyncio.ensure_future(world.run())
    await asyncio.wait_for(world.engine.reached("list_containers"), 60)
    await world.serve("ada")
    gate.set()
    assert await running == []


async def test_a_server_bound_after_the_look_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = world.reserve("ada")
    look = world.engine.list_containers

    async def look_and_lose_time(*args: Any, **more: Any) -> Any:
        listed = await look(*args, **more)
        container = await world.create(lease)
        await world.engine.start_container(container)
        world.ledger.bind(lease.id, lease.generation, container)
        return listed

    monkeypatch.setattr(world.engine, "list_containers", look_and_lose_time)
    assert await world.run() == []
    assert [held.state for held in world.ledger.leases()] == ["bound"]


async def test_a_start_that_is_overtaken_is_fenced(world: World) -> None:
    lease = world.reserve("ada")
    await world.reconciler.end(lease, "the admin said so")
    with pytest.raises(LeaseLost):
        world.ledger.confirm(lease.id, lease.generation)
    assert [held.state for held in world.ledger.leases()] == ["releasing"]


async def test_one_server_is_ended_from_outside(world: World) -> None:
    lease = await world.serve("ada")
    await world.serve("bob")
    done = await world.reconciler.end(lease, "the admin said so")
    assert [a.action for a in done] == ["stop", "remove", "release"]
    assert [held.user for held in world.ledger.leases()] == ["bob"]
    assert [c["Name"] for c in world.engine.containers.values()] == ["/ds01.bob"]


async def test_a_lost_ledger_is_rebuilt(world: World) -> None:
    leases = [await world.serve("ada"), await world.serve("bob")]
    world.kill_hub(lose_ledger=True)
    assert sorted(await world.run()) == sorted(f"adopt {lease.id}" for lease in leases)
    rebuilt = {lease.id: lease for lease in world.ledger.leases()}
    for lease in leases:
        again = rebuilt[lease.id]
        assert (again.devices, again.units, again.user) == (lease.devices, lease.units, lease.user)
        assert (again.generation, again.container) == (lease.generation, lease.container)
    assert world.reserve("eve").generation > max(lease.generation for lease in leases)
    assert await world.run() == []


async def test_what_labels_do_not_tell_is_beside_a_lost_ledger(world: World) -> None:
    lease = await world.serve("ada")
    later = world.time + timedelta(hours=40)
    world.ledger.set_until(lease.id, later)
    world.ledger.cordon(world.snapshot.devices[0].uuid, "a fan rattles")
    world.ledger.close()
    for file in world.path.parent.glob(f"{world.path.name}*"):
        file.unlink()
    world.begin()
    assert await world.run() == [f"adopt {lease.id}"]
    assert [again.until for again in world.ledger.leases()] == [later]
    assert world.reserve("bob").devices == (world.snapshot.devices[2].uuid,)
    with pytest.raises(NoDeviceFree):
        world.reserve("eve")


async def test_the_end_of_a_servers_time_is_told_once_and_then_comes(world: World) -> None:
    lease = await world.serve("ada")
    world.time += timedelta(hours=3, minutes=50)
    assert await world.run() == [f"warn {lease.id}"]
    assert await world.run() == []
    world.time += timedelta(minutes=10)
    assert await world.run() == ["stop ds01.ada", "remove ds01.ada", f"release {lease.id}"]
    assert [a.action for a in world.told] == ["warn", "stop", "remove", "release"]


async def test_who_was_told_late_has_the_time_once_however_often_the_hub_restarts(
    world: World,
) -> None:
    lease = await world.serve("ada")
    over = lease.until or world.time
    world.ledger.close()
    world.time = over + timedelta(hours=7)
    world.begin()
    back = world.time
    assert await world.run() == [f"warn {lease.id}"]
    for _ in range(3):
        world.kill_hub()
        assert await world.run() == []
        assert [held.until for held in world.ledger.leases()] == [back + timedelta(minutes=15)]
    world.ledger.close()
    world.time = back + timedelta(hours=7)
    world.begin()
    assert await world.run() == ["stop ds01.ada", "remove ds01.ada", f"release {lease.id}"]


async def test_an_end_that_is_put_off_at_the_last_moment_does_not_come(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await world.serve("ada")
    world.time += timedelta(hours=3, minutes=50)
    await world.run()
    world.time += timedelta(minutes=10)

    async def in_ledger(method: Callable[..., T], *args: Any) -> T:
        if method is Ledger.releasing:
            world.ledger.set_until(lease.id, world.time + timedelta(hours=1))
        return method(world.ledger, *args)

    monkeypatch.setattr(world.reconciler, "_in_ledger", in_ledger)
    assert await world.run() == []
    assert [lease.state for lease in world.ledger.leases()] == ["bound"]
    assert world.engine.containers[lease.container or ""]["State"]["Running"]


async def test_the_hub_may_stop_a_server_in_its_own_way(world: World) -> None:
    lease = await world.serve("ada")
    stopped: list[str] = []

    async def stop(lease: Lease) -> None:
        stopped.append(lease.id)
        await world.engine.remove_container(lease.container or "", force=True)
        world.ledger.release(lease.id)

    reconciler = Reconciler(
        world.engine, world.in_ledger, hub="hub", now=lambda: world.time, simulated=True,
        stop_server=stop,
    )  # fmt: skip
    world.time += timedelta(hours=5)
    assert [a.action for a in await reconciler.run()] == ["warn"]
    world.time += timedelta(minutes=15)
    assert [a.action for a in await reconciler.run()] == ["stop", "remove"]
    assert stopped == [lease.id]
    assert world.ledger.leases() == ()


# --- holders that are not in the ledger ----------------------------------------------------------


async def test_devices_of_others_are_told_and_never_given(world: World) -> None:
    whole, first, _second = world.snapshot.devices
    await world.serve("ada")  # has the first slice, in the ledger
    await world.foreign("theirs", DeviceIDs=[whole.uuid])
    await world.foreign("cpu")
    held = await world.reconciler.foreign_devices(world.snapshot)
    assert held == {whole.uuid: "container theirs of eve"}
    assert world.ledger.leases()[0].devices == (first.uuid,)
    assert world.reserve("bob", foreign=held).devices == (world.snapshot.devices[2].uuid,)
    with pytest.raises(NoDeviceFree):
        world.reserve("eve", foreign=held)


async def test_our_labels_on_another_container_hide_nothing(world: World) -> None:
    """An image that was made of a server has its labels, and so has what runs of it."""
    lease = await world.serve("ada")
    other = world.snapshot.devices[0].uuid
    assert other not in lease.devices
    asked = {"Driver": "nvidia", "DeviceIDs": [other], "Capabilities": [["gpu"]]}
    body = world.body(lease)
    body["HostConfig"] = {"Runtime": "runc", "NetworkMode": "none", "DeviceRequests": [asked]}
    await world.engine.start_container(await world.engine.create_container("copy", body))
    assert set(await world.reconciler.foreign_devices(world.snapshot)) == {other}


async def test_gpus_all_holds_every_device(world: World) -> None:
    await world.foreign("greedy", Count=-1)
    held = await world.reconciler.foreign_devices(world.snapshot)
    assert set(held) == {d.uuid for d in world.snapshot.devices}
    assert await world.run() == []


async def test_a_container_of_ours_without_a_lease_holds_what_its_labels_name(world: World) -> None:
    lease = world.reserve("ada")
    await world.create(lease)
    assert await world.reconciler.foreign_devices(world.snapshot) == {}
    world.ledger.release(lease.id)
    held = await world.reconciler.foreign_devices(world.snapshot)
    assert held == {lease.devices[0]: "container ds01.ada of ada"}


async def test_a_container_is_looked_at_once(world: World) -> None:
    await world.foreign("theirs", Count=1)
    for _ in range(3):
        await world.reconciler.foreign_devices(world.snapshot)
    assert len(world.engine.made("inspect_container")) == 1
    await world.reconciler.foreign_devices(Snapshot())
    assert len(world.engine.made("list_containers")) == 3


async def test_a_container_that_goes_while_looked_at_holds_nothing(world: World) -> None:
    theirs = await world.foreign("theirs", Count=-1)
    gate = world.engine.block("inspect_container")
    looking = asyncio.ensure_future(world.reconciler.foreign_devices(world.snapshot))
    await asyncio.wait_for(world.engine.reached("inspect_container"), 60)
    await world.engine.remove_container(theirs)
    gate.set()
    assert await looking == {}
