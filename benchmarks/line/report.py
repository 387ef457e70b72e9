"""The measures as a table for people, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks.line.measures import Measures, Waits

BASES, SHIPPED = ("fcfs", "fcfs by kind"), "shipped"


@dataclass(frozen=True, slots=True)
class Table:
    """The policies on one host under one load (None: a trace, as it came)."""

    geometry: str
    about: str
    load: float | None
    policies: Mapping[str, Measures]


@dataclass(frozen=True, slots=True)
class Result:
    """All that was run."""

    tables: Sequence[Table]
    seeds: int
    days: float


def worse(table: Table, base: str) -> list[str]:
    """Where the shipped policy is worse, as `1 GPU p95 (+3.0%)`."""
    first, own = table.policies[base].waits, table.policies[SHIPPED].waits
    return [
        f"{name} {what} ({_more(getattr(own[name], what), getattr(waits, what))})"
        for name, waits in sorted(first.items())
        for what in ("mean", "p95")
        if getattr(own[name], what) > getattr(waits, what)
    ]


def _more(value: float, base: float) -> str:
    # Of a wait of minutes a part says little.
    return f"+{value / base - 1:.1%}" if base >= 1 else f"+{(value - base) * 60:.0f} min"


def as_json(result: Result) -> str:
    """Everything; waits in hours."""
    tables = [
        {
            "geometry": table.geometry,
            "load": table.load,
            "policies": {name: asdict(one) for name, one in table.policies.items()},
            "worse": {base: worse(table, base) for base in BASES},
        }
        for table in result.tables
    ]
    data = {"measure": "line", "seeds": result.seeds, "days": result.days, "tables": tables}
    return json.dumps(data, indent=1)


def as_text(result: Result) -> str:
    """A table for each host and load: mean and p95 wait in hours by class of size."""
    drawn = f"; {result.seeds} seeds of {result.days:g} days each" if result.seeds else ""
    lines = [f"waits in hours, mean / p95{drawn}"]
    for table in result.tables:
        lines += ["", *_table(table)]
    return "\n".join(lines)


def _table(table: Table) -> Iterable[str]:
    load = "as in the trace" if table.load is None else f"{table.load:g}"
    yield f"{table.about}; load {load}"
    names = sorted(table.policies[SHIPPED].waits)
    heads = "".join(f"{name:>17}" for name in names)
    yield (
        f"  {'':<14}{heads}{'light':>8}{'heavy':>8}{'fair':>6}{'leased':>8}{'used':>6}{'idle':>7}"
        f"{'fragm.':>7}{'longest':>9}{'passed':>7}"
    )
    for policy, own in table.policies.items():
        cells = "".join(f"{_pair(own.waits[name]):>17}" for name in names)
        longest = max(waits.longest for waits in own.waits.values())
        yield (
            f"  {policy:<14}{cells}{own.light:>8.2f}{own.heavy:>8.2f}{own.fairness:>6.2f}"
            f"{own.leased:>8.1%}{own.used:>6.0%}{own.idle:>7.1%}{own.fragments:>7.1%}"
            f"{longest:>9.1f}{own.bypassed:>7}"
            + (f"  NOT SERVED: {own.unserved}" if own.unserved else "")
        )
    for base in BASES:
        found = ", ".join(worse(table, base)) or "nothing"
        yield f"  worse than {base}: {found}"


def _pair(waits: Waits) -> str:
    return f"{waits.mean:.2f} / {waits.p95:.2f}"
