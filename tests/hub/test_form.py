"""The options form as HTML: what it offers, what it explains, what it keeps, what it survives."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds01_spawner.core.catalog import CatalogEntry
from ds01_spawner.core.catalog import parse as parse_catalog
from ds01_spawner.core.devices import Snapshot
from ds01_spawner.core.limits import Limits
from ds01_spawner.core.options import Offer, parse
from ds01_spawner.core.policy import Preset
from ds01_spawner.core.posted import from_form
from ds01_spawner.core.requirements import MAX_LIST
from ds01_spawner.core.runs import on_host
from ds01_spawner.core.sharing import Shared, Sharing
from ds01_spawner.errors import EngineUnavailable, FieldProblem, OptionsRefused
from ds01_spawner.hub.form import Facts, render, render_trouble
from ds01_spawner.hub.line import Place
from ds01_spawner.services.inventory.simulated import SimulatedInventory

CATALOG = """\
Pytorch, 2.7.1, [CUDA_AMPERE], a/pytorch-2.7.1
Pytorch, 2.6.0, [CUDA_AMPERE], a/pytorch-2.6.0
Pytorch, 2.8.0, [CUDA_ADA], a/pytorch-2.8.0
Tensorflow, 2.14.0, [CUDA_ADA;CUDA_AMPERE], a/tensorflow-2.14.0
Pytorch, 2.6.0, [ROCM6], a/pytorch-rocm
"""
AT = datetime(2026, 1, 5, 15, 40, tzinfo=timezone.utc)
NASTY = "\"><script>alert(1)</script>{{ 7*7 }}'&"
BACK = "Taken at the moment; you can wait in line for it."
GONE = "Out of order, or set aside by the administrator."
FULL_CATALOG = Path(__file__).parents[2] / "../shared/data/ml_images.repo"


class Form(HTMLParser):
    """The inputs and the text of a rendered form."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[str] = []
        self.inputs: list[dict[str, str | None]] = []
        self.texts: dict[str, str] = {}  # of textareas
        self.words = ""
        self._area = ""
        self.feed(html)
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "input":
            self.inputs.append(dict(attrs))
        elif tag == "textarea":
            self._area = dict(attrs)["name"] or ""
            self.texts[self._area] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._area = ""

    def handle_data(self, data: str) -> None:
        if self._area:
            self.texts[self._area] += data
        self.words += data

    def values(self, name: str) -> list[str]:
        return [str(i["value"]) for i in self.inputs if i["name"] == name]

    def checked(self, name: str) -> list[str]:
        return [str(i["value"]) for i in self.inputs if i["name"] == name and "checked" in i]

    def shut(self) -> list[str]:
        return [str(i["value"]) for i in self.inputs if "disabled" in i]

    def posted(self) -> dict[str, list[str]]:
        """What a browser would post."""
        fields = {name: [text] for name, text in self.texts.items()}
        for each in self.inputs:
            if each.get("type") not in ("radio", "checkbox", "file") or "checked" in each:
                fields.setdefault(str(each["name"]), []).append(str(each["value"]))
        return fields


async def devices(description: str) -> Snapshot:
    return await SimulatedInventory(description, "host").snapshot()


async def facts(gpus: str = "2xA100-40GB", **more: Any) -> Facts:
    snapshot = await devices(gpus)
    offer = Offer(
        catalog=parse_catalog(CATALOG),
        architectures=snapshot.architectures,
        limits=Limits(max_gpu_equivalents=2, max_gpu_slots_per_container=4),
        bundles={"datascience": ("pandas", "scipy")},
        profiles=tuple(dict.fromkeys(d.profile for d in snapshot.devices if d.profile)),
        has_gpus=True,
    )
    return replace(Facts(offer, snapshot), **more)


def with_limits(facts: Facts, **limits: Any) -> Facts:
    return replace(facts, offer=replace(facts.offer, limits=replace(facts.offer.limits, **limits)))


def shown(facts: Facts) -> Form:
    return Form(render(facts))


# --- what is offered ------------------------------------------------------------------------------


async def test_environments_of_this_host_in_file_order_the_first_one_recommended() -> None:
    form = shown(await facts())
    assert form.values("environment") == [
        "Pytorch|2.7.1|CUDA_AMPERE",
        "Pytorch|2.6.0|CUDA_AMPERE",
        "Tensorflow|2.14.0|CUDA_AMPERE",
    ]
    assert form.checked("environment") == ["Pytorch|2.7.1|CUDA_AMPERE"]
    assert "PyTorch 2.7.1recommended" in form.words
    assert form.checked("gpus") == ["0"]


async def test_the_rest_is_told_with_its_reason() -> None:
    words = shown(await facts()).words
    assert "Made for CUDA_ADA (RTX 40, L40, H100, H200); this server is CUDA_AMPERE" in words
    assert "Made for AMD GPUs; this server has NVIDIA GPUs." in words


async def test_on_a_host_of_two_architectures_each_has_its_card_and_its_gpus() -> None:
    form = shown(await facts("1xA100-40GB,1xH100-80GB:mig=2x1g.10gb"))
    pytorch = [v for v in form.values("environment") if v.startswith("Pytorch")]
    assert pytorch == [
        "Pytorch|2.7.1|CUDA_AMPERE", "Pytorch|2.6.0|CUDA_AMPERE", "Pytorch|2.8.0|CUDA_ADA",
    ]  # fmt: skip
    assert 'data-gpus="CUDA_AMPERE"' in form.html
    assert 'data-gpus="CUDA_ADA"' in form.html
    assert form.values("gpus") == ["0", "1:full", "1:1g.10gb"]


async def test_the_first_card_is_the_recommended_one_whatever_the_order_of_the_devices() -> None:
    here = await facts("1xA100-40GB,1xH100-80GB")
    newest = "Pytorch, 2.9.0, [CUDA_ADA], a/pytorch-2.9.0\n" + CATALOG
    form = shown(replace(here, offer=replace(here.offer, catalog=parse_catalog(newest))))
    assert form.values("environment")[0] == "Pytorch|2.9.0|CUDA_ADA"
    assert form.checked("environment") == ["Pytorch|2.9.0|CUDA_ADA"]
    assert form.words.count("Not for the environment that is chosen above.") == 2


async def test_each_server_is_told_when_it_ends() -> None:
    here = with_limits(await facts(), max_runtime_h=12, idle_timeout_h=1)
    assert "12 h until it is stopped, 1 h with a GPU that nothing uses" in shown(here).words
    without = replace(here, offer=replace(here.offer, has_gpus=False))
    assert "nothing uses" not in shown(without).words


async def test_a_host_without_devices_offers_what_its_setting_says() -> None:
    seen = await facts()
    offer = replace(seen.offer, architectures=("CUDA_AMPERE", "CUDA_ADA"), has_gpus=False)
    form = shown(replace(seen, offer=offer, snapshot=Snapshot()))
    assert form.values("gpus") == ["0"]
    assert "no GPU on this server" in form.words
    assert form.values("gpu_memory") == []
    assert "Pytorch|2.8.0|CUDA_ADA" in form.values("environment")


# --- what no device of this host runs -------------------------------------------------------------

OLD_DRIVER = """\
Pytorch, 2.9, [CUDA_AMPERE], a/pytorch-2.9-cuda12.8
Pytorch, 2.8, [CUDA_AMPERE], a/pytorch-2.8-cuda11.8
Jax, 0.5, [CUDA_AMPERE], a/jax-0.5-cuda12.8
Jax, 0.4, [ROCM6], a/jax-0.4-rocm
"""


async def with_old_driver(**more: Any) -> Facts:
    seen = await facts(**more)
    snapshot = replace(seen.snapshot, cuda=(11, 8), driver="520.61.05")
    catalog, barred = on_host(parse_catalog(OLD_DRIVER), {}, snapshot)
    offer = replace(seen.offer, catalog=catalog, barred=barred)
    return replace(seen, offer=offer, snapshot=snapshot)


async def test_what_no_device_runs_is_told_with_its_reason_and_starts_without_one() -> None:
    form = shown(await with_old_driver())
    assert form.values("environment") == [
        "Pytorch|2.8|CUDA_AMPERE",
        "Pytorch|2.9|CUDA_AMPERE",
        "Jax|0.5|CUDA_AMPERE",
    ]
    assert form.checked("environment") == ["Pytorch|2.8|CUDA_AMPERE"]
    assert "PyTorch 2.8recommended" in form.words
    assert (
        "Not for this server (3) Needs CUDA 12.8, and this server's driver has 11.8: ask the "
        "administrator for a newer driver. Without a GPU: PyTorch 2.9 Jax 0.5 Made for AMD GPUs; "
        "this server has NVIDIA GPUs.Jax 0.4" in form.words
    )


async def test_what_was_chosen_without_a_gpu_is_kept_in_sight() -> None:
    form = shown(await with_old_driver(chosen={"framework": "Pytorch", "version": "2.9"}))
    assert form.checked("environment") == ["Pytorch|2.9|CUDA_AMPERE"]
    assert '<details class="mt-2" open>' in form.html
    assert '<details class="mt-2">' in shown(await with_old_driver()).html


@pytest.mark.parametrize("options", [{"framework": "Jax"}, {"framework": "Pytorch", "gpus": 1}, {}])
async def test_what_the_form_preselects_is_what_the_options_mean(options: dict[str, Any]) -> None:
    seen = await with_old_driver(chosen=options)
    request = parse(options, seen.offer)
    assert shown(seen).checked("environment") == [
        f"{request.entry.framework}|{request.entry.version}|{request.architecture}"
    ]


# --- images of the admin's own ------------------------------------------------------------------

OWN = (
    CatalogEntry(
        "custom", "genes", ("CUDA_AMPERE", "CUDA_ADA"), "lab/genes", 9, "Genes <1>", "A&B"
    ),
    CatalogEntry("custom", "stats", ("CUDA_AMPERE",), "lab/stats", 12, "Statistics"),
    CatalogEntry("Pytorch", "tuned", ("CUDA_AMPERE",), "lab/tuned", 5, "Tuned"),
    CatalogEntry("custom", "ada", ("CUDA_ADA",), "lab/ada", 15, "Only Ada"),
)


async def with_own(gpus: str = "2xA100-40GB", **more: Any) -> Facts:
    seen = await facts(gpus, **more)
    rows = seen.offer.catalog.with_rows(OWN)
    return replace(seen, offer=replace(seen.offer, catalog=rows))


async def test_a_custom_image_has_a_card_of_its_own_with_its_title() -> None:
    form = shown(await with_own())
    assert form.values("environment") == [
        "Pytorch|2.7.1|CUDA_AMPERE",
        "Pytorch|2.6.0|CUDA_AMPERE",
        "Pytorch|tuned|CUDA_AMPERE",
        "Tensorflow|2.14.0|CUDA_AMPERE",
        "custom|genes|CUDA_AMPERE",
        "custom|stats|CUDA_AMPERE",
    ]
    assert form.checked("environment") == ["Pytorch|2.7.1|CUDA_AMPERE"]
    assert "<b>Genes &lt;1&gt;</b>" in form.html
    assert "<small>A&amp;B</small><small>for NVIDIA A100-SXM4-40GB</small>" in form.html
    assert form.html.count("other version") == 1  # PyTorch's 2.6.0
    assert "PyTorch 2.8.0, Only Ada" in form.words
    for name in ("lab/", "registry"):
        assert name not in form.html


async def test_a_custom_image_for_several_architectures_has_a_card_for_each_device() -> None:
    form = shown(await with_own("1xA100-40GB,1xH100-80GB"))
    own = [value for value in form.values("environment") if value.startswith("custom")]
    assert own == [
        "custom|genes|CUDA_AMPERE", "custom|genes|CUDA_ADA", "custom|stats|CUDA_AMPERE",
        "custom|ada|CUDA_ADA",
    ]  # fmt: skip
    assert "other" not in form.html.partition("Genes")[2].partition("Statistics")[0]


async def test_a_custom_image_where_no_device_is_tells_its_architectures() -> None:
    seen = await with_own()
    offer = replace(seen.offer, architectures=("CUDA_AMPERE", "CUDA_ADA"), has_gpus=False)
    html = render(replace(seen, offer=offer, snapshot=Snapshot()))
    assert "<summary><small>1 other GPU architecture</small></summary>" in html


@pytest.mark.parametrize(
    ("chosen", "value"),
    [
        ({"framework": "custom", "version": "stats"}, "custom|stats|CUDA_AMPERE"),
        ({"framework": "Pytorch", "version": "tuned"}, "Pytorch|tuned|CUDA_AMPERE"),
    ],
)
async def test_a_custom_image_that_was_chosen_is_what_would_be_posted_again(
    chosen: dict[str, Any], value: str
) -> None:
    seen = await with_own(chosen=chosen)
    form = shown(seen)
    assert form.checked("environment") == [value]
    posted, _ = from_form(form.posted())
    assert chosen.items() <= posted.items()
    assert parse(posted, seen.offer).entry.version == chosen["version"]
    gone = shown(await facts(chosen=chosen))
    name = "Custom stats" if chosen["framework"] == "custom" else "PyTorch tuned"
    assert f"{name} is not offered to you here" in gone.words


# --- what is shut, and why ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "more", "shut", "why"),
    [
        ({}, {}, [], ""),
        ({"max_gpu_equivalents": 1}, {}, ["2:full"], "Your limit is 1 GPU."),
        ({}, {"own_units": 2520}, ["2:full"], "Your limit is 2 GPUs, and your servers hold 1."),
        ({"max_gpu_slots_per_container": 1}, {}, ["2:full"], "at most 1 in one server."),
        ({"allow_full_gpu": False}, {}, ["1:full", "2:full"], "slices, not whole GPUs."),
    ],
)
async def test_a_gpu_choice_that_is_shut_stays_with_its_reason(
    limits: dict[str, Any], more: dict[str, Any], shut: list[str], why: str
) -> None:
    form = shown(with_limits(await facts(**more), **limits))
    assert form.shut() == shut
    assert why in form.words


async def test_taken_devices_are_counted() -> None:
    seen = await facts()
    one, other = (d.uuid for d in seen.snapshot.devices)
    form = shown(replace(seen, taken=frozenset({one})))
    assert "1 of 2 free" in form.words
    assert form.words.count("you can wait in line for it") == 1
    form = shown(replace(seen, taken=frozenset({one, other})))
    assert form.words.count("you can wait in line for it") == 2
    assert form.shut() == []  # what can be waited for can be chosen


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (Place(2, 3, "devices", AT, None, {}), "At the latest about 2026-01-05 15:40 UTC"),
        (Place(2, 3, "devices", None, None, {}), "cannot be told now"),
        (Place(2, 3, "quota", AT, None, {}), "Your other servers hold what you may have at once"),
        (Place(2, 3, "start", AT, AT, {}), "is held for you until 15:40:00 UTC"),
    ],
)
async def test_a_place_in_the_line_is_told_honestly(place: Place, told: str) -> None:
    form = shown(replace(await facts(), place=place))
    assert "You are number 2 of 3 in the line for GPUs." in form.words
    assert told in form.words


async def shared_by(*users: int, rule: Sharing, **more: Any) -> tuple[Facts, str]:
    """Facts of a host with that rule; on each of its devices so many seats are taken."""
    seen = await facts("2xA100-40GB,1xH100-80GB:mig=1x1g.10gb", **more)
    uuids = [d.uuid for d in seen.snapshot.devices]
    taken = {u: Shared(8, frozenset(range(n))) for u, n in zip(uuids, users, strict=False)}
    offer = replace(seen.offer, sharing=rule)
    return replace(seen, offer=offer, shared=taken), uuids[0]


@pytest.mark.parametrize(
    ("users", "rule", "taken", "told", "waits"),
    [
        ([], Sharing(8), False, "1 of 8 seats on NVIDIA A100-SXM4-40GB: 16 free", False),
        ([3], Sharing(8), False, ": 13 free", False),
        ([3], Sharing(8, max_devices=1), False, ": 5 free", False),
        ([8], Sharing(8, max_devices=1), False, ": 0 free", True),
        ([3], Sharing(8, max_devices=1), True, ": 0 free", True),
        ([3], Sharing(4), False, "1 of 4 seats on NVIDIA A100-SXM4-40GB: 4 free", False),
        ([3], Sharing(8, "1g.10gb"), False, "seats on NVIDIA H100-80GB: 8 free", False),
    ],
)  # fmt: skip
async def test_a_seat_is_a_choice_with_its_risk(
    users: list[int], rule: Sharing, taken: bool, told: str, waits: bool
) -> None:
    seen, first = await shared_by(*users, rule=rule)
    if taken:  # set aside, say
        seen = replace(seen, taken=frozenset({first}))
    form = shown(seen)
    assert told in form.words
    assert "a fault of one can end the work of all on this GPU" in form.words
    assert ("you can wait in line for one" in form.words) == waits
    assert ("1:shared" in form.values("gpus"), "1:shared" not in form.shut()) == (True, True)
    assert f"{3 - len(users)} of 3" in form.words


async def test_a_seat_is_checked_for_who_chose_one_and_for_nobody_else() -> None:
    seen, _ = await shared_by(3, 8, rule=Sharing(8))
    options, _ = from_form({"gpus": ["1:shared"]})
    assert shown(replace(seen, chosen=options)).checked("gpus") == ["1:shared"]
    assert parse(options, seen.offer).gpu == "shared"
    whole = shown(replace(seen, chosen={"gpus": 1, "gpu": "full"}))
    assert whole.checked("gpus") == ["1:full"]  # to be waited for: both cards are shared
    only = replace(seen, taken=frozenset(d.uuid for d in seen.snapshot.devices[1:]))
    assert shown(replace(only, chosen={"gpus": 1})).checked("gpus") == ["1:full"]
    small = with_limits(seen, max_gpu_equivalents=0.125, allow_full_gpu=False)
    assert "1:shared" not in shown(small).shut()
    assert "1:shared" in shown(replace(small, own_units=1)).shut()
    assert "1:shared" not in shown(await facts()).values("gpus")


async def test_what_does_not_come_back_is_not_told_to_be_taken() -> None:
    seen = await facts()
    one, other = seen.snapshot.devices
    lost = replace(seen.snapshot, devices=(one, replace(other, healthy=False)))
    both = frozenset({one.uuid, other.uuid})
    for facts_, shut, words in (
        (replace(seen, snapshot=lost), ["2:full"], GONE),
        (replace(seen, taken=both - {one.uuid}, aside=both - {one.uuid}), ["2:full"], GONE),
        (replace(seen, taken=both, aside=both), ["1:full", "2:full"], GONE),
        (replace(seen, taken=both), [], BACK),
        (replace(seen, snapshot=lost, taken=frozenset({one.uuid})), ["2:full"], BACK),
    ):
        form = shown(facts_)
        assert form.shut() == shut
        assert words in form.words
    assert BACK not in shown(replace(seen, snapshot=lost)).words


async def test_unknown_devices_offer_servers_without_one() -> None:
    seen = await facts()
    form = shown(replace(seen, snapshot=Snapshot(known=False)))
    assert form.checked("gpus") == ["0"]
    assert form.shut() == ["1:any"]
    assert "is not known at the moment" in form.words


async def test_devices_that_no_way_leads_to_stay_with_the_reason() -> None:
    seen = await facts("1xA100-40GB,1xMI210")
    form = shown(replace(seen, offer=replace(seen.offer, shut={"CUDA_AMPERE": "the GPU is shut."})))
    assert form.shut() == ["2:full"]
    assert "The GPU is shut." in form.words
    seen = await facts("1xA100-40GB")
    form = shown(replace(seen, offer=replace(seen.offer, shut={"CUDA_AMPERE": "the GPU is shut."})))
    assert form.shut() == ["1:full"]


# --- what was chosen ------------------------------------------------------------------------------

CHOSEN = {
    "framework": "Pytorch", "version": "2.6.0", "architecture": "CUDA_AMPERE", "gpus": 2,
    "gpu": "full", "gpu_memory": "20G", "bundles": ["datascience"], "pip": ["numpy", "rich>=13"],
    "apt": ["htop"], "project": "my thesis", "hours": 2.5, "cpus": 1, "memory": "4G",
}  # fmt: skip


async def test_what_was_chosen_is_what_would_be_posted_again() -> None:
    seen = await facts(chosen=CHOSEN)
    assert from_form(shown(seen).posted()) == (CHOSEN, ())
    assert parse(CHOSEN, seen.offer).pip == ("numpy", "rich>=13")


@pytest.mark.parametrize(
    ("chosen", "value", "told"),
    [
        ({}, "Pytorch|2.7.1|CUDA_AMPERE", ""),
        ({"framework": "Tensorflow"}, "Tensorflow|2.14.0|CUDA_AMPERE", ""),
        ({"framework": "Pytorch", "version": "1.0"}, "Pytorch|2.7.1|CUDA_AMPERE", "PyTorch 1.0 is"),
        ({"preset": "gone"}, "Pytorch|2.7.1|CUDA_AMPERE", "gone is not offered"),
    ],
)
async def test_a_choice_that_is_gone_is_said_to_be(
    chosen: dict[str, Any], value: str, told: str
) -> None:
    form = shown(await facts(chosen=chosen))
    assert form.checked("environment") == [value]
    assert told in form.words
    assert ("not offered" in form.words) == bool(told)


async def test_a_gpu_that_is_not_open_any_more_is_said_not_to_be() -> None:
    form = shown(with_limits(await facts(chosen={"gpus": 2}), max_gpu_equivalents=1))
    assert form.checked("gpus") == ["0"]
    assert "The GPU of your last choice is not open to you now" in form.words


async def test_a_recommended_preset_comes_first() -> None:
    seen = await facts()
    presets = {
        name: Preset(name=name, title=name.title(), framework="Pytorch", recommended=name == "b")
        for name in ("a", "b")
    }
    seen = replace(seen, offer=replace(seen.offer, presets=presets))
    assert shown(seen).checked("environment") == ["preset:b"]
    linked = shown(replace(seen, chosen={"preset": "a"}))
    assert linked.checked("environment") == ["preset:a"]


# --- what was refused -----------------------------------------------------------------------------


async def test_a_refused_form_has_the_problem_at_the_field_and_the_input_kept() -> None:
    seen = await facts()
    chosen = {"pip": ["ok", "not a name"], "hours": "soon", "framework": "Pytorch"}
    with pytest.raises(OptionsRefused) as refused:
        parse(chosen, seen.offer)
    form = shown(replace(seen, chosen=chosen, problems=refused.value.problems))
    assert form.texts["pip"] == "ok\nnot a name"
    assert form.values("hours") == ["soon"]
    assert '<a class="alert-link" href="#ds01-pip">Python packages</a>' in form.html
    for part in ("pip", "hours"):
        assert f'id="ds01-{part}-problem"' in form.html
        assert f'aria-describedby="ds01-{part}-hint ds01-{part}-problem"' in form.html
    assert form.html.count('aria-invalid="true"') == 2
    assert '<details class="ds01-part" open>' in form.html  # the hours are not hidden


async def test_a_problem_of_no_field_is_told_at_the_top() -> None:
    problem = FieldProblem("'image'", "is not an option.", ("framework",))
    form = shown(await facts(problems=(problem,)))
    assert "'image': Is not an option. Allowed: framework." in form.words


# --- what it survives -----------------------------------------------------------------------------


async def test_nothing_of_a_user_or_an_admin_becomes_html() -> None:
    seen = await facts(
        chosen={key: NASTY if isinstance(value, str) else [NASTY] for key, value in CHOSEN.items()},
        problems=tuple(FieldProblem(key, NASTY, (NASTY,)) for key in (*CHOSEN, NASTY)),
        notices=(NASTY,),
    )
    preset = Preset(name=NASTY, title=NASTY, description=NASTY, framework="Pytorch")
    own = [
        CatalogEntry("custom", name, (architecture,), "a/b", 1, NASTY, NASTY)
        for name, architecture in (("x", "CUDA_AMPERE"), ("y", "CUDA_ADA"))
    ]
    rows = seen.offer.catalog.with_rows(own)
    offer = replace(seen.offer, catalog=rows, presets={NASTY: preset}, bundles={NASTY: (NASTY,)})
    clean, nasty = shown(await facts()), shown(replace(seen, offer=offer))
    assert "script" not in nasty.tags
    assert set(nasty.tags) - set(clean.tags) <= {"strong", "ul", "li", "a", "p"}
    assert NASTY in nasty.texts["pip"]
    trouble = Form(render_trouble(EngineUnavailable()))
    assert "does not answer" in trouble.words


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(max_examples=200)
@given(saved=st.dictionaries(st.sampled_from([*CHOSEN, "preset", "v", "x"]), JUNK) | JUNK)
async def test_it_is_made_whatever_was_saved(saved: Any) -> None:
    form = shown(await facts(chosen=saved))
    assert len(form.checked("environment")) == 1
    assert len(form.checked("gpus")) == 1


@pytest.mark.parametrize(
    "saved",
    [
        {"gpus": 10**5000, "hours": math.nan, "cpus": math.inf},
        {"pip": ["x" * 10_000_000] * 20, "project": "p" * 10_000_000},
        {"pip": ["x"] * 1_000_000},
    ],
)
async def test_saved_junk_does_not_make_it_large(saved: dict[str, Any]) -> None:
    assert len(render(await facts(chosen=saved))) < MAX_LIST + 60_000


# --- its size -------------------------------------------------------------------------------------


async def test_a_full_catalog_on_a_large_host_is_bounded() -> None:
    if not FULL_CATALOG.is_file():
        pytest.skip("../shared is not here")
    seen = await facts("32xA100-40GB,16xA100-40GB:mig=2x3g.20gb")
    catalog = parse_catalog(FULL_CATALOG.read_text())
    assert len(catalog.entries) == 117
    html = render(replace(seen, offer=replace(seen.offer, catalog=catalog)))
    assert len(html.encode()) <= 60 * 1024


async def test_more_than_a_few_versions_are_folded() -> None:
    rows = "".join(f"Pytorch, 2.{n}, [CUDA_AMPERE], a/p-{n}\n" for n in range(20))
    seen = await facts()
    offer = replace(seen.offer, catalog=parse_catalog(rows))
    html = render(replace(seen, offer=offer))
    assert "<details>\n        <summary><small>19 other versions</small></summary>" in html
    chosen = {"framework": "Pytorch", "version": "2.7"}
    assert "<details open>" in render(replace(seen, offer=offer, chosen=chosen))
