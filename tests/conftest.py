"""The bench: what ./test set up, as fixtures; and in CI, no test is skipped unnoticed.

./test tells of its bench through the environment (DS01_TEST_*, DS01_HUB). Without it, as under a
plain `pytest tests/core`, the tests that need it are skipped and say so.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from docker import APIClient

# How long an example takes says more of what else the machine does than of the code.
hypothesis.settings.register_profile("ours", deadline=None)
hypothesis.settings.load_profile("ours")

# What a machine of the continuous integration cannot have; every other skip there is a failure.
EXCUSES = ("../shared", "physical GPU")

skipped: list[tuple[str, str]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note_skip(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note_skip(report)


def _note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(excuse in reason for excuse in EXCUSES):
            skipped.append((report.nodeid, reason))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if skipped and os.environ.get("CI") == "true" and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if skipped and os.environ.get("CI") == "true":
        terminalreporter.section("skipped, which is a failure with CI=true", red=True)
        for nodeid, reason in skipped:
            terminalreporter.line(f"{nodeid}: {reason}")
    if counts_file := os.environ.get("DS01_TEST_COUNTS"):
        counts = {name: len(reports) for name, reports in terminalreporter.stats.items() if name}
        Path(counts_file).write_text(json.dumps(counts))


def _of_bench(name: str, what: str) -> str:
    """A value that ./test gives, else the test is skipped."""
    value = os.environ.get(name)
    if not value:
        pytest.skip(f"{what} is there only under ./test ({name} is not set)")
    return value


@pytest.fixture(scope="session")
def run_id() -> str:
    """What everything made by this run is labelled with, as `ds01.test=<run id>`."""
    return os.environ.get("DS01_TEST_RUN") or f"run-{secrets.token_hex(4)}"


@pytest.fixture(scope="session")
def run_labels(run_id: str) -> dict[str, str]:
    """Labels for containers, images, volumes and networks that go when the session ends."""
    return {"ds01.test": run_id}


@pytest.fixture(scope="session")
def hub_major() -> int:
    """The major version of JupyterHub under test."""
    import jupyterhub

    return int(jupyterhub.version_info[0])


@pytest.fixture(scope="session")
def ca_pem() -> bytes:
    """The certificate authorities this host trusts: on some networks, builds need them."""
    bundle = Path(os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt")
    if not bundle.is_file():
        pytest.skip(f"this host has no bundle of certificate authorities at {bundle}")
    return bundle.read_bytes()


@pytest.fixture(scope="session")
def engine_url(run_id: str) -> Iterator[str]:
    """The tests' own Docker engine; whatever carries this run's label is removed at the end."""
    url = _of_bench("DS01_TEST_ENGINE", "the tests' own Docker engine")
    yield url
    from docker import APIClient

    client = APIClient(base_url=url, version="1.41", timeout=60)
    try:
        remove_labelled(client, run_id)
    finally:
        client.close()


def remove_labelled(client: APIClient, run_id: str) -> None:
    """Remove the containers, networks, volumes and images of a run."""
    own = {"label": f"ds01.test={run_id}"}
    for container in client.containers(all=True, filters=own):
        client.remove_container(container["Id"], force=True, v=True)
    for network in client.networks(filters=own):
        client.remove_network(network["Id"])
    for volume in client.volumes(filters=own)["Volumes"] or ():
        client.remove_volume(volume["Name"], force=True)
    for image in client.images(filters=own):
        client.remove_image(image["Id"], force=True)


@pytest.fixture(scope="session")
def docker_client(engine_url: str) -> Iterator[APIClient]:
    """A docker-py `APIClient` of the tests' engine, to look at it from outside the product."""
    from docker import APIClient

    client = APIClient(base_url=engine_url, version="1.41", timeout=120)
    yield client
    client.close()


def steps_of_builds(client: APIClient) -> list[Any]:
    """The containers that are no hub's and no test's: each is a step of a build."""
    return [
        container
        for container in client.containers(all=True)
        if not {"ds01.hub", "ds01.test", "ds01.build"} & set(container["Labels"] or ())
    ]


@dataclass(frozen=True)
class EngineProcess:
    """The engine's daemon as a process: for tests that take it away and bring it back."""

    url: str
    folder: Path

    @property
    def pid(self) -> int:
        """Process id of the daemon that runs now."""
        return int((self.folder / "docker.pid").read_text())

    def kill(self, number: int) -> None:
        """Send a signal; wait until the daemon is gone, unless it only stops or continues."""
        pid = self.pid
        os.kill(pid, number)
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            wait_for(lambda: not Path(f"/proc/{pid}").exists(), f"the end of dockerd {pid}")

    def start(self) -> None:
        """Start the daemon again on its own data; returns when it answers."""
        command = [str(Path(__file__).parent / "bench/start-engine"), str(self.folder)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=120)


@pytest.fixture(scope="session")
def bench_folder() -> Path:
    """Where the tests' engine has its sockets and logs."""
    return Path(_of_bench("DS01_TEST_BENCH", "the tests' own Docker engine"))


@pytest.fixture
def engine_process(engine_url: str, bench_folder: Path) -> Iterator[EngineProcess]:
    """The daemon of the tests' engine; it is running again after the test."""
    process = EngineProcess(engine_url, bench_folder)
    yield process
    process.start()


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Return when the condition holds; the seconds are a guard against hanging, not a measure."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def standin_image(engine_url: str) -> str:
    """Name of the stand-in base image in the tests' engine."""
    return _of_bench("DS01_STANDIN_IMAGE", "the stand-in base image")


@dataclass(frozen=True)
class HookWitness:
    """What the stub NVIDIA hook knows and saw: the engine's own record of who got which device."""

    devices_file: Path
    log: Path

    def set_devices(self, uuids: list[str]) -> None:
        """Say which devices this host has from now on; no container with another one starts."""
        self.devices_file.write_text("".join(f"{uuid}\n" for uuid in uuids))

    def starts(self) -> list[Mapping[str, Any]]:
        """Every start with devices, oldest first: `{time, id (container), pid, devices}`."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture(scope="session")
def hook_log(engine_url: str) -> Path:
    """The stub hook's record of container starts, JSON lines `{time, id, pid, devices}`."""
    return Path(_of_bench("DS01_TEST_HOOK_LOG", "the stub GPU hook"))


@pytest.fixture
def hook(hook_log: Path) -> Iterator[HookWitness]:
    """The stub hook with an empty record and no devices."""
    witness = HookWitness(
        Path(_of_bench("DS01_TEST_HOOK_DEVICES", "the stub GPU hook")),
        hook_log,
    )
    witness.set_devices([])
    witness.log.write_text("")
    yield witness
    witness.set_devices([])


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser."""
    return _of_bench("DS01_TEST_CHROMIUM", "Chromium")
