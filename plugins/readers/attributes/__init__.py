"""Readers of the bundled worlds' attributes, for measuring: one for each weights file."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sat3d.embedded import weights_in
from sat3d.hookspecs import hookimpl
from sat3d.specs import ReaderSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from sat3d.interfaces import Reader

_HERE = Path(__file__).parent


def _load(own: Path, weights: str | None, device: "torch.device") -> "Reader":
    from .reader import load

    return load(str(own) if weights is None else weights, device)


@hookimpl
def register_readers(register: "Callable[[ReaderSpec], None]") -> None:
    """Offer a reader by the name of each file: ``avatars`` and other worlds."""
    for name, path in weights_in(_HERE / "weights").items():
        summary = f"attribute values of cartoon {name}"
        register(ReaderSpec(name, summary, partial(_load, path)))
