"""What the measure of grants tells, each beside the floor."""

from __future__ import annotations

import json

import pytest

from benchmarks import __main__ as benchmarks


@pytest.mark.parametrize("more", [["--json"], []])
def test_it_tells_each_beside_the_floor(
    more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmarks.main(["grants", "--grants", "8", *more]) == 0
    told = capsys.readouterr().out
    names = (
        "floor", "grant", "grant, 4 processes", "reconcile of 200", "release to next offer",
    )  # fmt: skip
    if not more:
        assert all(f"  {name} " in told for name in names)
        return
    found = json.loads(told)
    assert tuple(found) == names
    assert all(0 < times["median"] <= times["p99"] <= times["worst"] for times in found.values())
