"""`ds01-spawner doctor`: each finding, its words, the exit code; and nothing is changed."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from ds01_spawner.cli.main import main
from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.services import checkup, wiring
from ds01_spawner.services.engine import Json
from ds01_spawner.services.inventory.base import NoDevices
from ds01_spawner.services.settings import Settings
from tests.fakes.engine import FakeEngine

NAMES = [
    "configuration", "policy", "catalog", "registries", "data folder", "decisions", "ledger",
    "engine", "clock", "storage", "disk", "cgroup", "limits", "engine warnings", "network",
    "builder", "build network", "devices", "gpu way", "gpu hazards",
]  # fmt: skip
GPU = Device("GPU-1", "gpu", "A100", "CUDA_AMPERE", 2520, 40 << 30)
Checks = Mapping[str, Mapping[str, Any]]
Doctor = Callable[..., tuple[int, Checks]]


class Host(FakeEngine):
    """An engine that tells more of its host."""

    told: Json = MappingProxyType({"Driver": "overlay2", "CgroupDriver": "cgroupfs"})

    async def close(self) -> None:
        """It answers one command after another."""

    async def info(self) -> Json:
        return {**await super().info(), **self.told}


class Devices(NoDevices):
    async def snapshot(self, *, fresh: bool = False) -> Snapshot:
        return Snapshot((GPU,), driver="570.1", cuda=(12, 8))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    engine = Host(["GPU-1"])
    engine.disk_free = 100 << 30
    monkeypatch.setattr(wiring, "engine", lambda settings: engine)
    monkeypatch.setattr(checkup, "NVIDIA_CONFIG", tmp_path / "config.toml")
    return engine


@pytest.fixture
def doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: Host) -> Doctor:
    """Runs the command with these settings."""

    def run(*, config: str = "", **settings: object) -> tuple[int, Checks]:
        settings = {
            "data_dir": str(tmp_path / "data"),
            "gpus": "none",
            "network_subnet": "198.18.255.0/24",
            **settings,
        }
        lines = [f"c.DS01Spawner.{name} = {value!r}" for name, value in settings.items()]
        (tmp_path / "hub.py").write_text("\n".join(["c = get_config()", *lines, config]))
        code = main(["--config", str(tmp_path / "hub.py"), "doctor", "--json"])
        found = json.loads(capsys.readouterr().out)["checks"]
        assert all(set(check) == {"name", "ok", "detail", "fix"} for check in found)
        assert all(bool(check["fix"]) != check["ok"] for check in found)
        assert code == (0 if all(check["ok"] for check in found) else 1)
        return code, {check["name"]: check for check in found}

    return run


def test_a_host_in_order(doctor: Doctor, engine: Host, tmp_path: Path) -> None:
    code, checks = doctor()
    assert (code, list(checks)) == (0, NAMES), checks
    assert not (tmp_path / "data").exists()
    assert (engine.containers, engine.images, engine.networks) == ({}, {}, {})


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("runs", [False, True])
def test_a_hub_that_ran_here_or_runs(doctor: Doctor, tmp_path: Path, runs: bool) -> None:
    settings = Settings(data_dir=str(tmp_path / "data"))
    with closing(wiring.ledger(settings)) as ledger:
        ledger.begin_incarnation()
        if not runs:
            ledger.close()
        before = contents(tmp_path / "data")
        code, checks = doctor()
        after = contents(tmp_path / "data")
    assert code == 0
    assert checks["ledger"]["detail"].endswith("ledger.sqlite: 0 leases")
    assert after.keys() == before.keys()
    assert {k: v for k, v in after.items() if not k.endswith("-shm")} == {
        k: v for k, v in before.items() if not k.endswith("-shm")
    }  # -shm holds the locks of the moment


@pytest.mark.parametrize(
    ("setting", "name", "told"),
    [
        ({"policy_file": "{}/none.yaml"}, "policy", "no such file"),
        ({"policy_file": "{}/bad.yaml"}, "policy", "max_cpu"),
        ({"policy_file": "{}/rocm.yaml", "catalog_file": "{}/full.repo"}, "policy",
         "runs_on aimehub/* names only the other maker's architectures"),
        ({"catalog_file": "{}/none.repo"}, "catalog", "no such file"),
        ({"catalog_file": "{}/part.repo"}, "catalog", "line 2"),
        ({"registry_auth_file": "{}/open.json"}, "registries", "others may read it"),
        ({"min_free_disk": 1 << 40}, "disk", "no new server starts"),
        ({"gpu_injection": "cdi"}, "gpu way", "CDI is off in engine 20.10.24"),
    ],
)  # fmt: skip
def test_what_the_settings_get_wrong(
    doctor: Doctor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: dict[str, object],
    name: str,
    told: str,
) -> None:
    (tmp_path / "bad.yaml").write_text("defaults:\n  max_cpu: 3\n")
    (tmp_path / "rocm.yaml").write_text("runs_on: {aimehub/*: {architectures: [ROCM6]}}\n")
    row = "Pytorch, 2.8.0, [CUDA_ADA], aimehub/pytorch\n"
    (tmp_path / "full.repo").write_text(row)
    (tmp_path / "part.repo").write_text(f"{row}Pytorch, 1\n")
    (tmp_path / "open.json").write_text("{}")
    monkeypatch.setattr(wiring, "inventory", lambda settings: Devices())
    where = str(tmp_path)
    filled = {k: v.format(where) if isinstance(v, str) else v for k, v in setting.items()}
    code, checks = doctor(**filled)
    assert code == 1
    assert [check["name"] for check in checks.values() if not check["ok"]] == [name]
    assert told in checks[name]["detail"]


def test_log_ins_are_told_without_what_is_secret(doctor: Doctor, tmp_path: Path) -> None:
    file, auth = tmp_path / "auth.json", base64.b64encode(b"hub:geheim").decode()
    file.write_text(json.dumps({"auths": {"r.example.org": {"auth": auth}}}))
    file.chmod(0o600)
    code, checks = doctor(registry_auth_file=str(file))
    assert code == 0
    assert checks["registries"]["detail"] == "log-ins for r.example.org"
    assert "geheim" not in str(checks)
    assert auth not in str(checks)


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ({"SwapLimit": False}, "limits"),
        ({"Warnings": ["WARNING: bridge-nf-call-iptables is disabled"]}, "engine warnings"),
        ({"DefaultRuntime": "nvidia"}, "gpu hazards"),
        ({"Driver": "vfs"}, "storage"),
        ({"SystemTime": "2020-01-01T00:00:00Z"}, "clock"),
    ],
)
def test_what_the_engine_lacks(doctor: Doctor, engine: Host, told: Json, name: str) -> None:
    engine.told = {**engine.told, **told}
    code, checks = doctor()
    assert code == 1
    assert [check["name"] for check in checks.values() if not check["ok"]] == [name]


def test_a_runtime_that_heeds_no_variable_is_no_hazard(
    doctor: Doctor, engine: Host, tmp_path: Path
) -> None:
    line = "accept-nvidia-visible-devices-envvar-when-unprivileged = false\n"
    (tmp_path / "config.toml").write_text(line)
    engine.told = {**engine.told, "DefaultRuntime": "nvidia"}
    assert doctor()[0] == 0


def test_devices_and_their_way(
    doctor: Doctor, engine: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "inventory", lambda settings: Devices())
    code, checks = doctor()
    assert code == 0
    assert checks["devices"]["detail"] == "1 A100, driver 570.1, CUDA 12.8"
    assert checks["gpu way"]["detail"].startswith("NVIDIA's by request, CDI is off")
    engine.cdi = frozenset({"nvidia.com/gpu=GPU-1"})
    assert doctor()[1]["gpu way"]["detail"].endswith("; nvidia.com/gpu=GPU-1")
    engine.cdi = engine.devices = None
    code, checks = doctor()
    assert code == 1
    assert "nvidia-container-toolkit" in checks["gpu way"]["fix"]
    assert (engine.containers, engine.images) == ({}, {})


def test_an_engine_that_is_away_hides_none_of_the_rest(doctor: Doctor, engine: Host) -> None:
    engine.unreachable = True
    code, checks = doctor()
    assert code == 1
    assert list(checks) == NAMES[: NAMES.index("engine") + 1]
    assert "does not answer" in checks["engine"]["detail"]


IMAGES = """\
images:
  here: {image: "lab/here:1", title: H}
  away: {image: "lab/away:1", title: A}
  loads: {image: "lab/loads:1", title: L}
  "2.8.0": {image: "lab/here:1", title: T, framework: Pytorch}
"""


def test_custom_images_are_looked_at(doctor: Doctor, engine: Host, tmp_path: Path) -> None:
    (tmp_path / "images.yaml").write_text(IMAGES.partition("  loads")[0])
    (tmp_path / "full.repo").write_text("Pytorch, 2.8.0, [CUDA_ADA], aimehub/pytorch\n")
    files = {"policy_file": f"{tmp_path}/images.yaml", "catalog_file": f"{tmp_path}/full.repo"}
    engine.add_image("lab/here:1")
    engine.add_image("lab/loads:1", env=["LD_PRELOAD=/x.so"])
    code, checks = doctor(**files)
    assert code == 0
    told = checks["custom images"]["detail"]
    assert told == "here is here, away is fetched at its first start"
    (tmp_path / "images.yaml").write_text(IMAGES)
    code, checks = doctor(**files)
    assert code == 1
    told = checks["custom images"]["detail"]
    assert "loads: The image lab/loads:1 cannot be used: it sets LD_PRELOAD" in told
    assert "2.8.0: a row of the catalog has this framework and version" in told
    assert not engine.made("pull")


def test_what_builds_reach_is_told(doctor: Doctor, engine: Host) -> None:
    _, checks = doctor(build_hosts=["files.example.org:8443"])
    assert checks["build network"]["ok"]
    assert "files.example.org" in checks["build network"]["detail"]
    _, checks = doctor(build_hosts=["https://files.example.org"])
    assert "is not a host" in checks["build network"]["detail"]


def test_builds_that_are_not_isolated_are_told(doctor: Doctor, engine: Host) -> None:
    engine.networks["bridge"] = {"Name": "bridge"}
    _, checks = doctor(build_network="bridge")
    assert "reach" in checks["build network"]["detail"]
    assert 'build_network = "isolated"' in checks["build network"]["fix"]
    _, checks = doctor(builder="buildkit", build_network="bridge")
    assert not checks["builder"]["ok"]
    assert "no limits of memory and cores" in checks["builder"]["detail"]
    _, checks = doctor(build_network="none-such")
    assert "there is no such network" in checks["build network"]["detail"]


def test_a_network_of_others_is_told(doctor: Doctor, engine: Host) -> None:
    engine.networks["ds01"] = {"Name": "ds01", "Driver": "bridge", "Labels": {}}
    code, checks = doctor()
    assert code == 1
    assert "not made by this hub" in checks["network"]["detail"]


def test_a_data_folder_that_others_can_read(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    code, checks = doctor()
    assert code == 1
    assert checks["data folder"]["fix"] == f"chmod 700 {tmp_path}/data"


def test_a_ledger_that_is_none(doctor: Doctor, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    with closing(sqlite3.connect(data / "ledger.sqlite")) as other:
        other.execute("CREATE TABLE x (y)")
    code, checks = doctor()
    assert code == 1
    assert "another program's database" in checks["ledger"]["detail"]


def test_a_ledger_of_the_other_kind_of_devices(doctor: Doctor, tmp_path: Path) -> None:
    wiring.ledger(Settings(data_dir=str(tmp_path / "data"), gpus="simulated:1xA100-40GB")).close()
    code, checks = doctor()
    assert code == 1
    assert "never mix" in checks["ledger"]["detail"]


def test_a_configuration_that_does_not_load(doctor: Doctor) -> None:
    code, checks = doctor(config="1/0")
    assert (code, list(checks)) == (1, ["configuration"])
    assert "ZeroDivisionError" in checks["configuration"]["detail"]


def test_its_lines(
    doctor: Doctor, engine: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.told = {**engine.told, "SwapLimit": False}
    doctor()
    assert main(["--config", str(tmp_path / "hub.py"), "doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok  configuration ")
    assert any(line.startswith("NO  limits           memory, ") for line in lines)
    assert any("swapaccount=1" in line for line in lines)
    assert lines[-1] == f"{len(NAMES)} checks, 1 not ok"


def test_decisions_that_cannot_be_read(doctor: Doctor, tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = Settings(data_dir=str(data))
    with closing(wiring.ledger(settings)) as ledger:
        ledger.begin_incarnation()
        ledger.cordon("GPU-1", "")
        ledger.drain("")
        assert doctor()[1]["decisions"]["detail"].endswith("1 GPUs set aside, drained")
        (data / "decided.json").write_text("{")
        code, checks = doctor()
        assert (code, checks["decisions"]["ok"]) == (1, False)
        assert "decided.json: Invalid JSON" in checks["decisions"]["detail"]
        ledger.resume()
    code, checks = doctor()
    assert code == 1
    assert "decided.json.unread: the hub has put it aside" in checks["decisions"]["detail"]
    assert "ds01-spawner resume" in checks["decisions"]["fix"]
    (data / "decided.json.unread").unlink()
    assert doctor()[0] == 0
