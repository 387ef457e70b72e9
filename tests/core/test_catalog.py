"""The catalog: AIME's grammar in both generations, bad rows told by line, exact lookup."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.architectures import ARCHITECTURES, CUDA_ARCHITECTURES
from ds01_spawner.core.catalog import Catalog, is_image_name, parse

REAL = Path(__file__).parents[3] / "shared" / "data" / "ml_images.repo"

needs_real = pytest.mark.skipif(
    not REAL.is_file(), reason="the real catalog is in ../shared/data, which is not here"
)

ROWS = """\
Pytorch, 2.8.0-aime, [CUDA_BLACKWELL], aimehub/pytorch-2.8.0-aime-cuda12.8.1
Pytorch, 2.8.0-aime, [CUDA_ADA], aimehub/pytorch-2.8.0-aime-cuda12.6.3
Pytorch, 2.7.1, [CUDA_ADA;CUDA_AMPERE], aimehub/pytorch-2.7.1
Tensorflow, 2.14.0, [CUDA_ADA;CUDA_AMPERE], aimehub/tensorflow-2.14.0-cuda11.8
Tensorflow, 2.11.0, [CUDA_AMPERE], aimehub/tensorflow-2.11.0-cuda11.2
"""


# --- reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "framework", "version", "architectures", "image"),
    [
        (
            "Pytorch, 2.9.1, [CUDA_BLACKWELL], aimehub/pytorch-2.9.1-cuda12.8.1",
            "Pytorch", "2.9.1", ("CUDA_BLACKWELL",), "aimehub/pytorch-2.9.1-cuda12.8.1",
        ),
        # the first generation: no brackets, and a fifth column that is ignored
        ("Pytorch, 2.5.0, CUDA_ADA, aimehub/x", "Pytorch", "2.5.0", ("CUDA_ADA",), "aimehub/x"),
        ("Pytorch, 1.7.0, CUDA, aimehub/x, 7", "Pytorch", "1.7.0", ("CUDA",), "aimehub/x"),
        # only the comma counts, and spaces within the set do not
        ("Mxnet,1.8.0,[CUDA],aimehub/m", "Mxnet", "1.8.0", ("CUDA",), "aimehub/m"),
        (
            "  Mxnet ,1.8.0,[ CUDA ; CUDA_AMPERE ],aimehub/m \r",
            "Mxnet", "1.8.0", ("CUDA", "CUDA_AMPERE"), "aimehub/m",
        ),
        ("Mxnet, 1, [CUDA;CUDA], aimehub/m", "Mxnet", "1", ("CUDA",), "aimehub/m"),
        # a framework that is named like a family, another registry, an explicit tag
        (
            "ROCM, 5.4.2, [ROCM5], rocm/dev-ubuntu-20.04:5.4.2-complete",
            "ROCM", "5.4.2", ("ROCM5",), "rocm/dev-ubuntu-20.04:5.4.2-complete",
        ),
        # what is in the image's name says nothing
        ("Pytorch, 1.3.0, [CUDA], aimehub/pytorch-1.3-cuda", "Pytorch", "1.3.0", ("CUDA",),
         "aimehub/pytorch-1.3-cuda"),
        ("Pytorch, 1.14.0a-nvidia, [CUDA], reg.example:5000/a/b_c:1.0", "Pytorch",
         "1.14.0a-nvidia", ("CUDA",), "reg.example:5000/a/b_c:1.0"),
    ],
)  # fmt: skip
def test_a_row_is_an_entry(
    row: str, framework: str, version: str, architectures: tuple[str, ...], image: str
) -> None:
    catalog = parse(row)
    assert not catalog.problems
    (entry,) = catalog.entries
    assert (entry.framework, entry.version) == (framework, version)
    assert (entry.architectures, entry.image, entry.line) == (architectures, image, 1)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("Pytorch, 2.8.0", "has 2 of 4 columns"),
        ("one line of text", "has 1 of 4 columns"),
        ("Pytorch, 2.8.0, [CUDA_ADA, aimehub/x", "have one bracket"),
        ("Pytorch, 2.8.0, CUDA_ADA], aimehub/x", "have one bracket"),
        (", 2.8.0, [CUDA], a/b", "the framework '' is not a name"),
        ("Py|torch, 2.8.0, [CUDA], a/b", "the framework 'Py|torch' is not a name"),
        ("<b>, 1, [CUDA], a/b", "the framework '<b>' is not a name"),
        ("Pytorch, , [CUDA], a/b", "the version '' is not a name"),
        ("Pytorch, latest, [CUDA], a/b", "latest is no version"),
        ("Pytorch, 1, [], a/b", "names no architecture"),
        ("Pytorch, 1, , a/b", "names no architecture"),
        ("Pytorch, 1, [CUDA_ADAA], a/b", "'CUDA_ADAA' is not a known architecture; did you mean"),
        ("Pytorch, 1, [cuda_ada], a/b", "did you mean CUDA_ADA?"),
        ("Pytorch, 1, [TPU], a/b", "known: CUDA, CUDA_AMPERE"),
        ("Pytorch, 1, [CUDA], ", "'' is not the name of an image"),
        ("Pytorch, 1, [CUDA], a/b:1:2", "'a/b:1:2' is not the name of an image"),
        ("Pytorch, 1, [CUDA], Upper/b", "'Upper/b' is not the name of an image"),
        ("Pytorch, 1, [CUDA], a b", "'a b' is not the name of an image"),
        ("Pytorch, 1, [CUDA], a/b\x1b[31m", "is not the name of an image"),
        ("framework, version, architecture, docker image", "is not the name of an image"),
    ],
)  # fmt: skip
def test_a_bad_row_is_told_by_its_line_and_skipped(row: str, problem: str) -> None:
    catalog = parse(f"{ROWS}{row}\nMxnet, 1, [CUDA], a/b\n")
    (told,) = catalog.problems
    assert told.line == 6
    assert problem in told.text
    assert "\x1b" not in told.text
    assert [e.line for e in catalog.entries] == [1, 2, 3, 4, 5, 7]


def test_of_a_row_with_one_misspelt_architecture_the_others_are_kept() -> None:
    catalog = parse("Pytorch, 1, [CUDA_ADA;CUDA_AMPER], a/b")
    assert catalog.entries[0].architectures == ("CUDA_ADA",)
    assert [note.line for note in catalog.problems] == [1]


def test_lines_are_counted_as_an_editor_does() -> None:
    catalog = parse("\ufeff# ours\n\nMxnet, 1, [CUDA], a/b\u2028\nbad\n")
    assert [entry.line for entry in catalog.entries] == [3]
    assert [note.line for note in catalog.problems] == [4]


def test_an_empty_text_is_an_empty_catalog() -> None:
    assert parse("") == parse("\n# nothing\n") == Catalog()


@given(st.one_of(st.text(), st.lists(st.text("PC[];, .:/_\n\r#", max_size=30)).map(", ".join)))
def test_reading_never_raises(text: str) -> None:
    catalog = parse(text)
    assert all(1 <= note.line <= text.count("\n") + 1 for note in catalog.problems)
    for entry in catalog.entries:
        assert entry.architectures
        assert is_image_name(entry.image)


name = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,10}", fullmatch=True).filter(
    lambda text: text != "latest"
)
row = st.tuples(
    name, name, st.lists(st.sampled_from(ARCHITECTURES), min_size=1, max_size=3, unique=True)
)


@given(st.lists(row, max_size=12))
def test_every_row_that_is_offered_is_found_and_is_the_first(
    rows: list[tuple[str, str, list[str]]],
) -> None:
    text = "\n".join(f"{f}, {v}, [{';'.join(a)}], x/y{i}" for i, (f, v, a) in enumerate(rows))
    catalog = parse(text)
    assert not catalog.problems
    assert len(catalog.entries) == len(rows)
    for entry, architecture in catalog.pairs():
        found = catalog.find(entry.framework, entry.version, architecture)
        assert found is not None
        assert found.line <= entry.line
        assert found in catalog.versions(entry.framework, (architecture,))
    hidden = {note.line for note in catalog.notices}
    unreachable = {
        e.line for e, a in catalog.pairs() if catalog.find(e.framework, e.version, a) != e
    }
    assert hidden == unreachable


# --- lookup ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framework", "version", "architecture", "line"),
    [
        ("Pytorch", "2.8.0-aime", "CUDA_ADA", 2),
        ("Pytorch", "2.8.0-aime", "CUDA_BLACKWELL", 1),
        ("Pytorch", "2.7.1", "CUDA_AMPERE", 3),  # in a set, which DS01's lookup did not see
        ("Tensorflow", "2.14.0", "CUDA_ADA", 4),
        ("Pytorch", "latest", "CUDA_ADA", 2),
        ("Pytorch", "latest", "CUDA_AMPERE", 3),
        ("Tensorflow", "latest", "CUDA_AMPERE", 4),
        # nothing ever falls back to something else
        ("Pytorch", "9.9", "CUDA_ADA", None),
        ("Pytorch", "2.8.0", "CUDA_ADA", None),
        ("Pytorch", "2.8.0-aime", "CUDA_AMPERE", None),
        ("Pytorch", "latest", "ROCM6", None),
        ("Pytorch", "Latest", "CUDA_ADA", None),
        ("PyTorch", "latest", "CUDA_ADA", None),
        ("pytorch", "2.7.1", "CUDA_ADA", None),
        ("Jax", "latest", "CUDA_ADA", None),
        ("Pytorch", "latest", "", None),
        ("", "", "", None),
    ],
)
def test_lookup_is_exact(framework: str, version: str, architecture: str, line: int | None) -> None:
    found = parse(ROWS).find(framework, version, architecture)
    assert (found.line if found else None) == line


@given(st.text(max_size=12), st.text(max_size=12), st.sampled_from((*ARCHITECTURES, "X")))
def test_a_lookup_that_answers_answers_what_was_asked(
    framework: str, version: str, architecture: str
) -> None:
    found = parse(ROWS).find(framework, version, architecture)
    assert found is None or (found.framework, found.version) == (framework, version)


def test_frameworks_and_versions_are_in_file_order() -> None:
    catalog = parse(ROWS)
    assert catalog.frameworks(("CUDA_AMPERE",)) == ("Pytorch", "Tensorflow")
    assert catalog.frameworks(("CUDA_BLACKWELL",)) == ("Pytorch",)
    assert catalog.frameworks(()) == ()
    assert [e.line for e in catalog.versions("Pytorch", ("CUDA_ADA",))] == [2, 3]
    assert [e.line for e in catalog.versions("Pytorch", CUDA_ARCHITECTURES)] == [1, 2, 3]
    assert catalog.versions("Nope", CUDA_ARCHITECTURES) == ()


def test_the_first_of_two_equal_rows_wins_and_the_other_is_a_notice() -> None:
    catalog = parse(
        "Tensorflow, 1.15.4-nvidia, [CUDA;CUDA_AMPERE], a/first\n"
        "Tensorflow, 1.15.4-nvidia, [CUDA_AMPERE;CUDA_ADA], a/second\n"
    )
    assert len(catalog.entries) == 2
    assert catalog.find("Tensorflow", "1.15.4-nvidia", "CUDA_AMPERE") == catalog.entries[0]
    assert catalog.find("Tensorflow", "1.15.4-nvidia", "CUDA_ADA") == catalog.entries[1]
    assert catalog.versions("Tensorflow", ("CUDA_AMPERE",)) == catalog.entries[:1]
    assert catalog.versions("Tensorflow", ("CUDA_AMPERE", "CUDA_ADA")) == catalog.entries
    (notice,) = catalog.notices
    assert notice.line == 2
    assert "is in line 1 already: the first one wins" in notice.text


# --- the catalogs that exist -----------------------------------------------------------------


@needs_real
def test_the_real_catalog_is_whole() -> None:
    catalog = parse(REAL.read_text(encoding="utf-8"))
    assert len(catalog.entries) == 117
    assert len(catalog.pairs()) == 129
    assert catalog.problems == ()
    (notice,) = catalog.notices
    assert (notice.line, "line 107" in notice.text) == (108, True)


@needs_real
@pytest.mark.parametrize(
    ("framework", "architecture", "version", "rows"),
    [
        ("Pytorch", "CUDA_BLACKWELL", "2.9.1", 7),
        ("Pytorch", "CUDA_ADA", "2.8.0-aime", 25),
        ("Pytorch", "CUDA_AMPERE", "2.7.1-aime", 31),
        ("Pytorch", "CUDA", "1.7.0", 8),
        ("Pytorch", "ROCM6", "2.6.0", 5),
        ("Pytorch", "ROCM5", "2.2.0", 5),
        ("Tensorflow", "CUDA_ADA", "2.16.1", 11),
        ("Tensorflow", "CUDA_AMPERE", "2.14.0", 19),
        ("Tensorflow", "CUDA", "2.4.0", 10),
        ("Tensorflow", "ROCM6", "2.13.1", 1),
        ("Tensorflow", "ROCM5", "2.11.0", 1),
        ("Mxnet", "CUDA_AMPERE", "1.8.0-nvidia", 1),
        ("Mxnet", "CUDA", "1.6.0", 4),
        ("ROCM", "ROCM5", "5.4.2", 1),
    ],
)
def test_the_real_catalogs_latest(
    framework: str, architecture: str, version: str, rows: int
) -> None:
    catalog = parse(REAL.read_text(encoding="utf-8"))
    latest = catalog.find(framework, "latest", architecture)
    assert latest is not None
    assert latest.version == version
    served = [e for e, a in catalog.pairs() if (e.framework, a) == (framework, architecture)]
    assert len(served) == rows


@needs_real
def test_the_starter_catalogs_rows_are_facts_of_the_real_one() -> None:
    real = parse(REAL.read_text(encoding="utf-8"))
    for entry, architecture in starter().pairs():
        fact = real.find(entry.framework, entry.version, architecture)
        assert fact is not None
        assert fact.image == entry.image
    for framework in real.frameworks(ARCHITECTURES):
        for architecture in ARCHITECTURES:
            ours = starter().find(framework, "latest", architecture)
            theirs = real.find(framework, "latest", architecture)
            assert (ours and ours.version) == (theirs and theirs.version)


def test_the_starter_catalog_is_clean() -> None:
    catalog = starter()
    assert 25 <= len(catalog.entries) <= 35
    assert catalog.problems == catalog.notices == ()
    assert {a for _, a in catalog.pairs()} == set(ARCHITECTURES)


def starter() -> Catalog:
    rows = resources.files("ds01_spawner").joinpath("data", "starter.repo")
    return parse(rows.read_text(encoding="utf-8"))
