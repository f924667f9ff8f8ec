"""Flowers: a generator, a segmenter, a text-image model, a reader and a pack."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sat3d import ClipSpec, DescriptorSpec, GeneratorSpec, ReaderSpec, SegmenterSpec, hookimpl

if TYPE_CHECKING:
    import torch

    from sat3d import Generator, Reader, Segmenter

_HERE = Path(__file__).parent


def _generator(weights: str | None, device: "torch.device") -> "Generator":
    from .generator import load

    return load(weights, device)


def _segmenter(weights: str | None, device: "torch.device") -> "Segmenter":
    from .seeing import load_segmenter

    return load_segmenter(weights, device)


def _reader(weights: str | None, device: "torch.device") -> "Reader":
    from .seeing import load_reader

    return load_reader(weights, device)


@hookimpl
def register_generators(register: Callable[[GeneratorSpec], None]) -> None:
    """Offer ``flowers``."""
    register(GeneratorSpec("flowers", "drawn flowers, 64 x 64; no network draws them", _generator))


@hookimpl
def register_segmenters(register: Callable[[SegmenterSpec], None]) -> None:
    """Offer ``flowers``."""
    register(SegmenterSpec("flowers", "backdrop, stem, petals and centre", _segmenter))


@hookimpl
def register_readers(register: Callable[[ReaderSpec], None]) -> None:
    """Offer ``flowers``."""
    register(ReaderSpec("flowers", "petal colour, petal shape and centre", _reader))


@hookimpl
def register_clip_models(register: Callable[[ClipSpec], None]) -> None:
    """Offer ``sat3d-flowers``."""
    config = _HERE / "sat3d-flowers.json"
    weights = _HERE / "weights" / "sat3d-flowers.safetensors"
    register(ClipSpec("sat3d-flowers", "small text-image model of flowers", config, weights))


@hookimpl
def register_descriptors(register: Callable[[DescriptorSpec], None]) -> None:
    """Offer ``flowers``."""
    register(DescriptorSpec("flowers", "petals and centres of flowers", _HERE / "flowers.yaml"))
