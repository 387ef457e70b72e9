"""The part of a policy file that says whom a limit on time does not end for a while."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ds01_spawner.core.exemptions import Exemption
from ds01_spawner.core.policy_report import Report
from ds01_spawner.core.policy_schema import Part, Wrong, shown
from ds01_spawner.core.yaml_source import Path

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2})?(Z|[+-]\d{2}:\d{2})?")
_WRITE = "Write a day, 2026-12-31, or a time, 2026-12-31T18:00Z."
_TEXTS = ("username", "expires_on", "reason")


def _expiry(value: object) -> datetime:
    if value is None:
        raise Wrong("null would exempt for ever, and every server with a GPU has an end.", _WRITE)
    text = value.strip() if isinstance(value, str) else ""
    try:
        if _DAY.fullmatch(text):  # to its end
            return datetime.fromisoformat(f"{text}T00:00:00+00:00") + timedelta(days=1)
        found = _TIME.fullmatch(text)
        if found and not found[1]:
            hint = "Write Z for UTC, or the offset: 2026-12-31T18:00+01:00."
            raise Wrong(f"{value!r} does not say of which time zone.", hint)
        if found:
            return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)
    except (ValueError, OverflowError) as error:
        if isinstance(error, Wrong):
            raise
    raise Wrong(f"{shown(value)} is not a day or time.", _WRITE)


class ExemptionPart(Part):
    """One exemption, in the keys of DS01's `lifecycle-exemptions.yaml`."""

    username: Annotated[str, Field(min_length=1)]
    exempt_from: Annotated[
        list[Literal["idle_timeout_h", "max_runtime_h"]], Field(min_length=1)
    ]  # fmt: skip
    expires_on: Annotated[datetime, BeforeValidator(_expiry)]
    reason: Annotated[str, Field(min_length=1)]


def read_exemptions(report: Report, value: object) -> tuple[Exemption, ...]:
    """The exemptions, in file order."""
    path: Path = ("exemptions",)
    if value is None:
        return ()
    if not isinstance(value, list):
        report.problem(path, f"is {shown(value)}, not a list.", "Write `- username: …` entries.")
        return ()
    found = []
    for i, body in enumerate(value):
        place = (*path, i)
        if not isinstance(body, dict):
            hint = f"Write {', '.join(ExemptionPart.model_fields)}."
            report.problem(place, f"is {shown(body)}, not an exemption.", hint)
            continue
        given = {
            key: report.text((*place, key), each) if key in _TEXTS else each
            for key, each in body.items()
        }
        for key in ("username", "reason"):
            if isinstance(given.get(key), str):
                given[key] = str(given[key]).strip()
        part = report.part(ExemptionPart, given, place)
        if part is not None:
            limits = frozenset[str](part.exempt_from)
            where = report.where(place)
            found.append(Exemption(part.username, limits, part.expires_on, part.reason, where))
    return tuple(found)
