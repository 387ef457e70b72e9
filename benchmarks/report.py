"""A result as a table for people, or as JSON with the same in it."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.spawn import QUIET, Result, Rounds

BASES = ("raw", "stock")
PHASES = ("resolve", "admit", "image", "lease", "create", "start", "ready")
WHYS = 3


def as_json(result: Result) -> str:
    """Everything, each single time included."""
    return json.dumps(as_data(result), indent=1)


def as_data(result: Result) -> dict[str, Any]:
    """The result as plain data; times in seconds."""
    systems = {name: _system(rounds) for name, rounds in result.systems.items()}
    for values in systems.values():
        values["ratios"] = {
            base: {key: _ratio(values[key], systems[base][key]) for key in ("median", "last")}
            for base in BASES
            if base in systems
        }
    return {
        "measure": "spawn",
        "began": result.began.isoformat(timespec="seconds"),
        "users": result.plan.users,
        "rounds": result.plan.repeat,
        "systems": systems,
        "phases": _phases(result),
        "busy_before": [round(share, 3) for share in result.busy],
        "machine": dict(result.facts),
    }


def _system(rounds: Rounds) -> dict[str, Any]:
    times = [sorted(o.seconds for o in one if o.seconds is not None) for one in rounds.outcomes]
    pooled = sorted(second for one in times for second in one)
    whys = Counter(o.why for one in rounds.outcomes for o in one if o.seconds is None)
    return {
        "about": rounds.about,
        "ready": len(pooled),
        "failed": sum(whys.values()),
        "median": statistics.median(pooled) if pooled else None,
        "p95": percentile(pooled, 0.95),
        # Of several users the one who waits longest, in the middle one of the rounds.
        "last": statistics.median(one[-1] for one in times if one) if pooled else None,
        "worst": pooled[-1] if pooled else None,
        "seconds": times,
        "why_failed": dict(whys.most_common(WHYS)),
    }


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest of the sorted values that this share of them does not exceed."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _phases(result: Result) -> dict[str, float]:
    """Where ours spends its time: of each phase the median of the rounds' averages."""
    ours = result.systems.get("ours")
    if ours is None:
        return {}
    found = {
        phase: statistics.median(one[phase] for one in ours.phases if phase in one)
        for phase in PHASES
        if any(phase in one for one in ours.phases)
    }
    rest = [
        statistics.mean(ready) - sum(phases.values())
        for outcomes, phases in zip(ours.outcomes, ours.phases, strict=True)
        if (ready := [o.seconds for o in outcomes if o.seconds is not None]) and phases
    ]
    return {**found, **({"hub and proxy": statistics.median(rest)} if rest else {})}


def as_text(result: Result) -> str:
    """A table, and what to know about it."""
    data = as_data(result)
    plural = "s" if data["users"] > 1 else ""
    lines = [
        f"click to ready, image present: {data['users']} user{plural} at once, "
        f"{data['rounds']} rounds, {data['began']}",
        "",
        *_table(data),
        "",
        "  last: the slowest user of a round, median of the rounds; ratios are median and last",
    ]
    lines += [f"  {name}: {values['about']}" for name, values in data["systems"].items()]
    if data["phases"]:
        lines += ["", "where ours spends its time (s, average start of a round, median of rounds)"]
        lines += [f"  {phase:<14}{seconds:7.3f}" for phase, seconds in data["phases"].items()]
    lines += ["", *_machine(data)]
    return "\n".join(lines)


def _table(data: dict[str, Any]) -> Iterable[str]:
    bases = [base for base in BASES if base in data["systems"]]
    heads = ["ready", "failed", "median", "p95", "last", "worst", *(f"of {b}" for b in bases)]
    yield f"  {'seconds':<9}" + "".join(f"{head:>13}" if "of" in head else f"{head:>8}" for head in
                                        heads)  # fmt: skip
    for name, values in data["systems"].items():
        cells = [f"{values['ready']:>8}{values['failed']:>8}"]
        cells += [f"{_number(values[key]):>8}" for key in ("median", "p95", "last", "worst")]
        for base in bases:
            pair = values["ratios"][base]
            cells.append(f"{_number(pair['median']) + ' ' + _number(pair['last']):>13}")
        yield f"  {name:<9}" + "".join(cells)
        for why, count in values["why_failed"].items():
            yield f"    {count} × {why.splitlines()[0][:120]}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _machine(data: dict[str, Any]) -> Iterable[str]:
    facts, busy = data["machine"], data["busy_before"]
    yield (
        f"JupyterHub {facts['jupyterhub']}, DockerSpawner {facts['dockerspawner']}, Python "
        f"{facts['python']}, engine {facts['engine']} ({facts['storage']}, cgroup "
        f"{facts['cgroup']}), {facts['cpus']} cores, {facts['memory'] / 2**30:.0f} GiB, "
        f"{facts['reference']}"
    )
    noisy = sum(share > QUIET for share in busy)
    if busy:
        yield (
            f"in use by others before the rounds: median {statistics.median(busy):.0%}, "
            f"most {max(busy):.0%}"
            + (f"; {noisy} of {len(busy)} rounds began on a busy machine" if noisy else "")
        )
