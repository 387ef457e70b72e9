"""What `doctor` finds, from what hosts and engines tell."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from ds01_spawner.core import checks
from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.gpu_way import Choice

GIB = 1 << 30
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
GPU = Device("GPU-1", "gpu", "A100", "CUDA_AMPERE", 2520, 40 * GIB)
AMD = Device("0x1", "amd", "MI210", "ROCM6", 2520, 64 * GIB)
ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010010AC\t0003\t0\t0\t0\t00000000\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
ds01\t004D1EAC\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:50 / /srv rw - nfs4 server:/srv rw
24 23 8:2 / /srv/local rw - xfs /dev/sdb1 rw
25 22 0:51 / /with\\040space rw master:1 - tmpfs tmpfs rw
26 22 0:52 / /twice rw - ext4 /dev/sdc rw
27 26 0:53 / /twice rw - cifs //server/twice rw
"""


@pytest.mark.parametrize(
    ("version", "api", "ok"),
    [("20.10.24", "1.41", True), ("29.2.0", "1.53", True), ("19.03.15", "1.40", False)],
)
def test_engine(version: str, api: str, ok: bool) -> None:
    check = checks.engine({"Version": version, "ApiVersion": api})
    assert check.ok == ok
    assert check.detail.startswith(f"Docker {version}, API {api}")


@pytest.mark.parametrize(
    ("driver", "ok"), [("overlay2", True), ("overlayfs", True), ("btrfs", True), ("vfs", False)]
)
def test_storage(driver: str, ok: bool) -> None:
    assert checks.storage({"Driver": driver, "DockerRootDir": "/var/lib/docker"}).ok == ok


@pytest.mark.parametrize(
    ("free", "ok"), [(None, True), (10 * GIB, True), (10 * GIB - 1, False), (0, False)]
)
def test_disk(free: int | None, ok: bool) -> None:
    assert checks.disk(free, 10 * GIB).ok == ok


@pytest.mark.parametrize(
    ("info", "ok"),
    [
        ({"CgroupVersion": "2", "CgroupDriver": "systemd"}, True),
        ({"CgroupVersion": "1", "CgroupDriver": "cgroupfs"}, True),
        ({"CgroupDriver": "none"}, False),  # a rootless engine without systemd
    ],
)
def test_cgroup(info: dict[str, str], ok: bool) -> None:
    assert checks.cgroup(info).ok == ok


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ((), ""),
        (("SwapLimit",), "cannot limit swap"),
        (("MemoryLimit", "SwapLimit"), "cannot limit memory, swap"),
        (("CpuCfsPeriod", "CpuCfsQuota"), "cannot limit cpus"),
        (("PidsLimit",), "cannot limit pids_limit"),
    ],
)
def test_limits(missing: tuple[str, ...], told: str) -> None:
    check = checks.limits({flag: flag not in missing for flag in checks.LIMITS})
    assert check.ok == (not missing)
    assert check.detail.endswith(told)


@pytest.mark.parametrize(
    ("warnings", "told", "fix"),
    [
        (None, "none", ""),
        (["WARNING: No blkio throttle.read_bps_device support"], "none", ""),
        (["WARNING: No swap limit support", "WARNING: No cpu cfs quota support"], "none", ""),
        (["WARNING: No kernel memory TCP limit support", "WARNING: No cpuset support"], "none", ""),
        (
            ["WARNING: bridge-nf-call-iptables is disabled"],
            "it says: bridge-nf-call-iptables is disabled",
            "br_netfilter",
        ),
        (
            ["[DEPRECATION NOTICE]: API is accessible on http://0.0.0.0:2375 without encryption."],
            "it says: [DEPRECATION NOTICE]: API is accessible on",
            "documentation",
        ),
    ],
)
def test_warnings(warnings: list[str] | None, told: str, fix: str) -> None:
    check = checks.warnings({"Warnings": warnings})
    assert check.ok == (not fix)
    assert check.detail.startswith(told)
    assert fix in check.fix


@pytest.mark.parametrize(
    ("runtime", "config", "ok"),
    [
        ("runc", "", True),
        ("nvidia", "", False),
        ("nvidia", "#accept-nvidia-visible-devices-envvar-when-unprivileged = false\n", False),
        ("nvidia", "accept-nvidia-visible-devices-envvar-when-unprivileged = true\n", False),
        ("nvidia", "x = 1\naccept-nvidia-visible-devices-envvar-when-unprivileged=false\n", True),
        ("amd", "", False),
    ],
)
def test_legacy(runtime: str, config: str, ok: bool) -> None:
    assert checks.legacy({"DefaultRuntime": runtime}, config).ok == ok


@pytest.mark.parametrize(
    ("told", "ok"),
    [
        ("2026-01-02T03:04:05.755009199Z", True),
        ("2026-01-02T03:04:01Z", True),
        ("2026-01-02T03:03:05Z", False),
        ("2026-01-02T04:04:05.75500919+01:00", True),
        ("2026-01-01T21:34:05.7-05:30", True),
        ("2026-01-02T03:04:05+01:00", False),
        ("", True),
        ("0001-01-01T00:00:00", True),  # not a time as engines tell it
    ],
)
def test_clock(told: str, ok: bool) -> None:
    assert checks.clock({"SystemTime": told}, NOW).ok == ok


def test_routes() -> None:
    assert checks.routes_of(ROUTES) == ["172.17.0.0/16 by docker0", "172.30.77.0/24 by ds01"]


@pytest.mark.parametrize(
    ("subnet", "problem", "ok", "told"),
    [
        ("172.30.77.0/24", "", True, "ds01, 172.30.77.0/24"),  # ours, and so is its route
        ("172.30.77.0/24", "it is not a bridge", False, "it is not a bridge"),
        ("172.30.77.0/24", None, False, "it overlaps 172.30.77.0/24 by ds01"),
        ("172.16.0.0/12", None, False, "172.17.0.0/16 by docker0, 172.30.77.0/24 by ds01"),
        ("172.17.5.0/24", None, False, "it overlaps 172.17.0.0/16 by docker0"),
        ("10.1.0.0/16", None, True, "made at the first start"),
    ],
)
def test_network(subnet: str, problem: str | None, ok: bool, told: str) -> None:
    check = checks.network("ds01", subnet, problem, checks.routes_of(ROUTES))
    assert check.ok == ok
    assert check.detail.endswith(told)
    assert bool(check.fix) == (not ok)


@pytest.mark.parametrize(
    ("snapshot", "ok", "told"),
    [
        (Snapshot(), True, "no device"),
        (Snapshot(problems=("there is no NVIDIA driver on this host",)), True,
         "no device, there is no NVIDIA driver on this host"),
        (Snapshot((GPU, replace(GPU, uuid="GPU-2")), driver="570.1", cuda=(12, 8)), True,
         "2 A100, driver 570.1, CUDA 12.8"),
        (Snapshot((GPU,), simulated=True), True, "1 A100, simulated"),
        (Snapshot(known=False, problems=("the driver hangs",)), False,
         "no device: the driver hangs"),
        (Snapshot((GPU, replace(GPU, uuid="GPU-2", healthy=False, problem="is lost"))), False,
         "2 A100: GPU-2 is lost"),
    ],
)  # fmt: skip
def test_inventory(snapshot: Snapshot, ok: bool, told: str) -> None:
    check = checks.inventory(snapshot)
    assert (check.ok, check.detail) == (ok, told)


@pytest.mark.parametrize(
    ("snapshot", "tools"),
    [
        (Snapshot((replace(GPU, healthy=False),)), "See what nvidia-smi says"),
        (Snapshot((GPU, replace(AMD, healthy=False))), "See what rocm-smi says"),
        (Snapshot((AMD,), known=False), "See what rocm-smi says"),
        (Snapshot(known=False), "See what nvidia-smi or rocm-smi says"),
    ],
)
def test_the_makers_own_tool_is_named(snapshot: Snapshot, tools: str) -> None:
    assert checks.inventory(snapshot).fix.startswith(tools)


@pytest.mark.parametrize(
    ("choice", "devices", "info", "ok", "told"),
    [
        (Choice("request", "why"), (), {}, True, "there is no device"),
        (Choice("request", "why", "no driver", "fix"), (AMD,), {}, True, "AMD's as their device"),
        (Choice("cdi", "why"), (GPU,), {}, True, "NVIDIA's by cdi, why; nvidia.com/gpu=GPU-1"),
        (Choice("cdi", "why"), (GPU, AMD), {}, True, "AMD's as their device files; NVIDIA's by"),
        (Choice("request", "why"), (GPU,), {}, True, "NVIDIA's by request, why"),
        (Choice("request", "why"), (GPU,), {"CgroupDriver": "systemd"}, True,
         "NVIDIA's by request, why; servers may lose them at a systemctl daemon-reload"),
        (Choice("request", "why", "no driver", "fix"), (GPU,), {}, False,
         "NVIDIA's by request, why: no driver"),
    ],
)  # fmt: skip
def test_gpu_way(
    choice: Choice, devices: tuple[Device, ...], info: dict[str, Any], ok: bool, told: str
) -> None:
    check = checks.gpu_way(choice, Snapshot(devices), info)
    assert check.ok == ok
    assert check.detail.startswith(told)
    assert check.fix == ("" if ok else "fix")


def test_simulated_devices_need_no_way() -> None:
    choice = Choice("request", "why", "no driver", "fix")
    assert checks.gpu_way(choice, Snapshot((GPU,), simulated=True), {}).ok


@pytest.mark.parametrize(
    ("path", "kind", "remote"),
    [
        ("/var/lib/ds01", "ext4", False),
        ("/srv", "nfs4", True),
        ("/srv/x", "nfs4", True),
        ("/srv/local/x", "xfs", False),
        ("/srvx", "ext4", False),
        ("/with space/x", "tmpfs", False),
        ("/twice/x", "cifs", True),
    ],
)
def test_file_systems(path: str, kind: str, remote: bool) -> None:
    assert checks.filesystem_of(path, MOUNTS) == kind
    assert checks.is_remote(kind) == remote


@pytest.mark.parametrize(
    ("kind", "remote"),
    [
        ("fuse.sshfs", True),
        ("fuse.glusterfs", True),
        ("fuse.ceph-fuse", True),
        ("fuse.juicefs", True),
        ("fuse.made-tomorrow", True),
        ("fuse", True),  # it does not tell
        ("fuseblk", False),  # of a disk
        ("fuse.fuse-overlayfs", False),
    ],
)
def test_what_comes_through_fuse_is_remote_unless_it_is_known(kind: str, remote: bool) -> None:
    assert checks.is_remote(kind) == remote


def test_a_path_on_no_known_mount_has_no_known_file_system() -> None:
    assert checks.filesystem_of("/x", "") == ""
    assert not checks.is_remote("")
