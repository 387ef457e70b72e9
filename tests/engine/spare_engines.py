"""More Docker engines than the bench's own, each for as long as the tests that need it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.conftest import wait_for

START = Path(__file__).parents[1] / "bench/start-spare-engine"
SHELL = Path("/bin/sh")


@dataclass(frozen=True)
class SpareEngine:
    """An engine; `root` is where its own root file system lies, or its data if it has none."""

    url: str
    root: Path


@contextmanager
def spare_engine(bench: Path, kind: Literal["cdi", "plain", "small"]) -> Iterator[SpareEngine]:
    """Start the engine; with it end all its containers."""
    folder, root = bench / "spare" / kind, None
    try:
        done = subprocess.run(
            [str(START), kind, str(bench)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=600,
        )  # fmt: skip
        print(done.stdout)
        assert done.returncode == 0, done.stdout
        root = Path(done.stdout.splitlines()[-1])
        yield SpareEngine(f"unix://{folder}/docker.sock", root)
    finally:
        pid = int((folder / "pid").read_text())
        os.kill(pid, signal.SIGKILL)  # the kernel then ends its whole namespace of processes
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), f"the end of the engine {pid}")
        if kind == "small" and root is not None:
            subprocess.run(["umount", "-l", str(root)], check=False)


def shell_tar() -> bytes:
    """A root file system with this machine's shell and what it is linked to."""
    linked = subprocess.run(["ldd", SHELL], check=True, stdout=subprocess.PIPE, text=True).stdout
    files = {SHELL, *(Path(word) for word in linked.split() if word.startswith("/"))}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as tar:
        for file in sorted(files):
            tar.add(file, str(file).lstrip("/"))
    return buffer.getvalue()
