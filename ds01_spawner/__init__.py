"""A JupyterHub spawner for shared GPU servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ds01_spawner._version import __version__

if TYPE_CHECKING:
    from ds01_spawner.hub.configure import configure
    from ds01_spawner.hub.spawner import DS01Spawner

__all__ = ["DS01Spawner", "__version__", "configure"]


def __getattr__(name: str) -> Any:
    """Load the hub's side when it is asked for: the rules and the command line do without."""
    if name == "DS01Spawner":
        from ds01_spawner.hub.spawner import DS01Spawner

        return DS01Spawner
    if name == "configure":
        from ds01_spawner.hub.configure import configure

        return configure
    raise AttributeError(name)
