"""Where Triton kernels stand in for the library's passes over features."""

import functools
import logging
from types import ModuleType

import torch
from torch import Tensor

_log = logging.getLogger(__name__)


def fused(x: Tensor) -> ModuleType | None:
    """The module ``kernels`` for bfloat16 features on a CUDA device, None for all others.

    Under ``torch.compile`` None, too: it fuses plain words with all that is around them.
    """
    if torch.compiler.is_compiling() or x.dtype != torch.bfloat16 or not fusible(x):
        return None
    return works(x.device)


def fusible(x: Tensor) -> bool:
    """Whether kernels can be run on ``x``: on a CUDA device, with values, where Triton works."""
    return x.is_cuda and type(x) is Tensor and works(x.device) is not None


@functools.cache
def works(device: torch.device) -> ModuleType | None:
    """The module ``kernels`` if it can be compiled for a CUDA device here, tried once; if not, a
    warning says why."""
    try:
        from . import kernels  # Triton is not everywhere

        x = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16, device=device)
        kernels.Activate.apply(x, torch.ones(1, 1, device=device))
    except Exception as error:
        # Not installed, no C compiler, a device too old: whatever it is, the plain way remains.
        line = " ".join(str(error).split())[:200] or type(error).__name__
        _log.warning("Triton kernels cannot be used (%s); slower without.", line)
        return None
    return kernels
