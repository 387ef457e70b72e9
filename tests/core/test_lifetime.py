"""When a server ends and when its user is told, by what was seen of its use."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.devices import Process, Usage
from ds01_spawner.core.lifetime import (
    UNSEEN,
    End,
    EndKind,
    Use,
    after_hours,
    computes,
    due,
    end_of,
    gpu_hours,
    look,
    notice,
    to_tell,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def ago(busy: float = 0, heard: float = 0, looked: float = 0, hours: float | None = None) -> Use:
    """A use by minutes ago."""
    return Use(NOW - busy * MINUTE, NOW - heard * MINUTE, NOW - looked * MINUTE, hours)


# --- the end -------------------------------------------------------------------------------------

ENDS = [
    # what is so, until, idle_h, use, kept until, end
    ("no limit", None, None, ago(), None, None),
    ("time alone", HOUR, None, ago(), None, (HOUR, "time")),
    ("in use", None, 2, ago(), None, (2 * HOUR, "idle")),
    ("the time is over first", HOUR, 2, ago(), None, (HOUR, "time")),
    ("idle for an hour", 9 * HOUR, 2, ago(busy=60, heard=60), None, (HOUR, "idle")),
    ("its device alone is idle", None, 2, ago(busy=60), None, (2 * HOUR, "idle")),
    ("for long, and it says it is active", None, 2, ago(busy=180), None, (HOUR, "idle")),
    ("whatever it says", None, 2, ago(busy=240), None, (0 * HOUR, "idle")),
    ("its device is busy, and it says nothing", None, 2, ago(heard=600), None, (2 * HOUR, "idle")),
    ("kept", None, 2, ago(busy=600, heard=600), 3 * HOUR, (3 * HOUR, "idle")),
    ("kept, but its time is over first", HOUR, 2, ago(busy=600), 3 * HOUR, (HOUR, "time")),
    ("kept for less than it has", None, 2, ago(), HOUR, (2 * HOUR, "idle")),
]


@pytest.mark.parametrize(
    ("until", "idle_h", "use", "kept", "end"), [pytest.param(*row[1:], id=row[0]) for row in ENDS]
)
def test_when_it_ends(
    until: timedelta | None,
    idle_h: float | None,
    use: Use,
    kept: timedelta | None,
    end: tuple[timedelta, str] | None,
) -> None:
    found = end_of(until and NOW + until, idle_h, use, kept and NOW + kept)
    assert (found and (found.at - NOW, found.kind)) == end


@given(
    busy=st.integers(0, 10_000), heard=st.integers(0, 10_000), idle_h=st.floats(0.1, 100),
)  # fmt: skip
def test_the_words_of_a_server_keep_a_device_for_one_more_idle_time(
    busy: int, heard: int, idle_h: float
) -> None:
    end = end_of(None, idle_h, ago(busy=busy, heard=heard))
    assert end
    since = end.at - (NOW - busy * MINUTE)
    assert timedelta(hours=idle_h) <= since <= 2 * timedelta(hours=idle_h)


@pytest.mark.parametrize(
    ("kind", "idle_h", "before"),
    [("time", None, 15), ("time", 0.1, 15), ("idle", 2, 15), ("idle", 0.4, 12)],
)
def test_when_its_user_is_told(kind: str, idle_h: float | None, before: int) -> None:
    end = End(NOW, kind)  # type: ignore[arg-type]
    assert notice(end, idle_h, 15 * MINUTE) == before * MINUTE


COMING = [
    # what is so, until, idle_h, kept until, told of, the end that has come, that is to be told
    ("far", 60, None, None, None, None, None),
    ("near", 15, None, None, None, None, (15, "time")),
    ("near, and told", 15, None, None, 15, None, None),
    ("near, and told of another", 15, None, None, 20, None, (15, "time")),
    ("over", 0, None, None, 0, (0, "time"), None),
    ("over, and not told: they have the time", -5, None, None, None, None, (15, "time")),
    ("near, and told a little late", 11, None, None, None, None, (11, "time")),
    ("near, and told too late", 9, None, None, None, None, (15, "time")),
    ("idle for a while: they have all of the time", None, 2.2, None, None, None, (15, "idle")),
    ("idle for too long, not told: they have the time", None, 1, None, None, None, (15, "idle")),
    ("of a short time half", None, 0.2, None, None, None, (6, "idle")),
    ("told late, and the time is over before", 10, 1, None, None, None, (10, "time")),
    ("idle for too long, and told", None, 1, 0, 0, (0, "idle"), None),
    ("idle for too long, told of an earlier end", None, 1, -1, -2, None, (15, "idle")),
]


@pytest.mark.parametrize(
    ("until", "idle_h", "kept", "told", "come", "tell"),
    [pytest.param(*row[1:], id=row[0]) for row in COMING],
)
def test_which_end_has_come_and_which_is_to_be_told(
    until: float | None,
    idle_h: float | None,
    kept: float | None,
    told: float | None,
    come: tuple[float, EndKind] | None,
    tell: tuple[float, EndKind] | None,
) -> None:
    """After two hours in which nothing computed; all of it in minutes from now."""

    def at(minutes: float | None) -> datetime | None:
        return None if minutes is None else NOW + minutes * MINUTE

    end = end_of(at(until), idle_h, ago(120, 120), at(kept))
    found = due(end, at(until), at(told), NOW)
    assert (found and (found.at, found.kind)) == (come and (at(come[0]), come[1]))
    found = to_tell(end, at(until), at(told), idle_h, 15 * MINUTE, NOW, NOW - 2 * HOUR)
    assert (found and (found.at, found.kind)) == (tell and (at(tell[0]), tell[1]))


def test_an_end_that_is_too_far_is_far() -> None:
    assert after_hours(NOW, None) is None
    end = after_hours(NOW, 1e12)
    assert end
    assert end > NOW + 10_000 * HOUR


# --- what is seen --------------------------------------------------------------------------------

BUSY, IDLE, BLIND = Usage(utilization=0.9), Usage(utilization=0.01), Usage()
LOADED, EMPTY = Usage(processes=(Process(7),)), Usage(processes=())


@pytest.mark.parametrize(
    ("usages", "state"),
    [
        ([BUSY], True),
        ([IDLE], False),
        ([Usage(utilization=0.05)], True),
        ([IDLE, BUSY], True),
        ([IDLE, BLIND], None),
        ([BUSY, BLIND], True),
        ([None], None),
        ([LOADED], True),
        ([EMPTY], False),
        ([Usage(utilization=0.0, processes=(Process(7),))], False),
        ([], False),
    ],
)
def test_whether_devices_compute(usages: list[Usage | None], state: bool | None) -> None:
    assert computes(usages) is state


LONG = UNSEEN / MINUTE + 10
LOOKS = [
    # what is so, use before, busy (minutes ago, None: not known), heard (ago), use after
    ("busy", ago(30, 30, 1), 0, None, ago(0, 30)),
    ("idle", ago(30, 30, 1), 30, None, ago(30, 30)),
    ("heard of", ago(30, 30, 1), 30, 2, ago(30, 2)),
    ("heard of before the start", ago(30, 30, 1), 30, 90, ago(30, 30)),
    ("not known: the clock stands", ago(30, 20, 1), None, None, ago(29, 19)),
    ("nobody looked for long: the clock stood", ago(60, 60, LONG), 60, None, ago(45, 45)),
    ("nobody looked, and it is busy", ago(60, 60, LONG), 0, None, ago(0, 45)),
    ("a clock that went back", ago(30, 30, -1), 30, None, ago(30, 30)),
    ("heard of in the future", ago(30, 30, 1), 30, -5, ago(30, 0)),
]


@pytest.mark.parametrize(
    ("before", "busy", "heard", "after"), [pytest.param(*row[1:], id=row[0]) for row in LOOKS]
)
def test_a_look(before: Use, busy: float | None, heard: float | None, after: Use) -> None:
    told = [None if m is None else NOW - m * MINUTE for m in (busy, heard)]
    assert look(before, told[0], told[1], NOW) == after


@pytest.mark.parametrize(
    ("before", "shares", "hours"),
    [
        (ago(looked=3), [(2520, Usage(utilization=0.5))], 0.025),
        (ago(looked=3, hours=1.0), [(360, Usage(utilization=1.0))], 1.0 + 0.05 / 7),
        (ago(looked=3), [(2520, Usage(utilization=1.0)), (2520, BUSY)], 0.05 + 0.045),
        (ago(looked=3), [(360, LOADED)], None),
        (ago(looked=3, hours=1.0), [(2520, None)], 1.0),
        (ago(looked=60, hours=1.0), [(2520, BUSY)], 1.0),
    ],
    ids=["half", "slice", "two", "cannot tell", "not known", "nobody looked"],
)
def test_the_hours_that_devices_computed(
    before: Use, shares: list[tuple[int, Usage | None]], hours: float | None
) -> None:
    found = gpu_hours(before, shares, NOW)
    assert found == (hours if hours is None else pytest.approx(hours))
