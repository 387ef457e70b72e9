"""The parts of a policy file that are about devices: what runs where, and which are shared."""

from __future__ import annotations

import re

from ds01_spawner.core.architectures import ARCHITECTURES
from ds01_spawner.core.placement import SHARED
from ds01_spawner.core.policy_report import Report, did_you_mean
from ds01_spawner.core.policy_schema import PresetPart, RunsOnPart, SharingPart, shown
from ds01_spawner.core.runs import RunsOn
from ds01_spawner.core.sharing import Sharing
from ds01_spawner.core.yaml_source import Path

_IMAGE_PATTERN = re.compile(r"[A-Za-z0-9 ._+\-/:@*]{1,255}")
EVERYWHERE = "any"


def read_runs_on(report: Report, value: object) -> dict[str, RunsOn]:
    """Where images run, by pattern, in file order."""
    rules = {}
    for pattern, body in report.mapping(value, ("runs_on",)).items():
        path: Path = ("runs_on", pattern)
        if not _IMAGE_PATTERN.fullmatch(pattern):
            hint = "Write an image or framework/version, * for anything: aimehub/pytorch-2.8.0-*."
            report.problem(path, "matches no image.", hint)
        if body == EVERYWHERE:
            rules[pattern] = RunsOn(anything=True)
            continue
        if not isinstance(body, dict) or not body:
            hint = f"Write {EVERYWHERE}, or one of {', '.join(RunsOnPart.model_fields)}."
            report.problem(path, f"is {shown(body) if body else 'empty'}.", hint)
            continue
        given = {key: report.text((*path, key), each) for key, each in body.items()}
        part = report.part(RunsOnPart, given, path)
        if part is None:
            continue
        for i, name in enumerate(part.architectures or ()):
            if name not in ARCHITECTURES:
                place = (*path, "architectures", i)
                hint = did_you_mean(name, ARCHITECTURES)
                report.problem(place, "is not a known architecture.", hint)
        architectures = None if part.architectures is None else tuple(part.architectures)
        rules[pattern] = RunsOn(architectures, part.compute_capability, part.cuda)
    return rules


def read_sharing(report: Report, value: object) -> Sharing | None:
    """How devices are shared; None: not at all."""
    path: Path = ("sharing",)
    given = report.mapping(value, path)
    if not isinstance(value, dict):
        return None
    part = report.part(SharingPart, given, path)
    return None if part is None else Sharing(part.seats, part.gpu, part.max_devices)


def check_gpu_wishes(report: Report, part: PresetPart, path: Path, shares: bool) -> None:
    """What a preset says of its GPUs has to go together, and with whether the file shares any."""
    for key, wish in (("gpu", part.gpu), ("gpu_memory", part.gpu_memory)):
        if wish is not None and not part.gpus:
            report.problem((*path, key), "is only for a preset with GPUs.", "Write `gpus: 1` too.")
    if part.gpu != SHARED:
        return
    if not shares:
        hint = "Write a section `sharing:` with `seats: 8`, say."
        report.problem((*path, "gpu"), "is a seat, and this file shares no GPU.", hint)
    if part.gpus and part.gpus > 1:
        report.problem((*path, "gpus"), "is too many: a seat is on one GPU.", "Write `gpus: 1`.")
