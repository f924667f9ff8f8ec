"""Everything a plugin can offer. One hook a kind; each is given ``register`` to call with specs.

A plugin is a module (or object) named by an entry point of the group ``sat3d``. Its hooks must be
quick: import torch and read weights inside the spec's ``load``, not at import time.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from sat3d.specs import (
        ClipSpec,
        DescriptorSpec,
        EditorSpec,
        GeneratorSpec,
        ImporterSpec,
        ReaderSpec,
        SegmenterSpec,
        WeightsListSpec,
    )

hookspec = pluggy.HookspecMarker("sat3d")
hookimpl = pluggy.HookimplMarker("sat3d")


@hookspec
def register_generators(register: "Callable[[GeneratorSpec], None]") -> None:
    """Offer generators."""


@hookspec
def register_segmenters(register: "Callable[[SegmenterSpec], None]") -> None:
    """Offer segmenters."""


@hookspec
def register_descriptors(register: "Callable[[DescriptorSpec], None]") -> None:
    """Offer descriptor packs (YAML files)."""


@hookspec
def register_readers(register: "Callable[[ReaderSpec], None]") -> None:
    """Offer attribute readers, which measure and never train."""


@hookspec
def register_clip_models(register: "Callable[[ClipSpec], None]") -> None:
    """Offer text-image models beside the ones open_clip knows."""


@hookspec
def register_weights(register: "Callable[[WeightsListSpec], None]") -> None:
    """Offer lists of published weights (YAML files)."""


@hookspec
def register_importers(register: "Callable[[ImporterSpec], None]") -> None:
    """Offer readers of checkpoints made by other programs."""


@hookspec
def register_editors(register: "Callable[[EditorSpec], None]") -> None:
    """Offer methods of editing, which `sat3d compare` measures side by side."""
