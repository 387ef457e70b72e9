"""The wheel, installed apart from the source tree, has all that it needs."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet",
        "--wheel-dir", str(folder), str(REPO),
    )  # fmt: skip
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; its dependencies are those of the test environment."""
    env = tmp_path_factory.mktemp("env")
    _run(sys.executable, "-m", "venv", "--without-pip", str(env))
    packages = next(env.glob("lib/python*/site-packages"))
    _run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target",
         str(packages), str(wheel))  # fmt: skip
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return env / "bin" / "python"


def _run(*command: str, cwd: str = "/") -> str:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PIP_FIND_LINKS")}
    done = subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("folder", ["hub/templates", "data"])
def test_package_data_is_in(wheel: Path, folder: str) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    source = REPO / "ds01_spawner"
    for path in (p for p in (source / folder).rglob("*") if p.is_file()):
        assert f"ds01_spawner/{path.relative_to(source).as_posix()}" in names


def test_the_scripts_of_images_are_in_and_used(installed: Path) -> None:
    code = (
        "import ds01_spawner, pathlib\n"
        "print(ds01_spawner.__file__)\n"
        "from ds01_spawner.services.image_files import image_files\n"
        "print(*image_files('gate'))\n"
        "for folder in ('common', 'derived', 'server'):\n"
        "    print(*(f'{folder}/{name}' for name in image_files(folder)), sep='\\n')\n"
    )
    where, gate, *scripts = _run(str(installed), "-c", code).splitlines()
    assert not where.startswith(str(REPO))
    assert gate == "gate.py"
    images = REPO / "images"
    assert sorted(scripts) == sorted(
        p.relative_to(images).as_posix()
        for folder in ("common", "derived", "server")
        for p in (images / folder).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    )


def test_the_form_renders(installed: Path) -> None:
    code = (
        "from ds01_spawner.core.options import Offer\n"
        "from ds01_spawner.core.limits import Limits\n"
        "from ds01_spawner.core.devices import Snapshot\n"
        "from ds01_spawner.hub.form import Facts, render\n"
        "from ds01_spawner.services.files import starter_catalog\n"
        "offer = Offer(starter_catalog(), ('CUDA_ADA',), Limits())\n"
        "print('Pytorch' in render(Facts(offer, Snapshot())))\n"
    )
    assert _run(str(installed), "-c", code).strip() == "True"


def test_the_spawner_is_found_by_its_name(installed: Path) -> None:
    code = (
        "from importlib.metadata import entry_points\n"
        "(found,) = entry_points(group='jupyterhub.spawners', name='ds01')\n"
        "print(found.load().__name__)\n"
    )
    assert _run(str(installed), "-c", code).strip() == "DS01Spawner"


def test_the_command_answers(installed: Path) -> None:
    assert "Pytorch" in _run(str(installed), "-m", "ds01_spawner.cli.main", "catalog", "list")
