"""The lines of one build: to a bounded log file, and as events for those who wait."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TextIO

from ds01_spawner.core.build_log import clean
from ds01_spawner.core.build_plan import TITLE_END, Step

MAX_BYTES = 1 << 20  # of a log file, before its last lines
MAX_FILES = 200
TAIL = 200
_SECONDS_BETWEEN_LINES = 0.3
_STEP = re.compile(r"Step (\d{1,3})/\d{1,3} : ")
_NOISE = re.compile(r" ---> |Removing intermediate container |Sending build context|Requirement al")


@dataclass(frozen=True, slots=True)
class BuildEvent:
    """What a build tells those who wait: step `step` of `steps` (0: not begun) and its title.

    `line` is the newest line of output, without control characters; not every line is told.
    """

    step: int
    steps: int
    title: str
    line: str | None = None


class BuildRecord:
    """Takes the output of one build line by line, from the event loop. Close it in the end."""

    def __init__(
        self,
        path: Path,
        plan: Sequence[Step],
        tell: Callable[[BuildEvent], None],
        now: Callable[[], datetime],
    ) -> None:
        self._titles = [step.title for step in plan]
        self._order = [*dict.fromkeys(self._titles), TITLE_END]
        self._tell, self._now = tell, now
        self._began = self._told = now()
        self._written = self._left_out = 0
        self._file: TextIO | None = None
        with suppress(OSError):
            self._file = _open(path)
        self.tail: deque[str] = deque(maxlen=TAIL)
        self.title = self._order[0]

    def add(self, line: str) -> None:
        """One line as the engine gives it."""
        text = clean(line)
        if not text:
            return
        self._write(text)
        step = _STEP.match(text)
        if step:
            number = int(step[1])
            self._step(self._titles[number - 1] if 0 < number <= len(self._titles) else TITLE_END)
        elif not _NOISE.match(text):
            self._line(text)

    def _step(self, title: str) -> None:
        if title != self.title or self._told is self._began:
            self.title = title
            self._say(None)

    def _line(self, text: str) -> None:
        self.tail.append(text)
        if (self._now() - self._told).total_seconds() >= _SECONDS_BETWEEN_LINES:
            self._say(text)

    def _say(self, line: str | None) -> None:
        self._told = self._now()
        place = self._order.index(self.title) + 1
        self._tell(BuildEvent(place, len(self._order), self.title, line))

    def _write(self, text: str) -> None:
        seconds = (self._now() - self._began).total_seconds()
        told = f"{seconds:8.1f} {text}\n"
        if self._written < MAX_BYTES:
            self._written += len(told.encode())
            self._put(told)
        else:
            self._left_out += 1

    def _put(self, text: str) -> None:
        """Write; a disk that is full costs the log, not the build."""
        try:
            if self._file is not None:
                self._file.write(text)
        except OSError:
            self._file = None

    def close(self, ending: str) -> None:
        """End the file with what became of the build, and the last lines if it was too long."""
        if self._left_out:
            self._put(f"… {self._left_out} lines are left out; the last ones were:\n")
            self._put("".join(f"{line}\n" for line in self.tail))
        self._put(f"{clean(ending)}\n")
        with suppress(OSError):
            if self._file is not None:
                self._file.close()


def old_logs(folder: Path, before: datetime) -> list[Path]:
    """The logs of builds that were last written before then, the oldest first."""
    logs = sorted(folder.glob("*.log"), key=_changed)
    return [path for path in logs if 0 < _changed(path) < before.timestamp()]


def _open(path: Path) -> TextIO:
    """A new log file, for its owner alone; the oldest ones beyond 200 go."""
    logs = sorted(path.parent.glob("*.log"), key=_changed)
    for old in logs[: max(0, len(logs) - MAX_FILES + 1)]:
        old.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8")


def _changed(path: Path) -> float:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0
