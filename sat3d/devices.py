"""Which device to compute on."""

from typing import TYPE_CHECKING

from sat3d.errors import UsageError
from sat3d.parallel import local_device

if TYPE_CHECKING:
    import torch


def default_device() -> "torch.device":
    """The CUDA device if there is one that works, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_device(device: "str | torch.device | None") -> "torch.device":
    """A device by name, or the default for None or 'auto'. Raises UsageError.

    Started by ``torchrun``, each process gets a GPU of its own for 'auto' and 'cuda'.
    """
    import torch

    device = local_device("auto" if device is None else str(device))
    if device == "auto":
        return default_device()
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"device '{device}' cannot be used: {line}. Use 'cpu' or see 'sat3d doctor'."
        ) from None
    return chosen
