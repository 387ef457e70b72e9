"""What a posted form means, by shape alone; `options.parse` judges it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ds01_spawner.core.options import ALWAYS_WITH_PRESET
from ds01_spawner.core.policy import Preset
from ds01_spawner.core.requirements import MAX_LIST
from ds01_spawner.errors import FieldProblem

MAX_TEXT = 10_000  # characters of a field that is no list of packages
# The form's file input is `requirements`; the hub hands its file over under this name.
UPLOAD = "requirements_file"
_ENCODINGS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


class Posted(NamedTuple):
    """The options, and what could not even be read: it is not among them."""

    options: dict[str, Any]
    problems: tuple[FieldProblem, ...]


def from_form(form: Mapping[str, list[Any]], presets: Mapping[str, Preset] | None = None) -> Posted:
    """The options that a posted form means.

    Fields left empty are left out; pip and apt have one entry a line, and an uploaded
    requirements file takes the place of pip. A form without JavaScript posts all its fields, so
    beside a preset those that it does not open are left out.
    """
    options: dict[str, Any] = {}
    problems: list[FieldProblem] = []
    for key, values in form.items():
        if key.startswith("_") or key == UPLOAD:  # _xsrf
            continue
        texts = [value for value in values if isinstance(value, str) and value.strip()]
        most = MAX_LIST if key in ("pip", "apt") else MAX_TEXT
        if sum(map(len, texts)) > most:
            problems.append(FieldProblem(key[:MAX_TEXT], f"is longer than {most:,} characters."))
        elif texts:
            options.update(_posted(key, texts))
    for upload in (value for value in form.get(UPLOAD, ()) if isinstance(value, Mapping)):
        try:
            options["pip"] = _lines(_text_of(upload["body"]))
        except ValueError as wrong:
            problems.append(FieldProblem("pip", str(wrong)))
    preset = (presets or {}).get(options.get("preset", ""))
    if preset is not None:
        allowed = ALWAYS_WITH_PRESET | preset.allow
        options = {key: value for key, value in options.items() if key in allowed}
        problems = [problem for problem in problems if problem.field in allowed]
    return Posted(options, tuple(problems))


def _posted(key: str, texts: list[str]) -> dict[str, Any]:
    first = texts[0].strip()
    if key == "environment":  # one choice of framework, version and architecture
        return _environment(first)
    if key == "gpus":
        return _gpus(first)
    if key == "bundles":
        return {key: [text.strip() for text in texts]}
    if key == "pip":  # with its empty lines: what is wrong is told by the number of its line
        return {key: _lines("\n".join(texts))}
    if key == "apt":
        lines = [line.strip() for text in texts for line in text.splitlines()]
        return {key: [line for line in lines if line]}
    return {key: _number(first) if key in ("cpus", "hours") else first}


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _text_of(body: bytes) -> str:
    """The text of an uploaded file; PowerShell writes UTF-16, and other editors of Windows a BOM.

    Raises ValueError with a sentence.
    """
    if len(body) > MAX_LIST:
        raise ValueError(f"the file is longer than {MAX_LIST:,} bytes.")
    bom, encoding = next((e for e in _ENCODINGS if body.startswith(e[0])), (b"", "utf-8"))
    try:
        text = body.removeprefix(bom).decode(encoding)
    except UnicodeDecodeError:
        raise ValueError("the file is not text; save the list as UTF-8.") from None
    if not text.strip():
        raise ValueError("the file is empty.")
    return text


def _environment(text: str) -> dict[str, Any]:
    """`framework|version|architecture` or `preset:name`, as the form's cards post it."""
    if text.startswith("preset:"):
        return {"preset": text.removeprefix("preset:")}
    parts = text.split("|")
    return dict(zip(("framework", "version", "architecture"), parts, strict=False))


def _gpus(text: str) -> dict[str, Any]:
    """`1`, or `1:full`, `1:1g.10gb`: count and kind in one choice."""
    count, _, kind = text.partition(":")
    number = _number(count)
    return {"gpus": number, "gpu": kind} if kind else {"gpus": number}


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
