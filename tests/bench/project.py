"""What pyproject.toml says, for the set-up scripts.

    project.py requirements [EXTRA]...    one requirement a line
    project.py metadata FOLDER            FOLDER/*.dist-info with the entry points, and FOLDER/bin

With FOLDER and the clone on PYTHONPATH the project is found as if it were installed, and no other
clone can be meant.
"""

import re
import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib  # type: ignore[no-redef]

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(extras: list[str]) -> None:
    """Print the requirements of the project and of these extras."""
    optional = PROJECT.get("optional-dependencies", {})
    print("\n".join([*PROJECT["dependencies"], *(r for extra in extras for r in optional[extra])]))


def metadata(folder: Path) -> None:
    """Write what an installation would: name, version, entry points, commands."""
    text = (ROOT / "ds01_spawner/_version.py").read_text()
    version = re.search(r'"(\d[^"]*)"', text)
    assert version, text
    name = PROJECT["name"]
    info = folder / f"{name.replace('-', '_')}-{version[1]}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version[1]}\n")
    groups = {**PROJECT.get("entry-points", {}), "console_scripts": PROJECT.get("scripts", {})}
    (info / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
            for group, entries in groups.items()
        )
    )
    (folder / "bin").mkdir(exist_ok=True)
    for command, target in PROJECT.get("scripts", {}).items():
        module, function = target.split(":")
        script = folder / "bin" / command
        script.write_text(
            f"#!/usr/bin/env python3\nimport sys\n\nfrom {module} import {function}\n\n"
            f"sys.exit({function}())\n"
        )
        script.chmod(0o755)


if __name__ == "__main__":
    if sys.argv[1] == "requirements":
        requirements(sys.argv[2:])
    else:
        metadata(Path(sys.argv[2]))
