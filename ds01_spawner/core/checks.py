"""What is right and wrong with a host, from what it and its engine tell; for `doctor`.

Each function judges one thing, and says what to do where it is wrong.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ds01_spawner.core.build_gate import ISOLATED
from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.gpu_way import Choice
from ds01_spawner.core.injection import cdi_name
from ds01_spawner.core.units import format_size

Info = Mapping[str, Any]  # the engine's answer to /info
OLDEST_API = (1, 41)
SKEW = timedelta(seconds=5)
BAD_STORAGE = {
    "vfs": "it copies the whole image for each server",
    "devicemapper": "Docker has given it up",
    "aufs": "Docker has given it up",
    "overlay": "Docker has given it up",
}
LIMITS = {  # the engine's flag -> what does not apply without it
    "MemoryLimit": "memory",
    "SwapLimit": "swap",
    "CpuCfsPeriod": "cpus",
    "CpuCfsQuota": "cpus",
    "PidsLimit": "pids_limit",
}
# What the engine warns of and this project does not use, or what LIMITS says better.
_UNUSED = re.compile(
    r"blkio|kernel memory|oom kill|cpu shares|cpuset|io\.(weight|max)|"
    r"(memory|swap|pids|cfs \w+|cpu cfs \w+) limit|cpu cfs",
    re.IGNORECASE,
)
_NETWORK_FILES = re.compile(
    r"nfs|cifs|smb|ceph|gluster|lustre|beegfs|gpfs|afs|9p|virtiofs|fuse(\.|$)", re.IGNORECASE
)
# Anything may come through FUSE, and most of what does comes from another machine.
_LOCAL_FUSE = ("fuse.bindfs", "fuse.fuse-overlayfs", "fuse.gocryptfs", "fuse.mergerfs")
# An engine's own time zone, and up to nanoseconds, which fromisoformat cannot read.
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)")
_NO_ENVVAR = re.compile(
    r"^\s*accept-nvidia-visible-devices-envvar-when-unprivileged\s*=\s*false", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `fix` says what to do where it is not ok."""

    name: str
    ok: bool
    detail: str
    fix: str = ""


def judged(name: str, detail: str, problem: str, fix: str) -> Check:
    """A finding with its detail, and the problem where there is one."""
    return Check(name, False, f"{detail}: {problem}", fix) if problem else Check(name, True, detail)


# --- the engine ------------------------------------------------------------------------------


def engine(version: Mapping[str, Any]) -> Check:
    """Its version and API."""
    detail = f"Docker {version.get('Version')}, API {version.get('ApiVersion')}"
    api = tuple(int(part) for part in re.findall(r"\d+", str(version.get("ApiVersion"))))
    old = f"older than API {'.'.join(map(str, OLDEST_API))}" if api < OLDEST_API else ""
    return judged("engine", detail, old, "Install Docker 20.10 or newer.")


def storage(info: Info) -> Check:
    """Where images and containers are kept."""
    driver = str(info.get("Driver"))
    detail = f"{driver} in {info.get('DockerRootDir')}"
    fix = "Set the storage driver overlay2 in /etc/docker/daemon.json; images are made anew."
    return judged("storage", detail, BAD_STORAGE.get(driver, ""), fix)


def disk(free: int | None, floor: int) -> Check:
    """Free space against the floor below which no server starts."""
    if free is None:
        return Check("disk", True, "not known, the engine's disk is not this host's")
    detail = f"{format_size(free)} free, the floor is {format_size(floor)}"
    fix = "Remove images that nobody uses (docker image prune), or lower min_free_disk."
    return judged("disk", detail, "no new server starts" if free < floor else "", fix)


def cgroup(info: Info) -> Check:
    """What applies the limits."""
    version, driver = info.get("CgroupVersion") or "1", info.get("CgroupDriver")
    problem = "no limit applies" if driver in (None, "", "none") else ""
    fix = "Run the engine with systemd, or as root: without cgroups it cannot limit anything."
    return judged("cgroup", f"version {version}, driver {driver}", problem, fix)


def limits(info: Info) -> Check:
    """The limits that the kernel can apply; without one, each start that has it is refused."""
    missing = dict.fromkeys(name for flag, name in LIMITS.items() if info.get(flag) is False)
    problem = f"the kernel cannot limit {', '.join(missing)}" if missing else ""
    fix = (
        "Boot with the kernel parameters cgroup_enable=memory swapaccount=1, or with a kernel "
        "that has these controllers."
    )
    return judged("limits", ", ".join(dict.fromkeys(LIMITS.values())), problem, fix)


def warnings(info: Info) -> Check:
    """What else the engine itself warns of."""
    told = [str(w).removeprefix("WARNING: ") for w in info.get("Warnings") or ()]
    told = [warning for warning in told if not _UNUSED.search(warning)]
    fix = "Each of them is explained in Docker's documentation."
    if any("bridge-nf-call" in warning for warning in told):
        fix = (
            "Without bridge-nf-call-iptables servers reach each other: modprobe br_netfilter and "
            "sysctl net.bridge.bridge-nf-call-iptables=1 (and ip6tables), lastingly."
        )
    return judged("engine warnings", "none" if not told else "it says", "; ".join(told), fix)


def legacy(info: Info, nvidia_config: str) -> Check:
    """Ways by which containers get GPUs that nobody gave them.

    With NVIDIA's runtime as the default one, any container that sets NVIDIA_VISIBLE_DEVICES has
    those GPUs, and every CUDA image sets it to "all"; `nvidia_config` is its configuration file.
    """
    runtime = str(info.get("DefaultRuntime") or "runc")
    open_ = runtime.startswith(("nvidia", "amd")) and not _NO_ENVVAR.search(nvidia_config)
    fix = (
        "This hub's servers are safe; others' containers are not. Make runc the default runtime "
        "in /etc/docker/daemon.json, or set accept-nvidia-visible-devices-envvar-when-unprivileged"
        " = false in /etc/nvidia-container-runtime/config.toml."
    )
    problem = "any container takes GPUs by an environment variable" if open_ else ""
    return judged("gpu hazards", f"default runtime {runtime}", problem, fix)


def clock(info: Info, now: datetime) -> Check:
    """Leases end by this machine's clock; an engine's that differs is another machine's."""
    told = _RFC3339.fullmatch(str(info.get("SystemTime") or ""))
    if told is None:
        return Check("clock", True, f"{now:%Y-%m-%d %H:%M:%S} UTC")
    offset = told[2].replace("Z", "+00:00")  # which fromisoformat reads from Python 3.11 on only
    skew = abs(now - datetime.fromisoformat(told[1] + offset))
    problem = f"the engine's differs by {skew.total_seconds():.0f} s" if skew > SKEW else ""
    fix = "Have both set by NTP (timedatectl set-ntp true)."
    return judged("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC", problem, fix)


# --- the network -----------------------------------------------------------------------------


def network(name: str, subnet: str, problem: str | None, routes: Iterable[str]) -> Check:
    """The servers' network: as wanted, or not there and its subnet free.

    `problem` is why the network of that name cannot be used, None: there is none.
    """
    detail = f"{name}, {subnet}"
    if problem is not None:
        fix = "Remove that network, or set another network or network_subnet."
        return judged("network", detail, problem, fix)
    wanted = ipaddress.ip_network(subnet)
    taken = [r for r in routes if ipaddress.ip_network(r.split()[0]).overlaps(wanted)]
    fix = "Set a network_subnet that no route of this host overlaps."
    found = judged("network", detail, f"it overlaps {', '.join(taken)}" if taken else "", fix)
    return found if taken else Check("network", True, f"{detail}, made at the first start")


def builder(name: str, command: str | None) -> Check:
    """What builds images, and what it does not do; `command` is Docker's own, if it is here."""
    if name == "classic":
        return Check("builder", True, "the engine's own, its steps have limits")
    problem = "its steps have no limits of memory and cores" if command else "no command docker"
    return Check("builder", False, f"BuildKit: {problem}", 'Set builder = "classic".')


def build_network(name: str, reached: Collection[str], problem: str) -> Check:
    """What builds may reach: `reached`, or where they are not isolated all that a network does."""
    if name == ISOLATED:
        hosts = sorted({entry.rpartition(":")[0] for entry in reached})
        return Check("build network", True, f"isolated, builds reach {', '.join(hosts)}")
    problem = problem or "packages reach from there, while they are installed, whatever they like"
    fix = f'Set build_network = "{ISOLATED}"; build_hosts are what builds may reach besides.'
    return Check("build network", False, f"{name}: {problem}", fix)


def routes_of(table: str) -> list[str]:
    """The routes of /proc/net/route but the default one: "172.17.0.0/16 by docker0"."""
    routes = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8:
            continue
        to, mask = (ipaddress.ip_address(bytes.fromhex(f)[::-1]) for f in (fields[1], fields[7]))
        if int(mask):
            routes.append(f"{ipaddress.ip_network(f'{to}/{mask}', strict=False)} by {fields[0]}")
    return routes


# --- devices ---------------------------------------------------------------------------------


def inventory(snapshot: Snapshot) -> Check:
    """The devices, their driver, and what is wrong with them."""
    models = [d.name + (f" {d.profile}" if d.profile else "") for d in snapshot.devices]
    counted = [f"{models.count(model)} {model}" for model in dict.fromkeys(models)]
    parts = [", ".join(counted) or "no device"]
    parts += ["simulated"] if snapshot.simulated else []
    parts += [f"driver {snapshot.driver}"] if snapshot.driver else []
    parts += [f"CUDA {'.'.join(map(str, snapshot.cuda))}"] if snapshot.cuda else []
    sick = [d for d in snapshot.devices if not d.healthy]
    wrong = [*(() if snapshot.known else snapshot.problems or ("not known",))]
    wrong += [f"{d.uuid} {d.problem}" for d in sick]
    told = [] if wrong or snapshot.devices else list(snapshot.problems)
    asked = {"rocm-smi" if d.kind == "amd" else "nvidia-smi" for d in sick or snapshot.devices}
    tools = " or ".join(sorted(asked or {"nvidia-smi", "rocm-smi"}))
    fix = f"See what {tools} says on this host; `ds01-spawner gpus` shows each device."
    return judged("devices", ", ".join([*parts, *told]), "; ".join(wrong), fix)


def gpu_way(choice: Choice, snapshot: Snapshot, info: Info) -> Check:
    """How devices get into containers, and why so."""
    if snapshot.simulated or not snapshot.devices:
        what = "simulated devices need none" if snapshot.simulated else "there is no device"
        return Check("gpu way", True, what)
    parts = []
    if len(snapshot.nvidia) < len(snapshot.devices):
        parts.append("AMD's as their device files")
    if not snapshot.nvidia:
        return Check("gpu way", True, *parts)
    parts.append(f"NVIDIA's by {choice.way}, {choice.why}")
    if choice.way == "cdi":
        parts += [cdi_name(device.uuid) for device in snapshot.nvidia if device.healthy]
    elif info.get("CgroupDriver") == "systemd":
        parts.append("servers may lose them at a systemctl daemon-reload, which CDI's do not")
    return judged("gpu way", "; ".join(parts), choice.problem, choice.fix)


# --- files -----------------------------------------------------------------------------------


def custom_images(states: Mapping[str, str], wrong: Mapping[str, str]) -> Check:
    """The policy's own images: by name, what is told of each, and of some what is wrong."""
    detail = ", ".join(f"{name} {state}" for name, state in states.items())
    problem = "; ".join(f"{name}: {why}" for name, why in wrong.items())
    fix = "Correct the image or its entry under `images:` in the policy."
    return judged("custom images", detail, problem, fix)


def filesystem_of(path: str, mountinfo: str) -> str:
    """The kind of file system that a path is on, by /proc/self/mountinfo; empty: not known."""
    best, kind = "", ""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        at = fields[4].replace("\\040", " ")
        below = path == at or path.startswith(at.rstrip("/") + "/")
        if below and len(at) >= len(best):  # of two mounts on one place the later one counts
            best, kind = at, after.split()[0]
    return kind


def is_remote(filesystem: str) -> bool:
    """Whether files there are another machine's, where SQLite's locks do not hold."""
    return filesystem not in _LOCAL_FUSE and _NETWORK_FILES.match(filesystem) is not None
