"""The simulator of the line: what it draws and counts, and what the shipped policy is worth."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks.line import command
from benchmarks.line.measures import Measures, Waits, jain, measure
from benchmarks.line.picture import draw
from benchmarks.line.policies import policies
from benchmarks.line.report import Result, Table, worse
from benchmarks.line.simulate import Simulation
from benchmarks.line.workload import Job, Size, generate, geometries, host, read_trace
from benchmarks.systems import CannotMeasure
from ds01_spawner.core.placement import FULL, Wanted

ONE, TWO = Size("1 GPU", Wanted(1, FULL), 1.0), Size("2 GPUs", Wanted(2, FULL), 1.0)


def job(id: str, size: Size, submit: float, held: float, hours: float = 4.0) -> Job:
    return Job(id, id, 4 * 2520, size, submit, held, held, hours)


def waits(jobs: list[Job], policy: str, gpus: int = 2) -> dict[str, float]:
    run = Simulation(jobs, host(f"{gpus}xA100-80GB"), policies(command.RULES)[policy]).play()
    assert not run.unserved
    return {stay.job.id: stay.wait for stay in run.stays}


# One GPU is busy for two hours; then somebody wants both, and somebody one for an hour.
LITTLE = [job("long", ONE, 0, 2), job("wide", TWO, 0.5, 1), job("short", ONE, 0.75, 0.5, hours=1.0)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("fcfs", {"long": 0, "wide": 1.5, "short": 2.25}),
        ("who fits", {"long": 0, "wide": 1.5, "short": 0}),
        ("shipped", {"long": 0, "wide": 1.5, "short": 0}),
    ],
)
def test_a_small_case_by_hand(policy: str, expected: dict[str, float]) -> None:
    assert waits(LITTLE, policy) == expected


def test_who_fits_may_starve_a_wide_one_and_the_shipped_policy_may_not() -> None:
    stream = [job(f"n{i:02}", ONE, i * 1.0, 1.5, hours=2.0) for i in range(40)]
    jobs = [*stream, job("wide", TWO, 0.5, 1)]
    assert waits(jobs, "who fits")["wide"] > 35
    assert waits(jobs, "shipped")["wide"] < 4


def test_measures_by_hand() -> None:
    run = Simulation(LITTLE, host("2xA100-80GB"), policies(command.RULES)["fcfs"]).play()
    found = measure([run], 2 * 2520)
    assert found.waits == {
        "1 GPU": Waits(2, 1.125, 2.25, 2.25),
        "2 GPUs": Waits(1, 1.5, 1.5, 1.5),
    }
    # Up to the last arrival, at 0.75 h, one of the two was free; from 0.5 h on somebody waited.
    assert (found.leased, found.fragments, found.used) == (0.5, 0.0, 1.0)
    assert found.idle == pytest.approx(0.25 / 1.5)


@pytest.mark.parametrize(
    ("values", "expected"), [([1, 1, 1, 1], 1.0), ([1, 0, 0, 0], 0.25), ([], 1.0), ([3, 1], 0.8)]
)
def test_fairness_by_hand(values: list[float], expected: float) -> None:
    assert jain(values) == pytest.approx(expected)


def test_a_seed_draws_the_same_jobs_and_as_much_as_is_asked_for() -> None:
    for geometry in geometries().values():
        jobs = generate(geometry, 0.8, 100, 1)
        assert jobs == generate(geometry, 0.8, 100, 1) != generate(geometry, 0.8, 100, 2)
        asked = sum(job.size.units * job.held for job in jobs)
        capacity = sum(device.units for device in geometry.snapshot.devices) * 100 * 24
        assert asked / capacity == pytest.approx(0.8, rel=0.1)
        longest = sorted(job.used for job in jobs)
        assert longest[len(longest) // 2] == pytest.approx(2.5, rel=0.1)
        assert longest[len(longest) * 9 // 10] == pytest.approx(8, rel=0.1)
        assert all(job.used <= job.held <= job.hours for job in jobs)


def test_the_shipped_policy_is_at_least_as_good_as_first_come_first_served() -> None:
    whole = command.generated(["whole"], [0.9], seeds=2, days=14)
    cut = command.generated(["mig"], [0.7], seeds=1, days=5)
    for table in (*whole.tables, *cut.tables):
        assert worse(table, "fcfs") == [], table.geometry
        assert table.policies["shipped"].unserved == 0


# --- the command ---------------------------------------------------------------------------


def test_a_trace_is_run_as_it_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "submit,duration,gpus,user\n1000,3600,8,ada\n1000,3600,1,bob\n4600,600,0.3,cy\n"
    )
    assert benchmarks.main(["line", "--trace", str(trace), "--json", "--hosts", "whole"]) == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    waits = table["policies"]["shipped"]["waits"]
    assert table["load"] is None
    assert waits["8 GPUs"]["count"] == 1
    assert waits["1 GPU"]["count"] == 2
    assert waits["8 GPUs"]["mean"] + waits["1 GPU"]["longest"] == pytest.approx(1.0)


def test_a_part_of_a_gpu_is_a_slice_where_there_are_slices(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("submit,duration,gpus,user\n0,60,0.1,ada\n0,60,0.2,ada\n0,60,0.9,ada\n")
    sizes = [job.size for job in read_trace(trace, geometries()["mig"])]
    assert [(size.name, size.wanted.kind) for size in sizes] == [
        ("1g.10gb", "1g.10gb"), ("2g.20gb", "2g.20gb"), ("1 GPU", FULL),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("submit,duration,gpus\n", "has no column user"),
        ("submit,duration,gpus,user\n", "has no rows"),
        ("submit,duration,gpus,user\n0,60,1,a\n0,x,1,a\n", "line 3: could not convert"),
        ("submit,duration,gpus,user\n0,60,9,a\n", "line 2: 9 GPUs cannot be had: there are 8"),
        ("submit,duration,gpus,user\n0,60,1.5,a\n", "line 2: 1.5 GPUs cannot be had"),
        ("submit,duration,gpus,user\n0,0,1,a\n", "duration and gpus are more than 0"),
        ("submit,duration,gpus,user\n0,60\n", "line 2"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(text)
    with pytest.raises(CannotMeasure, match=problem):
        read_trace(trace, geometries()["whole"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--trace", "/nowhere.csv"], ["--hosts", "moon"], ["--loads", "x"], ["--loads", "0"],
        ["--seeds", "0"],
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_said(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmarks.main(["line", *arguments]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_the_picture_has_a_panel_for_each_class_of_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "line.svg"
    options = ["--loads", "0.5,0.6", "--seeds", "1", "--days", "3", "--picture", str(picture)]
    assert benchmarks.main(["line", *options]) == 0
    text = capsys.readouterr().out
    assert "8 GPUs, no MIG; load 0.6" in text
    assert text.count("worse than fcfs: ") == 4
    drawn = ElementTree.parse(picture).getroot()
    lines = drawn.findall("{http://www.w3.org/2000/svg}polyline")
    panels = 3 + 6
    assert len(lines) == panels * 3 * 2
    assert all(len(line.get("points", "").split()) == 2 for line in lines)


def measures(mean: float, p95: float) -> Measures:
    return Measures({"1 GPU": Waits(9, mean, p95, 9.0)}, 0, 0, 1, 1, 1, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("mean", "p95", "expected"),
    [
        (0.9, 2.1, ["1 GPU p95 (+5.0%)"]),
        (1.5, 3.0, ["1 GPU mean (+50.0%)", "1 GPU p95 (+50.0%)"]),
        (1.0, 2.0, []),
    ],
)
def test_worse_is_said_by_class_and_number(mean: float, p95: float, expected: list[str]) -> None:
    policies = {"fcfs": measures(1.0, 2.0), "shipped": measures(mean, p95)}
    assert worse(Table("whole", "8 GPUs", 0.5, policies), "fcfs") == expected


def test_a_trace_makes_no_picture_over_loads() -> None:
    table = Table("whole", "8 GPUs", None, {"shipped": measures(1, 2)})
    assert "polyline" not in draw(Result([table], 0, 0))


def test_a_wait_of_minutes_is_compared_in_minutes() -> None:
    policies = {"fcfs": measures(0.0, 0.5), "shipped": measures(0.1, 0.75)}
    found = worse(Table("mig", "8 GPUs", 0.5, policies), "fcfs")
    assert found == ["1 GPU mean (+6 min)", "1 GPU p95 (+15 min)"]
