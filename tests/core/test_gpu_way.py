"""Which way an engine offers: one row for each kind of engine, as its answers are."""

from __future__ import annotations

from typing import Any

import pytest

from ds01_spawner.core.gpu_way import ABSENT, Choice, Setting, choose, facts_of, judge, trial
from ds01_spawner.core.injection import NvidiaWay

Answers = tuple[dict[str, Any], dict[str, Any]]
UUIDS = ("GPU-1", "MIG-2")
FOLDERS = ["/etc/cdi", "/var/run/cdi"]
NO_DRIVER = 'could not select device driver "nvidia" with capabilities: [[gpu compute utility]]'
NO_CDI_DRIVER = 'could not select device driver "cdi" with capabilities: []'
CONFLICT = "cannot set both Count and DeviceIDs on device request"
UNRESOLVED = "CDI device injection failed: unresolvable CDI devices "


def engine(version: str, api: str, folders: list[str], *found: str, **info: Any) -> Answers:
    """An engine's answers; from API 1.50 on it tells of the devices it found."""
    answer: dict[str, Any] = {"DefaultRuntime": "runc", "Runtimes": {"runc": {}}, **info}
    if folders:
        answer["CDISpecDirs"] = folders
    if found:
        answer["DiscoveredDevices"] = [{"Source": "cdi", "ID": id} for id in found]
    return {"Version": version, "ApiVersion": api}, answer


NAMES = ("nvidia.com/gpu=0", "nvidia.com/gpu=GPU-1", "nvidia.com/gpu=MIG-2", "nvidia.com/gpu=all")
OLD = engine("20.10.24", "1.41", [])
PLAIN_24 = engine(
    "24.0.9", "1.43", [], Runtimes={"runc": {}, "nvidia": {}}, DefaultRuntime="nvidia"
)
PLAIN_26 = engine("26.1.5", "1.45", [])
CDI_25 = engine("25.0.3", "1.44", FOLDERS)
CDI_26 = engine("26.1.5", "1.45", FOLDERS)
CDI_28_1 = engine("28.1.1", "1.49", FOLDERS)
NEW = engine("28.2.2", "1.50", FOLDERS, *NAMES)
NEW_EMPTY = engine("28.2.2", "1.50", FOLDERS)
NEW_STALE = engine("28.3.0", "1.51", FOLDERS, *NAMES[:2])
NEW_OFF = engine("28.2.2", "1.50", [])
NEWEST = engine("29.2.0", "1.53", FOLDERS, *NAMES)
NEWEST_EMPTY = engine("29.2.0", "1.53", FOLDERS)
AMD = engine("28.3.0", "1.51", FOLDERS, "amd.com/gpu=0", Runtimes={"runc": {}, "amd": {}})


@pytest.mark.parametrize(
    ("answers", "setting", "way", "why", "problem"),
    [
        (OLD, "auto", "request", "CDI is off in engine 20.10.24", ""),
        (PLAIN_24, "auto", "request", "CDI is off in engine 24.0.9", ""),
        (PLAIN_26, "auto", "request", "CDI is off in engine 26.1.5", ""),
        (CDI_25, "auto", "cdi", "CDI is on in engine 25.0.3", ""),
        (CDI_26, "auto", "cdi", "CDI is on in engine 26.1.5", ""),
        (CDI_28_1, "auto", "cdi", "CDI is on in engine 28.1.1", ""),
        (NEW, "auto", "cdi", "CDI is on in engine 28.2.2 and knows these devices", ""),
        (NEW_EMPTY, "auto", "request", "CDI of engine 28.2.2 does not know GPU-1, MIG-2", ""),
        (NEW_STALE, "auto", "request", "CDI of engine 28.3.0 does not know MIG-2", ""),
        (NEW_OFF, "auto", "request", "CDI is off in engine 28.2.2", ""),
        (NEWEST, "auto", "cdi", "CDI is on in engine 29.2.0 and knows these devices", ""),
        (NEWEST_EMPTY, "auto", "request", "CDI of engine 29.2.0 does not know GPU-1, MIG-2", ""),
        (AMD, "auto", "request", "CDI of engine 28.3.0 does not know GPU-1, MIG-2", ""),
        (NEW, "request", "request", "the setting gpu_injection says so", ""),
        (OLD, "request", "request", "the setting gpu_injection says so", ""),
        (NEW, "cdi", "cdi", "the setting gpu_injection says so", ""),
        (CDI_26, "cdi", "cdi", "the setting gpu_injection says so", ""),
        (OLD, "cdi", "cdi", "the setting gpu_injection says so", "CDI is off in engine 20.10.24"),
        (
            NEW_STALE,
            "cdi",
            "cdi",
            "the setting gpu_injection says so",
            "the engine's CDI does not know MIG-2",
        ),
    ],
)
def test_the_way_by_what_the_engine_tells(
    answers: Answers, setting: Setting, way: NvidiaWay, why: str, problem: str
) -> None:
    choice = choose(facts_of(*answers), setting, UUIDS)
    assert (choice.way, choice.why, choice.problem) == (way, why, problem)
    assert bool(choice.fix) == bool(problem)


def test_the_facts_of_an_engine() -> None:
    facts = facts_of(*NEW_STALE)
    assert facts.api == (1, 51)
    assert facts.cdi_names == {"nvidia.com/gpu=0", "nvidia.com/gpu=GPU-1"}
    assert facts_of(*CDI_26).cdi_names is None  # it does not tell
    assert facts_of(*NEW_EMPTY).cdi_names == frozenset()  # it tells that there is none


def test_what_is_told_of_devices_by_others_than_cdi_does_not_count() -> None:
    version, info = NEW
    info = {**info, "DiscoveredDevices": [{"Source": "other", "ID": "nvidia.com/gpu=GPU-1"}]}
    assert facts_of(version, info).cdi_names == frozenset()


def test_a_trial_asks_for_what_every_engine_refuses() -> None:
    asked = trial("request", UUIDS)
    assert (asked["DeviceIDs"], asked["Count"]) == (["GPU-1", "MIG-2"], 1)
    asked = trial("cdi", UUIDS)
    assert asked["DeviceIDs"] == ["nvidia.com/gpu=GPU-1", "nvidia.com/gpu=MIG-2", ABSENT]
    assert "Count" not in asked


@pytest.mark.parametrize(
    ("way", "refusal", "problem", "fix"),
    [
        ("request", CONFLICT, "", ""),
        # engine 29.2 on: both of NVIDIA's drivers were asked
        ("request", f"{CONFLICT}\n{CONFLICT}", "", ""),
        ("request", NO_DRIVER, "the container engine finds no NVIDIA driver", "nvidia-container-t"),
        ("request", "", "is not known (it did not refuse)", "asks again"),
        ("request", "no space left on device", "is not known (it said: no space", "asks again"),
        ("cdi", UNRESOLVED + ABSENT, "", ""),
        ("cdi", f"{UNRESOLVED}nvidia.com/gpu=MIG-22, {ABSENT}", "", ""),
        (
            "cdi",
            f"{UNRESOLVED}nvidia.com/gpu=MIG-2, {ABSENT}",
            "the engine's CDI does not know MIG-2",
            "nvidia-ctk cdi generate",
        ),
        ("cdi", NO_CDI_DRIVER, "the container engine has no driver for CDI", '"cdi": true'),
        ("cdi", CONFLICT, "is not known (it said: cannot set", "asks again"),
        ("cdi", "", "is not known (it did not refuse)", "asks again"),
    ],
)
def test_the_trial_tells_by_its_refusal(
    way: NvidiaWay, refusal: str, problem: str, fix: str
) -> None:
    choice = judge(Choice(way, "why"), "auto", UUIDS, refusal)
    assert (choice.way, choice.why) == (way, "why")
    assert problem in choice.problem
    assert bool(choice.problem) == bool(problem)
    assert fix in choice.fix


@pytest.mark.parametrize(
    ("way", "refusal", "refused"),
    [
        ("request", "words of a later engine", False),
        ("request", NO_DRIVER, True),
        ("cdi", "words of a later engine", False),
        ("cdi", f"{UNRESOLVED}nvidia.com/gpu=GPU-1, {ABSENT}", True),
    ],
)
def test_an_admin_who_names_the_way_is_stopped_by_a_plain_no_only(
    way: NvidiaWay, refusal: str, refused: bool
) -> None:
    assert bool(judge(Choice(way, "why"), way, UUIDS, refusal).problem) == refused
