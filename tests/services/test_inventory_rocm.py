"""AMD's devices, from a tree of files that the tests write."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import pytest

from ds01_spawner.core.devices import Device, Process, Snapshot, Usage
from ds01_spawner.services.inventory.rocm import RocmInventory
from tests.services.amd_host import GIB, GID, KFD, AmdHost

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def host(tmp_path: Path) -> AmdHost:
    """A host with AMD's driver and no card yet."""
    return AmdHost(tmp_path).boot()


async def snapshot(host: AmdHost) -> Snapshot:
    return await RocmInventory(host.root, now=lambda: NOW).snapshot()


async def test_a_card(host: AmdHost) -> None:
    folder = host.gpu(1, minor=129, unique_id=0x1234)
    (folder / "product_name").write_text("AMD INSTINCT MI210\n")
    host.write("sys/module/amdgpu/version", "6.8.5")
    told = await snapshot(host)
    assert (told.known, told.simulated, told.problems) == (True, False, ())
    assert (told.driver, told.cuda, told.taken) == ("amdgpu 6.8.5", None, NOW)
    assert told.devices == (
        Device(
            uuid="0x0000000000001234", kind="amd", name="AMD INSTINCT MI210", architecture="ROCM6",
            units=2520, memory=64 * GIB, nodes=("/dev/kfd", "/dev/dri/renderD129"), groups=(GID,),
        ),
    )  # fmt: skip
    assert told.devices[0].whole
    assert told.usage == {"0x0000000000001234": Usage(0.25, 3 * GIB, ())}


async def test_several_cards_are_told_in_the_order_of_their_addresses(host: AmdHost) -> None:
    host.gpu(1, minor=130, bus=0x83, unique_id=1)
    host.gpu(2, minor=129, bus=0x03, unique_id=2, target=110000)
    host.gpu(3, minor=128, bus=0x41, unique_id=0, target=100306)
    host.write("sys/bus/pci/drivers/amdgpu/0000:01:00.0", "")  # it only drives a display
    host.write("sys/bus/pci/drivers/amdgpu/bind", "")
    told = await snapshot(host)
    assert [(d.index, d.uuid, d.name, d.architecture, d.nodes[1]) for d in told.devices] == [
        (1, "0x0000000000000002", "AMD gfx1100", "ROCM6", "/dev/dri/renderD129"),
        (2, "pci-0000:41:00", "AMD gfx1036", None, "/dev/dri/renderD128"),
        (3, "0x0000000000000001", "AMD gfx90a", "ROCM6", "/dev/dri/renderD130"),
    ]
    assert all(d.healthy for d in told.devices)


ID = "0x000000000000000"


@pytest.mark.parametrize(
    ("ids", "board", "card", "uuids"),
    [
        pytest.param((9, 9, 9, 9), None, f"{ID}9", [f"{ID}9.qpx{n}" for n in range(4)],
                     id="the card's"),
        pytest.param((9, 8, 7, 6), 5, f"{ID}5", [f"{ID}{9 - n}.{ID}5.qpx{n}" for n in range(4)],
                     id="their own"),
        pytest.param((9, 8, 7, 6), None, f"{ID}9",
                     [f"{ID}9.qpx0", *(f"{ID}{9 - n}.{ID}9.qpx{n}" for n in (1, 2, 3))],
                     id="their own, and none of the card"),
        pytest.param((0, 0, 0, 0), None, "pci-0000:05:00",
                     [f"pci-0000:05:00.qpx{n}" for n in range(4)], id="none"),
    ],
)  # fmt: skip
async def test_the_parts_of_a_card(
    host: AmdHost, ids: tuple[int, ...], board: int | None, card: str, uuids: list[str]
) -> None:
    folder = host.gpu(1, minor=128, bus=0x05, unique_id=ids[0], memory=192, target=90402)
    (folder / "current_compute_partition").write_text("QPX\n")
    (folder / "product_name").write_text("AMD Instinct MI300X\n")
    if board is not None:
        (folder / "unique_id").write_text(f"{board:016x}\n")
    for part in (1, 2, 3):
        host.part(1 + part, 0x05, part, minor=128 + part, unique_id=ids[part])
    host.process(7, vram_1002=GIB)
    told = await snapshot(host)
    assert [d.uuid for d in told.devices] == uuids
    assert {d.card for d in told.devices} == {card}
    assert [d.nodes[1] for d in told.devices] == [f"/dev/dri/renderD{128 + n}" for n in range(4)]
    assert {
        (d.name, d.profile, d.parent, d.units, d.memory, d.healthy, d.whole) for d in told.devices
    } == {("AMD Instinct MI300X", "qpx", card, 630, 48 * GIB, True, False)}
    assert told.usage[uuids[1]] == Usage(None, None, (Process(7, GIB),))
    assert told.usage[uuids[0]] == Usage(None, None, ())


async def test_the_uuid_of_a_part_is_never_its_cards(host: AmdHost) -> None:
    host.gpu(1, bus=0x05, unique_id=9)
    host.part(2, 0x05, 1, minor=140, unique_id=8)
    devices = (await snapshot(host)).devices
    assert not {d.uuid for d in devices} & {d.parent for d in devices}
    assert {d.profile for d in devices} == {"part"}  # a kernel that does not tell the mode


@pytest.mark.parametrize(
    ("whole", "parts", "board"),
    [
        pytest.param(9, (9, 9), None, id="KFD tells the card's id"),
        pytest.param(9, (9, 8), 5, id="the part's, and of a whole card too"),
        pytest.param(9, (9, 8), None, id="the same, and DRM tells none"),
        pytest.param(5, (9, 8), 5, id="the part's"),
        pytest.param(0, (0, 0), None, id="none"),
    ],
)
async def test_a_card_has_one_name_however_it_is_divided(
    host: AmdHost, whole: int, parts: tuple[int, int], board: int | None
) -> None:
    async def told(mode: str, unique_id: int) -> Snapshot:
        folder = host.gpu(1, minor=128, bus=0x05, unique_id=unique_id)
        (folder / "current_compute_partition").write_text(f"{mode}\n")
        if board is not None:
            (folder / "unique_id").write_text(f"{board:016x}\n")
        return await snapshot(host)

    (card,) = (await told("SPX", whole)).devices
    assert card.whole
    assert card.uuid.startswith(f"{ID}{whole}" if whole else "pci-")  # as its users name it
    host.part(2, 0x05, 1, minor=129, unique_id=parts[1])
    divided = [d for mode in ("DPX", "CPX") for d in (await told(mode, parts[0])).devices]
    assert len({d.uuid for d in divided}) == 4
    assert {d.card for d in divided} == {d.parent for d in divided} == {card.card}


async def test_cards_with_one_id_are_told_apart_by_their_places(host: AmdHost) -> None:
    host.gpu(1, bus=0x05, unique_id=9)
    host.gpu(2, bus=0x06, unique_id=9)
    devices = (await snapshot(host)).devices
    assert [d.uuid for d in devices] == [f"{ID}9.pci-0000:05:00", f"{ID}9.pci-0000:06:00"]
    assert [d.card for d in devices] == ["pci-0000:05:00", "pci-0000:06:00"]


# --- use -----------------------------------------------------------------------------------------


async def test_processes_are_those_with_memory_or_a_queue(host: AmdHost) -> None:
    host.gpu(1, gpu_id=1001, unique_id=1, bus=1)
    host.gpu(2, gpu_id=1002, unique_id=2, bus=2)
    host.process(30, vram_1001=5, vram_1002=0)
    host.process(4, vram_1001=0, vram_1002=0, queues=(1001,))
    host.process(5, vram_1001=0, vram_1002=0)  # it has looked for GPUs, no more
    usage = (await snapshot(host)).usage
    assert usage["0x0000000000000001"].processes == (Process(4, 0), Process(30, 5))
    assert usage["0x0000000000000002"].processes == ()


async def test_what_the_kernel_does_not_tell_is_none(host: AmdHost) -> None:
    folder = host.gpu(1, unique_id=1)
    (folder / "gpu_busy_percent").unlink()
    (folder / "mem_info_vram_used").write_text("?")
    shutil.rmtree(host.root / KFD / "proc")
    told = await snapshot(host)
    assert told.devices[0].healthy
    assert told.usage == {"0x0000000000000001": Usage()}


async def test_a_process_whose_files_cannot_be_read_may_be_on_any_card(host: AmdHost) -> None:
    host.gpu(1, unique_id=1)
    host.process(7, vram_1001=5)
    (host.root / KFD / "proc/7/vram_1001").write_text("nonsense")
    assert (await snapshot(host)).usage["0x0000000000000001"].processes is None


async def test_a_process_that_ends_meanwhile_is_left_out(host: AmdHost) -> None:
    host.gpu(1, unique_id=1)
    host.process(7, vram_1001=5)
    (host.root / KFD / "proc/8").symlink_to("ended")
    usage = (await snapshot(host)).usage["0x0000000000000001"]
    assert usage.processes == (Process(7, 5),)


# --- what is not as it should be ----------------------------------------------------------------


async def test_a_host_without_the_driver_has_no_amd_device_for_sure(tmp_path: Path) -> None:
    told = await snapshot(AmdHost(tmp_path))
    assert (told.known, told.devices, told.problems, told.epoch) == (True, (), (), "")


async def test_a_driver_without_a_card(host: AmdHost) -> None:
    told = await snapshot(host)
    assert (told.known, told.devices, told.problems) == (True, (), ())


def _no_topology(host: AmdHost) -> None:
    shutil.rmtree(host.root / KFD / "topology")


def _no_folder(host: AmdHost) -> None:
    shutil.rmtree(host.root / KFD / "topology/nodes")
    host.write(f"{KFD}/topology/nodes", "")


def _no_number(host: AmdHost) -> None:
    host.write(f"{KFD}/topology/nodes/x/properties", "")


@pytest.mark.parametrize("broken", [_no_topology, _no_folder, _no_number])
async def test_an_unreadable_topology_means_not_known(
    host: AmdHost, broken: Callable[[AmdHost], None]
) -> None:
    host.gpu(1)
    broken(host)
    told = await snapshot(host)
    assert (told.known, told.devices) == (False, ())
    assert "the AMD driver's files cannot be read" in told.problems[0]


def _no_properties(host: AmdHost) -> None:
    (host.root / KFD / "topology/nodes/1/properties").unlink()


def _empty_properties(host: AmdHost) -> None:
    host.node(1)


def _half_properties(host: AmdHost) -> None:
    host.node(1, simd_count=416)


def _no_gpu_id(host: AmdHost) -> None:
    (host.root / KFD / "topology/nodes/1/gpu_id").unlink()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (_no_properties, "No such file"),
        (_empty_properties, "simd_count"),
        (_half_properties, "gfx_target_version"),
        (_no_gpu_id, "No such file"),
    ],
)
async def test_an_unreadable_node_is_unhealthy_and_hides_no_other(
    host: AmdHost, broken: Callable[[AmdHost], None], words: str
) -> None:
    host.gpu(1, unique_id=1, bus=1)
    host.gpu(2, unique_id=2, bus=2)
    broken(host)
    told = await snapshot(host)
    assert told.known
    assert [(d.uuid, d.healthy) for d in told.devices] == [
        ("unknown-amd-1", False), ("0x0000000000000002", True),
    ]  # fmt: skip
    assert "node 1 of the topology cannot be read" in told.devices[0].problem
    assert words in told.devices[0].problem
    assert told.devices[0].problem in told.problems[0]


def _remove_render_node(host: AmdHost) -> None:
    (host.root / "dev/dri/renderD128").unlink()


def _lock_render_node(host: AmdHost) -> None:
    (host.root / "dev/dri/renderD128").chmod(0o600)


def _remove_kfd(host: AmdHost) -> None:
    (host.root / "dev/kfd").unlink()


def _no_memory(host: AmdHost) -> None:
    (host.root / "sys/class/drm/renderD128/device/mem_info_vram_total").unlink()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (_remove_render_node, "/dev/dri/renderD128: No such file"),
        (_lock_render_node, "/dev/dri/renderD128: only root may open it"),
        (_remove_kfd, "/dev/kfd: No such file"),
        (_no_memory, "the size of its memory cannot be read"),
    ],
)
async def test_a_card_that_no_container_could_use_is_unhealthy(
    host: AmdHost, broken: Callable[[AmdHost], None], words: str
) -> None:
    host.gpu(1, unique_id=1)
    broken(host)
    told = await snapshot(host)
    (device,) = told.devices
    assert (told.known, device.uuid, device.healthy) == (True, "0x0000000000000001", False)
    assert words in device.problem
    assert words in told.problems[0]


async def test_files_that_all_may_open_need_no_group(host: AmdHost) -> None:
    host.gpu(1)
    host.device_file("kfd", 0o606)
    host.device_file("dri/renderD128", 0o666)
    (device,) = (await snapshot(host)).devices
    assert (device.healthy, device.groups) == (True, (GID,))
    host.device_file("dri/renderD128", 0o606)
    (device,) = (await snapshot(host)).devices
    assert (device.healthy, device.groups) == (True, ())


async def test_the_epoch_is_of_the_boot_and_the_devices(host: AmdHost) -> None:
    host.gpu(1, unique_id=1, bus=1)
    one = await snapshot(host)
    host.process(7, vram_1001=GIB)
    assert (await snapshot(host)).epoch == one.epoch
    host.gpu(2, unique_id=2, bus=2)
    two = await snapshot(host)
    host.boot("boot-2")
    assert len({one.epoch, two.epoch, (await snapshot(host)).epoch, ""}) == 4


# --- time ----------------------------------------------------------------------------------------


class Hanging:
    """A file that cannot be read before it is let go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink()
        os.mkfifo(path)

    def let_go(self, content: str) -> None:
        with self.path.open("w") as file:
            file.write(content)


@pytest.fixture
def hanging(host: AmdHost) -> Iterator[Hanging]:
    """The load of the only card hangs."""
    hanging = Hanging(host.gpu(1) / "gpu_busy_percent")
    yield hanging
    with suppress(OSError):  # nobody waits for it any more
        os.close(os.open(hanging.path, os.O_WRONLY | os.O_NONBLOCK))


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


async def test_a_file_that_hangs_means_not_known(host: AmdHost, hanging: Hanging) -> None:
    clock = Clock()
    inventory = RocmInventory(host.root, now=lambda: NOW, deadline_s=0.2, monotonic=clock)
    told = await inventory.snapshot()
    assert (told.known, told.devices) == (False, ())
    assert "not read within 0.2 s" in told.problems[0]
    clock.time += 1000
    assert "still hangs" in (await inventory.snapshot()).problems[0]
    reading = inventory._reading
    assert reading is not None
    await asyncio.to_thread(hanging.let_go, "50\n")
    await reading
    (host.root / "sys/class/drm/renderD128/device/gpu_busy_percent").unlink()
    clock.time += 1000
    told = await inventory.snapshot()
    assert (told.known, len(told.devices)) == (True, 1)


async def test_the_loop_goes_on_while_a_file_hangs(host: AmdHost, hanging: Hanging) -> None:
    inventory = RocmInventory(host.root, now=lambda: NOW, deadline_s=60)
    asking = asyncio.ensure_future(inventory.snapshot())
    await asyncio.to_thread(hanging.let_go, "75\n")  # it waits for the reader
    told = await asking
    assert [use.utilization for use in told.usage.values()] == [0.75]


async def test_an_answer_is_kept_for_a_while(host: AmdHost) -> None:
    clock = Clock()
    inventory = RocmInventory(host.root, now=lambda: NOW, fresh_s=5, monotonic=clock)
    assert (await inventory.snapshot()).devices == ()
    host.gpu(1)
    clock.time = 4.9
    assert (await inventory.snapshot()).devices == ()
    clock.time = 5
    assert len((await inventory.snapshot()).devices) == 1
