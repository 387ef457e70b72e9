"""Who is on a card: the processes that the driver sees there, and memory that nobody gave back.

A container is found by its control group, which only root can choose; anybody else by account.
"""

from __future__ import annotations

import asyncio
import pwd
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ds01_spawner.core.devices import Device, Process, Snapshot, Usage
from ds01_spawner.core.units import format_size
from ds01_spawner.services.ledger_rows import Lease
from ds01_spawner.services.threads import Pool

MIB = 1 << 20
DISPLAY_SERVERS = ("Xorg", "Xwayland", "gdm", "gnome-shell", "sddm", "lightdm")
DISPLAY_MEMORY = 50 * MIB  # a screen takes less, a program that computes takes more
# An idle card uses some memory, each model its own; a CUDA context takes more than the tolerance.
# What is in use at the first look may already be a rest, so not everything is believed.
BASELINE_AT_MOST = 512 * MIB
TOLERANCE = 256 * MIB
PATIENCE_S = 1.0  # with those who know the names of accounts
UNTOLD = "the driver does not tell who uses it"

_CONTAINER = re.compile(r"(?:^|[/-])([0-9a-f]{64})(?=\.scope|/|$)")
_UID = re.compile(r"^Uid:\s+(\d+)", re.MULTILINE)
_OF_USERS = "/user.slice/"  # there, users make groups of any name


@dataclass(frozen=True, slots=True)
class Occupant:
    """A process of this host: its container's id in the engine, else its account."""

    container: str = ""
    account: str = ""
    command: str = ""  # up to 15 characters; a process may call itself anything


class Processes:
    """The host's processes, seen in `/proc`.

    Names of accounts may come over the network: those that do not come within `patience_s` are told
    by their numbers.
    """

    def __init__(
        self,
        root: Path = Path("/proc"),
        *,
        name_of: Callable[[int], str] = lambda uid: pwd.getpwuid(uid).pw_name,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._root = root
        self._name_of = name_of
        self._patience_s = patience_s
        self._pool = Pool("ds01-accounts", 2, lambda: None)
        self._asked: dict[int, asyncio.Future[str]] = {}  # by uid; those that still hang, too

    async def look(self, pids: Collection[int]) -> dict[int, Occupant]:
        """Those of these processes that are to be seen."""
        if not pids:
            return {}
        found = await asyncio.to_thread(self._look, pids)
        names = await self._names({uid for _, uid in found.values() if uid is not None})
        return {
            pid: occupant if uid is None else replace(occupant, account=names[uid])
            for pid, (occupant, uid) in found.items()
        }

    def _look(self, pids: Iterable[int]) -> dict[int, tuple[Occupant, int | None]]:
        """Each with the number of its account, where that matters and is told."""
        found: dict[int, tuple[Occupant, int | None]] = {}
        for pid in pids:
            folder = self._root / str(pid)
            try:
                groups = (folder / "cgroup").read_text(errors="replace")
                status = (folder / "status").read_text(errors="replace")
                command = (folder / "comm").read_text(errors="replace").strip()
            except OSError:
                continue
            container, uid = container_of(groups), _UID.search(status)
            occupant = Occupant(container, "" if container else "somebody", command)
            found[pid] = occupant, int(uid[1]) if uid and not container else None
        return found

    async def _names(self, uids: set[int]) -> dict[int, str]:
        self._asked = {uid: name for uid, name in self._asked.items() if not name.done()}
        for uid in uids - self._asked.keys():
            self._asked[uid] = asyncio.ensure_future(self._pool.run(partial(self._name, uid)))
        asked = {uid: self._asked[uid] for uid in uids}
        if asked:
            await asyncio.wait(asked.values(), timeout=self._patience_s)
        return {uid: of.result() if of.done() else f"uid {uid}" for uid, of in asked.items()}

    def _name(self, uid: int) -> str:
        try:
            return self._name_of(uid)
        except (KeyError, OverflowError):
            return f"uid {uid}"


def container_of(groups: str) -> str:
    """The container in a `/proc/PID/cgroup` of either version; empty for a process in none.

    The outermost one, where there are containers in containers: that is the one the engine knows.
    """
    for line in groups.splitlines():
        path = line.partition(":")[2].partition(":")[2]
        match = None if path.startswith(_OF_USERS) else _CONTAINER.search(path)
        if match:
            return match[1]
    return ""


class Baselines:
    """The least memory seen in use on each device while nobody computed there."""

    def __init__(self) -> None:
        self._least: dict[str, int] = {}

    def learn(self, uuid: str, memory: int) -> None:
        """So much is in use, and nobody computes."""
        self._least[uuid] = min(memory, self._least.get(uuid, BASELINE_AT_MOST))

    def exceeded(self, uuid: str, memory: int) -> bool:
        """Whether so much is in use that somebody has not given it back."""
        return memory > self._least.get(uuid, BASELINE_AT_MOST) + TOLERANCE


@dataclass(frozen=True, slots=True)
class Tenants:
    """Who may be where: devices of each container with a live lease, by the container's id.

    `names` are how containers are called, by id too; `leased` the devices of all live leases.
    """

    devices: Mapping[str, Collection[str]]
    names: Mapping[str, str]
    leased: Collection[str]


def outsiders(
    snapshot: Snapshot,
    occupants: Mapping[int, Occupant],
    tenants: Tenants,
    baselines: Baselines,
) -> dict[str, str]:
    """Of each device that somebody without a lease of it uses: who, for people.

    Memory that nobody gave back counts too; on a leased device it is the server's own. What the
    driver cannot tell is not taken for nothing, but of made-up devices, where nobody can be. The
    baselines learn from it.
    """
    found: dict[str, str] = {}
    for device in snapshot.devices:
        usage = snapshot.usage.get(device.uuid, Usage())
        if usage.processes is None and usage.memory is None:
            if device.healthy and not snapshot.simulated and device.uuid not in tenants.leased:
                found[device.uuid] = UNTOLD
            continue
        computing = [p for p in usage.processes or () if not _is_display(p, occupants.get(p.pid))]
        who = next(_strangers(device, computing, occupants, tenants), "")
        if not computing and usage.memory is not None:
            shown = sum(process.memory or 0 for process in usage.processes or ())
            rest = _rest(device.uuid, usage.memory - shown, usage.processes is not None, baselines)
            who = "" if device.uuid in tenants.leased else rest
        if who:
            found[device.uuid] = who
    return found


def divided_anew(snapshot: Snapshot, leases: Iterable[Lease]) -> dict[str, str]:
    """Of each device on whose card somebody has what it was divided into before: who, for people.

    The container still has its device files of the card: AMD's of every part, NVIDIA's of the
    numbers that the next MIG instances get.
    """
    there = {device.uuid for device in snapshot.devices}
    users = {
        card: lease.user
        for lease in leases
        for uuid, card in zip(lease.devices, lease.cards, strict=True)
        if uuid not in there
    }
    return {
        device.uuid: f"a server of {users[device.card]}, from before its card was divided anew"
        for device in snapshot.devices
        if device.card in users
    }


def _is_display(process: Process, occupant: Occupant | None) -> bool:
    if occupant is None or occupant.container or process.memory is None:
        return False
    return process.memory < DISPLAY_MEMORY and occupant.command.startswith(DISPLAY_SERVERS)


def _strangers(
    device: Device,
    processes: Iterable[Process],
    occupants: Mapping[int, Occupant],
    tenants: Tenants,
) -> Iterator[str]:
    for process in processes:
        occupant = occupants.get(process.pid)
        if occupant is None:
            yield f"process {process.pid}, which is not to be seen on this host"
        elif not occupant.container:
            yield f"process {process.pid} of {occupant.account}, outside this hub"
        elif device.uuid not in tenants.devices.get(occupant.container, ()):
            short = f"container {occupant.container[:12]}"
            yield f"process {process.pid} of {tenants.names.get(occupant.container, short)}"


def _rest(uuid: str, memory: int, nobody: bool, baselines: Baselines) -> str:
    """Memory in use without anybody who computes."""
    if nobody:
        baselines.learn(uuid, memory)
    if not baselines.exceeded(uuid, memory):
        return ""
    by_whom = "no process to be seen" if nobody else "the driver does not tell by whom"
    return f"{format_size(memory)} still in use and {by_whom}"
