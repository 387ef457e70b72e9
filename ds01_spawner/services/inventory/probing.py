"""The probe seen from the hub: started, asked with a deadline, ended, and never two at a time."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ds01_spawner.services.inventory.answers import Answer, Event, Line

PROBE = Path(__file__).with_name("probe")
DEADLINE_S = 10.0
OPENING_S = 60.0  # without nvidia-persistenced it takes seconds for each card
END_S = 1.0  # how long it may take to end, by itself and once more after a signal
MAX_DETAIL = 300


class NoAnswer(Exception):
    """The driver could not be asked; why, for people."""


class Prober:
    """Keeps one probe. One that hangs is asked to end, once, and then left alone.

    Killing clients of a hanging driver again and again has frozen cards (dcgm-exporter#84), and a
    second one would hang beside the first.
    """

    def __init__(
        self,
        on_event: Callable[[Event], None],
        *,
        deadline_s: float,
        monotonic: Callable[[], float],
        environment: Mapping[str, str] | None,
    ) -> None:
        self._on_event = on_event
        self._deadline_s = deadline_s
        self._monotonic = monotonic
        self._environment = environment
        self._process: ProbeProcess | None = None
        self._stuck: ProbeProcess | None = None
        self._started = 0.0

    @property
    def age_s(self) -> float:
        """For how long the probe has had the driver open; 0 where there is none."""
        return 0.0 if self._process is None else self._monotonic() - self._started

    async def ask(self, *, anew: bool = False) -> Answer:
        """The probe's answer; with `anew` that of a new one, which opens the driver again.

        A new one also answers where the last one has died. Raises NoAnswer.
        """
        if anew:
            await self.end()
        answer = await self._ask()
        if not answer.replaced:
            return answer
        await self.end()
        return await self._ask()

    async def _ask(self) -> Answer:
        if self._stuck is not None and not self._stuck.ended.is_set():
            raise NoAnswer("an earlier question to the NVIDIA driver still hangs")
        self._stuck = None
        if self._process is not None and self._process.ended.is_set():
            await self.end()
        if self._process is None:
            self._started = self._monotonic()
            try:
                self._process = ProbeProcess(self._on_event, self._environment)
            except OSError as error:
                raise NoAnswer(f"the NVIDIA driver cannot be asked ({error})") from error
        try:
            answer = await asyncio.wait_for(self._process.ask(), self._deadline_s)
        except asyncio.TimeoutError:
            if self._process.answers or self.age_s >= OPENING_S:
                await self.end()
            problem = f"the NVIDIA driver did not answer within {self._deadline_s:g} s"
            raise NoAnswer(problem) from None
        except (NoAnswer, asyncio.CancelledError):
            await self.end()
            raise
        if answer.error and answer.library:  # it ends by itself, and is not to be asked again
            await self.end()
        return answer

    async def end(self) -> None:
        """Have the probe end; nothing where there is none."""
        process, self._process = self._process, None
        if process is not None and not await process.end():
            self._stuck = process


class ProbeProcess:
    """One process of the probe, with a thread that reads what it writes. Raises OSError."""

    def __init__(
        self, on_event: Callable[[Event], None], environment: Mapping[str, str] | None
    ) -> None:
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Answer] | None = None
        self.answers = False  # whether it ever did
        self.ended = asyncio.Event()
        # Not asyncio's, which kills what still runs when the loop ends: it ends with its stdin.
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, str(PROBE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(os.environ if environment is None else environment),
            bufsize=0,
        )
        threading.Thread(target=self._read, name="ds01-nvml-probe", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    async def ask(self) -> Answer:
        """Its answer to this question, whenever it comes. Raises NoAnswer where it ends instead.

        An answer that somebody gave up waiting for is waited for and dropped: it may tell of a time
        before this call. An error is no older for that, and after one it may not answer any more.
        """
        if self._answer is not None:
            late = await asyncio.shield(self._answer)
            self._answer = None
            if late.error:
                return late
        self._answer = self._loop.create_future()
        if self._process.stdin is not None:
            with suppress(OSError):  # it has ended, which is told in a moment
                self._process.stdin.write(b"\n")
        answer = await asyncio.shield(self._answer)
        self._answer, self.answers = None, True
        return answer

    async def end(self) -> bool:
        """Close its stdin, which ends it, and send one signal if not; whether it ended."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        if await self._ends():
            return True
        self._process.terminate()
        return await self._ends()

    async def _ends(self) -> bool:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.ended.wait(), END_S)
        return self.ended.is_set()

    # --- in the reading thread ---------------------------------------------------------------

    def _read(self) -> None:
        if self._process.stdout is not None:
            with self._process.stdout as lines:
                for line in lines:
                    self._in_loop(self._take, line)
        self._in_loop(self._gone, self._process.wait())

    def _in_loop(self, callback: Callable[[Any], None], value: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended, and nobody asks any more
            self._loop.call_soon_threadsafe(callback, value)

    # --- in the loop -------------------------------------------------------------------------

    def _take(self, text: bytes) -> None:
        try:
            line = Line.model_validate_json(text)
        except ValidationError:
            words = text.decode("utf-8", "replace").strip()[:MAX_DETAIL]
            self._fail(f"the answer about the NVIDIA driver cannot be read: {words!r}")
            return
        if line.event is not None:
            self._on_event(line.event)
        if line.answer is not None and self._answer is not None and not self._answer.done():
            self._answer.set_result(line.answer)

    def _gone(self, code: int) -> None:
        self.ended.set()
        self._fail(f"asking the NVIDIA driver failed ({code}); the hub's log may tell more")

    def _fail(self, problem: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(NoAnswer(problem))
