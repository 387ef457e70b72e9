"""The devices of one lease and the way to them -> the parts of the create body that give them.

Whatever the way, what was not given is shut: the variables that a maker's runtime would obey are
set here, so that none of an image's counts. Who may open a device file is decided by the engine
(device requests, CDI, device nodes); a variable is never what keeps a server off a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ds01_spawner.core.devices import Device
from ds01_spawner.errors import DeviceGone

NvidiaWay = Literal["request", "cdi"]
Way = Literal["none", "simulated", "nodes", NvidiaWay]
CDI_KIND = "nvidia.com/gpu"
CAPABILITIES = [["gpu", "compute", "utility"]]
# Runtimes that act on these see that they have nothing to add.
NOTHING = {"NVIDIA_VISIBLE_DEVICES": "void", "AMD_VISIBLE_DEVICES": "none"}


@dataclass(frozen=True, slots=True)
class Parts:
    """What goes into the create body: entries of its HostConfig, and environment."""

    environment: dict[str, str]
    host: dict[str, Any] = field(default_factory=dict)


def way_of(devices: Sequence[Device], *, simulated: bool, nvidia: NvidiaWay) -> Way:
    """The way of a lease's devices, `nvidia` being the one for NVIDIA's on this engine.

    Placement gives no server devices of two makers; ValueError if one comes here all the same.
    """
    makers = {device.kind == "amd" for device in devices}
    if len(makers) > 1:
        raise ValueError("devices of two makers in one server")
    if not devices:
        return "none"
    if simulated:
        return "simulated"
    return "nodes" if makers == {True} else nvidia


def parts(devices: Sequence[Device], way: Way) -> Parts:
    """The parts for these devices. Raises DeviceGone for one whose device files are not known."""
    if not devices:
        return Parts({**NOTHING, "CUDA_VISIBLE_DEVICES": ""})
    if way == "request":
        return Parts(_nvidia(devices), {"DeviceRequests": [request([d.uuid for d in devices])]})
    if way == "cdi":
        names = [cdi_name(device.uuid) for device in devices]
        return Parts(dict(NOTHING), {"DeviceRequests": [cdi_request(names)]})
    if way == "nodes":
        return Parts(_amd(devices), _nodes(devices))
    if way == "simulated":
        return Parts(_amd(devices) if devices[0].kind == "amd" else _nvidia(devices))
    raise ValueError(f"no way for {len(devices)} devices: {way}")


def request(uuids: Sequence[str]) -> dict[str, Any]:
    """NVIDIA's device request; one for all: of two, engines up to 28 keep only the second."""
    return {"Driver": "nvidia", "DeviceIDs": list(uuids), "Capabilities": CAPABILITIES}


def cdi_request(names: Sequence[str]) -> dict[str, Any]:
    """The request for devices by their CDI names; such a one has no capabilities and no count."""
    return {"Driver": "cdi", "DeviceIDs": list(names), "Capabilities": []}


def cdi_name(uuid: str) -> str:
    """The name that `nvidia-ctk cdi generate` gives a GPU or MIG instance."""
    return f"{CDI_KIND}={uuid}"


def _nvidia(devices: Sequence[Device]) -> dict[str, str]:
    return {**NOTHING, "NVIDIA_VISIBLE_DEVICES": ",".join(device.uuid for device in devices)}


def _amd(devices: Sequence[Device]) -> dict[str, str]:
    """AMD's variables count the devices that the container can open, so they name all of these.

    Only a convenience: an image's own value could hide some.
    """
    all_of_them = ",".join(map(str, range(len(devices))))
    return {
        **NOTHING,
        "ROCR_VISIBLE_DEVICES": all_of_them,
        "HIP_VISIBLE_DEVICES": all_of_them,
        "GPU_DEVICE_ORDINAL": all_of_them,
    }


def _nodes(devices: Sequence[Device]) -> dict[str, Any]:
    """The files of these devices and no others, never all of /dev/dri, and who may open them.

    AMD's own advice for containers that do not trust each other (ROCm documentation, "Isolating
    GPUs in Docker"); /dev/kfd is of all devices and comes once.
    """
    for device in devices:
        if not device.nodes:
            raise DeviceGone(f"{device.uuid} has no device files")
    nodes = dict.fromkeys(node for device in devices for node in device.nodes)
    groups = dict.fromkeys(group for device in devices for group in device.groups)
    return {
        "Devices": [
            {"PathOnHost": node, "PathInContainer": node, "CgroupPermissions": "rwm"}
            for node in nodes
        ],
        "GroupAdd": [str(group) for group in groups],
    }
