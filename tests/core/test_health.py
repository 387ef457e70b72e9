"""What a card says of itself, and whether it may be given out."""

from __future__ import annotations

import pytest

from ds01_spawner.core.health import (
    BAD_SWEEPS,
    CLEAN_SWEEPS,
    QUARANTINE_S,
    RECURS_WITHIN_S,
    Health,
    Sweep,
    is_programs,
    verdict,
)

# NVIDIA's catalog of XIDs by the action it asks for, and what is made of each.
CATALOG = {
    "restart the program": (
        "log",
        [8, 11, 13, 25, 31, 32, *range(39, 42), 60, *range(68, 73), *range(75, 78), 80,
         *range(82, 87), 88, 89, 94, *range(96, 106), *range(126, 136), 139],
    ),
    "ignore": (
        "log",
        [37, 38, 43, 44, 63, 66, 67, 92, 93, 106, 107, 121, 137, 141, 152, 153, 157, 160, 161],
    ),
    "reset": ("cordon", [46, 62, 64, 95, 110, 119, 120, 136, 140, 143, 155, 156, 158]),
    "reset, it says, but programs do it too": ("recurs", [109]),
    "restart the host": ("fatal", [79]),
    "double-bit error, NVLink": ("cordon", [48, 74]),
    "the driver's own word decides": ("log", [45, *range(144, 151), 154]),
    "look at the machine": ("cordon", [54, 168, 171, 172]),
    "not classified": ("log", [78, 151, 159, 162, 163, 167, 169, 170, 999]),
}  # fmt: skip
GOOD = Sweep(recovery=0)
UNTOLD = Sweep()
LOST = Sweep("GPU is lost")


@pytest.mark.parametrize("action", CATALOG)
def test_verdicts(action: str) -> None:
    expected, xids = CATALOG[action]
    assert {xid: verdict(xid) for xid in xids} == dict.fromkeys(xids, expected)


def test_which_faults_are_a_programs_own() -> None:
    assert [xid for xid in range(200) if is_programs(xid)] == [13, 31, 68, 109]


@pytest.mark.parametrize(
    ("sweep", "trouble"),
    [
        (Sweep(), ""),
        (Sweep(recovery=0), ""),
        (Sweep(recovery=1), "the driver asks for a reset of the GPU"),
        (Sweep(recovery=2), "the driver asks for a reboot of the host"),
        (Sweep(recovery=3), "the driver asks for an end of peer-to-peer traffic"),
        (Sweep(recovery=4), "the driver asks for an end of all work on it and a reset"),
        (Sweep(recovery=9), "the driver asks for recovery action 9"),
        (Sweep("GPU is lost", recovery=1), "the driver asks for a reset of the GPU"),
        (Sweep("GPU is lost", rows_failed=True), "GPU is lost"),
        (Sweep(rows_pending=True), "it needs a reset to remap rows of its memory"),
        (
            Sweep(rows_pending=True, rows_failed=True),
            "rows of its memory are broken and cannot be remapped: it has to be replaced",
        ),
    ],
)
def test_what_a_sweep_says(sweep: Sweep, trouble: str) -> None:
    assert sweep.trouble == trouble


def swept(health: Health, *sweeps: Sweep, now: float = 0.0) -> Health:
    for sweep in sweeps:
        health = health.swept(sweep, now)
    return health


@pytest.mark.parametrize(
    ("sweeps", "healthy", "in_doubt"),
    [
        ([], True, False),
        ([GOOD], True, False),
        ([LOST] * (BAD_SWEEPS - 1), True, True),
        ([LOST] * BAD_SWEEPS, False, False),
        ([Sweep(recovery=1)] * BAD_SWEEPS, False, False),
        ([LOST, GOOD, LOST, GOOD], True, False),
        ([LOST, GOOD, LOST], True, True),
        ([LOST, LOST, *[GOOD] * (CLEAN_SWEEPS - 1)], False, False),
        ([LOST, LOST, *[GOOD] * CLEAN_SWEEPS], True, False),
        ([LOST, LOST, *[UNTOLD] * CLEAN_SWEEPS], True, False),
        ([LOST, LOST, *[GOOD] * (CLEAN_SWEEPS - 1), LOST, GOOD], False, False),
        ([LOST, LOST, *[GOOD] * CLEAN_SWEEPS, LOST], True, True),
    ],
)
def test_sweeps(sweeps: list[Sweep], healthy: bool, in_doubt: bool) -> None:
    health = swept(Health(), *sweeps)
    assert (health.healthy, health.in_doubt) == (healthy, in_doubt)


def test_the_problem_is_the_last_sweeps() -> None:
    assert swept(Health(), LOST, Sweep(recovery=2)).problem == (
        "the driver asks for a reboot of the host"
    )
    assert swept(Health(), LOST, LOST, GOOD).problem == "GPU is lost"


# xids with their times, the clean sweeps after them (what, when), and whether it is healthy then
WELL, QUIET = [GOOD] * CLEAN_SWEEPS, [UNTOLD] * CLEAN_SWEEPS


@pytest.mark.parametrize(
    ("xids", "sweeps", "when", "healthy"),
    [
        pytest.param([(31, 0)], [], 0, True, id="a program's fault"),
        pytest.param([(48, 0)], [], 0, False, id="at once"),
        pytest.param([(48, 0)], WELL[1:], 1, False, id="not enough sweeps"),
        pytest.param([(48, 0)], WELL, 1, True, id="the driver says it is well"),
        pytest.param([(48, 0)], QUIET, QUARANTINE_S - 1, False, id="the driver says nothing"),
        pytest.param([(48, 0)], QUIET, QUARANTINE_S, True, id="and nothing comes for long"),
        pytest.param([(48, 0), (48, 500)], QUIET, QUARANTINE_S, False, id="it comes again"),
        pytest.param([(79, 0)], QUIET * 9, 1e9, False, id="fatal stays where nothing is told"),
        pytest.param([(79, 0)], WELL, 1, True, id="and goes where the driver says so"),
        pytest.param([(79, 0), (48, 1)], QUIET, 1e9, False, id="fatal, then a lesser one"),
        pytest.param([(48, 0), (79, 1)], QUIET, 1e9, False, id="a lesser one, then fatal"),
        pytest.param([(109, 0)], [], 0, True, id="109 once"),
        pytest.param([(109, 0), (109, RECURS_WITHIN_S)], [], 0, False, id="109 twice"),
        pytest.param([(109, 0), (109, RECURS_WITHIN_S + 1)], [], 0, True, id="109 now and then"),
        pytest.param([(109, 0)], [Sweep(recovery=1)] * BAD_SWEEPS, 1, False,
                     id="109, and the driver asks for a reset"),
        pytest.param([(109, 0), (109, 10)], WELL, 20, True, id="109 twice, well again"),
    ],
)  # fmt: skip
def test_xids(
    xids: list[tuple[int, float]], sweeps: list[Sweep], when: float, healthy: bool
) -> None:
    health = Health()
    for xid, at in xids:
        health = health.hit(xid, at)
    assert swept(health, *sweeps, now=when).healthy is healthy


def test_an_xid_is_told() -> None:
    assert Health().hit(119, 0).problem == "the driver reported XID 119"
    sick = Health().hit(119, 0)
    assert sick.hit(13, 1) == sick


@pytest.mark.parametrize(
    ("xids", "xid"), [([48], 48), ([48, 119], 119), ([79, 48], 79), ([48, 79], 79), ([109], 109)]
)
def test_what_is_remembered_of_an_xid_is_enough_to_go_on(xids: list[int], xid: int) -> None:
    health = Health()
    for number in xids:
        health = health.struck_by(number, 5)
    again = Health().struck_by(xid, 5)
    assert (health.xid, health.cordon) == (again.xid, again.cordon)
    for sweeps in (QUIET, WELL):
        for now in (6, 5 + QUARANTINE_S):
            outcomes = {swept(one, *sweeps, now=now).healthy for one in (health, again)}
            assert len(outcomes) == 1


def test_an_xid_ends_a_row_of_clean_sweeps() -> None:
    health = swept(Health(), LOST, LOST, *WELL[1:]).hit(48, 0)
    assert not swept(health, GOOD).healthy
