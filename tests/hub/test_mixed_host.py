"""A host of several makers and classes: each image gets a device that runs it, and no other."""

from __future__ import annotations

import json

import pytest

from tests.hub.conftest import new_user
from tests.hub.world import World

GPUS = "simulated:1xV100-16GB,1xT4-16GB,1xH100-80GB,1xMI210-64GB"
CATALOG = """\
Pytorch, 3.0, [CUDA;CUDA_ADA], a/pytorch-3.0-cuda13.0
Pytorch, 2.9, [CUDA], a/pytorch-2.9-cuda12.6
Pytorch, 2.6, [ROCM6], a/pytorch-2.6-rocm6.2
"""
V100, T4, H100, MI210 = "V100", "T4", "H100", "MI210"


@pytest.mark.parametrize(
    ("options", "taken", "device", "told"),
    [
        # The V100 is too old for CUDA 13; of the others, the best fit.
        ({"version": "3.0"}, [], T4, "CUDA"),
        ({"version": "3.0"}, [T4], H100, "CUDA_ADA"),
        ({"version": "3.0", "architecture": "CUDA_ADA"}, [], H100, "CUDA_ADA"),
        ({"version": "3.0", "gpu_memory": "80G"}, [], H100, "CUDA_ADA"),
        ({"version": "2.9"}, [T4], V100, "CUDA"),
        ({"version": "2.6"}, [], MI210, "ROCM6"),
        # What runs is taken, whatever else is free.
        ({"version": "3.0"}, [T4, H100], "", "0 of the 2 that would do are free."),
        ({"version": "3.0", "architecture": "CUDA"}, [T4], "", "0 of the 1 that would do are"),
        ({"version": "3.0", "gpu_memory": "80G"}, [H100], "", "0 of the 1 that would do are free."),
        ({"version": "2.6"}, [MI210], "", "0 of the 1 that would do are free."),
        # And what cannot be.
        ({"version": "2.9", "gpu_memory": "40G"}, [], "", "kind any with 40 GB. It has: full (T"),
        (
            {"version": "2.6", "architecture": "CUDA"},
            [],
            "",
            "'2.6' of Pytorch is not offered here for CUDA.",
        ),
    ],
)
async def test_a_device_that_runs_it(
    world: World, options: dict[str, str], taken: list[str], device: str, told: str
) -> None:
    world.catalog.write_text(CATALOG)
    names = {
        d.uuid: name
        for d in (await world.runtime.inventory.snapshot()).devices
        for name in (V100, T4, H100, MI210)
        if name in d.name
    }
    holders = {V100: "2.9", T4: "3.0", H100: "3.0", MI210: "2.6"}
    users = []
    for name in taken:
        holder = await new_user(world)
        wish = {"framework": "Pytorch", "version": holders[name], "gpus": 1}
        if name == H100:
            wish["gpu_memory"] = "80G"
        assert (await world.start(holder, {"user_options": wish})).code == 201
        (lease,) = await world.leases(holder)
        assert [names[uuid] for uuid in lease.devices] == [name]
        users.append(holder)
    user = await new_user(world)
    answer = await world.start(
        user, {"user_options": {"framework": "Pytorch", "gpus": 1, **options}}
    )
    if device:
        assert answer.code == 201, answer.body
        (lease,) = await world.leases(user)
        assert [names[uuid] for uuid in lease.devices] == [device]
        assert world.created(user)["Labels"]["ds01.arch"] == told
        users.append(user)
    else:
        assert answer.code in (400, 409)
        assert told in json.loads(answer.body)["message"]
    for name in users:
        await world.stop(name)
