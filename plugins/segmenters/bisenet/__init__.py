"""Face parsing with BiSeNet."""

from typing import TYPE_CHECKING

from sat3d.hookspecs import hookimpl
from sat3d.specs import SegmenterSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from sat3d.interfaces import Segmenter


def _load(weights: str | None, device: "torch.device") -> "Segmenter":
    from .segmenter import load

    return load(weights, device)


@hookimpl
def register_segmenters(register: "Callable[[SegmenterSpec], None]") -> None:
    """Offer ``bisenet``."""
    register(SegmenterSpec("bisenet", "face parsing, 19 labels (BiSeNet)", _load))
