"""device -> architecture; which image runs on which architecture.

The classes are AIME's, and an image runs on the classes of its row: AIME's list of GPUs says
which card is in which class (H100 and H200 are in CUDA_ADA), NVIDIA's which compute capability
the card has. A device that no class covers has none: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ds01_spawner.core.catalog import CatalogEntry

CUDA_ARCHITECTURES = ("CUDA", "CUDA_AMPERE", "CUDA_ADA", "CUDA_BLACKWELL")
ROCM_ARCHITECTURES = ("ROCM5", "ROCM6")
ARCHITECTURES = CUDA_ARCHITECTURES + ROCM_ARCHITECTURES

Family = Literal["cuda", "rocm"]

_CARDS = {
    "CUDA": "GTX 10, RTX 20, V100",
    "CUDA_AMPERE": "RTX 30, RTX A6000, A100",
    "CUDA_ADA": "RTX 40, L40, H100, H200",
    "CUDA_BLACKWELL": "RTX 50, RTX PRO 6000, B200",
    "ROCM5": "Radeon VII, MI100",
    "ROCM6": "RX 7900, RX 9070, MI210, MI300X",
}
_MAKERS = {"cuda": "NVIDIA", "rocm": "AMD"}
# From this compute capability on; the next line ends it.
_COMPUTE_CAPABILITIES = (
    ((6, 0), "CUDA"),
    ((8, 0), "CUDA_AMPERE"),
    ((8, 9), "CUDA_ADA"),
    ((10, 0), "CUDA_BLACKWELL"),
    ((13, 0), None),
)
_GFX = {
    "gfx906": "ROCM5",  # Radeon VII, MI50, MI60
    "gfx908": "ROCM5",  # MI100
    "gfx90a": "ROCM6",  # MI210, MI250X
    "gfx942": "ROCM6",  # MI300X, MI325X
    "gfx1100": "ROCM6",  # RX 7900
    "gfx1201": "ROCM6",  # RX 9070
}


def of_compute_capability(capability: tuple[int, int]) -> str | None:
    """The class of an NVIDIA device; None for one older or newer than all classes."""
    found = None
    for first, architecture in _COMPUTE_CAPABILITIES:
        if capability >= first:
            found = architecture
    return found


def gfx_of(target_version: int) -> str:
    """The target of an AMD device by the kernel's number of it: 90010 is `gfx90a`.

    Major, minor and stepping in two decimal digits each (`gfx_target_version` of KFD); the name
    has the last two in hexadecimal, one digit each. Empty for 0, which is no GPU.
    """
    major, rest = divmod(target_version, 10_000)
    return f"gfx{major}{rest // 100:x}{rest % 100:x}" if target_version > 0 else ""


def of_gfx(name: str) -> str | None:
    """The class of an AMD device by its target, such as `gfx90a` or `gfx90a:xnack+`."""
    return _GFX.get(name.split(":", 1)[0])


def family(architecture: str) -> Family:
    """Whose GPUs these are. Raises ValueError for a text that is no architecture."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"{architecture!r} is not an architecture: {', '.join(ARCHITECTURES)}")
    return "cuda" if architecture in CUDA_ARCHITECTURES else "rocm"


def why_unavailable(entry: CatalogEntry, architectures: Collection[str]) -> str | None:
    """Why an entry cannot be chosen on a host with these architectures; None: it can."""
    if any(architecture in architectures for architecture in entry.architectures):
        return None
    name = entry.name
    made_for = _cards(entry.architectures)
    if not architectures:
        return f"{name} is made for {made_for}; no image is known to run on this server's devices."
    makers = {family(a) for a in entry.architectures if a in ARCHITECTURES}
    here = {family(a) for a in architectures if a in ARCHITECTURES}
    if not makers & here:
        return f"{name} is made for {_of(makers)} GPUs; this server has {_of(here)} GPUs."
    return f"{name} is made for {made_for}; this server is {_cards(architectures)}."


def _of(families: Iterable[Family]) -> str:
    return " and ".join(_MAKERS[f] for f in sorted(families)) or "other"


def _cards(architectures: Iterable[str]) -> str:
    return " or ".join(f"{a} ({_CARDS[a]})" if a in _CARDS else a for a in architectures)
