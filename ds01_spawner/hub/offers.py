"""What one user may choose among, from what the hub knows at one moment."""

from __future__ import annotations

from collections.abc import Collection

from ds01_spawner.core.architectures import CUDA_ARCHITECTURES
from ds01_spawner.core.catalog import Catalog
from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.limits import Effective
from ds01_spawner.core.options import Offer
from ds01_spawner.core.policy import Policy
from ds01_spawner.services.settings import Settings


def offer_of(
    settings: Settings,
    catalog: Catalog,
    policy: Policy,
    limits: Effective,
    groups: Collection[str],
    snapshot: Snapshot,
) -> Offer:
    """The offer to the user whose limits these are; `groups` are JupyterHub's."""
    architectures = snapshot.architectures or tuple(settings.architectures)
    return Offer(
        catalog=catalog,
        architectures=architectures or CUDA_ARCHITECTURES,
        limits=limits.limits,
        presets=policy.presets_of(limits.user, groups),
        bundles=policy.bundles,
        packages=policy.packages,
        profiles=tuple(sorted({d.profile for d in snapshot.devices if d.profile})),
        has_gpus=bool(snapshot.devices) or not snapshot.known,
        default_gpus=settings.default_gpus,
    )
