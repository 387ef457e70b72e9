"""Findings of one file, with their places; and the reading of one part into its schema."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import ValidationError

from ds01_spawner.core.policy_schema import (
    AGGREGATE,
    ELSEWHERE_LIMITS,
    NOT_ENFORCED,
    OLD_DURATIONS,
    OLD_NAMES,
    REMARK,
    LimitsPart,
    Part,
    Wrong,
    shown,
)
from ds01_spawner.core.units import parse_hours
from ds01_spawner.core.yaml_source import Document, Path
from ds01_spawner.errors import Finding

P = TypeVar("P", bound=Part)

MAX_PLACE = 300  # characters
READ = "is read, not enforced by this version."
ELSEWHERE = "is known to DS01, and not applied here."
_MESSAGES = {
    "missing": "is missing.",
    "bool_type": "is not true or false.",
    "string_type": "is not text.",
    "list_type": "is not a list.",
    "int_type": "is not a whole number.",
    "string_too_short": "is empty.",
    "too_short": "is empty.",
}


class Report:
    """Collects what is wrong with, and worth saying about, one file."""

    def __init__(self, document: Document, source: str) -> None:
        self.document = document
        self.source = source
        self.problems: list[Finding] = []
        self._notices: dict[tuple[str, str, str], list[Path]] = {}
        for found in document.problems:
            self.problems.append(
                Finding(self._place(found.line, found.path), found.problem, found.hint)
            )

    @property
    def notices(self) -> tuple[Finding, ...]:
        """One for each thing to say about a key, at its first place, with how many more."""
        return tuple(
            Finding(
                self.where(paths[0]),
                problem if len(paths) == 1 else f"{problem} The same in {len(paths) - 1} more.",
                hint,
            )
            for (_, problem, hint), paths in self._notices.items()
        )

    def where(self, path: Path) -> str:
        """`policy.yaml:12: groups.student.memory`."""
        return self._place(self.line(path), path)

    def line(self, path: Path) -> int:
        """The line of a key; a missing one has its parent's."""
        known = path
        while known and known not in self.document.lines:
            known = known[:-1]
        return self.document.lines.get(known, 1)

    def _place(self, line: int, path: Path) -> str:
        dotted = ".".join(str(part) for part in path)[:MAX_PLACE]
        dotted = "".join(c if c.isprintable() else "?" for c in dotted)
        return f"{self.source}:{line}" + (f": {dotted}" if dotted else "")

    def problem(self, path: Path, problem: str, hint: str = "") -> None:
        """Something that makes the file unusable."""
        self.problems.append(Finding(self.where(path), problem, hint))

    def notice(self, path: Path, problem: str, hint: str = "") -> None:
        """Something that its author should know."""
        key = str(path[-1]) if path else ""
        self._notices.setdefault((key, problem, hint), []).append(path)

    def tell_unknown_groups(
        self, named: Iterable[str] | None, groups: Collection[str], path: Path
    ) -> None:
        """A notice for each group of `path`'s `groups` that is not one of the file's."""
        for i, group in enumerate(named or ()):
            if group not in groups:
                self.notice(
                    (*path, "groups", i), f"{group} is no group here; JupyterHub may have it."
                )

    def mapping(self, value: object, path: Path) -> dict[str, Any]:
        """A mapping; empty for null, which sets nothing; a problem for anything else."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.problem(path, f"is {shown(value)}, not a mapping.", "Write `key: value` lines.")
            return {}
        if "" in value:
            self.problem((*path, ""), "has an empty name.", "Delete it.")
        return value

    def text(self, path: Path, value: object) -> object:
        """A scalar as it was written: a version 2.10 is not the number 2.1."""
        plain = isinstance(value, int | float) or value is True or value is False
        return self.document.texts.get(path, value) if plain else value

    def part(
        self, schema: type[P], values: Mapping[str, object], path: Path,
        written: Mapping[str, str] | None = None, known: Iterable[str] = (),
    ) -> P | None:  # fmt: skip
        """The values as their schema has them; None after telling every problem.

        `written` is schema name -> key in the file, `known` is what else a key could have been
        meant to be.
        """
        try:
            return schema.model_validate(values)
        except ValidationError as invalid:
            for error in invalid.errors():
                first, *rest = error["loc"]
                name = (written or {}).get(str(first), str(first))
                rest = [step for step in rest if isinstance(step, int)]
                problem, hint = self._words(error, [*schema.model_fields, *known])
                self.problem((*path, name, *rest), problem, hint)
            return None

    @staticmethod
    def _words(error: Mapping[str, Any], known: list[str]) -> tuple[str, str]:
        cause = error.get("ctx", {}).get("error")
        if isinstance(cause, Wrong):
            return str(cause), cause.hint
        if error["type"] == "extra_forbidden":
            return "is not a known key.", did_you_mean(str(error["loc"][0]), known)
        words = _MESSAGES.get(error["type"])
        if words is None:
            words = str(error["msg"]).replace("Input should be", "should be") + "."
        empty = error["type"] in ("missing", "string_too_short", "too_short")
        got = "" if empty else shown(error["input"])
        return f"{got} {words}".strip(), ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the closest one, else all that could stand there."""
    choices = list(dict.fromkeys(known))
    close = get_close_matches(name[:100], choices, n=1)
    if close:
        return f"Did you mean {close[0]}?"
    return f"Known here: {', '.join(sorted(choices)) or 'none'}."


def read_limits(
    report: Report, value: object, path: Path, extra: Iterable[str] = ()
) -> dict[str, Any]:
    """The limits that one mapping sets, by their present names; `extra` keys are the caller's."""
    values: dict[str, Any] = {}
    written: dict[str, str] = {}
    if value is None:
        report.notice(path, "is empty: it sets no limit.")
    for key, given in report.mapping(value, path).items():
        place = (*path, key)
        if key in extra or key in (REMARK, ""):
            continue
        if key in ELSEWHERE_LIMITS or key == "aggregate":
            _elsewhere(report, place, given)
            continue
        name = OLD_NAMES.get(key) or OLD_DURATIONS.get(key) or key
        if key in OLD_NAMES:
            report.notice(place, f"is an old name, read as {name}.")
        if key in OLD_DURATIONS:
            given = _old_duration(report, place, given)
        if name in values and values[name] != given:
            report.problem(
                place, f"is another name of {written[name]}, which says something else.",
                f"Keep one of the two; {name} is the present name.",
            )  # fmt: skip
        values[name], written[name] = given, key
        if name in NOT_ENFORCED:
            report.notice(place, READ)
    known = (*OLD_NAMES, *OLD_DURATIONS, *ELSEWHERE_LIMITS, "aggregate", *extra)
    part = report.part(LimitsPart, values, path, written, known)
    return part.model_dump(exclude_unset=True) if part else {}


def _elsewhere(report: Report, place: Path, given: object) -> None:
    if given is None:
        return
    if place[-1] != "aggregate":
        report.notice(place, ELSEWHERE)
        return
    report.notice(place, READ)
    for key in report.mapping(given, place):
        if key not in AGGREGATE:
            report.problem((*place, key), "is not a known key.", did_you_mean(key, AGGREGATE))


def _old_duration(report: Report, place: Path, given: object) -> float | None:
    if given is None:
        return None
    if not isinstance(given, str):
        report.problem(
            place, f"{shown(given)} has no unit.",
            f'Write "48h", or {OLD_DURATIONS[str(place[-1])]}: 48.',
        )  # fmt: skip
        return None
    try:
        return parse_hours(given)
    except ValueError:
        report.problem(
            place, f"{shown(given)} is not a duration.", 'Write "48h"; null for no limit.'
        )
        return None
