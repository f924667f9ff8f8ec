"""What a plugin registers: names, one-line summaries and lazy loaders.

No torch here: listing plugins must stay quick.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from sat3d.interfaces import Generator, Reader, Segmenter


@dataclass(frozen=True)
class GeneratorSpec:
    """A generator on offer. ``load(weights, device)`` runs only when it is chosen.

    ``weights`` is None for the embedded default, else a name or path as the user typed it.
    """

    name: str
    summary: str
    load: "Callable[[str | None, torch.device], Generator]"


@dataclass(frozen=True)
class SegmenterSpec:
    """A segmenter on offer; as :class:`GeneratorSpec`."""

    name: str
    summary: str
    load: "Callable[[str | None, torch.device], Segmenter]"


@dataclass(frozen=True)
class ReaderSpec:
    """A reader on offer; as :class:`GeneratorSpec`."""

    name: str
    summary: str
    load: "Callable[[str | None, torch.device], Reader]"


@dataclass(frozen=True)
class DescriptorSpec:
    """A descriptor pack on offer: the YAML file."""

    name: str
    summary: str
    path: Path


@dataclass(frozen=True)
class ClipSpec:
    """A text-image model beside open_clip's own: an open_clip model configuration and weights."""

    name: str
    summary: str
    config: Path
    """JSON in open_clip's model configuration format; its stem is the architecture's name."""
    weights: Path
