"""What is remembered of the cards of a host, from one look at them to the next."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime

from ds01_spawner.core.architectures import of_compute_capability
from ds01_spawner.core.devices import Device, Process, Usage, Xid
from ds01_spawner.core.health import Health, Sweep, is_programs
from ds01_spawner.core.units import MIG_SLICES_PER_GPU, UNITS_PER_GPU
from ds01_spawner.services.inventory.answers import (
    EVERY_INSTANCE,
    Answer,
    CardFacts,
    Event,
    InstanceFacts,
    UsageFacts,
)

UNSEEN = "the driver does not see it any more"
_PROFILE = re.compile(r"\bMIG (\S+)$")
# By NVML's level of the common ancestor: one board, one PCIe switch, several, one host bridge, one
# NUMA node, the system. An NVLink is worth more than any of them, and two are worth more than one.
_CLOSENESS = {0: 60, 10: 50, 20: 40, 30: 30, 40: 20, 50: 10}
NVLINK_CLOSENESS = 100
FAULTS = 100  # that are told of, the latest


class Fleet:
    """The cards that ever answered, with their health; also those that are lost at the moment.

    A lost card may not even tell its UUID. It and its instances stay what they are, unhealthy,
    until it answers again.
    """

    def __init__(self) -> None:
        self._cards: dict[str, CardFacts] = {}  # as they last answered
        self._health: dict[str, Health] = {}  # of cards and instances
        self._struck: dict[str, datetime] = {}  # when, of those that an XID put out of use
        self._faults: deque[Xid] = deque(maxlen=FAULTS)
        self._nameless: list[CardFacts] = []  # that answer with an error, and never told a UUID
        self._answer = Answer(library=True)
        self.blind = False  # whether some could not be looked at or listened to, the last time

    def __len__(self) -> int:
        return len(self._cards)

    @property
    def in_doubt(self) -> bool:
        """Whether another look has to say if a device is unhealthy."""
        return any(health.in_doubt for health in self._health.values())

    def look(self, answer: Answer, now: float) -> None:
        """Take in an answer; `now` is monotonic, in seconds."""
        seen = {card.uuid: card for card in answer.cards if card.uuid}
        nameless = [card for card in answer.cards if not card.uuid]
        missing = [uuid for uuid in self._cards if uuid not in seen]
        why = nameless[0].error if nameless else UNSEEN
        found = {uuid: Sweep(why) for uuid in missing}
        for uuid, card in seen.items():
            found[uuid] = Sweep(card.error, card.recovery, card.rows_pending, card.rows_failed)
            if not card.error or uuid not in self._cards:
                self._cards[uuid] = self._with_memory(card)
                found |= {instance.uuid: Sweep(instance.error) for instance in card.instances}
        known = {instance.uuid for card in self._cards.values() for instance in card.instances}
        # What an XID was about may not answer yet, or not any more.
        kept = {u: h for u, h in self._health.items() if u in known or u in self._cards or h.cordon}
        swept = {u: kept.get(u, Health()).swept(sweep, now) for u, sweep in found.items()}
        self._health = kept | swept
        self._nameless = nameless[len(missing) :]
        self._answer = answer
        troubled = any(sweep.problem for sweep in found.values())
        self.blind = bool(nameless or troubled or answer.deaf)

    def _with_memory(self, card: CardFacts) -> CardFacts:
        """The card; of instances that answer with an error, what they said before."""
        before = self._cards.get(card.uuid or "", card).instances
        known = {i.uuid: i for i in before if not i.error}
        instances = [known.get(i.uuid, i) if i.error else i for i in card.instances]
        return card.model_copy(update={"instances": tuple(instances)})

    def hit(self, event: Event, now: float, at: datetime) -> bool:
        """Take in an XID; whether it is to be looked at now. `now` is monotonic, `at` in UTC."""
        seen = False
        for uuid in self._targets(event):
            before = self._health.get(uuid, Health())
            self._health[uuid] = after = before.hit(event.xid, now)
            if after.cordon and after != before:
                self._struck[uuid] = at
            if before.healthy and is_programs(event.xid):
                self._faults.append(Xid(uuid, event.xid, at))
                seen = True
            seen = seen or after != before
        return seen

    def remember(self, xid: Xid, when: float) -> None:
        """Have a device out of use by an XID that came at `when`, monotonic and before now."""
        self._health[xid.device] = Health().struck_by(xid.number, when)
        self._struck[xid.device] = xid.at

    def forgive(self, devices: Iterable[str]) -> None:
        """Forget what was said of devices."""
        for uuid in self._health.keys() & set(devices):
            self._health[uuid] = Health()

    def _targets(self, event: Event) -> list[str]:
        """The devices that an event is about. An instance is as healthy as its card at most.

        So what is about the whole card, or about an instance that is not known, is the card's.
        """
        if event.card is None:
            return []
        card = self._cards.get(event.card)
        instances = [
            i.uuid
            for i in (card.instances if card else ())
            if event.gi == i.gi and event.ci in (i.ci, EVERY_INSTANCE)
        ]
        return instances or [event.card]

    # --- what it tells -----------------------------------------------------------------------

    def devices(self) -> tuple[tuple[Device, ...], tuple[str, ...]]:
        """The devices, and what is wrong with cards, for people."""
        devices: list[Device] = []
        problems: list[str] = []
        cards = [*self._cards.values(), *self._nameless]
        for card in sorted(cards, key=lambda card: card.index):
            found, trouble = self._devices_of(card)
            devices += found
            problems += dict.fromkeys([*trouble, *(d.problem for d in found if not d.healthy)])
        return tuple(devices), tuple(problems)

    def _devices_of(self, card: CardFacts) -> tuple[list[Device], list[str]]:
        who = f"GPU {card.index} ({card.name})"
        if card.uuid is None:
            return [_sick(_whole(card), f"{who}: {card.error}")], []
        problem = self._health[card.uuid].problem
        if not problem and card.mig != card.mig_pending:
            problem = "its MIG mode changes at the next reset"
        trouble = [f"{who}: {problem}"] if problem else []
        if not card.mig:
            return [_sick(_whole(card), *trouble) if trouble else _whole(card)], []
        if not card.instances:
            none = "MIG is on and it has no instances, so nothing of it can be given out"
            return [], [*trouble, f"{who}: {none}"]
        return [self._device_of(card, instance, *trouble) for instance in card.instances], []

    def _device_of(self, card: CardFacts, instance: InstanceFacts, trouble: str = "") -> Device:
        device = _part(_whole(card), instance)
        own = self._health[instance.uuid].problem
        if not own and not 1 <= instance.slices <= MIG_SLICES_PER_GPU:
            own = f"it has {instance.slices} slices"
        problem = trouble or (f"MIG instance {instance.uuid}: {own}" if own else "")
        return _sick(device, problem) if problem else device

    def struck(self) -> tuple[Xid, ...]:
        """What XIDs put out of use, by UUID."""
        cordoned = {uuid: health for uuid, health in self._health.items() if health.cordon}
        return tuple(Xid(u, cordoned[u].xid, self._struck[u]) for u in sorted(cordoned))

    def faults(self) -> tuple[Xid, ...]:
        """The latest faults of programs on devices that were well."""
        return tuple(self._faults)

    def usage(self) -> dict[str, Usage]:
        """What goes on on the devices that answered."""
        cards = [card for card in self._answer.cards if not card.error]
        parts: list[CardFacts | InstanceFacts] = [*cards, *(i for c in cards for i in c.instances)]
        return {part.uuid: _usage(part.usage) for part in parts if part.uuid and part.usage}

    def links(self) -> tuple[tuple[str, str, int], ...]:
        """How close whole cards are to each other."""
        return tuple(_links(self._answer, {u for u, card in self._cards.items() if not card.mig}))


def _links(answer: Answer, whole: set[str]) -> Iterator[tuple[str, str, int]]:
    for link in answer.links:
        if link.a in whole and link.b in whole:
            closeness = _CLOSENESS.get(link.level, 0) + NVLINK_CLOSENESS * link.nvlinks
            yield link.a, link.b, closeness


def _whole(card: CardFacts) -> Device:
    return Device(
        uuid=card.uuid or f"unknown-{card.index}",
        kind="gpu",
        name=card.name,
        architecture=of_compute_capability(card.capability) if card.capability else None,
        units=UNITS_PER_GPU,
        memory=card.memory,
        index=card.index,
        compute_capability=card.capability,
    )


def _part(card: Device, instance: InstanceFacts) -> Device:
    match = _PROFILE.search(instance.name)
    return replace(
        card,
        uuid=instance.uuid,
        kind="mig",
        memory=instance.memory,
        profile=match[1] if match else f"{instance.slices}g",
        parent=card.uuid,
        units=UNITS_PER_GPU * instance.slices // MIG_SLICES_PER_GPU,
    )


def _sick(device: Device, problem: str) -> Device:
    return replace(device, healthy=False, problem=problem)


def _usage(facts: UsageFacts) -> Usage:
    processes = facts.processes
    found = None if processes is None else tuple(Process(pid, size) for pid, size in processes)
    return Usage(facts.utilization, facts.memory, found)
