"""A build's output: lines, a bounded number of them, and an end to what has none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ds01_spawner.services.build_output import KEPT, MAX_OUTPUT, RATE, BuildOutput, EndlessOutput
from ds01_spawner.services.engine import EngineStreamError, Json


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def printed(*texts: str) -> Iterator[Json]:
    return iter([{"stream": text} for text in texts])


def numbered(first: int, end: int) -> str:
    return "".join(f"{number}\n" for number in range(first, end))


def test_pieces_become_lines_and_a_long_line_parts() -> None:
    output = BuildOutput(Clock())
    pieces = printed("one\ntw", "o\n\n\x1b[1mthree\r\n", "x" * 10_000, "\ntail")
    lines = ["one", "two", "", "\x1b[1mthree", "x" * 8192, "x" * 1808, "tail"]
    assert list(output.lines(pieces)) == lines


def test_of_a_flood_its_first_and_last_lines_are_passed_on_and_the_rest_counted() -> None:
    output = BuildOutput(Clock())
    lines = list(output.lines(printed(numbered(0, 9_000), numbered(9_000, 20_000))))
    assert lines[:RATE] == [str(number) for number in range(RATE)]
    assert lines[RATE] == f"… {20_000 - RATE - KEPT} lines are left out"
    assert lines[RATE + 1 :] == [str(number) for number in range(20_000 - KEPT, 20_000)]


def test_after_a_flood_lines_come_again() -> None:
    clock = Clock()

    def pieces() -> Iterator[Json]:
        yield {"stream": numbered(0, RATE + 10)}
        clock.time = 1.0
        yield {"stream": "then\n"}

    lines = list(BuildOutput(clock).lines(pieces()))
    assert lines == [*map(str, range(RATE + 10)), "then"]


def test_the_engines_step_is_never_among_those_left_out() -> None:
    pieces = printed(
        numbered(0, 5_000), "Step 3/4 : RUN b", "\n", numbered(0, 5_000), "Step 4/4 : RUN c", "\n",
        numbered(0, 5_000),
    )  # fmt: skip
    assert "Step 4/4 : RUN c" in list(BuildOutput(Clock()).lines(pieces))


def test_an_error_comes_after_the_last_words() -> None:
    def pieces() -> Iterator[Json]:
        yield {"stream": numbered(0, 5_000)}
        yield {"stream": "ERROR: no such package\nand that was all"}
        raise EngineStreamError("exit 1", 1)

    lines: list[str] = []
    with pytest.raises(EngineStreamError):
        lines.extend(BuildOutput(Clock()).lines(pieces()))
    # extend keeps what came before the exception
    assert lines[-2:] == ["ERROR: no such package", "and that was all"]


@pytest.mark.parametrize("item", ["y\n" * 16_384, "\0" * 32_768, "\n" * 32_768])
def test_output_without_end_is_given_up(item: str) -> None:
    taken = 0

    def pieces() -> Iterator[Json]:
        nonlocal taken
        while True:
            taken += len(item)
            yield {"stream": item}

    count = 0
    with pytest.raises(EndlessOutput):
        for line in BuildOutput(Clock()).lines(pieces()):
            count += len(line) >= 0
    assert taken <= MAX_OUTPUT + len(item)
    assert count <= RATE + KEPT + 2


def test_the_image_is_told_at_the_end() -> None:
    output = BuildOutput(Clock())
    items: list[Json] = [{"aux": {"ID": "sha256:a"}}, {"aux": {}}, {"stream": "done\n"}]
    assert list(output.lines(iter(items))) == ["done"]
    assert output.image == "sha256:a"
