"""A build's stream -> lines, as many as can be read, in the stream's own thread.

What a build prints is a stranger's: a step that prints without end must cost neither the hub's
event loop nor its memory, and comes to an end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from ds01_spawner.services.engine import EngineRefused, Json

RATE = 500  # lines that are passed on in a second
KEPT = 200  # of those beyond the rate, the last ones: they tell why a build failed
MAX_OUTPUT = 64 << 20  # characters, of a whole build
LINE_CHARACTERS = 8 * 1024
_STEP = "Step "  # the engine gives its steps an item each


class EndlessOutput(EngineRefused):
    """The build was ended, because it had printed more than any build has to say."""

    def __init__(self) -> None:
        super().__init__(500, "it printed without end")


class BuildOutput:
    """Reads one build's stream. `clock` gives seconds; `image` is the id of what was built."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._second = clock()
        self._passed = 0  # lines of this second
        self._rest = ""  # a line that has not ended yet
        self._step = ""  # the last one among the lines left out
        self._left_out = 0
        self._held: deque[str] = deque(maxlen=KEPT)
        self.image = ""

    def lines(self, items: Iterable[Json]) -> Iterator[str]:
        """The lines; beyond the rate the last of them later, with the number of those left out.

        A long line comes in parts. Raises EndlessOutput, and what the items raise, after the last
        words.
        """
        size = 0
        try:
            for item in items:
                self.image = str((item.get("aux") or {}).get("ID") or self.image)
                text = _text_of(item)
                size += len(text)
                if size > MAX_OUTPUT:
                    raise EndlessOutput
                yield from self._add(text)
        except Exception:
            yield from self._last_words()
            raise
        yield from self._last_words()

    def _add(self, text: str) -> Iterator[str]:
        *lines, rest = (self._rest + text).split("\n")
        whole = len(rest) - len(rest) % LINE_CHARACTERS
        lines += _parts(rest[:whole]) if whole else ()
        self._rest = rest[whole:]
        if text.startswith(_STEP):
            self._step = text.partition("\n")[0][:LINE_CHARACTERS]
        if self._clock() - self._second >= 1:
            self._second, self._passed = self._clock(), 0
            yield from self._release()
        allowed = 0 if self._held else max(0, RATE - self._passed)
        for line in lines[:allowed]:
            yield from self._pass(line)
        self._hold(lines[allowed:])

    def _pass(self, line: str) -> Iterator[str]:
        for part in _parts(line.removesuffix("\r")):
            self._passed += 1
            yield part

    def _hold(self, lines: list[str]) -> None:
        kept = lines[-KEPT:]
        room = KEPT - len(self._held)
        self._left_out += len(lines) - len(kept) + max(0, len(kept) - room)
        self._held.extend(kept)

    def _release(self) -> Iterator[str]:
        """Pass on what is held, and say how much is not."""
        if self._left_out:
            if self._step and not any(line.startswith(_STEP) for line in self._held):
                yield self._step
            yield f"… {self._left_out} lines are left out"
        self._left_out, self._step = 0, ""
        while self._held:
            yield from self._pass(self._held.popleft())

    def _last_words(self) -> Iterator[str]:
        yield from self._release()
        if self._rest:
            yield self._rest


def _parts(line: str) -> Iterator[str]:
    for start in range(0, len(line) or 1, LINE_CHARACTERS):
        yield line[start : start + LINE_CHARACTERS]


def _text_of(item: Json) -> str:
    """The output of an item; of the base's pull, what happens but not how far it is."""
    if "status" in item and not item.get("progressDetail"):
        return f"{item['status']}\n"
    return str(item.get("stream", ""))
