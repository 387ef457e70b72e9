"""Exemptions: what the policy may say, and what they come to for one user."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from ds01_spawner.core.exemptions import IDLE, RUNTIME, Exempt, Exemption, exempt
from ds01_spawner.core.policy import parse
from ds01_spawner.errors import PolicyRefused

NOW = datetime(2026, 12, 24, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
ONE = """\
exemptions:
- username: {user}
  exempt_from: {limits}
  expires_on: {expires}
  reason: {reason}
"""
GOOD = {"user": "ann", "limits": "[max_runtime_h]", "expires": "2026-12-31", "reason": "thesis"}


@pytest.mark.parametrize(
    ("written", "expires"),
    [
        ("2026-12-31", datetime(2027, 1, 1, tzinfo=timezone.utc)),  # to the end of that day
        ("'2026-12-31'", datetime(2027, 1, 1, tzinfo=timezone.utc)),
        ("2026-12-31T18:00Z", datetime(2026, 12, 31, 18, tzinfo=timezone.utc)),
        ("2026-12-31T18:00:30Z", datetime(2026, 12, 31, 18, 0, 30, tzinfo=timezone.utc)),
        ("2026-12-31 18:00+01:00", datetime(2026, 12, 31, 17, tzinfo=timezone.utc)),
    ],
)
def test_until_when(written: str, expires: datetime) -> None:
    (found,) = parse(ONE.format(**{**GOOD, "expires": written})).exemptions
    assert found == Exemption(
        "ann", frozenset({RUNTIME}), expires, "thesis", "policy:2: exemptions.0"
    )


def test_names_and_reasons_are_text_whatever_they_look_like() -> None:
    text = ONE.format(user="204214", limits="[max_runtime_h, idle_timeout_h]",
                      expires="2026-12-31", reason="12.10")  # fmt: skip
    (found,) = parse(text).exemptions
    assert (found.user, found.reason) == ("204214", "12.10")
    assert found.limits == {IDLE, RUNTIME}
    assert parse("exemptions:").exemptions == parse("exemptions: []").exemptions == ()


FOR_EVER = "null would exempt for ever, and every server with a GPU has an end."
REFUSED = [
    ("expires", "null", "policy:4: exemptions.0.expires_on", FOR_EVER),
    ("expires", "", "policy:4: exemptions.0.expires_on", FOR_EVER),
    ("expires", "never", "policy:4: exemptions.0.expires_on", "'never' is not a day or time."),
    ("expires", "2026-02-30", "policy:4: exemptions.0.expires_on",
     "'2026-02-30' is not a day or time."),
    ("expires", "20261231", "policy:4: exemptions.0.expires_on",
     "'20261231' is not a day or time."),
    ("expires", "9999-12-31", "policy:4: exemptions.0.expires_on",
     "'9999-12-31' is not a day or time."),
    ("expires", "[]", "policy:4: exemptions.0.expires_on", "a list is not a day or time."),
    ("expires", "2026-12-31T18:00", "policy:4: exemptions.0.expires_on",
     "'2026-12-31T18:00' does not say of which time zone."),
    ("limits", "[]", "policy:3: exemptions.0.exempt_from", "is empty."),
    ("limits", "max_runtime_h", "policy:3: exemptions.0.exempt_from",
     "'max_runtime_h' is not a list."),
    ("limits", "[memory]", "policy:3: exemptions.0.exempt_from.0",
     "'memory' should be 'idle_timeout_h' or 'max_runtime_h'."),
    ("user", "", "policy:2: exemptions.0.username", "null is not text."),
    ("user", "' '", "policy:2: exemptions.0.username", "is empty."),
    ("user", "[ann]", "policy:2: exemptions.0.username", "a list is not text."),
    ("reason", "''", "policy:5: exemptions.0.reason", "is empty."),
]  # fmt: skip


@pytest.mark.parametrize(("part", "written", "where", "problem"), REFUSED)
def test_what_is_refused(part: str, written: str, where: str, problem: str) -> None:
    with pytest.raises(PolicyRefused) as caught:
        parse(ONE.format(**{**GOOD, part: written}))
    (found,) = caught.value.problems
    assert (found.where, found.problem) == (where, problem)


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ("exemptions: {ann: 1}", "policy:1: exemptions", "is a mapping, not a list."),
        ("exemptions: [ann]", "policy:1: exemptions.0", "is 'ann', not an exemption."),
        (ONE.format(**GOOD) + "  until: x\n", "policy:6: exemptions.0.until",
         "is not a known key."),
        (ONE.format(**GOOD).replace("  reason: thesis\n", ""), "policy:2: exemptions.0.reason",
         "is missing."),
        (ONE.format(**GOOD).replace("  expires_on: 2026-12-31\n", ""),
         "policy:2: exemptions.0.expires_on", "is missing."),
    ],
)  # fmt: skip
def test_what_is_no_exemption(text: str, where: str, problem: str) -> None:
    with pytest.raises(PolicyRefused) as caught:
        parse(text)
    (found,) = caught.value.problems
    assert (found.where, found.problem) == (where, problem)


def test_of_several_the_longest_counts_for_each_limit() -> None:
    both, idle = frozenset({IDLE, RUNTIME}), frozenset({IDLE})
    listed = (
        Exemption("ann", both, NOW + HOUR, ""),
        Exemption("ann", idle, NOW + 3 * HOUR, ""),
        Exemption("ann", idle, NOW + 2 * HOUR, ""),
        Exemption("Ann", both, NOW + 9 * HOUR, ""),
    )
    assert exempt(listed, "ann") == Exempt(idle=NOW + 3 * HOUR, runtime=NOW + HOUR)
    assert exempt(listed, "bob") == Exempt()


def test_what_has_expired_exempts_from_nothing() -> None:
    given = Exempt(idle=NOW, runtime=NOW + HOUR)
    assert given.at(NOW) == Exempt(runtime=NOW + HOUR)
    assert given.at(NOW + HOUR) == Exempt()
