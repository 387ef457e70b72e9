"""The driver library of the tests' own: how it is compiled, and the file it answers from."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pynvml
import pytest

SOURCE = Path(__file__).parents[1] / "services/fake_nvml.c"
NAME = "libnvidia-ml.so.1"
LAYOUTS = (
    "c_nvmlMemory_t", "c_nvmlMemory_v2_t", "c_nvmlUtilization_t", "c_nvmlProcessInfo_t",
    "c_nvmlEventData_t", "c_nvmlDeviceAttributes", "c_nvmlFieldValue_t", "nvmlPciInfo_t",
    "c_nvmlGpmMetric_t", "c_nvmlGpmSupport_t",
)  # fmt: skip
# Its tail is an array as long as the bindings know metrics; the fake takes what it is told.
OPEN_ENDED = ("c_nvmlGpmMetricsGet_t",)


def build_library(folder: Path, *, old_driver: bool = False) -> Path:
    """Compile it into the folder, its layouts checked against the installed bindings."""
    if not shutil.which("gcc"):
        pytest.skip("there is no gcc to compile the fake driver library")
    sizes = folder / "sizes.h"
    sizes.write_text("".join(f"{line}\n" for line in assertions()))
    command = ["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    command += [f"-Wl,-soname,{NAME}", f'-DSIZES="{sizes}"', *(["-DOLD_DRIVER"] * old_driver)]
    subprocess.run([*command, "-o", folder / NAME, SOURCE], check=True)
    return folder


def assertions() -> list[str]:
    """What the compiler is to check: the size of each layout, and where each field is."""
    lines = []
    for name in (*LAYOUTS, *OPEN_ENDED):
        layout = getattr(pynvml, name)
        checks = [
            (f"offsetof({name}, {field[0]})", getattr(layout, field[0]).offset)
            for field in layout._fields_
        ]
        if name not in OPEN_ENDED:
            checks.append((f"sizeof({name})", ctypes.sizeof(layout)))
        lines += [f'_Static_assert({what} == {size}, "{what}");' for what, size in checks]
    return lines


class DriverState:
    """The file that the library answers from, changed as a whole."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def write(self, *records: str) -> None:
        """The driver says this from now on."""
        new = self.file.with_name(f"{self.file.name}.new")
        new.write_text("".join(f"{record}\n" for record in records))
        new.replace(self.file)

    def environment(self, library: Path) -> dict[str, str]:
        """What a process needs to find the library, and the library the file."""
        found = {"LD_LIBRARY_PATH": str(library), "FAKE_NVML_STATE": str(self.file)}
        return {**os.environ, **found}
