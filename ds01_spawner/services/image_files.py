"""The files of images/, from the wheel or the source tree."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path


@functools.cache
def image_files(folder: str) -> Mapping[str, bytes]:
    """The files of images/`folder` by their path there."""
    package = Path(__file__).resolve().parents[1]
    folders = (package / "_images" / folder, package.parent / "images" / folder)
    root = next(path for path in folders if path.is_dir())
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
