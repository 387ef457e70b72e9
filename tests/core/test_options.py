"""user_options -> Request or the list of what is wrong, as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.catalog import CatalogEntry
from ds01_spawner.core.catalog import parse as parse_catalog
from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.options import Offer, parse, wants_gpu
from ds01_spawner.core.placement import Wanted
from ds01_spawner.core.policy import Preset
from ds01_spawner.core.runs import Needs, RunsOn, on_host, runs
from ds01_spawner.core.sharing import Sharing
from ds01_spawner.errors import FieldProblem, OptionsRefused

GIB = 1 << 30
CATALOG = parse_catalog(
    "Pytorch, 2.8.0-aime, [CUDA_ADA], aimehub/pytorch-2.8.0-aime\n"
    "Pytorch, 2.7.1, [CUDA_AMPERE], aimehub/pytorch-2.7.1\n"
    "Pytorch, 2.6.0, [CUDA_ADA;CUDA_AMPERE], aimehub/pytorch-2.6.0\n"
    "Tensorflow, 2.16.1, [CUDA_ADA], aimehub/tensorflow-2.16.1\n"
    "Pytorch, 2.6.0, [ROCM6], aimehub/pytorch-2.6.0-rocm\n"
    "Jax, 0.4, [ROCM6], x/jax\n"
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
    gpu_memory=80 * 10**9,
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
        ({"gpus": 1, "gpu_memory": "20G"}, {"gpu": "any", "gpu_memory": 20 * 10**9}),
        ({"gpus": 1}, {"gpu_memory": None}),
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
           ("architecture", "preset", "bundles", "pip", "apt", "project", "gpus", "gpu",
            "gpu_memory", "cpus", "memory", "hours")},
    }  # fmt: skip
    assert {key: told[key] for key in expected} == expected


EIGHTHS = replace(OFFER, sharing=Sharing(8, "1g.10gb", 2))


def test_a_seat_is_a_wish_for_a_part_of_one_device_by_the_rule_of_the_policy() -> None:
    for limits in (LIMITS, replace(LIMITS, allow_full_gpu=False)):
        offer = replace(EIGHTHS, limits=limits)
        request = parse({"gpus": 1, "gpu": "shared", "gpu_memory": "1G"}, offer)
        needs = Needs(("CUDA_ADA",))
        assert request.wanted == Wanted(1, "1g.10gb", needs, 10**9, 8, 2)
    assert parse({"gpus": 1, "gpu": "1g.10gb"}, EIGHTHS).wanted == Wanted(1, "1g.10gb", needs)
    assert parse({}, EIGHTHS).wanted == Wanted(0)


@pytest.mark.parametrize("gpus", [0, 2])
def test_a_seat_is_on_one_device(gpus: int) -> None:
    with pytest.raises(OptionsRefused) as caught:
        parse({"gpus": gpus, "gpu": "shared"}, EIGHTHS)
    assert [problem.field for problem in caught.value.problems] == ["gpu"]


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
        ({"framework": "Pytorch", "version": "2.7.1"}, "version", "2.7.1 is made for CUDA_AMPERE"),
        ({"framework": "Jax"}, "framework", "Jax 0.4 is made for AMD GPUs; this server has NVIDIA"),
        ({"version": "2.6.0"}, "framework", "is missing"),
        ({"framework": "Pytorch", "architecture": "ROCM6"}, "architecture", "not of this server"),
        ({"gpus": 3}, "gpus", "at most 2"),
        ({"gpus": -1}, "gpus", "not a number of GPUs"),
        ({"gpus": True}, "gpus", "not a number of GPUs"),
        ({"gpus": "1"}, "gpus", "not a number of GPUs"),
        ({"gpus": 1.5}, "gpus", "not a number of GPUs"),
        ({"gpu": "any"}, "gpu", "only for a server with at least one GPU"),
        ({"gpus": 1, "gpu": "3g.20gb"}, "gpu", "not a kind of GPU"),
        ({"gpus": 1, "gpu": "shared"}, "gpu", "no GPU of this server is shared"),
        ({"gpu_memory": "20G"}, "gpu_memory", "only for a server with at least one GPU"),
        ({"gpus": 1, "gpu_memory": "81G"}, "gpu_memory", "so much. Allowed: at most 80 GB."),
        ({"gpus": 1, "gpu_memory": "20"}, "gpu_memory", "not a size"),
        ({"gpus": 1, "gpu_memory": 20}, "gpu_memory", "not a size"),
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
        ({"preset": "dl101", "gpu_memory": "20G"}, "gpu_memory", "beside the preset"),
        ({"preset": "dl101", "framework": "Tensorflow"}, "framework", "beside the preset"),
    ],
)
def test_refused(options: object, field: str, told: str) -> None:
    with pytest.raises(OptionsRefused) as refused:
        parse(options, OFFER)
    problems = {p.field: str(p) for p in refused.value.problems}
    assert told in problems[field]


# --- images of the admin's own ------------------------------------------------------------------

GENOMICS = CatalogEntry("custom", "genomics", ("CUDA_ADA", "ROCM6"), "lab/genomics:1", 3, "Genes")
TUNED = CatalogEntry("Pytorch", "tuned", ("CUDA_ADA",), "lab/tuned:1", 4, "Tuned")
AMPERE = CatalogEntry("custom", "ampere", ("CUDA_AMPERE",), "lab/ampere:1", 5, "For <A100>")
OWN = replace(OFFER, catalog=CATALOG.with_rows([GENOMICS, TUNED, AMPERE]))


@pytest.mark.parametrize(
    ("options", "image"),
    [
        ({"framework": "custom", "version": "genomics"}, "lab/genomics:1"),
        ({"framework": "custom", "version": "genomics", "gpus": 1, "pip": ["rich"]},
         "lab/genomics:1"),
        ({"framework": "Pytorch", "version": "tuned"}, "lab/tuned:1"),
        # without one that is named, as without custom images
        ({}, "aimehub/pytorch-2.8.0-aime"),
        ({"framework": "Pytorch"}, "aimehub/pytorch-2.8.0-aime"),
    ],
)  # fmt: skip
def test_a_custom_image_is_chosen_by_its_name(options: dict[str, object], image: str) -> None:
    assert parse(options, OWN).entry.image == image


@pytest.mark.parametrize("name", ["genomics", "nonsense"])
def test_a_custom_image_of_others_is_refused_as_one_that_is_not_there(name: str) -> None:
    def refusal(options: dict[str, object], offer: Offer) -> FieldProblem:
        with pytest.raises(OptionsRefused) as caught:
            parse(options, offer)
        (problem,) = caught.value.problems
        return problem

    options: dict[str, object] = {"framework": "custom", "version": name}
    told = refusal(options, OFFER)
    assert (told.field, told.problem) == ("framework", "'custom' is not in the catalog.")
    assert told.allowed == ("Pytorch", "Tensorflow")
    one = replace(OFFER, catalog=CATALOG.with_rows([replace(GENOMICS, version="mine")]))
    told = refusal(options, one)
    assert (told.field, told.problem) == ("version", f"'{name}' of custom is not offered here.")
    assert told.allowed == ("latest", "mine")


def test_a_custom_image_that_is_not_for_this_host_is_told_by_its_title() -> None:
    with pytest.raises(OptionsRefused, match="For <A100> is made for CUDA_AMPERE"):
        parse({"framework": "custom", "version": "ampere"}, OWN)


def test_a_row_of_the_catalog_is_not_replaced_by_a_custom_image() -> None:
    rows = CATALOG.with_rows([replace(TUNED, version="2.6.0")])
    asked = {"framework": "Pytorch", "version": "2.6.0"}
    assert parse(asked, replace(OFFER, catalog=rows)).entry.image == "aimehub/pytorch-2.6.0"
    assert rows.entries[: len(CATALOG.entries)] == CATALOG.entries


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


def test_devices_of_an_architecture_that_is_shut_are_refused_with_the_reason() -> None:
    offer = replace(OFFER, architectures=("CUDA_ADA", "ROCM6"), shut={"CUDA_ADA": "shut for now."})
    for options in ({"gpus": 1}, {"preset": "dl101"}):
        with pytest.raises(OptionsRefused, match="gpus: shut for now"):
            parse(options, offer)
    with pytest.raises(OptionsRefused, match="shut for now"):  # nor silently with none
        parse({}, replace(offer, default_gpus=1))
    assert parse({}, offer).gpus == 0
    assert parse({"framework": "Pytorch", "architecture": "ROCM6", "gpus": 1}, offer).gpus == 1


@pytest.mark.parametrize(
    ("options", "wants"),
    [({"gpus": 1}, True), ({"gpus": 0}, False), ({}, False), ({"gpus": 1, "what": 1}, False)],
)
def test_a_gpu_that_is_shut_is_wanted_too(options: dict[str, object], wants: bool) -> None:
    offer = replace(OFFER, shut=dict.fromkeys(OFFER.architectures, "shut for now."))
    assert wants_gpu(options, offer) is wants


def test_a_host_of_two_architectures_offers_both() -> None:
    offer = replace(OFFER, architectures=("CUDA_AMPERE", "CUDA_ADA"))
    assert parse({"framework": "Pytorch", "version": "2.7.1"}, offer).architecture == "CUDA_AMPERE"
    wanted = {"framework": "Pytorch", "version": "2.6.0", "architecture": "CUDA_ADA"}
    assert parse(wanted, offer).architecture == "CUDA_ADA"


def test_the_devices_of_a_server_are_all_that_run_the_image_unless_one_class_is_wished() -> None:
    offer = replace(OFFER, architectures=("CUDA_AMPERE", "CUDA_ADA"))
    any_class = {"framework": "Pytorch", "version": "2.6.0", "gpus": 1}
    assert parse(any_class, offer).needs == Needs(("CUDA_ADA", "CUDA_AMPERE"))
    wished = {**any_class, "architecture": "CUDA_AMPERE"}
    assert parse(wished, offer).needs == Needs(("CUDA_AMPERE",))
    ruled = replace(offer, runs_on={"Pytorch/*": RunsOn(("CUDA_AMPERE",), (8, 6), (12, 1))})
    assert parse(any_class, ruled).needs == Needs(("CUDA_AMPERE",), (12, 1), (8, 6))


# --- rows that no device here runs ----------------------------------------------------------------

OLD_DRIVER = Snapshot(
    devices=(Device("L40", "gpu", "L40", "CUDA_ADA", 2520, 48 * GIB, compute_capability=(8, 9)),),
    cuda=(11, 8),
    driver="520.61.05",
)
ROWS = (
    "Jax, 0.5, [CUDA_ADA], x/jax-0.5-cuda13.0\n"
    "Pytorch, 2.9, [CUDA_ADA;CUDA_AMPERE], x/pytorch-2.9-cuda12.8\n"
    "Pytorch, 2.8, [CUDA_ADA], x/pytorch-2.8-cuda11.8\n"
    "Pytorch, 2.7, [CUDA_ADA], x/pytorch-2.7-cuda11.8\n"
)
NEEDS_12_8 = (
    "Pytorch 2.9 needs CUDA 12.8, and this server's driver has 11.8: ask the administrator for a "
    "newer driver. Without a GPU it can be started."
)


def with_old_driver(rows: str = ROWS, **rules: RunsOn) -> Offer:
    catalog, barred = on_host(parse_catalog(rows), rules, OLD_DRIVER)
    return replace(OFFER, catalog=catalog, barred=barred, runs_on=rules)


@pytest.mark.parametrize(
    ("options", "version"),
    [
        ({}, "2.8"),  # the latest that runs with a GPU, with one and without
        ({"gpus": 1}, "2.8"),
        ({"framework": "Pytorch"}, "2.8"),
        ({"framework": "Pytorch", "version": "2.7", "gpus": 1}, "2.7"),
        # without a GPU, driver and card do not matter
        ({"framework": "Pytorch", "version": "2.9"}, "2.9"),
        ({"framework": "Pytorch", "version": "2.9", "architecture": "CUDA_ADA", "gpus": 0}, "2.9"),
        ({"framework": "Jax"}, "0.5"),
    ],
)
def test_what_no_device_runs_is_not_the_latest_and_starts_without_one(
    options: dict[str, object], version: str
) -> None:
    request = parse(options, with_old_driver())
    assert request.entry.version == version


@pytest.mark.parametrize(
    ("options", "field", "allowed"),
    [
        ({"framework": "Pytorch", "version": "2.9"}, "version", ("latest", "2.8", "2.7")),
        ({"framework": "Pytorch", "version": "2.9", "architecture": "CUDA_ADA"}, "version",
         ("latest", "2.8", "2.7")),
        ({"framework": "Jax"}, "framework", ()),
        ({"framework": "Jax", "version": "latest"}, "version", ()),
    ],
)  # fmt: skip
def test_what_no_device_runs_is_refused_with_a_gpu(
    options: dict[str, object], field: str, allowed: tuple[str, ...]
) -> None:
    with pytest.raises(OptionsRefused) as refused:
        parse({**options, "gpus": 1}, with_old_driver())
    (problem,) = refused.value.problems
    assert (problem.field, problem.allowed) == (field, allowed)
    if options["framework"] == "Pytorch":
        assert problem.problem == NEEDS_12_8
    else:
        assert problem.problem.startswith("Jax 0.5 needs CUDA 13.0, and this server's driver has")


def test_with_nothing_that_runs_the_first_row_starts_without_a_gpu() -> None:
    offer = with_old_driver("Pytorch, 2.9, [CUDA_ADA], x/pytorch-2.9-cuda12.8\n")
    assert parse({}, offer).entry.version == "2.9"
    with pytest.raises(OptionsRefused, match=r"needs CUDA 12\.8"):
        parse({"gpus": 1}, offer)


def test_an_admins_word_lets_it_run() -> None:
    offer = with_old_driver(**{"x/pytorch-2.9-*": RunsOn(anything=True)})
    request = parse({"framework": "Pytorch", "gpus": 1}, offer)
    assert request.entry.version == "2.9"
    assert request.needs is not None
    assert runs(request.needs, OLD_DRIVER.devices[0], OLD_DRIVER)


def test_a_row_that_runs_is_not_hidden_by_one_that_does_not() -> None:
    rows = (
        "Pytorch, 2.9, [CUDA_AMPERE], x/pytorch-2.9-cuda12.8\n"
        "Pytorch, 2.9, [CUDA_ADA], x/pytorch-2.9-cuda11.8\n"
    )
    widened = RunsOn(("CUDA_AMPERE", "CUDA_ADA"))
    offer = with_old_driver(rows, **{"*12.8": widened})
    request = parse({"framework": "Pytorch", "version": "2.9", "gpus": 1}, offer)
    assert request.entry.image == "x/pytorch-2.9-cuda11.8"


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "framework": st.sampled_from(["Jax", "Pytorch"]),
            "version": st.sampled_from(["latest", "0.5", "2.9", "2.8", "2.7"]),
            "architecture": st.sampled_from(["CUDA_ADA", "CUDA_AMPERE"]),
            "gpus": st.integers(0, 2),
        },
    )
)
def test_what_is_let_through_with_a_gpu_runs_on_one(options: dict[str, object]) -> None:
    try:
        request = parse(options, with_old_driver())
    except OptionsRefused:
        return
    if request.gpus:
        assert request.needs is not None
        assert any(runs(request.needs, device, OLD_DRIVER) for device in OLD_DRIVER.devices)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["v", "preset", "framework", "version", "architecture", "bundles", "pip", "apt", "project",
     "gpus", "gpu", "gpu_memory", "cpus", "memory", "hours", "image"]
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
