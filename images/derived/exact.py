"""Proves that what lists of packages ask for is what is installed, in the versions asked for.

    exact.py FILE...

The files are the build's own requirements files; those that are not there ask for nothing. Prints
a sentence and ends with 1 at the first package that is not as asked.
"""

import re
import sys
from importlib.metadata import distributions
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement


def canonical(name: str) -> str:
    """A name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict:
    """Versions by canonical name; the first distribution of a name wins, as in an import."""
    found = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name and distribution.version:
            found.setdefault(canonical(name), distribution.version)
    return found


def wrong(line: str, versions: dict) -> str:
    """What is not as a line asks, as a sentence; empty: nothing."""
    asked = Requirement(line.split(" --hash=")[0])
    if asked.marker is not None and not asked.marker.evaluate():
        return ""
    version = versions.get(canonical(asked.name))
    if version is None:
        return f"{asked.name} was asked for, and is not installed."
    if asked.url is None and not asked.specifier.contains(version, prereleases=True):
        return (
            f"{asked.name}{asked.specifier} was asked for, and {version} is installed, which the "
            "framework image or another package holds; ask for that version, or for none."
        )
    return ""


if __name__ == "__main__":
    versions = installed()
    for file in map(Path, sys.argv[1:]):
        for line in file.read_text().splitlines() if file.is_file() else ():
            problem = wrong(line, versions)
            if problem:
                print(problem)
                sys.exit(1)
