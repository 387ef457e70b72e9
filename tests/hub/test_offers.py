"""Which architectures a user is offered, by what is known of the devices."""

from __future__ import annotations

import pytest

from ds01_spawner.core.architectures import CUDA_ARCHITECTURES
from ds01_spawner.core.catalog import parse as parse_catalog
from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.gpu_way import Choice
from ds01_spawner.core.limits import effective
from ds01_spawner.core.policy import Policy
from ds01_spawner.hub.offers import Ceilings, offer_of
from ds01_spawner.services.settings import Settings

A100 = Device("GPU-a", "gpu", "A100", "CUDA_AMPERE", 2520, 1 << 30)
MI210 = Device("0x1", "amd", "MI210", "ROCM6", 2520, 1 << 30)


@pytest.mark.parametrize(
    ("snapshot", "configured", "offered"),
    [
        (Snapshot(devices=(MI210, A100)), [], ("ROCM6", "CUDA_AMPERE")),
        (Snapshot(), [], CUDA_ARCHITECTURES),
        (Snapshot(), ["CUDA_ADA"], ("CUDA_ADA",)),
        (Snapshot(devices=(MI210,)), ["CUDA_ADA"], ("ROCM6",)),
        # A driver that hangs takes no image away: a server without a GPU can be had as before.
        (Snapshot(known=False), [], CUDA_ARCHITECTURES),
        (Snapshot(devices=(MI210,), known=False), [], ("ROCM6", *CUDA_ARCHITECTURES)),
        (Snapshot(devices=(MI210,), known=False), ["CUDA_ADA"], ("ROCM6", "CUDA_ADA")),
    ],
)
def test_architectures(snapshot: Snapshot, configured: list[str], offered: tuple[str, ...]) -> None:
    policy = Policy()
    offer = offer_of(
        Settings(architectures=configured), parse_catalog(""), policy,
        effective(policy, "ada", (), None), Ceilings(), (), snapshot, Choice("request", ""),
    )  # fmt: skip
    assert offer.architectures == offered
