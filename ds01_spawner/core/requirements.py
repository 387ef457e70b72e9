"""A requirements file, be it pasted, uploaded or sent as a list -> its packages, or what is wrong.

Lines are read as pip reads them (pip 20 to 26, `req_file.py`): a backslash at the end joins a line
to the next one, `#` at the beginning or after a space begins a comment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ds01_spawner.core.packages import HASH, Rules, names, pip_requirement, without_comment

MAX_LIST = 100_000  # characters


def size(lines: Iterable[str]) -> int:
    """Characters of a list, its line ends included."""
    return sum(len(line) + 1 for line in lines)


def logical_lines(lines: Iterable[str]) -> list[tuple[int, str]]:
    """What the lines say, each with the number of its first line; empty ones are left out."""
    return [(number, line) for number, line in _joined(lines) if without_comment(line)]


def read(lines: Sequence[tuple[int, str]], rules: Rules) -> tuple[tuple[str, ...], list[str]]:
    """Canonical requirements, sorted, each once; and a sentence for each line that is none."""
    found: dict[int, str] = {}
    problems = []
    for number, line in lines:
        try:
            found[number] = pip_requirement(line, rules)
        except ValueError as wrong:
            problems.append(f"Line {number}: {wrong}")
    return tuple(sorted(set(found.values()))), problems or hash_problems(found)


def _joined(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    begun: list[str] = []
    first = 0
    for number, line in enumerate(lines, 1):
        comment = line.lstrip().startswith("#")
        first = first if begun else number
        if line.endswith("\\") and not comment:
            begun.append(line.rstrip("\\"))
            continue
        yield first, "".join([*begun, f" {line}" if comment else line])
        begun = []
    if begun:
        yield first, "".join(begun)


def hash_problems(found: Mapping[int, str]) -> list[str]:
    """What pip would refuse of canonical requirements by line, or misunderstand: it checks the
    hashes of all packages or of none."""
    hashed = [number for number, line in found.items() if HASH in line]
    if not hashed:
        return []
    problems = [
        f"Line {number}: {line} has no hash, but line {hashed[0]} has one; give hashes to all "
        "packages and to all that these need, or to none."
        for number, line in found.items()
        if HASH not in line
    ]
    firsts: dict[tuple[str, str], int] = {}
    for number, line in found.items():
        (name,), marker = names([line]), line.partition(HASH)[0].partition(";")[2]
        first = firsts.setdefault((name, marker.strip()), number)
        if found[first] != line:
            problems.append(f"Line {number}: says of {name} something else than line {first}.")
    return problems
