"""When a user whose programs fault has to wait for a GPU, and until when."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from ds01_spawner.core.faults import FaultRule, Pause, pause

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
RULE = FaultRule(most=3, hours=1)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("faults", "now", "until", "counted"),
    [
        pytest.param([], 0, None, 0, id="none"),
        pytest.param([0, 1, 2], 3, None, 0, id="as many as one may"),
        pytest.param([0, 1, 2, 3], 3, 63, 4, id="one more"),
        pytest.param([3, 0, 2, 1], 3, 63, 4, id="in any order"),
        pytest.param([0, 0, 0.3, 0.9, 2, 3], 3, None, 0, id="one crash is one fault"),
        pytest.param([0, 0.9, 1.8, 2.7, 3.6, 4.5], 5, None, 0, id="and so is a long one"),
        pytest.param([0, 20, 40, 61], 61, None, 0, id="within more than the hours"),
        pytest.param([0, 20, 40, 59], 61, 119, 4, id="within them"),
        pytest.param([0, 1, 2, 3], 62, 63, 4, id="still"),
        pytest.param([0, 1, 2, 3], 63, None, 0, id="over"),
        pytest.param([0, 1, 2, 3, 50], 62, 110, 5, id="more of them, of a server that runs on"),
        pytest.param([0, 1, 2, 3, 62], 62.5, 63, 4, id="one that alone would be none"),
        pytest.param([0, 1, 2, 3, 62], 64, None, 0, id="and is none, later"),
    ],
)
def test_pause(faults: list[float], now: float, until: float | None, counted: int) -> None:
    expected = None if until is None else Pause(at(until), counted)
    assert pause(map(at, faults), RULE, at(now)) == expected


def test_no_limit() -> None:
    assert pause(map(at, range(100)), FaultRule(most=0), at(100)) is None
    assert pause(map(at, range(100)), FaultRule(), at(100)) is not None
