"""The event log: JSON lines in DS01's schema, once per action; audit only, never state.

Schema and names: DS01's `events.jsonl` (reference: its event types `container.*`, `gpu.*`,
`maintenance.*`). A line stays below 4 KiB, so that appends of several processes do not mix.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from ds01_spawner.services.metrics import EVENTS, EVENTS_LOST

SCHEMA_VERSION = "1"
MAX_LINE = 4000


class EventFile:
    """Appends events to a file of mode 0600. Never raises: an audit line stops no server."""

    def __init__(self, path: Path, now: Callable[[], datetime]) -> None:
        self._path = path
        self._now = now

    def write(self, event_type: str, user: str = "", **details: Any) -> None:
        """One event, such as `gpu.allocate`, with its details."""
        EVENTS.labels(event=event_type).inc()
        event = {
            "timestamp": self._now().isoformat().replace("+00:00", "Z"),
            "event_type": event_type,
            "schema_version": SCHEMA_VERSION,
            "source": "ds01_spawner",
            **({"user": user} if user else {}),
            "details": details,
        }
        line = json.dumps(event, ensure_ascii=True, default=str)
        if len(line) > MAX_LINE:
            event["details"] = {"truncated": True, "original_size": len(line)}
            line = json.dumps(event, ensure_ascii=True)
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(handle, "a", encoding="ascii") as file:
                file.write(line + "\n")
        except OSError:
            EVENTS_LOST.inc()
