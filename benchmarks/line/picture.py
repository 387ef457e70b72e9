"""The result as a picture: of each class of size the mean wait and p95 over the load, in SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from benchmarks.line.report import Result, Table

# Told apart by eyes that do not see all colours (Okabe and Ito).
COLOURS = {"fcfs by kind": "#777777", "who fits": "#e69f00", "shipped": "#0072b2"}
WIDTH, HEIGHT, GAP, LEFT, TOP = 190, 130, 26, 60, 84
ROOF_H = 24.0  # a policy that does not keep up leaves the picture at a day


def draw(result: Result) -> str:
    """An SVG: a row for each host, a panel for each class of size; empty without loads."""
    rows: dict[str, list[Table]] = {}
    for table in result.tables:
        if table.load is not None:
            rows.setdefault(table.about, []).append(table)
    most = max((len(_classes(tables)) for tables in rows.values()), default=0)
    width = LEFT + most * (WIDTH + GAP) + 20
    height = TOP + len(rows) * (HEIGHT + 86)
    parts = [*_legend()]
    for number, (about, tables) in enumerate(rows.items()):
        top = TOP + number * (HEIGHT + 86)
        parts.append(_text(LEFT, top - 8, about, weight="bold"))
        for place, name in enumerate(_classes(tables)):
            parts += _panel(LEFT + place * (WIDTH + GAP), top + 20, name, tables)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _classes(tables: Sequence[Table]) -> list[str]:
    return sorted(next(iter(tables[0].policies.values())).waits)


def _legend() -> Iterable[str]:
    yield _text(LEFT, 22, "Wait for a GPU in hours over the load", weight="bold", size=15)
    x = LEFT
    for name, colour in COLOURS.items():
        yield f'<path d="M{x} 44h22" stroke="{colour}" stroke-width="2.5"/>'
        yield _text(x + 28, 48, name)
        x += 45 + 8 * len(name)
    yield _text(x, 48, "full line: mean, dashed: p95", fill="#555555")


def _panel(left: float, top: float, name: str, tables: Sequence[Table]) -> Iterable[str]:
    loads = [table.load or 0.0 for table in tables]
    series = {
        (policy, what): [getattr(table.policies[policy].waits[name], what) for table in tables]
        for policy in COLOURS
        for what in ("mean", "p95")
    }
    roof = min(ROOF_H, max(max(values) for values in series.values()) * 1.05) or 1.0
    span = (max(loads) - min(loads)) or 1.0

    def at(load: float, wait: float) -> tuple[float, float]:
        x = left + (load - min(loads)) / span * WIDTH
        return round(x, 1), round(top + HEIGHT - min(wait, roof) / roof * HEIGHT, 1)

    yield f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="#f7f7f7"/>'
    for wait in (0.0, roof / 2, roof):
        y = at(loads[0], wait)[1]
        yield f'<path d="M{left} {y}h{WIDTH}" stroke="#d0d0d0"/>'
        yield _text(left - 4, y + 4, f"{wait:.2g}", anchor="end", fill="#555555")
    for load in (min(loads), max(loads)):
        yield _text(at(load, 0)[0], top + HEIGHT + 16, f"{load:g}", anchor="middle", fill="#555555")
    yield _text(left + WIDTH / 2, top - 6, name, anchor="middle")
    for (policy, what), values in series.items():
        points = " ".join("{},{}".format(*at(*pair)) for pair in zip(loads, values, strict=True))
        dash = ' stroke-dasharray="5 4"' if what == "p95" else ""
        yield (
            f'<polyline points="{points}" fill="none" stroke="{COLOURS[policy]}" '
            f'stroke-width="{2.5 if what == "mean" else 1.5}"{dash}/>'
        )


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", size: int = 12,
    fill: str = "#222222",
) -> str:  # fmt: skip
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}" '
        f'font-size="{size}" fill="{fill}">{escape(text)}</text>'
    )
