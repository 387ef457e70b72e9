"""YAML text -> plain data that knows its lines.

A small, strict YAML: no tags, no key twice, no dates, sexagesimal or octal numbers (YAML 1.1 reads
`24:00` as 1440 and `010` as 8, which in a limit is a trap). Keys are the text that was written, so
that a user named `12345` or `on` is found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

Path = tuple[str | int, ...]
Value = Any  # None, bool, int, float, str, list or dict with text keys

_MAX_NODES = 100_000
_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_TRUE = frozenset({"true", "yes", "on"})


class _Loader(yaml.SafeLoader):
    """SafeLoader's reader and parser with the resolvers below instead of YAML 1.1's."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own way


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"[Tt]rue|TRUE|[Ff]alse|FALSE|[Yy]es|YES|[Nn]o|NO|[Oo]n|ON|[Oo]ff|OFF", "tTfFyYnNoO"),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,17})", "-+0123456789"),
    ("float", r"[-+]?(?:0|[1-9][0-9]{0,17})\.[0-9]{0,17}(?:[eE][-+]?[0-9]{1,2})?", "-+0123456789"),
    ("merge", r"<<", "<"),
):
    _firsts = [*_first, ""] if _name == "null" else [*_first]
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _firsts)


@dataclass(frozen=True, slots=True)
class SourceProblem:
    """What is wrong with the text as YAML."""

    line: int
    path: Path
    problem: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """The data of a text; `lines` and `texts` (scalars as written) are by path."""

    data: Value
    lines: Mapping[Path, int]
    texts: Mapping[Path, str]
    problems: tuple[SourceProblem, ...] = ()


def read(text: str) -> Document:
    """The one document in a text; never raises. With problems, the data is not to be used."""
    builder = _Builder()
    data = None
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
        data = None if node is None else builder.build(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        builder.problem(mark.line + 1 if mark else 1, (), f"is not YAML: {error.problem}.")
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        builder.problem(line, (), "is not YAML: it has a character that YAML does not allow.")
    except RecursionError:
        builder.problem(1, (), "is not usable: it is nested too deeply.")
    except _TooMuch:
        builder.problem(1, (), f"is not usable: it has more than {_MAX_NODES} values.")
    return Document(data, builder.lines, builder.texts, tuple(builder.problems))


class _TooMuch(Exception):
    pass


class _Builder:
    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.texts: dict[Path, str] = {}
        self.problems: list[SourceProblem] = []
        self._nodes = 0
        self._within: set[int] = set()

    def problem(self, line: int, path: Path, problem: str, hint: str = "") -> None:
        self.problems.append(SourceProblem(line, path, problem, hint))

    def build(self, node: yaml.Node, path: Path) -> Value:
        self._nodes += 1
        if self._nodes > _MAX_NODES:  # aliases of aliases grow without end
            raise _TooMuch
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if isinstance(node, yaml.ScalarNode):
            self.texts.setdefault(path, node.value)
            return self._scalar(node, path)
        if id(node) in self._within:
            self.problem(line, path, "contains itself.")
            return None
        self._within.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                self._check_tag(node, path, "seq")
                return [self.build(child, (*path, i)) for i, child in enumerate(node.value)]
            self._check_tag(node, path, "map")
            return self._mapping(node, path)
        finally:
            self._within.discard(id(node))

    def _mapping(self, node: yaml.Node, path: Path) -> dict[str, Value]:
        result: dict[str, Value] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == _MERGE:
                several = isinstance(value, yaml.SequenceNode)
                merged += value.value if several else [value]
                continue
            if not isinstance(key, yaml.ScalarNode):
                self.problem(line, path, "has a key that is not plain text.")
                continue
            place = (*path, key.value)
            if key.value in result:
                self.problem(
                    line, place, f"is here twice, first in line {self.lines[place]}.",
                    "Delete one of the two.",
                )  # fmt: skip
                continue
            self.lines[place] = line
            result[key.value] = self.build(value, place)
        for other in merged:
            values = self.build(other, path)
            if isinstance(values, dict):
                result = {**values, **result}
            else:
                self.problem(other.start_mark.line + 1, path, "merges (<<) what is no mapping.")
        return result

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Value:
        kind, text = node.tag.removeprefix(_TAG), node.value
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in _TRUE
        try:
            if kind in ("int", "float"):
                return int(text) if kind == "int" else float(text)
        except ValueError:  # an explicit tag, such as !!int x
            kind = node.tag
        if kind not in ("str", "int", "float"):
            self._check_tag(node, path, "str")
        return text

    def _check_tag(self, node: yaml.Node, path: Path, allowed: str) -> None:
        if node.tag != _TAG + allowed:
            self.problem(
                node.start_mark.line + 1, path, f"has the tag {node.tag[:60]!r}.", "Delete the tag."
            )
