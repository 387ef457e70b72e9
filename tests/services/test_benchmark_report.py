"""What a benchmark says of its rounds: medians, the last one, ratios, and where the time goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone

import pytest

from benchmarks import report
from benchmarks.spawn import Plan, Result, Rounds
from benchmarks.systems import Outcome

FACTS = {
    "jupyterhub": "6.1.1", "dockerspawner": "14.0.0", "python": "3.11", "engine": "20.10",
    "storage": "overlay2", "cgroup": "v1", "cpus": 2, "memory": 2**34, "reference": "ds01-ref:1",
}  # fmt: skip


def rounds(*times: Sequence[float | None], phases: dict[str, float] | None = None) -> Rounds:
    outcomes = [[Outcome(t, "" if t is not None else "timed out") for t in one] for one in times]
    return Rounds("…", outcomes, [phases or {} for _ in times])


def result(users: int, repeat: int, **systems: Rounds) -> Result:
    plan = Plan(users, repeat, tuple(systems), "unix:///e.sock", "base", "10.0.0.0/24")
    began = datetime(2026, 1, 1, tzinfo=timezone.utc)
    return Result(plan, began, systems, [0.0, 0.5], FACTS)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.95, None),
        ([1.0], 0.95, 1.0),
        ([float(n) for n in range(20)], 0.95, 19.0),
        ([float(n) for n in range(100)], 0.95, 95.0),
        ([1.0, 2.0, 3.0], 0.5, 2.0),
    ],
)
def test_a_percentile_is_one_of_the_values(
    values: list[float], share: float, expected: float | None
) -> None:
    assert report.percentile(values, share) == expected


def test_last_is_the_median_round_s_slowest_user() -> None:
    data = report.as_data(
        result(2, 3, raw=rounds([2, 4], [1, 9], [3, 5]), ours=rounds([1, 2], [1, 3], [1, 2]))
    )
    raw, ours = data["systems"]["raw"], data["systems"]["ours"]
    assert (raw["ready"], raw["failed"], raw["median"], raw["last"], raw["worst"]) == (
        6, 0, 3.5, 5, 9,
    )  # fmt: skip
    assert ours["ratios"] == {"raw": {"median": 1.5 / 3.5, "last": 2 / 5}}


def test_a_failure_has_no_time_and_is_told() -> None:
    found = result(2, 1, raw=rounds([1, 2]), stock=rounds([None, 4]), ours=rounds([None, None]))
    stock, ours = (report.as_data(found)["systems"][name] for name in ("stock", "ours"))
    assert (stock["ready"], stock["failed"], stock["median"]) == (1, 1, 4)
    assert stock["why_failed"] == {"timed out": 1}
    assert (ours["ready"], ours["median"], ours["last"]) == (0, None, None)
    assert ours["ratios"]["stock"] == {"median": None, "last": None}
    assert "2 × timed out" in report.as_text(found)


def test_what_no_phase_accounts_for_is_the_hub_s_and_the_proxy_s() -> None:
    found = result(1, 1, ours=rounds([1.0], phases={"start": 0.2, "ready": 0.7}))
    data = report.as_data(found)
    assert data["phases"] == pytest.approx({"start": 0.2, "ready": 0.7, "hub and proxy": 0.1})
    assert json.loads(report.as_json(found)) == data
