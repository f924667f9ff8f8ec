"""Segmentation with DeepLabv3 (Chen et al. 2017)."""

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
    """Offer ``deeplabv3``; weights have to be given unless those of the cats are there."""
    embedded = (_HERE / "weights" / "cats.safetensors").is_file()
    hint = "" if embedded else "; give --segmenter-weights"
    summary = f"DeepLabv3, labels of the weights{hint}"
    register(SegmenterSpec("deeplabv3", summary, _load, embedded))


@hookimpl
def register_weights(register: "Callable[[WeightsListSpec], None]") -> None:
    """Offer the list of published weights."""
    path = _HERE / "weights.yaml"
    register(WeightsListSpec("deeplabv3", "published DeepLabv3 segmenters", path))


@hookimpl
def register_importers(register: "Callable[[ImporterSpec], None]") -> None:
    """Offer to read published checkpoints."""
    summary = "state dicts of torchvision's deeplabv3_resnet50 and deeplabv3_resnet101"
    register(ImporterSpec("deeplabv3", summary, _recognise, _convert))
