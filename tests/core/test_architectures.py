"""Which class a device is of, and why an entry is not for this host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_spawner.core.architectures import (
    ARCHITECTURES,
    CUDA_ARCHITECTURES,
    family,
    gfx_of,
    of_compute_capability,
    of_gfx,
    why_unavailable,
)
from ds01_spawner.core.catalog import CatalogEntry


@pytest.mark.parametrize(
    ("card", "capability", "architecture"),
    [
        ("GTX 980 Ti", (5, 2), None),  # older than what AIME has images for
        ("P100", (6, 0), "CUDA"),
        ("GTX 1080 Ti", (6, 1), "CUDA"),
        ("V100", (7, 0), "CUDA"),
        ("RTX 2080 Ti, T4", (7, 5), "CUDA"),
        ("A100", (8, 0), "CUDA_AMPERE"),
        ("RTX 3090, A6000", (8, 6), "CUDA_AMPERE"),
        ("Orin", (8, 7), "CUDA_AMPERE"),
        ("RTX 4090, L40", (8, 9), "CUDA_ADA"),
        ("H100, H200", (9, 0), "CUDA_ADA"),
        ("B200", (10, 0), "CUDA_BLACKWELL"),
        ("B300", (10, 3), "CUDA_BLACKWELL"),
        ("RTX 5090", (12, 0), "CUDA_BLACKWELL"),
        ("GB10", (12, 1), "CUDA_BLACKWELL"),
        ("a card to come", (13, 0), None),  # never guessed
    ],
)
def test_of_compute_capability(
    card: str, capability: tuple[int, int], architecture: str | None
) -> None:
    assert of_compute_capability(capability) == architecture, card


@pytest.mark.parametrize(
    ("card", "gfx", "architecture"),
    [
        ("Radeon VII", "gfx906", "ROCM5"),
        ("MI100", "gfx908", "ROCM5"),
        ("MI210, MI250X", "gfx90a", "ROCM6"),
        ("MI210 with features", "gfx90a:sramecc+:xnack-", "ROCM6"),
        ("MI300X, MI325X", "gfx942", "ROCM6"),
        ("RX 7900", "gfx1100", "ROCM6"),
        ("RX 9070", "gfx1201", "ROCM6"),
        ("RX 480", "gfx803", None),
        ("nothing", "", None),
    ],
)
def test_of_gfx(card: str, gfx: str, architecture: str | None) -> None:
    assert of_gfx(gfx) == architecture, card


@pytest.mark.parametrize(
    ("target_version", "gfx"),
    [
        (80003, "gfx803"),
        (90006, "gfx906"),
        (90008, "gfx908"),
        (90010, "gfx90a"),
        (90402, "gfx942"),
        (100306, "gfx1036"),
        (110000, "gfx1100"),
        (110501, "gfx1151"),
        (120001, "gfx1201"),
        (0, ""),  # a node without a GPU
    ],
)
def test_gfx_of(target_version: int, gfx: str) -> None:
    assert gfx_of(target_version) == gfx


@given(st.tuples(st.integers(0, 40), st.integers(0, 20)))
def test_a_class_is_known_or_none(capability: tuple[int, int]) -> None:
    assert of_compute_capability(capability) in (None, *CUDA_ARCHITECTURES)


def test_families() -> None:
    assert [family(a) for a in ARCHITECTURES] == ["cuda"] * 4 + ["rocm"] * 2
    with pytest.raises(ValueError, match="'ROCM' is not an architecture"):
        family("ROCM")


@pytest.mark.parametrize(
    ("made_for", "host", "why"),
    [
        (("CUDA_ADA",), ("CUDA_ADA",), None),
        (("CUDA_ADA", "CUDA_AMPERE"), ("CUDA_AMPERE",), None),
        (("CUDA_ADA",), ("CUDA_AMPERE", "CUDA_ADA"), None),  # a mixed host
        (("CUDA_BLACKWELL",), ("CUDA_ADA",),
         "made for CUDA_BLACKWELL (RTX 50, RTX PRO 6000, B200); this server is CUDA_ADA (RTX 40"),
        # an older class is another class, too: AIME's rows are exact
        (("CUDA_AMPERE",), ("CUDA_ADA",), "this server is CUDA_ADA"),
        (("CUDA_ADA",), ("ROCM6",), "made for NVIDIA GPUs; this server has AMD GPUs."),
        (("ROCM6",), CUDA_ARCHITECTURES, "made for AMD GPUs; this server has NVIDIA GPUs."),
        (("ROCM5",), ("ROCM6",), "made for ROCM5 (Radeon VII, MI100)"),
        (("CUDA_ADA",), (), "no image is known to run on this server's devices."),
    ],
)  # fmt: skip
def test_why_an_entry_is_not_available(
    made_for: tuple[str, ...], host: tuple[str, ...], why: str | None
) -> None:
    told = why_unavailable(CatalogEntry("Pytorch", "2.8.0", made_for, "a/b", 1), host)
    if why is None:
        assert told is None
    else:
        assert told is not None
        assert told.startswith("Pytorch 2.8.0 is made for ")
        assert why in told
