"""When a server counts as one that lost its GPU."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.losses import GONE, SURE_AFTER, is_sure, suspected, why_lost

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
CARD = Device("GPU-a", "gpu", "A100", "CUDA_AMPERE", 2520, 40 << 30)
OTHER = replace(CARD, uuid="GPU-b")
SICK = replace(CARD, healthy=False, problem="GPU 0 (A100): GPU is lost")
PART = replace(CARD, uuid="MIG-1", kind="mig", parent="GPU-a")
AMD = replace(CARD, uuid="0x9", kind="amd")


@pytest.mark.parametrize(
    ("held", "there", "why"),
    [
        pytest.param(["GPU-a"], [CARD, OTHER], "", id="well"),
        pytest.param([], [], "", id="no device"),
        pytest.param(["GPU-b"], [SICK, OTHER], "", id="another one is not"),
        pytest.param(["GPU-a"], [SICK, OTHER], SICK.problem, id="not healthy"),
        pytest.param(["GPU-b", "GPU-a"], [SICK, OTHER], SICK.problem, id="one of two"),
        pytest.param(["GPU-a"], [OTHER], f"GPU-a: {GONE}", id="gone"),
        pytest.param(["MIG-1"], [CARD], f"MIG-1: {GONE}", id="the card is whole again"),
        pytest.param(["GPU-a"], [PART], f"GPU-a: {GONE}", id="the card is divided"),
        pytest.param(["0x9"], [CARD], f"0x9: {GONE}", id="one of AMD's"),
    ],
)
def test_why(held: list[str], there: list[Device], why: str) -> None:
    snapshot = Snapshot(devices=tuple(there), driver="570")
    assert why_lost(held, snapshot) == why
    assert why_lost(held, replace(snapshot, known=False)) == ""


def test_the_last_device_that_goes_is_told_and_a_driver_that_goes_is_not() -> None:
    assert why_lost(["GPU-a"], Snapshot(driver="570")) == f"GPU-a: {GONE}"
    assert why_lost(["GPU-a"], Snapshot()) == ""


def test_one_bad_look_is_none() -> None:
    since = suspected({}, ["one"], NOW)
    assert not is_sure(since["one"], NOW)
    later = NOW + SURE_AFTER
    assert is_sure(suspected(since, ["one"], later)["one"], later)
    between = suspected(since, [], NOW + SURE_AFTER / 2)  # it is there again
    assert not is_sure(suspected(between, ["one"], later)["one"], later)


def test_a_clock_that_goes_back_puts_nothing_off_for_long() -> None:
    back = NOW - timedelta(hours=1)
    since = suspected(suspected({}, ["one"], NOW), ["one"], back)
    assert is_sure(since["one"], back + SURE_AFTER)
