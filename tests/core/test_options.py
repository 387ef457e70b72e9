"""user_options -> Request or the list of what is wrong, as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.catalog import parse as parse_catalog
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.options import Offer, from_form, parse
from ds01_spawner.core.policy import Preset
from ds01_spawner.errors import OptionsRefused

GIB = 1 << 30
CATALOG = parse_catalog(
    "Pytorch, 2.8.0-aime, [CUDA_ADA], aimehub/pytorch-2.8.0-aime\n"
    "Pytorch, 2.7.1, [CUDA_AMPERE], aimehub/pytorch-2.7.1\n"
    "Pytorch, 2.6.0, [CUDA_ADA;CUDA_AMPERE], aimehub/pytorch-2.6.0\n"
    "Tensorflow, 2.16.1, [CUDA_ADA], aimehub/tensorflow-2.16.1\n"
    "Pytorch, 2.6.0, [ROCM6], aimehub/pytorch-2.6.0-rocm\n"
)
LIMITS = Limits(
    max_gpu_equivalents=2.0, max_gpu_slots_per_container=2, max_cpus=8, memory=16 * GIB,
    max_runtime_h=24,
)  # fmt: skip
DL101 = Preset(
    name="dl101", title="Deep Learning", description="", groups=None, framework="Pytorch",
    version="2.6.0", architecture=None, bundles=("datascience",), pip=("torchinfo",), apt=(),
    gpus=1, gpu="any", cpus=None, memory=None, hours=2.0, recommended=False,
    allow=frozenset({"pip"}),
)  # fmt: skip
OFFER = Offer(
    catalog=CATALOG, architectures=("CUDA_ADA",), limits=LIMITS, presets={"dl101": DL101},
    bundles={"datascience": ("pandas", "scipy")}, profiles=("1g.10gb",), has_gpus=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"framework": "Pytorch", "version": "2.8.0-aime", "gpus": 0}),
        ({"v": 1}, {"version": "2.8.0-aime"}),
        ({"user_options": {}}, {"version": "2.8.0-aime"}),
        ({"user_options": {"gpus": 1}}, {"gpus": 1}),
        (None, {"version": "2.8.0-aime"}),
        ({"framework": "Tensorflow"}, {"version": "2.16.1"}),
        ({"framework": "Pytorch", "version": "latest"}, {"version": "2.8.0-aime"}),
        ({"framework": "Pytorch", "version": "2.6.0"}, {"version": "2.6.0"}),
        ({"framework": "Pytorch", "architecture": "CUDA_ADA"}, {"architecture": "CUDA_ADA"}),
        ({"gpus": 2, "gpu": "full"}, {"gpus": 2, "gpu": "full"}),
        ({"gpus": 1, "gpu": "1g.10gb"}, {"gpu": "1g.10gb"}),
        ({"pip": ["Pandas >=2", "pandas>=2"]}, {"pip": ("pandas>=2",)}),
        ({"apt": ["vim", "htop"]}, {"apt": ("htop", "vim")}),
        ({"bundles": ["datascience"]}, {"bundles": ("datascience",)}),
        ({"memory": "16G"}, {"memory": 16 * GIB}),
        ({"cpus": 8}, {"cpus": 8.0}),
        ({"hours": 0.5}, {"hours": 0.5}),
        ({"project": "my thesis"}, {"project": "my thesis"}),
        ({"preset": "dl101"}, {"preset": "dl101", "version": "2.6.0", "gpus": 1, "hours": 2.0}),
        ({"preset": "dl101", "hours": 1}, {"hours": 1.0}),
        ({"preset": "dl101", "pip": ["rich"]}, {"pip": ("rich",)}),
    ],
)
def test_allowed(options: object, expected: dict[str, object]) -> None:
    request = parse(options, OFFER)
    told = {
        "framework": request.entry.framework, "version": request.entry.version,
        **{f: getattr(request, f) for f in
           ("architecture", "preset", "bundles", "pip", "apt", "project", "gpus", "gpu", "cpus",
            "memory", "hours")},
    }  # fmt: skip
    assert {key: told[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("options", "field", "told"),
    [
        ([], "options", "JSON object"),
        ("x", "options", "JSON object"),
        ({"image": "evil/x:1"}, "'image'", "is not an option"),
        ({"v": 2}, "v", "'2' is not known"),
        ({"framework": "pytorch"}, "framework", "not in the catalog"),
        ({"framework": ["Pytorch"]}, "framework", "not in the catalog"),
        ({"framework": "Pytorch", "version": "9.9"}, "version", "not offered here"),
        ({"framework": "Pytorch", "version": "2.7.1"}, "version", "not offered here"),
        ({"framework": "Pytorch", "version": 2.6}, "version", "not offered here"),
        ({"version": "2.6.0"}, "framework", "is missing"),
        ({"framework": "Pytorch", "architecture": "ROCM6"}, "architecture", "not of this server"),
        ({"gpus": 3}, "gpus", "at most 2"),
        ({"gpus": -1}, "gpus", "not a number of GPUs"),
        ({"gpus": True}, "gpus", "not a number of GPUs"),
        ({"gpus": "1"}, "gpus", "not a number of GPUs"),
        ({"gpus": 1.5}, "gpus", "not a number of GPUs"),
        ({"gpu": "any"}, "gpu", "only for a server with at least one GPU"),
        ({"gpus": 1, "gpu": "3g.20gb"}, "gpu", "not a kind of GPU"),
        ({"gpus": 1, "gpu": "shared"}, "gpu", "not a kind of GPU"),
        ({"bundles": ["nope"]}, "bundles", "is not a bundle"),
        ({"bundles": "datascience"}, "bundles", "not a list"),
        ({"pip": "pandas"}, "pip", "not a list"),
        ({"pip": ["--index-url=http://evil"]}, "pip", "option of pip"),
        ({"pip": ["x; rm -rf /"]}, "pip", "not a package"),
        ({"pip": ["git+https://evil/x"]}, "pip", "address"),
        ({"apt": ["htop; reboot"]}, "apt", "not a system package"),
        ({"memory": "32G"}, "memory", "more than you may have"),
        ({"memory": 16}, "memory", "not a size"),
        ({"memory": "16"}, "memory", "not a size"),
        ({"memory": "1M"}, "memory", "too little"),
        ({"cpus": 9}, "cpus", "more than you may have"),
        ({"cpus": 0}, "cpus", "too little"),
        ({"cpus": float("nan")}, "cpus", "not a number"),
        ({"hours": 25}, "hours", "more than you may have"),
        ({"hours": "4"}, "hours", "not a number"),
        ({"hours": 10**400}, "hours", "not a number"),
        ({"gpus": 10**5000}, "gpus", "not a number"),
        ({str(n): n for n in range(1000)}, "options", "has 1000 keys"),
        ({"project": "../x"}, "project", "not a project name"),
        ({"project": ""}, "project", "not a project name"),
        ({"project": "a" * 41}, "project", "not a project name"),
        ({"preset": "nope"}, "preset", "not offered to you"),
        ({"preset": 7}, "preset", "not offered to you"),
        ({"preset": "dl101", "gpus": 2}, "gpus", "cannot be changed beside the preset"),
        ({"preset": "dl101", "framework": "Tensorflow"}, "framework", "beside the preset"),
    ],
)
def test_refused(options: object, field: str, told: str) -> None:
    with pytest.raises(OptionsRefused) as refused:
        parse(options, OFFER)
    problems = {p.field: str(p) for p in refused.value.problems}
    assert told in problems[field]


def test_all_wrong_fields_are_told_at_once() -> None:
    with pytest.raises(OptionsRefused) as refused:
        parse({"gpus": 9, "memory": "1T", "pip": ["-x"]}, OFFER)
    assert {p.field for p in refused.value.problems} == {"gpus", "memory", "pip"}


def test_a_refusal_lists_what_is_allowed() -> None:
    with pytest.raises(OptionsRefused, match=r"latest, 2\.8\.0-aime, 2\.6\.0"):
        parse({"framework": "Pytorch", "version": "9.9"}, OFFER)


def test_the_recommended_preset_is_the_default() -> None:
    offer = replace(OFFER, presets={"dl101": replace(DL101, recommended=True)})
    assert parse({}, offer).preset == "dl101"


def test_no_gpu_where_the_host_has_none() -> None:
    with pytest.raises(OptionsRefused, match="no GPU to give out"):
        parse({"gpus": 1}, replace(OFFER, has_gpus=False))


def test_the_admins_default_number_of_gpus() -> None:
    assert parse({}, replace(OFFER, default_gpus=1)).gpus == 1
    assert parse({"gpus": 0}, replace(OFFER, default_gpus=1)).gpus == 0
    assert parse({}, replace(OFFER, default_gpus=1, has_gpus=False)).gpus == 0


def test_a_host_of_two_architectures_offers_both() -> None:
    offer = replace(OFFER, architectures=("CUDA_AMPERE", "CUDA_ADA"))
    assert parse({"framework": "Pytorch", "version": "2.7.1"}, offer).architecture == "CUDA_AMPERE"
    wanted = {"framework": "Pytorch", "version": "2.6.0", "architecture": "CUDA_ADA"}
    assert parse(wanted, offer).architecture == "CUDA_ADA"


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ({}, {}),
        ({"_xsrf": ["x"]}, {}),
        (
            {"environment": ["Pytorch|2.6.0|CUDA_ADA"]},
            {"framework": "Pytorch", "version": "2.6.0", "architecture": "CUDA_ADA"},
        ),
        ({"pip": ["pandas\r\n\r\n rich "]}, {"pip": ["pandas", "rich"]}),
        ({"gpus": ["0"]}, {"gpus": 0}),
        ({"gpus": ["2:full"]}, {"gpus": 2, "gpu": "full"}),
        ({"gpus": ["x"]}, {"gpus": "x"}),
        ({"cpus": [""], "hours": ["1.5"]}, {"hours": 1.5}),
        (
            {"environment": ["preset:dl101"], "gpus": ["0"], "pip": ["rich"], "hours": ["1"]},
            {"preset": "dl101", "pip": ["rich"], "hours": 1},
        ),
        ({"unknown": ["x"]}, {"unknown": "x"}),
    ],
)
def test_form(form: dict[str, list[str]], options: dict[str, object]) -> None:
    assert from_form(form, OFFER.presets) == options


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["v", "preset", "framework", "version", "architecture", "bundles", "pip", "apt", "project",
     "gpus", "gpu", "cpus", "memory", "hours", "image"]
)  # fmt: skip


@given(st.dictionaries(KEYS, JSON, max_size=6) | JSON)
def test_any_json_is_a_request_or_a_refusal_in_words(options: object) -> None:
    try:
        request = parse(options, OFFER)
    except OptionsRefused as refused:
        assert refused.problems
        assert str(refused).isprintable()
    else:
        assert request.gpus <= 2
        assert (request.memory or 0) <= 16 * GIB
        assert (request.cpus or 0) <= 8
        assert (request.hours or 0) <= 24


def test_every_wrong_package_is_told() -> None:
    for key, items in (("pip", ["-x", "ok", "not a name"]), ("apt", ["htop", "Up", "a b"])):
        with pytest.raises(OptionsRefused) as caught:
            parse({key: items}, OFFER)
        (problem,) = caught.value.problems
        wrong = [item for item in items if item not in ("ok", "htop")]
        assert all(repr(item) in problem.problem for item in wrong), problem
    with pytest.raises(OptionsRefused, match="And 3 more"):
        parse({"pip": ["-x"] * 8}, OFFER)
