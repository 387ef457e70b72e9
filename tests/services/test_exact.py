"""The proof, at the end of a build, that what was asked for is what is installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

(SCRIPT,) = (Path(__file__).parents[2] / "images").rglob("exact.py")
HAS = version("PyYAML")
HASH = "--hash=sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("", ""),
        (f"pyyaml=={HAS}\nPyYAML>=1\npip\n", ""),
        (f"pyyaml=={HAS} {HASH}\n", ""),
        ('nosuch==1; python_version < "3"\npyyaml', ""),
        (f"pyyaml\npyyaml=={HAS}.7\n", f"pyyaml=={HAS}.7 was asked for, and {HAS} is installed"),
        ("pyyaml<1", f"pyyaml<1 was asked for, and {HAS} is installed"),
        ("pyyaml\nnosuch>=1", "nosuch was asked for, and is not installed."),
        ('nosuch; python_version > "3"', "nosuch was asked for, and is not installed."),
    ],
)
def test_what_is_not_as_asked_is_told(tmp_path: Path, lines: str, told: str) -> None:
    """pip before 20.3 takes `torch==2.0` beside a constraint `torch==2.8.0` as done."""
    file = tmp_path / "requirements.txt"
    file.write_text(lines)
    command = [sys.executable, "-I", SCRIPT, tmp_path / "bundles.txt", file]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1 if told else 0, "")
    assert ended.stdout.startswith(told)
    assert bool(ended.stdout) == bool(told)
