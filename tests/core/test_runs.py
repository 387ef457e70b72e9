"""Which image runs on which card and driver, as tables; each fact with where it is from."""

from __future__ import annotations

from pathlib import Path

import pytest

from ds01_spawner.core.architectures import of_compute_capability
from ds01_spawner.core.catalog import Catalog, CatalogEntry
from ds01_spawner.core.catalog import parse as parse_catalog
from ds01_spawner.core.devices import Device, Snapshot
from ds01_spawner.core.runs import (
    Barred,
    Needs,
    RunsOn,
    Version,
    cuda_of,
    needs_of,
    of_other_maker,
    on_host,
    runs,
    why_not,
)

FULL_CATALOG = Path(__file__).parents[2] / "../shared/data/ml_images.repo"


def card(name: str, capability: Version | None, architecture: str | None = None) -> Device:
    known = architecture or (capability and of_compute_capability(capability)) or None
    return Device(name, "gpu", name, known, 2520, 40 << 30, compute_capability=capability)


P100, V100, T4 = card("P100", (6, 0)), card("V100", (7, 0)), card("T4", (7, 5))
A100, A40, L40 = card("A100", (8, 0)), card("A40", (8, 6)), card("L40", (8, 9))
H100, B200, B300 = card("H100", (9, 0)), card("B200", (10, 0)), card("B300", (10, 3))
RTX5090, GB10 = card("RTX5090", (12, 0)), card("GB10", (12, 1))
RUBIN = card("Rubin", (13, 0))
MI210 = Device("MI210", "amd", "MI210", "ROCM6", 2520, 64 << 30)


def host(*devices: Device, cuda: Version | None = None, driver: str | None = None) -> Snapshot:
    return Snapshot(devices=devices, cuda=cuda, driver=driver)


def entry(*architectures: str, image: str = "a/b", version: str = "2.8.0") -> CatalogEntry:
    return CatalogEntry("Pytorch", version, architectures, image, 1)


@pytest.mark.parametrize(
    ("image", "cuda"),
    [
        # the spellings of AIME's catalog
        ("aimehub/pytorch-2.8.0-cuda12.6.3", (12, 6)),
        ("aimehub/pytorch-2.8.0-aime-cuda12.8.1", (12, 8)),
        ("aimehub/pytorch-2.7.0-cuda12.8", (12, 8)),
        ("aimehub/tensorflow-2.14.0-cuda11.8", (11, 8)),
        ("aimehub/pytorch-1.14.0a-nvidia-cuda12.0", (12, 0)),
        ("aimehub/pytorch-2.9.0-cuda12.10", (12, 10)),
        ("aimehub/pytorch-1.3-cuda", None),
        ("aimehub/tensorflow-2.4.1-cuda110-aime", None),
        ("aimehub/mxnet-1.8.0-nvidia-20.12", None),
        ("aimehub/pytorch-2.6.0-rocm6.2", None),
        ("rocm/dev-ubuntu-20.04:5.4.2-complete", None),
        # and of others
        ("pytorch/pytorch:2.5.1-cuda12.1-cudnn9-runtime", (12, 1)),
        ("nvidia/cuda:12.8.1-devel-ubuntu24.04", (12, 8)),
        ("registry.example:5000/x/notcuda12.6", None),
        ("tensorflow/tensorflow:2.14.0-gpu", None),
    ],
)
def test_an_images_name_tells_its_cuda(image: str, cuda: Version | None) -> None:
    assert cuda_of(image) == cuda


# NVIDIA, CUDA release notes, tables 2 and 3: least driver of a major version, and drivers with
# the CUDA they came with.
DRIVERS = [
    # image, the driver's CUDA, the driver -> whether it runs
    ((12, 6), (12, 6), "560.35.05", True),
    ((12, 6), (12, 8), "570.124.06", True),
    ((11, 8), (13, 0), "580.65.06", True),  # drivers are compatible backwards
    ((10, 2), (13, 0), "580.65.06", True),
    # the same major: minor version compatibility, from the least driver on
    ((12, 8), (12, 4), "550.54.14", True),
    ((12, 9), (12, 0), "525.60.13", True),
    ((12, 1), (12, 0), "525.60.12", False),
    ((13, 2), (13, 0), "580.65.06", True),
    ((13, 1), (13, 0), "580.65.05", False),
    ((11, 8), (11, 0), "450.80.02", True),
    ((11, 8), (11, 0), "450.51.06", False),
    ((11, 8), (11, 2), "460.27", True),  # two numbers only
    # another major
    ((12, 0), (11, 8), "520.61.05", False),
    ((13, 0), (12, 9), "575.57.08", False),
    # before 11 there was no such promise
    ((10, 2), (10, 1), "418.39", False),
    ((10, 1), (10, 1), "418.39", True),
    # what is not known refuses nothing
    (None, (11, 0), "450.51.06", True),
    ((13, 0), None, "575.57.08", True),
    ((13, 0), None, None, True),
    ((12, 8), (12, 4), None, True),
    ((12, 8), (12, 4), "a driver of one's own", True),
    ((14, 1), (14, 0), "600.10", True),  # a major that is to come
    ((12, 10), (12, 9), "575.57.08", True),
]


@pytest.mark.parametrize(("image", "cuda", "driver", "ok"), DRIVERS)
def test_the_driver(image: Version | None, cuda: Version | None, driver: str, ok: bool) -> None:
    needs, device = Needs(("CUDA",), image), card("T4", (7, 5))
    snapshot = host(device, cuda=cuda, driver=driver)
    assert runs(needs, device, snapshot) == ok
    told = why_not(needs, device, snapshot)
    if ok:
        assert told == ""
    else:
        assert image is not None
        assert cuda is not None
        assert told == (
            f"needs CUDA {image[0]}.{image[1]}, and this server's driver has {cuda[0]}.{cuda[1]}: "
            "ask the administrator for a newer driver."
        )


CARDS = [
    # image, card -> why not
    # CUDA 13.0 dropped Maxwell, Pascal and Volta (its release notes)
    ((13, 0), P100, "needs a GPU of compute capability 7.5 or higher, and this server's P100 has "
                    "6.0: choose an older version."),
    ((13, 2), V100, "compute capability 7.5 or higher, and this server's V100 has 7.0"),
    ((13, 0), T4, ""),
    ((12, 9), P100, ""),
    # code for Ampere since 11.0, for Hopper since 11.8, for Blackwell since 12.8 (release notes)
    ((10, 2), A100, "has CUDA 10.2, and this server's A100 needs 11.0 or later: choose a newer"),
    ((11, 0), A100, ""),
    ((11, 0), A40, ""),  # code for 8.0 runs on 8.6 and 8.9: one major, a later minor
    ((11, 3), L40, ""),
    ((11, 7), H100, "has CUDA 11.7, and this server's H100 needs 11.8 or later"),
    ((11, 8), H100, ""),
    ((12, 6), B200, "has CUDA 12.6, and this server's B200 needs 12.8 or later"),
    ((12, 6), RTX5090, "has CUDA 12.6, and this server's RTX5090 needs 12.8 or later"),
    ((11, 8), GB10, "needs 12.8 or later"),
    ((12, 8), B200, ""),
    ((12, 8), B300, ""),
    ((12, 8), GB10, ""),
    ((13, 0), RTX5090, ""),
    # what is not known refuses nothing
    (None, B200, ""),
    (None, P100, ""),
    ((11, 0), card("a card", None, "CUDA_BLACKWELL"), ""),
]  # fmt: skip


@pytest.mark.parametrize(("image", "device", "why"), CARDS)
def test_the_card(image: Version | None, device: Device, why: str) -> None:
    needs = Needs(("CUDA", "CUDA_AMPERE", "CUDA_ADA", "CUDA_BLACKWELL"), image)
    told = why_not(needs, device, host(device))
    assert why in told
    assert bool(told) == bool(why)
    assert runs(needs, device, host(device)) == (not why)


@pytest.mark.parametrize(
    ("classes", "device", "ok"),
    [
        (("CUDA_ADA",), L40, True),
        (("CUDA_ADA",), H100, True),  # AIME's list of GPUs
        # neither an older nor a newer class: AIME's rows are exact, its own builds above all
        (("CUDA_ADA",), A100, False),
        (("CUDA_AMPERE",), L40, False),
        (("CUDA_ADA", "CUDA_AMPERE"), A100, True),
        (("CUDA_ADA",), MI210, False),
        (("ROCM6",), MI210, True),
        (("ROCM5",), MI210, False),
        (("ROCM6",), H100, False),
        (("CUDA", "CUDA_BLACKWELL"), RUBIN, False),  # a card of no class
    ],
)
def test_the_class(classes: tuple[str, ...], device: Device, ok: bool) -> None:
    for image in ("a/pytorch-2.8.0-aime-cuda12.8.1", "a/pytorch-2.8.0-cuda12.8.1", "a/pytorch"):
        needs = needs_of(entry(*classes, image=image), {})
        assert runs(needs, device, host(device)) == ok


def test_cuda_says_nothing_of_amd() -> None:
    needs = Needs(("CUDA_ADA", "ROCM6"), (13, 0), (9, 0))
    snapshot = host(H100, MI210, cuda=(12, 4), driver="550.54.14")
    assert runs(needs, MI210, snapshot)
    assert not runs(needs, H100, snapshot)


ADA = entry("CUDA_ADA", image="aimehub/pytorch-2.8.0-cuda12.6.3")
RULES = [
    # what a rule does not say stays as it is known
    ({}, Needs(("CUDA_ADA",), (12, 6))),
    ({"other/*": RunsOn(anything=True)}, Needs(("CUDA_ADA",), (12, 6))),
    ({"aimehub/pytorch-2.8.0-cuda12.6.3": RunsOn(cuda=(12, 1))}, Needs(("CUDA_ADA",), (12, 1))),
    ({"Pytorch/2.8.0": RunsOn(("CUDA_AMPERE",))}, Needs(("CUDA_AMPERE",), (12, 6))),
    ({"Pytorch/2.*": RunsOn(compute_capability=(8, 6))}, Needs(("CUDA_ADA",), (12, 6), (8, 6))),
    # the first that matches
    ({"*": RunsOn(cuda=(1, 1)), "Pytorch/*": RunsOn(cuda=(2, 2))}, Needs(("CUDA_ADA",), (1, 1))),
    # everything of the maker, and no question of driver or card
    ({"*": RunsOn(anything=True)},
     Needs(("CUDA", "CUDA_AMPERE", "CUDA_ADA", "CUDA_BLACKWELL"))),
    # never to the other maker's GPUs
    ({"*": RunsOn(("CUDA_AMPERE", "ROCM6"))}, Needs(("CUDA_AMPERE",), (12, 6))),
    ({"*": RunsOn(("ROCM6",))}, Needs(("CUDA_ADA",), (12, 6))),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "needs"), RULES)
def test_an_admins_rule(rules: dict[str, RunsOn], needs: Needs) -> None:
    assert needs_of(ADA, rules) == needs


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"Pytorch/*": RunsOn(("ROCM6",))}, ()),  # one of the images it matches is AMD's
        ({"aimehub/*": RunsOn(("ROCM6", "ROCM5"))}, ("aimehub/*",)),
        ({"aimehub/*": RunsOn(("ROCM6", "CUDA"))}, ()),
        ({"aimehub/*": RunsOn(cuda=(12, 1))}, ()),
        ({"not/here": RunsOn(("ROCM6",))}, ()),
        ({"Pytorch/1.0": RunsOn(("CUDA",)), "Pytorch/*": RunsOn(anything=True)}, ("Pytorch/1.0",)),
    ],
)
def test_a_rule_of_the_other_makers_classes_is_told(
    rules: dict[str, RunsOn], told: tuple[str, ...]
) -> None:
    catalog = Catalog(entries=(ADA, entry("ROCM6", version="1.0")))
    assert of_other_maker(catalog, rules) == told


def test_a_rule_of_anything_leaves_the_other_maker_out() -> None:
    needs = needs_of(entry("ROCM5"), {"*": RunsOn(anything=True)})
    assert needs == Needs(("ROCM5", "ROCM6"))


def test_an_admins_least_capability_is_the_one_that_counts() -> None:
    needs = needs_of(entry("CUDA", image="a/b-cuda13.0"), {"*": RunsOn(None, (7, 0))})
    assert runs(needs, V100, host(V100))
    assert "capability 7.0 or higher, and this server's P100" in why_not(needs, P100, host(P100))
    ptx = needs_of(entry("CUDA_BLACKWELL", image="a/b-cuda12.6"), {"*": RunsOn(None, (9, 0))})
    assert runs(ptx, B200, host(B200))


def test_everything_runs_where_the_admin_says_so() -> None:
    needs = needs_of(entry("CUDA", image="a/b-cuda13.0"), {"a/*": RunsOn(anything=True)})
    for device in (P100, A100, H100, B200):
        assert runs(needs, device, host(device, cuda=(11, 0), driver="450.51.06"))


# --- a host ---------------------------------------------------------------------------------------

NEW, OLD, PLAIN = (
    entry("CUDA", image="a/b-cuda13.0", version="3.0"),
    entry("CUDA", "CUDA_ADA", image="a/b-cuda12.4", version="2.0"),
    entry("CUDA_AMPERE", version="1.0"),
)
CATALOG = parse_catalog("")


def shown(snapshot: Snapshot, *entries: CatalogEntry, **rules: RunsOn) -> list[str]:
    """What is left of a catalog, then what is barred."""
    catalog = parse_catalog(
        "\n".join(
            f"{e.framework}, {e.version}, [{';'.join(e.architectures)}], {e.image}" for e in entries
        )
    )
    left, barred = on_host(catalog, rules, snapshot)
    assert all(isinstance(b, Barred) and b.why.startswith(f"Pytorch {b.entry.version} ")
               for b in barred)  # fmt: skip
    return [
        *(f"{e.version} {' '.join(e.architectures)}" for e in left.entries),
        *(f"not {b.entry.version} {b.architecture}" for b in barred),
    ]


@pytest.mark.parametrize(
    ("snapshot", "told"),
    [
        # nothing is known: the classes decide
        (host(), ["3.0 CUDA", "2.0 CUDA CUDA_ADA", "1.0 CUDA_AMPERE"]),
        (host(T4), ["3.0 CUDA", "2.0 CUDA CUDA_ADA", "1.0 CUDA_AMPERE"]),
        # no card that runs it
        (host(V100), ["2.0 CUDA CUDA_ADA", "1.0 CUDA_AMPERE", "not 3.0 CUDA"]),
        # one of a class is enough
        (host(V100, T4), ["3.0 CUDA", "2.0 CUDA CUDA_ADA", "1.0 CUDA_AMPERE"]),
        # no driver for it
        (host(T4, cuda=(12, 4)), ["2.0 CUDA CUDA_ADA", "1.0 CUDA_AMPERE", "not 3.0 CUDA"]),
        (host(T4, cuda=(11, 8)),
         ["1.0 CUDA_AMPERE", "not 3.0 CUDA", "not 2.0 CUDA"]),
        (host(T4, L40, cuda=(11, 8)),
         ["1.0 CUDA_AMPERE", "not 3.0 CUDA", "not 2.0 CUDA", "not 2.0 CUDA_ADA"]),
        # devices of no class, and another maker's, change nothing
        (host(RUBIN, MI210, cuda=(11, 8)), ["3.0 CUDA", "2.0 CUDA CUDA_ADA", "1.0 CUDA_AMPERE"]),
    ],
)  # fmt: skip
def test_a_catalog_on_a_host(snapshot: Snapshot, told: list[str]) -> None:
    assert shown(snapshot, NEW, OLD, PLAIN) == told


def test_on_a_mixed_host_a_row_stays_for_the_class_that_runs_it() -> None:
    both = entry("CUDA", "CUDA_BLACKWELL", image="a/b-cuda13.0", version="3.0")
    assert shown(host(V100, B200), both) == ["3.0 CUDA_BLACKWELL", "not 3.0 CUDA"]


def test_the_rules_are_applied() -> None:
    rules = {"a/b-cuda13.0": RunsOn(("CUDA", "CUDA_ADA"), (7, 0))}
    assert shown(host(V100), NEW, **rules) == ["3.0 CUDA CUDA_ADA"]


def test_a_custom_image_is_judged_as_a_row_and_told_by_its_title() -> None:
    own = CatalogEntry("custom", "genes", ("CUDA", "CUDA_ADA"), "lab/x-cuda13.0", 1, "Genes")
    rows = CATALOG.with_rows([own])
    left, (barred,) = on_host(rows, {}, host(V100))
    assert [e.architectures for e in left.entries] == []
    assert barred.why.startswith("Genes needs a GPU of compute capability 7.5 or higher")
    assert on_host(rows, {"custom/genes": RunsOn(anything=True)}, host(V100))[1] == ()


@pytest.mark.parametrize(
    ("architecture", "device"),
    [("CUDA", T4), ("CUDA_AMPERE", A100), ("CUDA_AMPERE", A40), ("CUDA_ADA", L40),
     ("CUDA_ADA", H100), ("CUDA_BLACKWELL", B200), ("CUDA_BLACKWELL", RTX5090), ("ROCM6", MI210)],
)  # fmt: skip
def test_on_a_driver_of_today_nothing_of_aimes_catalog_is_barred(
    architecture: str, device: Device
) -> None:
    if not FULL_CATALOG.is_file():
        pytest.skip("../shared is not here")
    catalog = parse_catalog(FULL_CATALOG.read_text())
    assert sum(architecture in e.architectures for e in catalog.entries) > 5
    left, barred = on_host(catalog, {}, host(device, cuda=(13, 0), driver="580.65.06"))
    assert (left, barred) == (catalog, ())
