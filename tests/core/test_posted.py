"""What a posted form means: the options it stands for, and what cannot even be read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.policy import Preset
from ds01_spawner.core.posted import UPLOAD, from_form
from ds01_spawner.core.requirements import MAX_LIST

PRESETS = {
    "dl101": Preset(name="dl101", title="T", framework="Pytorch", allow=frozenset({"pip"})),
    "shut": Preset(name="shut", title="T", framework="Pytorch"),
}
LOCK = "pandas==2 \\\n    --hash=sha256:a \\\n    --hash=sha256:b\n\n# the rest\nrich"


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ({}, {}),
        ({"_xsrf": ["x"]}, {}),
        (
            {"environment": ["Pytorch|2.6.0|CUDA_ADA"]},
            {"framework": "Pytorch", "version": "2.6.0", "architecture": "CUDA_ADA"},
        ),
        # empty lines stay, for the numbers of the others
        ({"pip": ["pandas\r\n\r\n rich \r\n"]}, {"pip": ["pandas", "", " rich"]}),
        ({"pip": ["\n\n \n"]}, {}),
        ({"pip": [LOCK]}, {"pip": LOCK.split("\n")}),
        ({"apt": ["vim\r\n\r\n htop "]}, {"apt": ["vim", "htop"]}),
        ({"gpus": ["0"]}, {"gpus": 0}),
        ({"gpus": ["2:full"]}, {"gpus": 2, "gpu": "full"}),
        ({"gpus": ["x"]}, {"gpus": "x"}),
        ({"cpus": [""], "hours": ["1.5"]}, {"hours": 1.5}),
        (
            {"gpus": ["1:full"], "gpu_memory": [" 20G "]},
            {"gpus": 1, "gpu": "full", "gpu_memory": "20G"},
        ),
        (
            {"environment": ["preset:dl101"], "gpus": ["0"], "pip": ["rich"], "hours": ["1"]},
            {"preset": "dl101", "pip": ["rich"], "hours": 1},
        ),
        ({"unknown": ["x"]}, {"unknown": "x"}),
    ],
)
def test_form(form: dict[str, list[str]], options: dict[str, object]) -> None:
    assert from_form(form, PRESETS) == (options, ())


def file(body: bytes) -> dict[str, list[Any]]:
    """As the hub hands over what was uploaded; without a file, browsers post an empty text."""
    upload = {"filename": "requirements.txt", "body": body, "content_type": "text/plain"}
    return {"requirements": [""], UPLOAD: [upload]}


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (b"pandas>=2\n\nrich\n", ["pandas>=2", "", "rich"]),
        (b"pandas>=2\r\nrich", ["pandas>=2", "rich"]),
        (LOCK.encode(), LOCK.split("\n")),
        (b"\xef\xbb\xbfpandas  # caf\xc3\xa9", ["pandas  # café"]),
        ("\ufeffpandas\r\nrich\r\n".encode("utf-16-le"), ["pandas", "rich"]),
        ("\ufeffpandas\n".encode("utf-16-be"), ["pandas"]),
    ],
)
def test_an_uploaded_file_takes_the_place_of_the_list(body: bytes, lines: list[str]) -> None:
    assert from_form(file(body)) == ({"pip": lines}, ())
    assert from_form({"pip": ["numpy"], "apt": ["vim"], **file(body)}) == (
        {"pip": lines, "apt": ["vim"]},
        (),
    )


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "the file is empty."),
        (b"\xef\xbb\xbf \r\n", "the file is empty."),
        (b"caf\xe9", "the file is not text; save the list as UTF-8."),
        (b"\xff\xfe\x00", "the file is not text; save the list as UTF-8."),
        (b"\x89PNG\r\n", "the file is not text; save the list as UTF-8."),
        (b"x" * (MAX_LIST + 1), "the file is longer than 100,000 bytes."),
    ],
)
def test_a_file_that_cannot_be_read_says_so_and_the_rest_is_kept(body: bytes, why: str) -> None:
    posted = from_form({"hours": ["1"], "pip": ["rich"], **file(body)}, PRESETS)
    assert posted.options == {"hours": 1, "pip": ["rich"]}
    assert [(p.field, p.problem) for p in posted.problems] == [("pip", why)]


def test_beside_a_preset_a_file_is_read_where_the_preset_opens_the_packages() -> None:
    shut, opened = {"environment": ["preset:shut"]}, {"environment": ["preset:dl101"]}
    assert from_form({**shut, **file(b"rich")}, PRESETS) == ({"preset": "shut"}, ())
    assert from_form({**shut, **file(b"")}, PRESETS) == ({"preset": "shut"}, ())
    assert from_form({**opened, **file(b"rich")}, PRESETS).options["pip"] == ["rich"]
    assert from_form({**opened, **file(b"")}, PRESETS).problems


@pytest.mark.parametrize("key", ["pip", "apt", "project", "unknown"])
def test_what_is_too_long_says_so_and_the_rest_is_kept(key: str) -> None:
    posted = from_form({key: ["x" * (MAX_LIST + 1)], "hours": ["1"]})
    assert posted.options == {"hours": 1}
    assert [p.field for p in posted.problems] == [key]
    assert "is longer than" in posted.problems[0].problem


FILES = st.fixed_dictionaries({"body": st.binary(max_size=50)})


@given(
    st.dictionaries(
        st.sampled_from(["pip", "gpus", "environment", "bundles", "hours", UPLOAD, "x_file"]),
        st.lists(st.text(max_size=20) | FILES, max_size=3),
    )
)
def test_whatever_is_posted_is_read(form: dict[str, list[Any]]) -> None:
    posted = from_form(form, PRESETS)
    assert set(posted.options) <= {
        "pip", "gpus", "gpu", "framework", "version", "architecture", "preset", "bundles", "hours",
        "x_file",
    }  # fmt: skip
    assert {problem.field for problem in posted.problems} <= {"pip"}
