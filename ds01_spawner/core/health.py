"""What a card says of its own state -> whether it may be given out.

The driver's own word comes first: the recovery action that it asks for (NVML's field 230). Then
XIDs, the numbers of what the driver has logged: NVIDIA's catalog of them, but for 109, where the
catalog says reset and both of NVIDIA's plugins for Kubernetes say that a program did it.
Nothing is for ever: a card that is well again comes back (k8s-device-plugin#1014 is what happens
otherwise).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Verdict = Literal["log", "recurs", "cordon", "fatal"]

BAD_SWEEPS = 2  # one after another until a device counts as unhealthy
CLEAN_SWEEPS = 4  # one after another until it counts as healthy again
RECURS_WITHIN_S = 600.0  # a second XID of the kind "recurs" within this is a cordon
QUARANTINE_S = 600.0  # after a cordon, where the driver does not tell when it is over

# Faults of a program, and what the catalog says to ignore, only go to the log. What is not here
# does so too: the driver asks for an action where one is needed.
_CORDON = frozenset(
    {46, 48, 54, 62, 64, 74, 95, 110, 119, 120, 136, 140, 143, 155, 156, 158, 168, 171, 172}
)
_RECURS = frozenset({109})
_FATAL = frozenset({79})  # it has fallen off the bus
RECOVERY_CHANGED = 154  # no fault: the driver asks for another action than before

# Those that both of NVIDIA's plugins for Kubernetes take for the program's own fault, without 43
# and 45, which only say that its work was ended, as by a kernel's restart. Other faults of programs
# in the catalog may be the card's as well, and nobody is to answer for those.
_PROGRAMS = frozenset({13, 31, 68, 109})

_ACTIONS = {
    1: "a reset of the GPU",
    2: "a reboot of the host",
    3: "an end of peer-to-peer traffic",
    4: "an end of all work on it and a reset",
    5: "a recovery of the IMEX domain",
    6: "a reset of the bus",
    7: "a reboot of the system",
}


def verdict(xid: int) -> Verdict:
    """What an XID means for the device it names."""
    if xid in _FATAL:
        return "fatal"
    if xid in _RECURS:
        return "recurs"
    return "cordon" if xid in _CORDON else "log"


def is_programs(xid: int) -> bool:
    """Whether an XID of a device that was well is the fault of the program on it."""
    return xid in _PROGRAMS


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one look at a device found.

    `problem` is why it could not be looked at; `recovery` the action that the driver asks for, 0
    for none, None where it does not tell.
    """

    problem: str = ""
    recovery: int | None = None
    rows_pending: bool = False  # rows of its memory wait to be remapped, which takes a reset
    rows_failed: bool = False  # and some cannot be

    @property
    def trouble(self) -> str:
        """What is wrong, for people; empty when nothing is."""
        if self.recovery:
            action = _ACTIONS.get(self.recovery, f"recovery action {self.recovery}")
            return f"the driver asks for {action}"
        if self.problem:
            return self.problem
        if self.rows_failed:
            return "rows of its memory are broken and cannot be remapped: it has to be replaced"
        return "it needs a reset to remap rows of its memory" if self.rows_pending else ""


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of one device from all looks at it; times are monotonic seconds."""

    problem: str = ""  # why it is not healthy, for people; empty: it is
    bad: int = 0  # sweeps, one after another
    clean: int = 0
    cordon: Literal["", "cordon", "fatal"] = ""  # by an XID
    xid: int = 0  # which; of a fatal one and others, the fatal one
    struck: float = 0.0  # when the last such XID came
    recurring: float | None = None  # when the last XID came that is a cordon only if it recurs

    @property
    def healthy(self) -> bool:
        """Whether it may be given out."""
        return not self.problem

    @property
    def in_doubt(self) -> bool:
        """Whether the last sweep was bad and another one has to say whether it stays so."""
        return self.healthy and self.bad > 0

    def swept(self, sweep: Sweep, now: float) -> Health:
        """After another look at it."""
        if sweep.trouble:
            bad = self.bad + 1
            sick = bad >= BAD_SWEEPS or not self.healthy
            return replace(self, bad=bad, clean=0, problem=sweep.trouble if sick else "")
        clean = self.clean + 1
        if self.healthy or clean < CLEAN_SWEEPS or not self._may_return(sweep.recovery, now):
            return replace(self, bad=0, clean=clean)
        return Health(clean=clean, recurring=self.recurring)

    def hit(self, xid: int, now: float) -> Health:
        """After an XID of this device; the same when it only goes to the log."""
        what = verdict(xid)
        if what == "log":
            return self
        if what == "recurs":
            last = self.recurring
            if last is None or now - last > RECURS_WITHIN_S:
                return replace(self, recurring=now)
        return self.struck_by(xid, now)

    def struck_by(self, xid: int, now: float) -> Health:
        """Out of use by an XID, whatever came before."""
        fatal = self.cordon == "fatal"
        return replace(
            self,
            problem=f"the driver reported XID {xid}",
            clean=0,
            cordon="fatal" if fatal or verdict(xid) == "fatal" else "cordon",
            xid=self.xid if fatal else xid,
            struck=now,
        )

    def _may_return(self, recovery: int | None, now: float) -> bool:
        """Whether clean sweeps are enough: they tell little of what an XID was about."""
        if not self.cordon or recovery == 0:
            return True
        return self.cordon == "cordon" and now - self.struck >= QUARANTINE_S
