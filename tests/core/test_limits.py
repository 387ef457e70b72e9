"""Effective limits: merged key by key, clamped to the host, each with where it came from."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.limits import HostCapacity, Limits, effective, explain
from ds01_spawner.core.policy import NO_GROUP, Group, Policy, parse

REAL = Path(__file__).parents[3] / "shared" / "data" / "ds01-resource-limits.yaml"
GIB = 1 << 30
HOST = HostCapacity(cpus=16, memory=64 * GIB, gpus_units=4 * 2520)

MERGED = """\
defaults: {max_gpu_equivalents: 1.0, max_cpus: 32, memory: 32g, memory_swap: 32g, shm_size: 16g}
default_group: student
groups:
  student: {max_gpu_equivalents: 2.0}
  researcher: {max_gpu_equivalents: 4.0, memory: 64g, memory_swap: 64g, members: [eve, max]}
user_overrides:
  max: {idle_timeout_h: null, max_cpus: 48}
  bob: {max_runtime_h: 48, max_gpu_equivalents: null}
"""


@pytest.mark.parametrize(
    ("user", "groups", "limit", "value", "source"),
    [
        ("ann", (), "max_gpu_equivalents", 2.0, "group student"),
        ("ann", (), "max_cpus", 32, "defaults"),
        ("ann", (), "pids_limit", 4096, "built-in"),
        ("ann", ("researcher",), "memory", 64 * GIB, "group researcher"),
        ("eve", (), "memory", 64 * GIB, "group researcher"),
        ("bob", (), "max_gpu_equivalents", None, "user bob"),
        ("bob", (), "max_runtime_h", 48, "user bob"),
        # DS01 merged an override over the defaults alone: this researcher fell to 32g and 1 GPU
        ("max", (), "memory", 64 * GIB, "group researcher"),
        ("max", (), "max_gpu_equivalents", 4.0, "group researcher"),
        ("max", (), "idle_timeout_h", None, "user max"),
        ("max", (), "max_cpus", 48, "user max"),
    ],
)
def test_the_user_is_over_the_group_is_over_the_defaults(
    user: str, groups: tuple[str, ...], limit: str, value: object, source: str
) -> None:
    told = effective(parse(MERGED), user, groups)
    assert getattr(told.limits, limit) == value
    assert told.sources[limit] == source


@pytest.mark.parametrize(
    ("written", "limit", "value", "source"),
    [
        ({"max_cpus": 64}, "max_cpus", 16, "host"),
        ({"max_cpus": 8}, "max_cpus", 8, "defaults"),
        ({"max_cpus": 16}, "max_cpus", 16, "defaults"),
        ({"max_cpus": None}, "max_cpus", 16, "host"),
        ({}, "max_cpus", 16, "host"),
        ({"memory": 128 * GIB}, "memory", 64 * GIB, "host"),
        ({"memory": None}, "memory", 64 * GIB, "host"),
        ({"memory": 8 * GIB}, "memory", 8 * GIB, "defaults"),
        # a server whose memory is cut to the host's gets no swap in exchange
        ({"memory": 128 * GIB, "memory_swap": 128 * GIB}, "memory_swap", 64 * GIB, "host"),
        ({"memory": 32 * GIB, "memory_swap": 40 * GIB}, "memory_swap", 40 * GIB, "defaults"),
        ({"max_gpu_equivalents": 8.0}, "max_gpu_equivalents", 4.0, "host"),
        ({"max_gpu_equivalents": None}, "max_gpu_equivalents", 4.0, "host"),
        ({"max_gpu_equivalents": 0.2857}, "max_gpu_equivalents", 0.2857, "defaults"),
        ({"max_runtime_h": None}, "max_runtime_h", None, "defaults"),
        ({"max_gpu_slots_per_container": None}, "max_gpu_slots_per_container", None, "defaults"),
    ],
)
def test_a_limit_is_clamped_to_the_host(
    written: dict[str, Any], limit: str, value: object, source: str
) -> None:
    told = effective(Policy(defaults=written), "ann", (), HOST)
    assert getattr(told.limits, limit) == value
    assert told.sources[limit] == source


@pytest.mark.parametrize(
    ("written", "limit", "value", "source"),
    [
        # memory_swap counts memory and swap together: the lower one holds
        ({"memory": 64 * GIB, "memory_swap": 32 * GIB}, "memory", 32 * GIB, "defaults"),
        ({"memory": None, "memory_swap": 32 * GIB}, "memory", 32 * GIB, "defaults"),
        ({"memory": 32 * GIB, "memory_swap": 64 * GIB}, "memory", 32 * GIB, "defaults"),
        ({"memory": 32 * GIB, "memory_swap": None}, "memory_swap", None, "defaults"),
        # /dev/shm is memory
        ({"memory": 8 * GIB, "shm_size": 16 * GIB}, "shm_size", 8 * GIB, "defaults"),
        ({"memory": 8 * GIB, "shm_size": 4 * GIB}, "shm_size", 4 * GIB, "defaults"),
        ({"memory": 8 * GIB, "shm_size": None}, "shm_size", None, "defaults"),
        ({"memory": None, "shm_size": 4 * GIB}, "shm_size", 4 * GIB, "defaults"),
    ],
)
def test_limits_that_hang_together(
    written: dict[str, Any], limit: str, value: object, source: str
) -> None:
    told = effective(Policy(defaults=written), "ann")
    assert getattr(told.limits, limit) == value
    assert told.sources[limit] == source


def test_devices_that_are_not_known_take_nothing_away() -> None:
    host = HostCapacity(cpus=2, memory=GIB, gpus_units=None)
    assert effective(Policy(), "ann", (), host).limits.max_gpu_equivalents == 1.0


def test_without_a_policy_the_built_in_limits_hold_for_all() -> None:
    told = effective(Policy(), "ann")
    assert told.limits == Limits()
    assert told.group == NO_GROUP
    assert set(told.sources.values()) == {"built-in"}


def test_explain_has_every_limit_with_its_source() -> None:
    told = explain(effective(parse(MERGED), "max", (), HOST))
    assert set(told) == {"user", "group", "limits", "from"}
    assert (told["user"], told["group"]) == ("max", "researcher")
    assert list(told["limits"]) == list(told["from"]) == [f.name for f in fields(Limits)]
    assert told["limits"]["memory"] == 64 * GIB
    assert (told["limits"]["max_cpus"], told["from"]["max_cpus"]) == (16, "host")
    assert (told["limits"]["gpu_hold_after_stop_h"], told["limits"]["priority"]) == (0, 10)


@pytest.mark.skipif(
    not REAL.is_file(), reason="the real limits file is in ../shared/data, which is not here"
)
@pytest.mark.parametrize(
    ("group", "gpueq", "slots", "cpus", "memory", "shm", "containers", "runtime", "idle", "hold"),
    [
        ("student", 2.0, 2, 32, 32, 16, 3, 24, 0.5, 0.25),
        ("researcher", 4.0, 3, 48, 64, 32, 5, 48, 1, 0.25),
        ("faculty", 4.0, 4, 64, 128, 64, 5, 72, 2, 0.25),
        ("admin", None, None, 64, 128, 64, 10, 24, 1, 1),
    ],
)
def test_the_real_file_is_explained(
    group: str, gpueq: float | None, slots: int | None, cpus: int, memory: int, shm: int,
    containers: int, runtime: float, idle: float, hold: float,
) -> None:  # fmt: skip
    policy = parse(REAL.read_text(encoding="utf-8"), {group: ["ann"]})
    told = explain(effective(policy, "ann"))
    assert told["group"] == group
    assert told["limits"] == {
        "max_gpu_equivalents": gpueq,
        "max_gpu_slots_per_container": slots,
        "allow_full_gpu": True,
        "max_cpus": cpus,
        "memory": memory * GIB,
        "memory_swap": memory * GIB,
        "shm_size": shm * GIB,
        "pids_limit": 4096,
        "storage_tmp": None,
        "max_containers_per_user": containers,
        "max_runtime_h": runtime,
        "idle_timeout_h": idle,
        "gpu_hold_after_stop_h": hold,
        "priority": 10,
    }
    assert told["from"]["max_gpu_equivalents"] == f"group {group}"
    assert told["from"]["pids_limit"] == "defaults"


# --- lowering one value never raises a limit ---------------------------------------------------

NUMBERS = [f.name for f in fields(Limits) if f.name != "allow_full_gpu"]
amount = st.one_of(st.none(), st.integers(1, 100))
layer = st.dictionaries(st.sampled_from([*NUMBERS, "allow_full_gpu"]), amount, max_size=6).map(
    lambda d: {k: bool(v) if k == "allow_full_gpu" else v for k, v in d.items()}
)
hosts = st.one_of(
    st.none(),
    st.builds(
        HostCapacity, st.integers(1, 100), st.integers(1, 100), st.one_of(st.none(), st.just(5040))
    ),
)


def policy_of(layers: list[dict[str, Any]]) -> Policy:
    return Policy(defaults=layers[0], groups={"g": Group(layers[1])}, users={"u": layers[2]})


def no_higher(now: object, before: object) -> bool:
    if before is None:
        return True
    return isinstance(now, int | float) and isinstance(before, int | float) and now <= before


@given(st.lists(layer, min_size=3, max_size=3), hosts, st.data())
def test_lowering_one_value_never_raises_a_limit(
    layers: list[dict[str, Any]], host: HostCapacity | None, data: st.DataObject
) -> None:
    written = [(i, key) for i, each in enumerate(layers) for key in each]
    if not written:
        return
    i, key = data.draw(st.sampled_from(written))
    old = layers[i][key]
    lower = data.draw(st.integers(0, 100 if old is None else int(old)))
    lowered = [dict(each) for each in layers]
    lowered[i][key] = lower if key != "allow_full_gpu" else False
    before = asdict(effective(policy_of(layers), "u", ("g",), host).limits)
    after = asdict(effective(policy_of(lowered), "u", ("g",), host).limits)
    raised = {name for name in before if not no_higher(after[name], before[name])}
    assert not raised


@given(st.lists(layer, min_size=3, max_size=3), hosts)
def test_what_comes_out_can_be_made(
    layers: list[dict[str, Any]], host: HostCapacity | None
) -> None:
    told = effective(policy_of(layers), "u", ("g",), host).limits
    if told.memory_swap is not None:
        assert told.memory is not None
        assert told.memory <= told.memory_swap
    if told.shm_size is not None and told.memory is not None:
        assert told.shm_size <= told.memory
    if host is not None:
        assert told.memory is not None
        assert told.memory <= host.memory
        assert told.max_cpus is not None
        assert told.max_cpus <= host.cpus
