"""Prints a constraints file: what the framework image has, at the version that it has.

    constraints.py MODULE

Read from the installed metadata, so that local versions (`2.7.1+cu126`) and what conda installed
are in it, which `pip freeze` writes as file paths. Runs on the framework's Python, 3.8 or later.
"""

import re
import sys
from importlib.metadata import distributions

# What the image's distribution brought for its own tools is no part of the framework.
OF_THE_SYSTEM = "/usr/lib/python3/dist-packages"
# An environment has its own.
INSTALLERS = {"pip", "setuptools", "wheel", "distribute"}
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
# PEP 440, appendix B, without its epoch and with the separators that pip normalises.
VERSION = re.compile(
    r"v?(\d+!)?\d+(\.\d+)*([-_.]?(a|b|c|rc|alpha|beta|pre|preview)[-_.]?\d*)?"
    r"(-\d+|[-_.]?(post|rev|r)[-_.]?\d*)?([-_.]?dev[-_.]?\d*)?(\+[a-z0-9]+([-_.][a-z0-9]+)*)?",
    re.IGNORECASE,
)


def pinned(module: str) -> list:
    """Lines `name==version`, the first distribution of a name wins, as in an import."""
    found = {}
    for distribution in distributions():
        name, version = distribution.metadata["Name"], distribution.version
        if not name or not version or not NAME.fullmatch(name) or not VERSION.fullmatch(version):
            continue
        key = re.sub(r"[-_.]+", "-", name).lower()
        system = str(distribution.locate_file("")).rstrip("/") == OF_THE_SYSTEM
        if key in INSTALLERS or (system and key != module):
            continue
        found.setdefault(key, f"{key}=={version}")
    return sorted(found.values())


if __name__ == "__main__":
    print("\n".join(pinned(sys.argv[1])))
