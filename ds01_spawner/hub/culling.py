"""For hubs that use jupyterhub-idle-culler: it gives GPUs the answer that the hub gives itself.

In the culler's own configuration file, with the hub's values of these traits:

    from ds01_spawner.hub.culling import CullArbiter
    c.DS01Spawner.data_dir = "/var/lib/ds01_spawner"
    c.IdleCuller.cull_arbiter_hook = CullArbiter(c)

The culler asks for each server whether it is to be stopped (its 2.0). It runs as the hub's user on
the hub's machine, as a service of the hub does, so that it can read the ledger. Its `max_age` and
`cull_users` ask nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from traitlets.config import Config

from ds01_spawner.errors import DS01Error
from ds01_spawner.services import wiring
from ds01_spawner.services.ledger import Lease, Ledger
from ds01_spawner.services.settings import from_config

log = logging.getLogger(__name__)


class CullArbiter:
    """The hook. `config` has `data_dir`, `hub_id` and `gpus` as the hub's configuration does.

    A server with a GPU is stopped when its end has come, by time or idleness, and not before:
    busy, kept or exempt it goes on. One without is stopped by the culler's own rule. Of which it
    is nobody can tell goes on, too: the hub itself ends what has a GPU.
    """

    def __init__(self, config: Config) -> None:
        self._settings = from_config(config)
        self._ledger: Ledger | None = None

    def __call__(
        self, *, inactive: timedelta | None, inactive_limit: float, server: Mapping[str, Any],
        **more: Any,
    ) -> bool:  # fmt: skip
        """Whether the culler stops this server: the hub's API tells it as `server`."""
        try:
            lease = self._lease(server)
        except (DS01Error, OSError) as error:
            log.warning("%s is not culled: %s", server["full_name"], error)
            self.close()  # the next call opens it anew
            return False
        if lease is None:
            log.warning(
                "%s is not culled: the ledger %s knows no such server of the hub %s; data_dir, "
                "hub_id and gpus are to be set here as for the hub",
                server["full_name"], self._settings.ledger_path, self._settings.hub_id,
            )  # fmt: skip
            return False
        if lease.devices:
            return lease.state == "bound" and lease.over(wiring.now()) is not None
        return inactive is not None and inactive.total_seconds() >= inactive_limit

    def close(self) -> None:
        """Close the ledger."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def _lease(self, server: Mapping[str, Any]) -> Lease | None:
        name = str(server["name"])
        user = str(server["full_name"]).removesuffix(f"/{name}")
        if self._ledger is None:
            if not self._settings.ledger_path.exists():
                return None  # to open it would make one
            self._ledger = wiring.ledger(self._settings)
        return self._ledger.lease_of(self._settings.hub_id, user, name)
