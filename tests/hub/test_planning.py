"""The limits and mounts of one container, as tables."""

from __future__ import annotations

import asyncio

import pytest
from traitlets.config import Config

from ds01_spawner.core.catalog import CatalogEntry
from ds01_spawner.core.container import Mount
from ds01_spawner.core.limits import HostCapacity, Limits
from ds01_spawner.core.options import Request
from ds01_spawner.errors import NoAccount
from ds01_spawner.hub import containers
from ds01_spawner.hub.offers import Ceilings
from ds01_spawner.hub.planning import resources, workspace_mount
from ds01_spawner.services.settings import Settings, from_config

GIB = 1 << 30
HOST = HostCapacity(cpus=16, memory=64 * GIB)
ENTRY = CatalogEntry("Pytorch", "2.8.0", ("CUDA_ADA",), "aimehub/pytorch", 1)


def settings(**values: object) -> Settings:
    return from_config(Config({"DS01Spawner": values}))


def request(**values: object) -> Request:
    return Request(entry=ENTRY, architecture="CUDA_ADA", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limits", "asked", "name", "expected"),
    [
        # what was asked for, else what the policy gives, else what the host has
        ({"max_cpus": 8}, {"cpus": 2.0}, "cpus", 2.0),
        ({"max_cpus": 8}, {}, "cpus", 8),
        ({}, {}, "cpus", 16),
        ({"memory": 8 * GIB}, {"memory": 2 * GIB}, "memory", 2 * GIB),
        ({"memory": 8 * GIB}, {}, "memory", 8 * GIB),
        ({}, {}, "memory", 64 * GIB),
        # swap counts memory and swap together; without more, there is none
        ({"memory": 8 * GIB}, {}, "memory_swap", 8 * GIB),
        ({"memory": 8 * GIB, "memory_swap": 10 * GIB}, {}, "memory_swap", 10 * GIB),
        ({"memory": 8 * GIB, "memory_swap": 10 * GIB}, {"memory": GIB}, "memory_swap", 3 * GIB),
        # /dev/shm is memory
        ({"memory": 8 * GIB}, {}, "shm_size", 4 * GIB),
        ({"memory": 8 * GIB, "shm_size": 2 * GIB}, {}, "shm_size", 2 * GIB),
        ({"memory": 8 * GIB, "shm_size": 8 * GIB}, {"memory": GIB}, "shm_size", GIB),
        ({"pids_limit": None}, {}, "pids_limit", None),
        ({}, {}, "pids_limit", 4096),
        ({}, {}, "tmp_size", 2 * GIB),
        ({"storage_tmp": GIB}, {}, "tmp_size", GIB),
    ],
)
def test_resources(
    limits: dict[str, object], asked: dict[str, object], name: str, expected: object
) -> None:
    found = resources(Limits(**limits), request(**asked), HOST, settings())  # type: ignore[arg-type]
    assert getattr(found, name) == expected


@pytest.mark.parametrize(
    ("policy", "trait", "expected"),
    [(8, None, 8), (8, 4, 4), (2, 4, 2), (None, 4, 4), (None, None, None)],
)
def test_the_traits_of_the_parents_are_ceilings(
    policy: int | None, trait: int | None, expected: int | None
) -> None:
    limits = Ceilings(cpus=trait, memory=trait).lower(Limits(max_cpus=policy, memory=policy))
    assert (limits.max_cpus, limits.memory) == (expected, expected)


def test_the_workspace_is_a_volume_of_the_user() -> None:
    assert workspace_mount(settings(), "ds01", "alice") == Mount("ds01.home.alice", "/workspace")


def test_the_workspace_is_a_folder_by_the_admins_template() -> None:
    found = workspace_mount(settings(workspace="/home/{username}/workspace"), "ds01", "h.baker@a")
    assert found == Mount("/home/h.baker@a/workspace", "/workspace")


@pytest.mark.parametrize("user", ["..", ".", "a/b", "a\0b"])
def test_a_name_that_would_leave_the_template_is_refused(user: str) -> None:
    with pytest.raises(NoAccount):
        workspace_mount(settings(workspace="/home/{username}"), "ds01", user)


@pytest.mark.parametrize("steps", [0, 1])  # of the event loop between the two
async def test_a_cancel_that_comes_with_the_answer_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    answered = asyncio.Event()

    async def speaks(*_address: object) -> bool:
        return await answered.wait()

    monkeypatch.setattr(containers, "_speaks_http", speaks)
    probe = asyncio.ensure_future(containers.http_answers("127.0.0.1", 1, "/"))
    for _ in range(3):
        await asyncio.sleep(0)
    answered.set()
    for _ in range(steps):
        await asyncio.sleep(0)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
