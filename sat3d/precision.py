"""Short numbers for frozen networks, and marks for what must stay exact.

The core runs networks under ``torch.autocast``, which shortens convolutions and matrix products.
A network marks what may not be shortened with :func:`exact`, and lowers with :func:`lower` what
autocast would leave long for no use. Without autocast both change nothing.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["float32", "bfloat16"]


def shortened(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Run the frozen networks inside this in that precision; 'float32' changes nothing."""
    if precision == "float32":
        return nullcontext()
    # Autocast only remembers weights that are trained, and a CUDA graph must not remember any.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def low_dtype(x: Tensor) -> torch.dtype | None:
    """What autocast shortens the float32 tensor ``x`` to here; None where it does not."""
    kind = x.device.type
    if x.dtype not in (torch.float32, torch.bfloat16) or kind == "meta":
        return None
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def lower(x: Tensor) -> Tensor:
    """``x`` as short as autocast makes it; itself without autocast."""
    dtype = low_dtype(x)
    return x if dtype is None else x.to(dtype)


def exact(x: Tensor) -> AbstractContextManager[Any]:
    """Inside this nothing on the device of ``x`` is shortened."""
    if low_dtype(x) is None:
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)
