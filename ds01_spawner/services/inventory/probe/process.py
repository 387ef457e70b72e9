"""Reads questions, a line each, from stdin, and writes answers and events to stdout, as JSON lines.

It ends when stdin does: that is when the hub ends, however it ends. It also ends after the answer
that NVML failed as a whole: a library cannot be asked again under which the driver has changed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn

import pynvml as nvml

from ds01_spawner.services.inventory.probe.cards import Cards, Facts
from ds01_spawner.services.inventory.probe.watch import Watch

LIBRARY = "libnvidia-ml.so.1"


def main() -> NoReturn:
    """Answer until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the hub
    out = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print by themselves
    writing = threading.Lock()

    def tell(facts: Facts) -> None:
        line = json.dumps(facts).encode() + b"\n"
        with writing:
            while line:
                line = line[os.write(out, line) :]

    questions: SimpleQueue[bytes] = SimpleQueue()
    # A thread of its own: the end of stdin must be seen also while a call into the driver hangs.
    threading.Thread(target=_listen, args=(questions,), daemon=True).start()
    _answer(questions.get, tell)
    os._exit(0)  # without waiting for threads that are in the driver


def _listen(questions: SimpleQueue[bytes]) -> NoReturn:
    for line in sys.stdin.buffer:
        questions.put(line)
    os._exit(0)


def _answer(question: Callable[[], bytes], tell: Callable[[Facts], None]) -> None:
    """Answer questions until NVML fails as a whole."""
    while True:
        question()
        try:
            nvml.nvmlInit()
            break
        except nvml.NVMLError as error:
            library = error.value != nvml.NVML_ERROR_LIBRARY_NOT_FOUND
            tell({"answer": {"library": library, "error": str(error)}})
            if library:
                return
    loaded, cards, watch = _file_of(_loaded()), Cards(), Watch(tell)
    try:
        watch.begin(cards.handles())
        while True:
            answer: dict[str, Any] = {"library": True, **cards.ask(), "deaf": watch.deaf}
            answer["replaced"] = _file_of(_loaded()) != loaded
            tell({"answer": answer})
            question()
    except nvml.NVMLError as error:
        tell({"answer": {"library": True, "error": str(error)}})


def _loaded() -> Path | None:
    """Where the library was loaded from, by its name that does not change with its version."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        folder, slash, name = line[line.find("/") :].rpartition("/")
        if slash and name.startswith("libnvidia-ml.so"):
            return Path(folder, LIBRARY)
    return None


def _file_of(path: Path | None) -> tuple[int, int] | None:
    """Which file a path leads to: an upgrade of the driver brings another one.

    The old library then goes on answering as if nothing were, while no new container can start.
    """
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found else None
