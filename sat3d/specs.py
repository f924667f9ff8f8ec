"""What a plugin registers: names, one-line summaries and lazy loaders.

No torch here: listing plugins must stay quick.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sat3d.errors import PluginError

if TYPE_CHECKING:
    import torch

    from sat3d.foreign import Checkpoint
    from sat3d.importing import Conversion
    from sat3d.interfaces import Editor, Generator, Reader, Segmenter


@dataclass(frozen=True)
class GeneratorSpec:
    """A generator on offer. ``load(weights, device)`` runs only when it is chosen.

    ``weights`` is None for the embedded default, else a name or path as the user typed it, or
    the path of one of ``weights_files``.
    """

    name: str
    summary: str
    load: "Callable[[str | None, torch.device], Generator]"
    embedded: bool = True
    """False where there is no default: weights must be given."""
    weights_files: Mapping[str, Path] = field(default_factory=dict)
    """Embedded weights by name, in sat3d's format; --weights takes the names. Without --weights
    the first are taken whose header says that they go with the descriptor pack, else the default.
    """

    def __post_init__(self) -> None:
        for name, path in self.weights_files.items():
            if not isinstance(name, str) or not isinstance(path, Path):
                raise PluginError(f"weights_files has {name!r:.80}: {path!r:.80}, no name and Path")


@dataclass(frozen=True)
class SegmenterSpec:
    """A segmenter on offer; as :class:`GeneratorSpec`."""

    name: str
    summary: str
    load: "Callable[[str | None, torch.device], Segmenter]"
    embedded: bool = True


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


@dataclass(frozen=True)
class WeightsListSpec:
    """A list of published weights on offer: a YAML file in the format of sat3d.weights_list."""

    name: str
    """By custom the name of the generator, segmenter or reader that reads them."""
    summary: str
    path: Path


@dataclass(frozen=True)
class ImporterSpec:
    """A reader of checkpoints made by other programs, which become weights of one architecture.

    It is given a checkpoint opened without trust: plain values, inert records, unread tensors.
    """

    name: str
    """The architecture that the weights are for."""
    summary: str
    """Which files it reads; shown when a file is not recognised."""
    recognise: "Callable[[Checkpoint], bool]"
    convert: "Callable[[Checkpoint], Conversion]"
    """Called only for a checkpoint that it recognised. Raises InputError."""
    classes: tuple[str, ...] = ()
    """Full names of classes whose objects its files hold; they are read as inert records."""


@dataclass(frozen=True)
class EditorSpec:
    """A method of editing on offer. ``load(options)`` makes one that has learned nothing yet.

    Options are what the user typed after the name, ``name:key=value,key=value``. Raise UsageError
    for one that is unknown or has no sense.
    """

    name: str
    summary: str
    load: "Callable[[Mapping[str, str]], Editor]"


AnySpec = (
    GeneratorSpec
    | SegmenterSpec
    | DescriptorSpec
    | ReaderSpec
    | ClipSpec
    | WeightsListSpec
    | ImporterSpec
    | EditorSpec
)
