"""Tells cartoon avatars apart by their complexion."""

from typing import TYPE_CHECKING

from sat3d.hookspecs import hookimpl
from sat3d.specs import ReaderSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from sat3d.interfaces import Reader


def _load(weights: str | None, device: "torch.device") -> "Reader":
    from .reader import load

    return load(weights, device)


@hookimpl
def register_readers(register: "Callable[[ReaderSpec], None]") -> None:
    """Offer ``complexion``."""
    register(ReaderSpec("complexion", "who an avatar is, by the colours of its skin", _load))
