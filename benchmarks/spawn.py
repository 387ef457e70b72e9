"""Click to ready, image present: this project, stock DockerSpawner and the raw engine in one run.

The systems take turns, round by round, so that whatever else the machine does falls on all alike.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import platform
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jupyterhub
from docker import APIClient
from docker.types import Mount

from benchmarks.engine import (
    LABEL,
    PORT,
    Raw,
    ca_bundle,
    clean,
    connect,
    make_network,
    reference_image,
    remove_containers,
)
from benchmarks.hubs import Hub
from benchmarks.systems import CannotMeasure, Outcome, System

SYSTEMS = ("raw", "stock", "ours", "raw-own")
ABOUT = {
    "raw": "plain jupyter lab, reference image, raw engine",
    "stock": "stock DockerSpawner, reference image",
    "ours": "DS01Spawner, its own image",
    "raw-own": "plain jupyter lab, our image, raw engine",
}
LAB = ["--ip=0.0.0.0", f"--port={PORT}", "--no-browser", "--IdentityProvider.token="]
OWN_LAB = "/opt/ds01/server/bin/jupyter-lab"
NOBODY = "65534:65534"
QUIET = 0.1  # share of the machine that others may use before a round
LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, where."""

    users: int
    repeat: int
    systems: tuple[str, ...]
    engine: str
    base: str
    subnet: str
    quiet: float = 0.0
    keep_logs: str | None = None


@dataclass(slots=True)
class Rounds:
    """The rounds of one system, and of each how long each phase took on average."""

    about: str
    outcomes: list[list[Outcome]] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Result:
    """All that was measured, and on what."""

    plan: Plan
    began: datetime
    systems: Mapping[str, Rounds]
    busy: list[float]  # share of the machine in use by others, before each round
    facts: Mapping[str, object]


Measuring = Coroutine[Any, Any, Result]


async def measure(plan: Plan) -> Result:
    """Measure; whatever happens, nothing that was started is left."""
    label = f"ds01-bench-{secrets.token_hex(3)}"
    users = [f"bench-{number:02}" for number in range(plan.users)]
    began = datetime.now(timezone.utc)
    client = connect(plan.engine)
    # With each hub ended first (the stack goes backwards), none starts what is removed here.
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{label}-")))
        stack.callback(clean, client, _labels(label))
        tell(f"reference image from {plan.base} …")
        reference = await asyncio.to_thread(reference_image, client, plan.base)
        systems: dict[str, System] = {}
        system: System
        for name in sorted(plan.systems, key=SYSTEMS.index):  # our image is built by `ours`
            tell(f"{name}: begins and warms up …")
            if name == "raw-own":
                own = await _own_container(client, systems.get("ours"), label, users)
                system = _raw_own(client, plan, label, own)
            else:
                system = _make(name, plan, label, folder, client, reference)
            if isinstance(system, Hub):
                stack.callback(_keep_log, system, plan.keep_logs)
            stack.callback(system.end)
            await system.begin(users)
            await system.warm_up(users)
            systems[name] = system
        result = Result(
            plan=plan,
            began=began,
            systems={name: Rounds(ABOUT[name]) for name in plan.systems},
            busy=[],
            facts=_facts(client, reference),
        )
        for number in range(plan.repeat):
            at = number % len(plan.systems)
            for name in plan.systems[at:] + plan.systems[:at]:
                await _round(systems[name], users, result, client, label)
        return result


async def _round(
    system: System, users: list[str], result: Result, client: APIClient, label: str
) -> None:
    """All users click at once; then everything of the round is gone again."""
    rounds = result.systems[system.name]
    result.busy.append(await _settle(result.plan.quiet))
    before = await system.phases()
    outcomes = await asyncio.gather(*(system.click(user) for user in users))
    rounds.outcomes.append(outcomes)
    rounds.phases.append(_means(before, await system.phases()))
    ready = sorted(one.seconds for one in outcomes if one.seconds is not None)
    failed = len(outcomes) - len(ready)
    span = f"{ready[0]:.2f} to {ready[-1]:.2f} s" if ready else "none"
    tell(f"{system.name}, round {len(rounds.outcomes)}: ready {span}, failed {failed}")
    await system.clear(users)
    await asyncio.to_thread(remove_containers, client, _labels(label))


async def _settle(patience: float) -> float:
    """Wait for a quiet machine as long as `patience`; how busy it was at last."""
    end = time.monotonic() + patience
    while True:
        before = _busy_and_all()
        await asyncio.sleep(LOOK_SECONDS)
        busy, total = (new - old for new, old in zip(_busy_and_all(), before, strict=True))
        share = busy / max(total, 1)
        if share <= QUIET or time.monotonic() > end:
            return share


def _busy_and_all() -> tuple[int, int]:
    """Ticks of all cores since boot: in use, and in all. Linux's /proc/stat, proc(5)."""
    ticks = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def _means(
    before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    means = {}
    for phase, (total, count) in after.items():
        then_total, then_count = before.get(phase, (0.0, 0.0))
        if count > then_count:
            means[phase] = (total - then_total) / (count - then_count)
    return means


def _labels(label: str) -> list[str]:
    return [f"{LABEL}={label}", f"ds01.hub={label}"]


def _keep_log(hub: Hub, folder: str | None) -> None:
    if folder and hub.log.exists():
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(hub.log, Path(folder) / f"{hub.name}.log")


# --- the systems ---------------------------------------------------------------------------------


def _make(
    name: str, plan: Plan, label: str, folder: Path, client: APIClient, reference: str
) -> System:
    ours, stock = ipaddress.ip_network(plan.subnet).subnets(prefixlen_diff=1)
    if name == "raw":
        body = {"image": reference, "command": ["jupyter", "lab", *LAB]}
        return Raw(name, plan.engine, label, body, plan.users)
    if name == "ours":
        return _ours(plan, label, folder / name, str(ours))
    gateway = str(stock[1])
    network = f"{label}-stock"
    make_network(client, network, str(stock), gateway, label)
    return _stock(plan, label, folder / name, gateway, network, reference)


def _stock(plan: Plan, label: str, folder: Path, gateway: str, network: str, reference: str) -> Hub:
    """DockerSpawner as its documentation sets it up; all else are its defaults."""
    settings = {
        "JupyterHub.spawner_class": "dockerspawner.DockerSpawner",
        "DockerSpawner.image": reference,
        "DockerSpawner.network_name": network,
        "DockerSpawner.remove": True,
        "DockerSpawner.prefix": f"{label}-stock",
        "DockerSpawner.extra_create_kwargs": {"labels": {LABEL: label}},
    }
    return Hub("stock", folder, gateway, settings, environment={"DOCKER_HOST": plan.engine})


def _ours(plan: Plan, label: str, folder: Path, subnet: str) -> Hub:
    """DS01Spawner as the demo has it, with devices in the ledger and none in the start."""
    settings = {
        "DS01Spawner.hub_id": label,
        "DS01Spawner.prefix": label,
        "DS01Spawner.network": f"{label}-ours",
        "DS01Spawner.network_subnet": subnet,
        "DS01Spawner.data_dir": str(folder / "data"),
        "DS01Spawner.engine_url": plan.engine,
        "DS01Spawner.image_map": {"*": plan.base},
        "DS01Spawner.gpus": "simulated:8xA100-40GB",
        "DS01Spawner.min_free_disk": 1 << 30,
        "DS01Spawner.ca_file": ca_bundle(),
        "DS01Spawner.package_index": os.environ.get("PIP_INDEX_URL", ""),
    }
    gateway = str(ipaddress.ip_network(subnet)[1])
    last_line = "import ds01_spawner; ds01_spawner.configure(c)"
    return Hub("ours", folder, gateway, settings, last_line=last_line, each_user=True)


async def _own_container(
    client: APIClient, ours: System | None, label: str, users: list[str]
) -> dict[str, Any]:
    """A container of `ours`, as the engine's list has it: its image and mounts."""
    if ours is None:
        raise CannotMeasure("raw-own starts the image of `ours`: name both in --systems")
    await ours.click(users[0])
    found = client.containers(filters={"label": f"ds01.hub={label}"})
    await ours.clear(users[:1])
    own: dict[str, Any] = found[0]
    return own


def _raw_own(client: APIClient, plan: Plan, label: str, own: Mapping[str, Any]) -> Raw:
    (server,) = [mount for mount in own["Mounts"] if OWN_LAB.startswith(mount["Destination"])]
    mount = Mount(server["Destination"], server["Name"], read_only=True)
    body = {
        "image": own["ImageID"],
        "host_config": client.create_host_config(mounts=[mount]),
        "command": [OWN_LAB, *LAB],
        "user": NOBODY,
        "working_dir": "/tmp",
        "environment": {"HOME": "/tmp"},
    }
    return Raw("raw-own", plan.engine, label, body, plan.users)


def _facts(client: APIClient, reference: str) -> dict[str, object]:
    info = client.info()
    pins = client.inspect_image(reference)
    return {
        "cpus": os.cpu_count(),
        "memory": info["MemTotal"],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "engine": info["ServerVersion"],
        "cgroup": f"v{info.get('CgroupVersion') or '1'}",
        "storage": info["Driver"],
        "jupyterhub": jupyterhub.__version__,
        "dockerspawner": version("dockerspawner"),
        "reference": reference,
        "reference_bytes": pins["Size"],
    }


def tell(line: str) -> None:
    """Say how far it is, apart from the result."""
    print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)
