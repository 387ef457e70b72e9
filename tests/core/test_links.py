"""Which cards are taken together."""

from __future__ import annotations

from itertools import combinations
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds01_spawner.core.links import MAX_SETS, Link, closest


def links(text: str) -> list[Link]:
    """`ab3 cd1` as links."""
    return [(link[0], link[1], int(link[2:])) for link in text.split()]


# Two pairs with a bridge each, and all of them on one board: a-b, c-d.
PAIRS = "ab9 cd9 ac1 ad1 bc1 bd1"
# Two boards of four; on each, the cards in a ring.
BOARDS = "ab5 bc5 cd5 da5 ef5 fg5 gh5 he5"
CHOICES = [
    # fixed, pool, count, links, free -> chosen
    ("nothing known: the first", "", "abcd", 2, "", "", "ab"),
    ("links of other cards say nothing", "", "abcd", 2, "xy9", "abcdxy", "ab"),
    ("a pair", "", "acbd", 2, PAIRS, "", "ab"),
    ("the pair that is whole", "", "acd", 2, PAIRS, "", "cd"),
    ("three: a pair and one more", "", "abcd", 3, PAIRS, "", "abc"),
    ("all there are", "", "abcd", 4, PAIRS, "", "abcd"),
    ("none", "", "abcd", 0, PAIRS, "", ""),
    ("one: that no other misses", "", "abcde", 1, PAIRS, "", "e"),
    ("one: not of a whole pair", "", "abc", 1, PAIRS, "", "c"),
    ("one, where all are equal: the first", "", "abcd", 1, PAIRS, "", "a"),
    ("one that goes with those that are sure", "b", "acd", 1, PAIRS, "abcd", "a"),
    ("two of a ring are neighbours", "", "acbd", 2, BOARDS, "", "ab"),
    ("four are one board", "", "aebfcgdh", 4, BOARDS, "", "abcd"),
    ("the board that others have broken already", "", "bcdef", 2, BOARDS, "", "ef"),
    ("a taken card is not missed", "", "bcde", 1, BOARDS, "", "e"),
    ("a free card that does not fit is missed", "", "ac", 1, "ax9 cy1", "acxy", "c"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fixed", "pool", "count", "text", "free", "chosen"),
    [pytest.param(*row[1:], id=row[0]) for row in CHOICES],
)
def test_choice(fixed: str, pool: str, count: int, text: str, free: str, chosen: str) -> None:
    found = closest(fixed, pool, count, links(text), set(free or pool))
    assert sorted(found) == sorted(chosen)


@st.composite
def topologies(draw: st.DrawFn) -> tuple[str, str, list[Link]]:
    cards = "abcdefgh"[: draw(st.integers(2, 8))]
    scores = st.integers(0, 3)
    found = [(a, b, draw(scores)) for a, b in combinations(cards, 2)]
    some = draw(st.integers(0, len(cards) - 1))
    return cards[:some], cards[some:], found


@settings(max_examples=300)
@given(topologies(), st.integers(1, 8))
def test_no_other_set_is_better(topology: tuple[str, str, list[Link]], count: int) -> None:
    fixed, pool, found = topology
    count = min(count, len(pool))
    score = {frozenset(link[:2]): link[2] for link in found}

    def worth(cards: tuple[str, ...]) -> tuple[int, int]:
        taken = {*fixed, *cards}
        inside = sum(score[frozenset(pair)] for pair in combinations(sorted(taken), 2))
        rest = sorted({*fixed, *pool} - taken)
        return inside, sum(score[frozenset(pair)] for pair in combinations(rest, 2))

    chosen = closest(fixed, pool, count, found, {*fixed, *pool})
    assert len(set(chosen)) == count
    # The first of the best: `max` keeps the first of equals, in the order of the pool.
    assert chosen == max(combinations(pool, count), key=worth)
    assert closest(fixed, pool, count, [(b, a, s) for a, b, s in reversed(found)],
                   {*pool, *fixed}) == chosen  # fmt: skip


def test_with_too_many_sets_card_by_card() -> None:
    """32 cards on boards of eight: 8 of them are one board, as a full search would find."""
    cards = [f"{board}{card}" for card in range(8) for board in "wxyz"]
    found = [(a, b, 5 if a[0] == b[0] else 1) for a, b in combinations(cards, 2)]
    pool = [card for card in cards if card != "w7"]  # one board is broken
    assert comb(len(pool), 8) > MAX_SETS
    chosen = closest((), pool, 8, found, set(pool))
    assert chosen == tuple(f"x{card}" for card in range(8))
    assert closest((), pool, 8, found, set(pool)) == chosen
    # With some that are sure, those that go with them.
    rest = [card for card in pool if card not in ("y0", "y1")]
    chosen = closest(("y0", "y1"), rest, 6, found, set(pool))
    assert chosen == tuple(f"y{card}" for card in range(2, 8))
