"""`ds01-spawner gpus`, `leases`, `stop` and `reconcile`: answers, JSON, exit codes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ds01_spawner.cli import gpus, leases, marks
from ds01_spawner.cli.main import main
from ds01_spawner.core.devices import Process, Snapshot, Usage, Xid
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.placement import Wanted
from ds01_spawner.services import wiring
from ds01_spawner.services.inventory.base import NoDevices
from ds01_spawner.services.inventory.simulated import SimulatedInventory
from ds01_spawner.services.ledger import LeaseRequest
from tests.services.world import DatedEngine, World

GPUS = "1xA100-40GB,1xH100-80GB:mig=1x1g.10gb"


class LastingEngine(DatedEngine):
    """Answers one command after another."""

    async def close(self) -> None:
        pass


@dataclass
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[[str], Answer]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def world(data: Path) -> Iterator[World]:
    """A hub that ran here, with a server of ada."""
    snapshot = asyncio.run(SimulatedInventory(GPUS, "hub").snapshot())
    engine = LastingEngine([d.uuid for d in snapshot.devices])
    world = World(engine, data / "ledger.sqlite", snapshot)
    world.time = wiring.now()
    asyncio.run(world.serve("ada"))
    yield world
    world.ledger.close()


@pytest.fixture
def run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    config = tmp_path / "hub.py"
    config.write_text(
        f"c = get_config()\nc.DS01Spawner.data_dir = {str(data)!r}\n"
        f"c.DS01Spawner.hub_id = 'hub'\nc.DS01Spawner.gpus = 'simulated:{GPUS}'\n"
    )
    monkeypatch.setattr("ds01_spawner.cli.main.COMMANDS", (gpus, marks, leases))

    def call(line: str) -> Answer:
        code = main(["--config", str(config), *line.split()])
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return call


@pytest.fixture(autouse=True)
def _engine_of_the_world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "world" in request.fixturenames:
        engine = request.getfixturevalue("world").engine
        monkeypatch.setattr(wiring, "engine", lambda settings: engine)


def test_gpus(run: Run, world: World) -> None:
    (lease,) = world.ledger.leases()
    told = run("gpus --json")
    assert told.code == 0
    whole, slice_ = told.json["devices"]
    assert whole == {
        "uuid": world.snapshot.devices[0].uuid, "kind": "gpu", "name": "NVIDIA A100-SXM4-40GB",
        "profile": None, "architecture": "CUDA_AMPERE", "units": 2520, "memory": 40 << 30,
        "healthy": True, "lease": None, "seats": 1, "seated": [], "unavailable": None,
    }  # fmt: skip
    assert (slice_["kind"], slice_["profile"], slice_["lease"]) == ("mig", "1g.10gb", lease.id)
    assert told.json["problems"] == []
    text = run("gpus").out
    assert "ada (bound)" in text
    assert "2 devices, simulated" in text


def test_gpus_tells_the_seats_of_a_shared_one(run: Run, world: World) -> None:
    (ada,) = world.ledger.leases()
    seats = [world.reserve(user, kind="full", seats=8) for user in ("bob", "eve")]
    told = {d["uuid"]: d for d in run("gpus --json").json["devices"]}
    (alone,), (shared,) = ada.devices, seats[0].devices
    keys = ("lease", "seats", "seated")
    assert [told[alone][key] for key in keys] == [ada.id, 1, []]
    assert [told[shared][key] for key in keys] == [None, 8, [lease.id for lease in seats]]
    assert "2 of 8 seats: bob, eve" in run("gpus").out
    assert "0.125 GPU (seat 2/8)" in run("leases").out
    assert [lease["seat"] for lease in run("leases --json").json["leases"]] == [None, "1/8", "2/8"]


def test_gpus_tells_who_else_uses_them(run: Run, world: World) -> None:
    uuid = world.snapshot.devices[0].uuid
    host = {"Runtime": "runc", "DeviceRequests": [
        {"Driver": "nvidia", "DeviceIDs": [uuid], "Capabilities": [["gpu"]]}
    ]}  # fmt: skip
    body = {"Image": "image:1", "HostConfig": host, "Labels": {"aime.mlc.USER": "eve"}}
    asyncio.run(world.engine.create_container("theirs", body))
    problem = f"{uuid} is in use without a lease: container theirs of eve"
    assert run("gpus --json").json["problems"] == [problem]


def test_gpus_tells_of_processes_and_of_memory_that_nobody_gave_back(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (d.uuid for d in world.snapshot.devices)
    nobody, no_process = Usage(0.0, 1200 << 20, ()), 2**30
    usage = {first: nobody, second: Usage(0.9, 1 << 30, (Process(no_process, 1 << 30),))}

    class Telling(NoDevices):
        async def snapshot(self, *, fresh: bool = False) -> Snapshot:
            return replace(world.snapshot, usage=usage)

    monkeypatch.setattr(wiring, "inventory", lambda settings: Telling())
    rest = "1.172 GiB still in use and no process to be seen"
    process = f"process {no_process}, which is not to be seen on this host"
    assert run("gpus --json").json["problems"] == [
        f"{first} is in use without a lease: {rest}",
        f"{second} is in use without a lease: {process}",
    ]
    assert rest in run("gpus").out


def test_gpus_without_an_engine_still_tells_the_devices(run: Run, world: World) -> None:
    world.engine.unreachable = True
    told = run("gpus --json")
    assert told.code == 0
    assert len(told.json["devices"]) == 2
    assert "not known" in told.json["problems"][0]


def test_gpus_that_are_not_known_are_a_no(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(NoDevices):
        async def snapshot(self, *, fresh: bool = False) -> Snapshot:
            return Snapshot(known=False, problems=("the NVIDIA driver hangs",))

    monkeypatch.setattr(wiring, "inventory", lambda settings: Broken())
    told = run("gpus --json")
    assert told.code == 1
    assert told.json == {"devices": [], "driver": None, "problems": ["the NVIDIA driver hangs"]}


def test_gpus_before_the_hub_ever_ran(run: Run, data: Path) -> None:
    told = run("gpus --json")
    assert told.code == 0
    assert len(told.json["devices"]) == 2
    assert not data.exists()


@pytest.mark.parametrize("line", ["leases", "stop ada", "reconcile"])
def test_without_a_ledger_nothing_is_made_up(run: Run, data: Path, line: str) -> None:
    told = run(line)
    assert told.code == 1
    assert "there is none" in told.err
    assert "--config" in told.err
    assert not data.exists()


def test_a_server_that_lost_its_gpu(run: Run, world: World) -> None:
    (lease,) = world.ledger.leases()
    world.ledger.note_losses({lease.id: "GPU 0 (A100): GPU is lost"})
    assert run("leases --json").json["leases"][0]["lost"] == "GPU 0 (A100): GPU is lost"
    told = "its GPU cannot be relied on: GPU 0 (A100): GPU is lost"
    assert f"ada -: {told}" in run("leases").out.splitlines()
    of_gpu = "the server of ada cannot rely on its GPU: GPU 0 (A100): GPU is lost"
    assert of_gpu in run("gpus --json").json["problems"]
    world.ledger.note_losses({lease.id: None})
    assert told not in run("leases").out


def test_leases(run: Run, world: World) -> None:
    (lease,) = world.ledger.leases()
    told = run("leases --json")
    assert told.code == 0
    assert told.json == {
        "leases": [
            {
                "lease": lease.id, "user": "ada", "server": "", "state": "bound",
                "devices": list(lease.devices), "units": 360, "seat": None,
                "since": world.time.isoformat(),
                "until": (world.time + timedelta(hours=4)).isoformat(),
                "ends": (world.time + timedelta(hours=4)).isoformat(), "used_gpu_hours": None,
                "container": lease.container, "lost": None,
            }
        ],
        "tickets": [], "paused": [],
    }  # fmt: skip
    assert "1 leases" in run("leases").out


def test_the_line(run: Run, world: World) -> None:
    """One A100 is free for the first of them, and the next waits for what has no end yet."""
    for user in ("bob", "eve"):
        wish = LeaseRequest("hub", user, "", Wanted(1, "full"), Limits(), 4)
        world.ledger.take_ticket(wish, {}, world.snapshot)
        world.time += timedelta(seconds=1)
    world.ledger.run_line(world.snapshot)
    first, second = run("leases --json").json["tickets"]
    assert (first["user"], first["wants"], first["position"]) == ("bob", "1 full", 1)
    assert (first["waits_for"], second["waits_for"]) == ("start", "devices")
    assert (second["user"], second["position"]) == ("eve", 2)
    assert datetime.fromisoformat(second["expected"]) > world.time + timedelta(hours=3)
    assert set(second) == {
        "ticket", "user", "server", "wants", "position", "since", "expected", "waits_for",
    }  # fmt: skip
    assert "2 in the line" in run("leases").out


def test_stop(run: Run, world: World) -> None:
    (lease,) = world.ledger.leases()
    told = run("stop ada --json")
    assert told.code == 0
    (stopped,) = told.json["stopped"]
    assert (stopped["lease"], stopped["result"]) == (lease.id, "stopped")
    assert world.ledger.leases() == ()
    assert world.engine.containers == {}


def test_stop_cancels_a_start(run: Run, world: World) -> None:
    world.reserve("bob")
    told = run("stop bob --json")
    assert told.code == 0
    assert told.json["stopped"][0]["result"] == "start cancelled"


def test_stop_of_nothing_is_a_no_that_names_what_runs(run: Run, world: World) -> None:
    told = run("stop ada other --json")
    assert told.code == 1
    assert told.json == {"stopped": []}
    assert "Running: the default one" in told.err
    assert run("stop bob").code == 1
    assert len(world.ledger.leases()) == 1


def test_a_stop_that_fails_is_a_no(run: Run, world: World) -> None:
    world.engine.unreachable = True
    told = run("stop ada --json")
    assert told.code == 1
    assert "does not answer" in told.err
    assert [lease.state for lease in world.ledger.leases()] == ["releasing"]


def test_reconcile(run: Run, world: World, data: Path) -> None:
    (lease,) = world.ledger.leases()
    world.engine.exit(lease.container or "", 1)
    actions = [
        {"action": "remove", "object": "ds01.ada", "why": "its container has ended"},
        {"action": "release", "object": lease.id, "why": "its container has ended"},
    ]
    told = run("reconcile --dry-run --json")
    assert (told.code, told.json) == (0, {"actions": actions})
    assert "2 actions to do" in run("reconcile --dry-run").out
    assert len(world.engine.containers) == 1
    assert run("reconcile --json").json == {"actions": actions}
    assert run("reconcile").out == "nothing to do\n"
    events = [json.loads(line) for line in (data / "events.jsonl").read_text().splitlines()]
    assert [event["event_type"] for event in events] == ["container.remove", "gpu.release"]


def test_reconcile_without_an_engine_is_a_no(run: Run, world: World) -> None:
    world.engine.unreachable = True
    told = run("reconcile")
    assert told.code == 1
    assert "does not answer" in told.err
    assert len(world.ledger.leases()) == 1


# --- what an admin sets --------------------------------------------------------------------------


def test_cordon_and_uncordon(run: Run, world: World) -> None:
    free = next(d.uuid for d in world.snapshot.devices if not held(world, d.uuid))
    assert run("cordon GPU-none").code == 1
    assert "no GPU GPU-none" in run("cordon GPU-none").err
    made = run(f"cordon {free} --why rattles --json").json["cordoned"]
    assert (made["uuid"], made["why"]) == (free, "rattles")
    assert f"set aside: rattles  {free}" in run("gpus").out
    told = {d["uuid"]: d["unavailable"] for d in run("gpus --json").json["devices"]}
    assert told.pop(free) == "set aside: rattles"
    assert set(told.values()) == {None}
    assert run(f"uncordon {free}").code == 0
    assert run(f"uncordon {free}").code == 1
    assert "set aside" not in run("gpus").out


def test_cordon_of_a_card_that_is_given_out_in_parts(run: Run, world: World) -> None:
    (part,) = (d for d in world.snapshot.devices if not d.whole)
    assert run(f"cordon {part.parent} --why rattles").code == 0
    seen = run("gpus --json").json
    told = {d["uuid"]: d["unavailable"] for d in seen["devices"]}
    assert told.pop(part.uuid) == "set aside: rattles"
    assert set(told.values()) == {None}
    assert seen["problems"] == []
    assert run(f"uncordon {part.parent}").code == 0


def test_a_device_that_is_kept_or_offered_says_for_whom(run: Run, world: World) -> None:
    limits = Limits(gpu_hold_after_stop_h=1.0)
    lease = world.ledger.reserve(
        LeaseRequest("hub", "zoe", "", Wanted(1), limits, None), world.snapshot
    )
    world.ledger.bind(lease.id, lease.generation, "c")
    world.ledger.release(lease.id)
    told = {d["uuid"]: d["unavailable"] for d in run("gpus --json").json["devices"]}
    assert told[lease.devices[0]].startswith("kept for zoe until ")
    world.ledger.take_ticket(
        LeaseRequest("hub", "zoe", "", Wanted(1), limits, None), {}, world.snapshot
    )
    (action,) = world.ledger.run_line(world.snapshot)
    assert action.ticket.offer
    told = {d["uuid"]: d["unavailable"] for d in run("gpus --json").json["devices"]}
    assert told[action.ticket.offer.devices[0]].startswith("offered to zoe until ")


def test_a_card_that_an_xid_put_out_of_use(run: Run, world: World) -> None:
    free = next(d.uuid for d in world.snapshot.devices if not held(world, d.uuid))
    world.ledger.note_struck([Xid(free, 48, world.time)], (), "a-boot")
    told = {d["uuid"]: d["unavailable"] for d in run("gpus --json").json["devices"]}
    assert told[free] == "set aside: the driver reported XID 48"
    assert run(f"uncordon {free}").code == 0
    assert "set aside" not in run("gpus").out


def test_a_user_whose_programs_fault(run: Run, world: World) -> None:
    (lease,) = world.ledger.leases()
    first = world.time + timedelta(minutes=1)
    faults = [Xid(lease.devices[0], 31, first + timedelta(minutes=2 * n)) for n in range(21)]
    world.time = faults[-1].at
    world.ledger.note_faults(faults)
    end = faults[-1].at + timedelta(hours=1)
    told = run("leases --json").json["paused"]
    assert told == [{"user": "ada", "until": end.isoformat(), "faults": 21}]
    line = run("leases").out.splitlines()[-1]
    assert line.startswith(f"ada gets no GPU until {end:%Y-%m-%d %H:%M} UTC, after 21 faults")
    assert "ds01-spawner resume ada" in line
    assert run("resume bob").code == 1
    assert run("resume ada --json").json == {"resumed": "ada"}
    assert run("leases --json").json["paused"] == []
    again = run("resume ada")
    assert (again.code, again.out.strip()) == (1, "nothing kept ada from GPUs")


def held(world: World, uuid: str) -> bool:
    return any(uuid in lease.devices for lease in world.ledger.leases())


def test_drain_and_resume(run: Run, world: World) -> None:
    assert run("drain --why maintenance --json").json == {"drained": True, "why": "maintenance"}
    assert world.ledger.drained() == "maintenance"
    assert run("resume --json").json == {"drained": False, "changed": True}
    assert run("resume").code == 1
    assert world.ledger.drained() is None


def test_extend_moves_the_end(run: Run, world: World) -> None:
    (lease,) = world.ledger.leases()
    assert lease.until
    (moved,) = run("extend ada 2 --json").json["extended"]
    assert moved["until"] == (lease.until + timedelta(hours=2)).isoformat()
    (moved,) = run("extend ada 500 --json").json["extended"]
    ceiling = wiring.now() + timedelta(hours=72)
    assert ceiling - timedelta(minutes=5) < datetime.fromisoformat(moved["until"]) <= ceiling
    assert run("extend bob 2").code == 1
    assert "no server '' that runs" in run("extend bob 2").err
    assert run("extend ada 2 thesis").code == 1
    for wrong in ("0", "-1", "inf", "nan"):
        assert run(f"extend ada -- {wrong}").code == 2
