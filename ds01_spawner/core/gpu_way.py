"""What a container engine offers -> the way by which NVIDIA devices get into containers.

Two steps. `choose` looks at what the engine tells of itself, so that reading alone says what a
start would send. Whether the engine then finds a driver and the devices it does not tell; `trial`
is a request that it has to refuse, and `judge` reads from its words which refusal it was. So no
device is touched and nothing ever runs to find that out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ds01_spawner.core.injection import CDI_KIND, NvidiaWay, cdi_name, cdi_request, request

Setting = Literal["auto", "request", "cdi"]
SETTINGS: tuple[Setting, ...] = ("auto", "request", "cdi")
DISCOVERS = (1, 50)  # the first API that tells the names that CDI has; engine 28.2
ABSENT = cdi_name("ds01-no-such-device")
_NAME = re.compile(rf"{re.escape(CDI_KIND)}=[^\s,\"]+")
_TOOLKIT = (
    "Install NVIDIA's container toolkit (package nvidia-container-toolkit) and restart the engine."
)
_CDI_ON = (
    'Turn it on ("features": {"cdi": true} in /etc/docker/daemon.json, engine 25 or newer) and '
    "restart the engine, or set gpu_injection to 'auto'."
)
_CDI_AGAIN = (
    "Describe the devices again: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml (the "
    "service nvidia-cdi-refresh does it at each boot), or set gpu_injection to 'request'."
)
_ASK_AGAIN = (
    "The hub asks again by itself; to do without asking, set gpu_injection to 'request' or 'cdi'."
)


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine tells of itself, as far as devices go."""

    version: str = ""
    api: tuple[int, ...] = ()
    cdi_folders: tuple[str, ...] = ()  # none: CDI is off, or the engine is older than it
    cdi_names: frozenset[str] | None = None  # None: such an engine does not tell


@dataclass(frozen=True, slots=True)
class Choice:
    """The way, why it is that one, and what is wrong with it; with a problem it is not used."""

    way: NvidiaWay
    why: str
    problem: str = ""
    fix: str = ""


NOT_ASKED = Choice("request", "the container engine was not asked yet")


def facts_of(version: Mapping[str, Any], info: Mapping[str, Any]) -> EngineFacts:
    """The facts in the engine's own answers to /version and /info (of its newest API)."""
    api = tuple(int(part) for part in re.findall(r"\d+", str(version.get("ApiVersion"))))
    found = [d for d in info.get("DiscoveredDevices") or () if d.get("Source") == "cdi"]
    return EngineFacts(
        version=str(version.get("Version") or ""),
        api=api,
        cdi_folders=tuple(info.get("CDISpecDirs") or ()),
        cdi_names=frozenset(str(d.get("ID")) for d in found) if api >= DISCOVERS else None,
    )


def choose(facts: EngineFacts, setting: Setting, uuids: Sequence[str]) -> Choice:
    """The way for these devices, by what the engine tells.

    CDI where it is on and knows them: there the device files are in the container's own
    specification, which survives a `systemctl daemon-reload`; a hook's do not
    (NVIDIA/nvidia-container-toolkit#48).
    """
    who = f"engine {facts.version}"
    names = facts.cdi_names
    unknown = [uuid for uuid in uuids if names is not None and cdi_name(uuid) not in names]
    if setting == "request":
        return Choice("request", "the setting gpu_injection says so")
    if setting == "cdi":
        why = "the setting gpu_injection says so"
        if not facts.cdi_folders:
            return Choice("cdi", why, f"CDI is off in {who}", _CDI_ON)
        return _with_names(Choice("cdi", why), unknown)
    if not facts.cdi_folders:
        return Choice("request", f"CDI is off in {who}")
    if unknown:
        return Choice("request", f"CDI of {who} does not know {', '.join(unknown)}")
    knows = "" if names is None else " and knows these devices"
    return Choice("cdi", f"CDI is on in {who}{knows}")


def trial(way: NvidiaWay, uuids: Sequence[str]) -> dict[str, Any]:
    """A device request that an engine refuses before it makes anything of it.

    With NVIDIA's driver, because a count beside names is refused; with CDI, because one of the
    names is nobody's: the refusal lists it and all others that are not known.
    """
    if way == "cdi":
        return cdi_request([*map(cdi_name, uuids), ABSENT])
    return {**request(uuids), "Count": 1}


def judge(choice: Choice, setting: Setting, uuids: Collection[str], refusal: str) -> Choice:
    """The choice after the trial. `refusal` is what the engine said; empty: it did not refuse.

    Words that are not understood count as a no, but for an admin who named the way.
    """
    text = refusal.lower()
    if choice.problem:
        return choice
    if "could not select device driver" in text:
        what = "has no driver for CDI" if choice.way == "cdi" else "finds no NVIDIA driver"
        fix = _CDI_ON if choice.way == "cdi" else _TOOLKIT
        return replace(choice, problem=f"the container engine {what}", fix=fix)
    if choice.way == "cdi" and "unresolvable cdi devices" in text:
        named = set(_NAME.findall(refusal))
        return _with_names(choice, [uuid for uuid in uuids if cdi_name(uuid) in named])
    if choice.way == "request" and "cannot set both count and deviceids" in text:
        return choice
    if setting == choice.way:
        return choice
    said = f"it said: {refusal[:200]}" if refusal else "it did not refuse"
    problem = f"whether the container engine can give devices is not known ({said})"
    return replace(choice, problem=problem, fix=_ASK_AGAIN)


def _with_names(choice: Choice, unknown: Sequence[str]) -> Choice:
    if not unknown:
        return choice
    problem = f"the engine's CDI does not know {', '.join(unknown)}"
    return replace(choice, problem=problem, fix=_CDI_AGAIN)
