"""What an inventory is, how several are one, and how often a driver is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from ds01_spawner.core.devices import Snapshot, Xid

FRESH_S = 2.0
BACKOFF_S = (2.0, 60.0)  # after the first failure, and at most; doubled between


def boot_id(proc: Path = Path("/proc")) -> str:
    """The name of this boot of the host; empty where it cannot be read."""
    try:
        return (proc / "sys/kernel/random/boot_id").read_text().strip()
    except (OSError, ValueError):
        return ""


class Inventory(Protocol):
    """Tells the devices of a host."""

    async def snapshot(self, *, fresh: bool = False) -> Snapshot:
        """The devices now. Never raises: what cannot be told is a snapshot with `known` False.

        With `fresh` the host is asked after this call: a device that was given back a moment ago
        is given out only by a snapshot that is newer.
        """
        ...

    def remember(self, struck: Iterable[Xid]) -> None:
        """These had been put out of use by XIDs when an earlier process of this boot ended.

        They come back by the same rule as those that are struck from now on.
        """
        ...

    def forgive(self, devices: Iterable[str]) -> None:
        """What XIDs said of these counts no more: an admin lifted it."""
        ...

    async def close(self) -> None:
        """End what it started."""
        ...


class WithoutXids:
    """An inventory whose driver reports no XIDs."""

    def remember(self, struck: Iterable[Xid]) -> None:
        """They are another maker's."""

    def forgive(self, devices: Iterable[str]) -> None:
        """They are another maker's."""


class NoDevices(WithoutXids):
    """The inventory of a host that is to offer no device."""

    async def snapshot(self, *, fresh: bool = False) -> Snapshot:
        """No devices, and sure of it."""
        return Snapshot()

    async def close(self) -> None:
        """Nothing to end."""


class Kept:
    """Answers of `ask`, which never raises, kept for `fresh_s`.

    Callers at the same time share one question; failures are repeated ever more slowly. An answer
    that is `outdated` is kept no longer. `on_change` is called when the devices or their health are
    not what they were when last known.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[Snapshot]],
        fresh_s: float,
        backoff_s: tuple[float, float],
        monotonic: Callable[[], float],
        outdated: Callable[[Snapshot, float], bool] = lambda answer, age_s: False,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._ask_driver = ask
        self._fresh_s = fresh_s
        self._backoff_s = backoff_s
        self._monotonic = monotonic
        self._outdated = outdated
        self._on_change = on_change
        self._last: Snapshot | None = None
        self._known: Snapshot | None = None
        self._asked = self._ask_again = 0.0
        self._failures = 0
        self._asking: asyncio.Task[Snapshot] | None = None

    async def snapshot(self, *, fresh: bool = False) -> Snapshot:
        """The last answer, or a new one; with `fresh`, to a question after this call."""
        last = self._last
        if last is not None and self._stands(last, fresh):
            return last
        if fresh and self._asking is not None and not self._asking.done():
            begun_before = await asyncio.shield(self._asking)
            if not begun_before.known:
                return begun_before
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        # Whoever gives up waiting does not take the answer from the others.
        return await asyncio.shield(self._asking)

    def _stands(self, last: Snapshot, fresh: bool) -> bool:
        """Whether nobody is to be asked; of failures `fresh` changes nothing."""
        now = self._monotonic()
        if now >= self._ask_again:
            return False
        return not last.known or not (fresh or self._outdated(last, now - self._asked))

    def expire(self) -> None:
        """Something has changed: the next caller asks, unless the last answer was a failure."""
        if self._last is not None and self._last.known:
            self._ask_again = 0.0

    async def close(self) -> None:
        """End a question that is being asked."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> Snapshot:
        snapshot = await self._ask_driver()
        if snapshot.known:
            self._failures = 0
            wait = self._fresh_s
            if self._known is not None and _state(self._known) != _state(snapshot):
                self._on_change()
            self._known = snapshot
        else:
            first, most = self._backoff_s
            wait = min(most, first * 2.0 ** min(self._failures, 16))
            self._failures += 1
        self._last = snapshot
        self._asked = self._monotonic()
        self._ask_again = self._asked + wait
        return snapshot


def _state(snapshot: Snapshot) -> tuple[str, frozenset[str]]:
    return snapshot.epoch, frozenset(d.uuid for d in snapshot.devices if d.healthy)


class Together:
    """The devices of several inventories as those of one."""

    def __init__(self, *inventories: Inventory) -> None:
        self._inventories = inventories

    async def snapshot(self, *, fresh: bool = False) -> Snapshot:
        """All devices that are told of, known only where every inventory knows."""
        asked = (inventory.snapshot(fresh=fresh) for inventory in self._inventories)
        return together(await asyncio.gather(*asked))

    def remember(self, struck: Iterable[Xid]) -> None:
        """Tell each of them."""
        told = tuple(struck)
        for inventory in self._inventories:
            inventory.remember(told)

    def forgive(self, devices: Iterable[str]) -> None:
        """Tell each of them."""
        told = tuple(devices)
        for inventory in self._inventories:
            inventory.forgive(told)

    async def close(self) -> None:
        """End what each of them started."""
        await asyncio.gather(*(inventory.close() for inventory in self._inventories))


def together(snapshots: Sequence[Snapshot]) -> Snapshot:
    """One snapshot of several makers' devices.

    While one maker's devices are not known, the others' are shown and nothing is granted, though
    one could: what a wish, a quota or the best fit is judged by is the whole host, and half of it
    gives false reasons ("there is no such GPU here") and false choices. A snapshot that is not
    known has no epoch: a driver that hangs has changed no device.
    """
    known = all(snapshot.known for snapshot in snapshots)
    taken = [snapshot.taken for snapshot in snapshots if snapshot.taken is not None]
    return Snapshot(
        devices=tuple(device for snapshot in snapshots for device in snapshot.devices),
        known=known,
        simulated=any(snapshot.simulated for snapshot in snapshots),
        driver=next((s.driver for s in snapshots if s.driver), None),
        cuda=next((s.cuda for s in snapshots if s.cuda), None),
        problems=tuple(problem for snapshot in snapshots for problem in snapshot.problems),
        taken=min(taken, default=None),
        epoch="+".join(s.epoch for s in snapshots if s.epoch) if known else "",
        usage={uuid: use for snapshot in snapshots for uuid, use in snapshot.usage.items()},
        links=tuple(link for snapshot in snapshots for link in snapshot.links),
        struck=tuple(xid for snapshot in snapshots for xid in snapshot.struck),
        faults=tuple(xid for snapshot in snapshots for xid in snapshot.faults),
    )
