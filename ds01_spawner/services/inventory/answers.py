"""What the probe writes, parsed once."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

EVERY_INSTANCE = 0xFFFFFFFF  # what an event says in place of an instance's number


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UsageFacts(_Strict):
    """What goes on on a device; processes are host pids with their memory."""

    utilization: float | None
    memory: int
    processes: tuple[tuple[int, int | None], ...] | None


class InstanceFacts(_Strict):
    """A MIG instance; with an error only its UUID is for sure."""

    uuid: str
    name: str = ""
    gi: int | None = None
    ci: int | None = None
    slices: int = 0
    memory: int = 0
    usage: UsageFacts | None = None
    error: str = ""


class CardFacts(_Strict):
    """A card; with an error perhaps not even its UUID."""

    index: int
    uuid: str | None = None
    name: str = "GPU"
    memory: int = 0
    capability: tuple[int, int] | None = None
    mig: bool = False
    mig_pending: bool = False
    instances: tuple[InstanceFacts, ...] = ()
    recovery: int | None = None
    rows_pending: bool = False
    rows_failed: bool = False
    usage: UsageFacts | None = None
    error: str = ""


class LinkFacts(_Strict):
    """How two cards are joined: NVML's level of their common ancestor, and NVLinks."""

    a: str
    b: str
    level: int
    nvlinks: int


class Answer(_Strict):
    """What NVML says when asked."""

    library: bool
    error: str = ""
    driver: str | None = None
    cuda: int | None = None  # 1000 * major + 10 * minor
    cards: tuple[CardFacts, ...] = ()
    links: tuple[LinkFacts, ...] = ()
    deaf: str = ""  # why events are not told any more
    replaced: bool = False  # whether the library's file is another one than it was loaded from


class Event(_Strict):
    """What NVML says by itself; of an instance of a card, or of all."""

    card: str | None
    kind: Literal["xid", "mig", "recovery"]
    xid: int
    gi: int
    ci: int


class Line(_Strict):
    """One line of the probe."""

    answer: Answer | None = None
    event: Event | None = None
