"""AIME's image catalog (`ml_images.repo`): text -> entries and problems; lookup.

An admin's own images, of the policy, are further rows of it.

Grammar and order: AIME's `mlc.py` and the file itself. One row is `framework, version,
[arch;arch], image`; the first generation has no brackets and a fifth column that is ignored.
Nothing here ever falls back to something else: an unknown name has no entry.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches

from ds01_spawner.core.architectures import ARCHITECTURES

LATEST = "latest"
_COLUMNS = 4
_MAX_SHOWN = 60
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,63}")
# docker's reference grammar: [host[:port]/]path[:tag][@digest], of a bounded length
_LABEL = r"[A-Za-z0-9][A-Za-z0-9-]*"
_HOST = rf"(?:(?:{_LABEL}(?:\.{_LABEL})+(?::\d{{1,5}})?|{_LABEL}:\d{{1,5}}|localhost)/)?"
_PART = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"{_HOST}{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?"
)
_MAX_IMAGE = 255


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One row of the catalog. Only a custom image, which is the policy's, has a title."""

    framework: str
    version: str
    architectures: tuple[str, ...]
    image: str
    line: int  # of its file
    title: str = ""
    description: str = ""

    @property
    def custom(self) -> bool:
        """Whether it is an admin's own image."""
        return bool(self.title)

    @property
    def name(self) -> str:
        """What it is called in a sentence."""
        return self.title or f"{self.framework} {self.version}"


@dataclass(frozen=True, slots=True)
class LineNote:
    """Something to say about one line of the file, counted from 1."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Catalog:
    """The usable rows in file order, and what was wrong with the others."""

    entries: tuple[CatalogEntry, ...] = ()
    problems: tuple[LineNote, ...] = ()
    notices: tuple[LineNote, ...] = ()

    def with_rows(self, entries: Iterable[CatalogEntry]) -> Catalog:
        """The catalog with these after its own: the first of a name stays the one."""
        return replace(self, entries=(*self.entries, *entries))

    def frameworks(self, architectures: Collection[str]) -> tuple[str, ...]:
        """The frameworks with an image for one of these architectures, in file order."""
        return tuple(dict.fromkeys(e.framework for e in self.entries if _serves(e, architectures)))

    def versions(self, framework: str, architectures: Collection[str]) -> tuple[CatalogEntry, ...]:
        """A framework's entries for these architectures, in file order: the first is "latest".

        A row that an earlier one hides on all of these architectures is left out.
        """
        seen: set[tuple[str, str]] = set()
        found = []
        for entry in self.entries:
            if entry.framework != framework:
                continue
            keys = {(entry.version, a) for a in entry.architectures if a in architectures}
            if keys - seen:
                found.append(entry)
            seen |= keys
        return tuple(found)

    def find(self, framework: str, version: str, architecture: str) -> CatalogEntry | None:
        """The first row with exactly these, or None; "latest" is the first of its framework."""
        for entry in self.entries:
            if (
                entry.framework == framework
                and version in (LATEST, entry.version)
                and architecture in entry.architectures
            ):
                return entry
        return None

    def hides(self, entry: CatalogEntry) -> bool:
        """Whether a row has its framework and version, for one of its architectures."""
        return any(self.find(entry.framework, entry.version, a) for a in entry.architectures)

    def pairs(self) -> tuple[tuple[CatalogEntry, str], ...]:
        """Every entry with each of its architectures."""
        return tuple((e, architecture) for e in self.entries for architecture in e.architectures)


def parse(text: str) -> Catalog:
    """Read a catalog; never raises. A row that cannot be used is a problem and is skipped.

    Of a row with a misspelt architecture beside good ones, the good ones are kept. Empty lines
    and lines that begin with `#` are skipped.
    """
    entries: list[CatalogEntry] = []
    problems: list[LineNote] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split(",")]
        wrong = _row_problem(cells)
        if wrong:
            problems.append(LineNote(number, wrong))
            continue
        framework, version, arch_set, image = cells[:_COLUMNS]
        known, unknown = _architectures(arch_set)
        problems += [LineNote(number, _unknown_architecture(name)) for name in unknown]
        if known:
            entries.append(CatalogEntry(framework, version, known, image, number))
        elif not unknown:
            problems.append(LineNote(number, "names no architecture; write one, as [CUDA_ADA]."))
    return Catalog(tuple(entries), tuple(problems), tuple(_hidden(entries)))


def is_image_name(text: str) -> bool:
    """Whether an engine would take this as the name of an image."""
    return len(text) <= _MAX_IMAGE and _IMAGE.fullmatch(text) is not None


def _serves(entry: CatalogEntry, architectures: Collection[str]) -> bool:
    return any(architecture in architectures for architecture in entry.architectures)


def _row_problem(cells: list[str]) -> str | None:
    if len(cells) < _COLUMNS:
        return (
            f"has {len(cells)} of {_COLUMNS} columns; "
            "write framework, version, [architectures], image."
        )
    framework, version, arch_set, image = cells[:_COLUMNS]
    if arch_set.startswith("[") != arch_set.endswith("]"):
        return f"the architectures {_shown(arch_set)} have one bracket; write [A;B]."
    for column, name in (("framework", framework), ("version", version)):
        if not _NAME.fullmatch(name):
            return (
                f"the {column} {_shown(name)} is not a name; it has 1 to 64 letters, digits, "
                "spaces and . _ + -."
            )
    if version == LATEST:
        return f"{LATEST} is no version: it stands for the first row; write the version."
    if not is_image_name(image):
        return f"{_shown(image)} is not the name of an image, such as aimehub/pytorch-2.8.0."
    return None


def _architectures(arch_set: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names = [name.strip() for name in arch_set.strip("[]").split(";") if name.strip()]
    known = tuple(dict.fromkeys(name for name in names if name in ARCHITECTURES))
    return known, tuple(dict.fromkeys(name for name in names if name not in ARCHITECTURES))


def _unknown_architecture(name: str) -> str:
    close = get_close_matches(name[:_MAX_SHOWN].upper(), ARCHITECTURES, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(ARCHITECTURES)}."
    return f"{_shown(name)} is not a known architecture; {hint}"


def _hidden(entries: Iterable[CatalogEntry]) -> Iterator[LineNote]:
    first: dict[tuple[str, str, str], int] = {}
    for entry in entries:
        for architecture in entry.architectures:
            key = (entry.framework, entry.version, architecture)
            earlier = first.setdefault(key, entry.line)
            if earlier != entry.line:
                yield LineNote(
                    entry.line,
                    f"{entry.framework} {entry.version} for {architecture} is in line {earlier} "
                    "already: the first one wins and this one is never used.",
                )


def _shown(text: str) -> str:
    clean = "".join(c if c.isprintable() else " " for c in text[: _MAX_SHOWN + 1])
    return repr(clean if len(clean) <= _MAX_SHOWN else clean[:_MAX_SHOWN] + "…")
