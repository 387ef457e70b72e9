"""Makes a hub stop at a named point of a start or a stop, so that a test can act in its middle.

Loaded into the hub by its configuration (`Hub(pauses=True)`). While the file `pause` names a
point, whoever comes there leaves a marker `at-POINT.*` and waits.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyterhub.user import User

from ds01_spawner.hub.phases import Start
from ds01_spawner.services.docker_engine import DockerEngine
from ds01_spawner.services.images import Images

# In the order of a start: in which method of what, before it or after it has done its work.
START_POINTS: dict[str, tuple[type, str, str]] = {
    "resolving": (Start, "resolve", "before"),
    "admitted": (Start, "admit", "after"),
    "imaging": (Images, "ready", "before"),
    "leased": (Start, "take_lease", "after"),
    "created": (DockerEngine, "create_container", "after"),
    "prepared": (DockerEngine, "put_archive", "after"),
    "starting": (DockerEngine, "start_container", "before"),
    "started": (DockerEngine, "start_container", "after"),
    "running": (Start, "answers", "before"),
    "bound": (Start, "answers", "after"),
}
LAST_POINTS: dict[str, tuple[type, str, str]] = {"awaited": (User, "_wait_up", "before")}
STOP_POINTS: dict[str, tuple[type, str, str]] = {
    "stopping": (DockerEngine, "stop_container", "before"),
    "stopped": (DockerEngine, "stop_container", "after"),
    "removed": (DockerEngine, "remove_container", "after"),
    "gone": (DockerEngine, "wait_removed", "after"),
}


def install(folder: Path) -> None:
    """Put the points into the hub's code; `folder` has the pause file and the markers."""
    numbers = itertools.count()

    async def pause(point: str) -> None:
        marker = folder / f"at-{point}.{next(numbers)}"
        while _paused(folder) == point:
            marker.touch()
            await asyncio.sleep(0.02)

    for point, (owner, method, when) in {**START_POINTS, **LAST_POINTS, **STOP_POINTS}.items():
        setattr(owner, method, _with_pause(getattr(owner, method), point, when, pause))


def _with_pause(
    original: Callable[..., Any], point: str, when: str, pause: Callable[[str], Any]
) -> Callable[..., Any]:
    async def method(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            await pause(point)
        result = await original(*args, **kwargs)
        if when == "after":
            await pause(point)
        return result

    return method


def _paused(folder: Path) -> str:
    try:
        return (folder / "pause").read_text()
    except FileNotFoundError:
        return ""
