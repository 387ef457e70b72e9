"""What one user may choose among, from what the hub knows at one moment."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TypeVar

from ds01_spawner.core.architectures import CUDA_ARCHITECTURES
from ds01_spawner.core.catalog import Catalog
from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.gpu_way import Choice
from ds01_spawner.core.limits import Effective, Limits
from ds01_spawner.core.options import Offer
from ds01_spawner.core.policy import Policy
from ds01_spawner.core.runs import on_host
from ds01_spawner.services.settings import Settings

NO_WAY = (
    "no GPU can be given out at the moment: this server's container engine has no way to attach "
    "one, which the administrator finds with `ds01-spawner doctor`."
)


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The traits `cpu_limit` and `mem_limit`: the policy may give less, never more."""

    cpus: float | None = None
    memory: int | None = None

    def lower(self, limits: Limits) -> Limits:
        """The limits under the ceilings."""
        return replace(
            limits,
            max_cpus=_least(limits.max_cpus, self.cpus),
            memory=_least(limits.memory, self.memory),
            memory_swap=_least(limits.memory_swap, self.memory),
        )


T = TypeVar("T", int, float)


def _least(value: T | None, ceiling: T | None) -> T | None:
    known = [v for v in (value, ceiling) if v]
    return min(known) if known else value


def offer_of(
    settings: Settings,
    catalog: Catalog,
    policy: Policy,
    limits: Effective,
    ceilings: Ceilings,
    groups: Collection[str],
    snapshot: Snapshot,
    gpu_way: Choice,
) -> Offer:
    """The offer to the user whose limits these are; `groups` are JupyterHub's."""
    no_way = gpu_way.problem and not snapshot.simulated
    architectures = snapshot.architectures
    if not architectures or not snapshot.known:  # a driver that hangs takes no image away
        architectures += tuple(settings.architectures) or CUDA_ARCHITECTURES
    rows = catalog.with_rows(policy.images_of(limits.user, groups))
    here, barred = on_host(rows, policy.runs_on, snapshot)
    return Offer(
        catalog=here,
        architectures=tuple(dict.fromkeys(architectures)),
        limits=ceilings.lower(limits.limits),
        presets=policy.presets_of(limits.user, groups),
        bundles=policy.bundles,
        packages=policy.packages,
        profiles=tuple(sorted({d.profile for d in snapshot.devices if d.profile})),
        has_gpus=bool(snapshot.devices) or not snapshot.known,
        default_gpus=settings.default_gpus,
        gpu_memory=max((d.memory for d in snapshot.devices), default=None),
        barred=barred,
        runs_on=policy.runs_on,
        sharing=policy.sharing,
        shut={a: NO_WAY for d in snapshot.nvidia if no_way and (a := d.architecture)},
    )
