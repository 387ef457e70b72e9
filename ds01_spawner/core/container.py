"""plan -> container create body, labels included: every limit is in this one call.

The body is the engine API's own (`POST /containers/create`), so that what `render` shows is what
is sent. Nothing here asks the host anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ds01_spawner.core import injection, sharing
from ds01_spawner.core.devices import Device
from ds01_spawner.core.injection import Way

SCHEMA = "1"
CPU_PERIOD_NS = 1_000_000_000
NO_LIMIT = -1
# What decides which devices and libraries a process sees is never the user's nor the admin's env.
RESERVED_ENV = (
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "CUDA_VISIBLE_DEVICES",
    "AMD_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "LD_PRELOAD",
    "LD_AUDIT",
)


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume by name, or a folder of the host by absolute path."""

    source: str
    target: str
    read_only: bool = False

    @property
    def kind(self) -> str:
        """The engine's word for it."""
        return "bind" if self.source.startswith("/") else "volume"


@dataclass(frozen=True, slots=True)
class Resources:
    """The limits of one container, all applied: sizes in bytes, no None but where it says so."""

    cpus: float | None  # None: the policy and the host set no limit
    memory: int | None
    memory_swap: int | None  # memory and swap together
    shm_size: int | None
    pids_limit: int | None
    tmp_size: int
    log_size: int
    log_files: int
    open_files: int


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """All that the create call says, resolved."""

    hub: str
    user: str
    server: str
    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    owner: str  # uid:gid
    home: str
    resources: Resources
    network: str
    mounts: tuple[Mount, ...]
    work_mount: str
    lease: str
    generation: str
    framework: str
    version: str
    architecture: str
    catalog_image: str
    recipe: str
    project: str
    created_at: str  # ISO, UTC
    custom: bool = False  # the image is not the catalog's, but the admin's own
    devices: tuple[Device, ...] = ()
    way: Way = "none"  # how they get into the container
    slots: tuple[str, ...] = ()  # the numbers that DS01's tools show for them
    units: str = "0"  # share of GPU, 2520 is one
    seat: str = ""  # of a shared device, the third of eight is 3/8
    seats: int = 1  # of that device
    simulated: bool = False
    hours: str = ""  # how long the server may run; empty: no limit
    idle_hours: str = ""  # how long its devices may go unused; empty: no limit
    hold_hours: str = ""  # how long they are kept for its user after a stop; empty: not at all
    exempt_until: str = ""  # from the hours, ISO, UTC; empty: not exempt
    exempt_idle_until: str = ""  # from the idle hours
    cgroup_parent: str = ""
    extra_labels: Mapping[str, str] = field(default_factory=dict)


def create_body(plan: ContainerPlan) -> dict[str, Any]:
    """The body of the create call. Deterministic: equal plans give equal bodies."""
    devices = injection.parts(plan.devices, plan.way)
    environment = _environment(plan) | sharing.environment(plan.seats) | devices.environment
    return {
        "Image": plan.image,
        "Cmd": list(plan.command),
        "Entrypoint": [],
        "Env": [f"{key}={value}" for key, value in sorted(environment.items())],
        "User": plan.owner,
        "WorkingDir": plan.home,
        "Labels": labels(plan),
        "OpenStdin": False,
        "Tty": False,
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _host_config(plan) | devices.host,
    }


def _host_config(plan: ContainerPlan) -> dict[str, Any]:
    limits = plan.resources
    host: dict[str, Any] = {
        "NetworkMode": plan.network,
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "IpcMode": "private",
        "Init": True,
        "PidsLimit": NO_LIMIT if limits.pids_limit is None else limits.pids_limit,
        "Ulimits": [
            {"Name": "nofile", "Soft": limits.open_files, "Hard": limits.open_files},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": str(limits.log_size), "max-file": str(limits.log_files)},
        },
        "Tmpfs": {"/tmp": f"rw,nosuid,nodev,exec,size={limits.tmp_size},mode=1777"},  # noqa: S108
        "Mounts": [_mount(mount, plan) for mount in plan.mounts],
    }
    if limits.cpus is not None:
        host["NanoCpus"] = round(limits.cpus * CPU_PERIOD_NS)
    if limits.memory is not None:
        host["Memory"] = limits.memory
        host["MemorySwap"] = limits.memory_swap or limits.memory
    if limits.shm_size is not None:
        host["ShmSize"] = limits.shm_size
    if plan.cgroup_parent:
        host["CgroupParent"] = plan.cgroup_parent
    return host


def _mount(mount: Mount, plan: ContainerPlan) -> dict[str, Any]:
    body: dict[str, Any] = {
        "Type": mount.kind,
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
    }
    if mount.kind == "volume":
        # A new volume stays empty: what the image has in that place would be root's. One that
        # can only be read is of several users.
        owner = {} if mount.read_only else {"ds01.hub": plan.hub, "ds01.user": plan.user}
        body["VolumeOptions"] = {"NoCopy": True, "Labels": owner}
    return body


def _environment(plan: ContainerPlan) -> dict[str, str]:
    env = {key: value for key, value in plan.environment.items() if key not in RESERVED_ENV}
    limits = plan.resources
    if limits.memory is not None:  # for what shows a server its limits, as JupyterHub names them
        env["MEM_LIMIT"] = str(limits.memory)
    if limits.cpus is not None:
        env["CPU_LIMIT"] = f"{limits.cpus:g}"
    env["HOME"] = plan.home
    env["USER"] = env["LOGNAME"] = plan.user
    return env


def labels(plan: ContainerPlan) -> dict[str, str]:
    """Every reserved label, set here so that none is inherited from an image.

    The names are those that DS01's and AIME's tools read (`ds01.*`, `aime.mlc.*`).
    """
    name = plan.project if not plan.server else f"{plan.project}-{plan.server}"
    framework = f"{plan.framework}-{plan.version}"
    uuids = [device.uuid for device in plan.devices]
    ours = {
        "ds01.hub": plan.hub,
        "ds01.schema": SCHEMA,
        "ds01.server": plan.server,
        "ds01.lease": plan.lease,
        "ds01.lease_generation": plan.generation,
        "ds01.units": plan.units,
        "ds01.gpu.seat": plan.seat,
        "ds01.gpu.cards": ",".join(device.card for device in plan.devices),
        "ds01.hours": plan.hours,
        "ds01.idle_hours": plan.idle_hours,
        "ds01.hold_hours": plan.hold_hours,
        "ds01.exempt_until": plan.exempt_until,
        "ds01.exempt_idle_until": plan.exempt_idle_until,
        "ds01.recipe": plan.recipe,
        "ds01.simulated": "true" if plan.simulated else "false",
    }
    ds01 = {
        "ds01.user": plan.user,
        "ds01.managed": "true",
        "ds01.interface": "jupyterhub",
        "ds01.container_type": "atomic",
        "ds01.name": name,
        "ds01.project": plan.project,
        "ds01.framework": framework,
        "ds01.arch": plan.architecture,
        "ds01.image": plan.catalog_image,
        "ds01.custom_image": _custom_image(plan),
        "ds01.gpus": str(len(plan.devices)),
        "ds01.gpu.allocated": ",".join(plan.slots),
        "ds01.gpu.slots": ",".join(plan.slots),
        "ds01.gpu.slot_count": str(len(plan.devices)),
        "ds01.gpu.uuid": uuids[0] if len(uuids) == 1 else "",
        "ds01.gpu.uuids": ",".join(uuids),
        "ds01.created_at": plan.created_at,
        "ds01.work_mount": plan.work_mount,
        "ds01.data_mount": "-",
        "ds01.models_mount": "-",
        "ds01.protected": "false",
        "ds01.monitoring": "false",
    }
    return {**plan.extra_labels, **_aime_labels(plan, name, framework), **ds01, **ours}


def _aime_labels(plan: ContainerPlan, name: str, framework: str) -> dict[str, str]:
    """What AIME's tools read; they split at commas, so the values have none."""
    aime = {
        "aime.mlc": plan.user,
        "aime.mlc.USER": plan.user,
        "aime.mlc.NAME": name,
        "aime.mlc.ARCH": plan.architecture,
        "aime.mlc.MLC_VERSION": "4",
        "aime.mlc.WORK_MOUNT": plan.work_mount,
        "aime.mlc.DATA_MOUNT": "-",
        "aime.mlc.MODELS_MOUNT": "-",
        "aime.mlc.FRAMEWORK": framework,
        "aime.mlc.GPUS": str(len(plan.devices)),
        "aime.mlc.CUSTOM_IMAGE": _custom_image(plan),
    }
    return {key: value.replace(",", " ") for key, value in aime.items()}


def _custom_image(plan: ContainerPlan) -> str:
    """The admin's own image; empty where it is the catalog's (DS01's `label-schema.yaml`)."""
    return plan.catalog_image if plan.custom else ""
