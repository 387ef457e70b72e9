"""Which cards to take together: the closest ones, and those that the others miss least."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import comb
from operator import add, itemgetter

MAX_SETS = 13_000  # that are compared; 8 of 16 cards are 12,870

Link = tuple[str, str, int]  # two cards and how close they are, the more the closer


def closest(
    fixed: Collection[str], pool: Sequence[str], count: int, links: Iterable[Link],
    free: Collection[str],
) -> tuple[str, ...]:  # fmt: skip
    """`count` cards of the pool, to go with the fixed ones; the earlier ones where all is equal.

    The greatest sum of links among all of these; then the least sum of links to those free cards
    that remain. With more sets than can be compared, card by card,
    from each card.
    """
    near = _near(links, free)
    if not 0 < count < len(pool) or near.keys().isdisjoint(pool):
        return tuple(pool[:count])
    degrees = [sum(near.get(card, {}).values()) for card in pool]
    scale = sum(degrees) + 1  # what a set costs the others only decides between equal sums
    rows = [[near.get(one, {}).get(other, 0) * scale for other in pool] for one in pool]
    gains = [
        sum(near.get(card, {}).get(other, 0) for other in fixed) * scale - degree
        for card, degree in zip(pool, degrees, strict=True)
    ]
    if comb(len(pool), count) <= MAX_SETS:
        _, chosen = _best(rows, gains, 0, count)
    else:
        tried = (_one_by_one(rows, gains, card, count) for card in range(len(pool)))
        _, chosen = max(tried, key=itemgetter(0))
    return tuple(pool[i] for i in chosen)


def _near(links: Iterable[Link], free: Collection[str]) -> dict[str, dict[str, int]]:
    near: dict[str, dict[str, int]] = {}
    for one, other, score in links:
        if one in free and other in free:
            near.setdefault(one, {})[other] = score
            near.setdefault(other, {})[one] = score
    return near


def _best(
    rows: list[list[int]], gains: list[int], first: int, count: int
) -> tuple[int, tuple[int, ...]]:
    """The worth of the best set of cards from `first` on, and the set.

    `gains` is what each card would add to those chosen before; carried along, so that no set is
    summed up anew.
    """
    if count == 1:
        worth = max(gains[first:])
        return worth, (gains.index(worth, first),)
    sets = []
    for card in range(first, len(rows) - count + 1):
        worth, others = _best(rows, list(map(add, gains, rows[card])), card + 1, count - 1)
        sets.append((worth + gains[card], (card, *others)))
    return max(sets, key=itemgetter(0))  # the first of equal ones


def _one_by_one(
    rows: list[list[int]], gains: list[int], card: int, count: int
) -> tuple[int, tuple[int, ...]]:
    """From a first card on, each time the one that adds most; the worth of the set, and the set."""
    worth = 0
    chosen: list[int] = []
    while True:
        worth += gains[card]
        chosen.append(card)
        if len(chosen) == count:
            return worth, tuple(sorted(chosen))
        gains = list(map(add, gains, rows[card]))
        card = max((i for i in range(len(rows)) if i not in chosen), key=gains.__getitem__)
