"""A stand-in for PyTorch: its name, a version, `torch.cuda`'s questions; it cannot compute.

It is in the stand-in base image only, which plays a framework image where no real one can be
pulled.
"""

from torch import cuda
from torch.version import __version__

__all__ = ["__version__", "cuda"]
