"""Copies the Python that runs this, without its packages: copy_python.py FOLDER."""

import shutil
import sys
import sysconfig
from pathlib import Path

LEAVE = ("site-packages", "dist-packages", "test", "idlelib", "tkinter", "turtledemo", "config-*")

if __name__ == "__main__":
    folder, name = Path(sys.argv[1]), "python{}.{}".format(*sys.version_info[:2])
    (folder / "bin").mkdir(parents=True)
    shutil.copy2(Path(sys.executable).resolve(), folder / "bin" / name)
    shutil.copytree(
        sysconfig.get_path("stdlib"),
        folder / "lib" / name,
        ignore=shutil.ignore_patterns(*LEAVE),
        ignore_dangling_symlinks=True,
    )
