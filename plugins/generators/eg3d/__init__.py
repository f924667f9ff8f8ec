"""EG3D (Chan et al. 2022): 3D-aware generator, pure PyTorch."""

from typing import TYPE_CHECKING

from sat3d.hookspecs import hookimpl
from sat3d.specs import GeneratorSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from sat3d.interfaces import Generator


def _load(weights: str | None, device: "torch.device") -> "Generator":
    from .generator import load

    return load(weights, device)


@hookimpl
def register_generators(register: "Callable[[GeneratorSpec], None]") -> None:
    """Offer EG3D with the embedded avatars."""
    register(
        GeneratorSpec("eg3d", "EG3D tri-plane generator; embedded: cartoon avatars 128", _load)
    )
