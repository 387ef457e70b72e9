"""How the fake engine gives devices to a container, in the words of those it was learned from."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ds01_spawner.services.engine import EngineRefused, Json


def given(
    requests: Iterable[Json], hook: Collection[str] | None, cdi: Collection[str] | None
) -> str:
    """What the container's NVIDIA_VISIBLE_DEVICES says then.

    As an engine before 29 does with NVIDIA's hook, which knows these UUIDs (20.10 was run with
    one, see gpu.md 3.2), and with CDI, which knows these names (26.1); None: it has it not.
    """
    visible = ""
    for request in requests:
        ids, count = request.get("DeviceIDs") or [], request.get("Count") or 0
        if request.get("Driver") == "cdi":
            _check(ids, cdi)
            continue
        if hook is None or not request.get("Capabilities"):
            raise EngineRefused(500, 'could not select device driver "" with capabilities: [[gpu]]')
        if ids and count:
            raise EngineRefused(500, "cannot set both Count and DeviceIDs on device request")
        if unknown := [id for id in ids if id not in hook]:
            raise EngineRefused(
                500,
                "OCI runtime create failed: error running hook #0: exit status 1, stderr: "
                f"nvidia-container-cli: device error: {unknown[0]}: unknown device",
            )
        # a second request takes the place of the first
        visible = ",".join(ids or [str(index) for index in range(count)])
    return visible


def _check(names: list[str], cdi: Collection[str] | None) -> None:
    if cdi is None:
        raise EngineRefused(500, 'could not select device driver "cdi" with capabilities: []')
    if unknown := [name for name in names if name not in cdi]:
        words = "CDI device injection failed: unresolvable CDI devices"
        raise EngineRefused(500, f"{words} {', '.join(unknown)}")
