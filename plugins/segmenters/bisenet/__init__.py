"""Face parsing with BiSeNet."""

from pathlib import Path
from typing import TYPE_CHECKING

from sat3d.hookspecs import hookimpl
from sat3d.specs import ImporterSpec, SegmenterSpec, WeightsListSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from sat3d.foreign import Checkpoint
    from sat3d.importing import Conversion
    from sat3d.interfaces import Segmenter

_HERE = Path(__file__).parent


def _load(weights: str | None, device: "torch.device") -> "Segmenter":
    from .segmenter import load

    return load(weights, device)


def _recognise(checkpoint: "Checkpoint") -> bool:
    from .importer import recognise

    return recognise(checkpoint)


def _convert(checkpoint: "Checkpoint") -> "Conversion":
    from .importer import convert

    return convert(checkpoint)


@hookimpl
def register_segmenters(register: "Callable[[SegmenterSpec], None]") -> None:
    """Offer ``bisenet``."""
    register(SegmenterSpec("bisenet", "face parsing, 19 labels (BiSeNet)", _load))


@hookimpl
def register_weights(register: "Callable[[WeightsListSpec], None]") -> None:
    """Offer the list of published weights."""
    register(WeightsListSpec("bisenet", "published face-parsing weights", _HERE / "weights.yaml"))


@hookimpl
def register_importers(register: "Callable[[ImporterSpec], None]") -> None:
    """Offer to read published checkpoints."""
    summary = "state dicts of face-parsing.PyTorch"
    register(ImporterSpec("bisenet", summary, _recognise, _convert))
