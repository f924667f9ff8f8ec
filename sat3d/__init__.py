"""Image-driven semantic attribute transfer on StyleGAN-type 2D and 3D generators.

The public names of the toolkit. They are imported on first use, so that ``import sat3d`` and the
command line stay quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sat3d.artifact import Masks, load_masks
    from sat3d.descriptors import DescriptorPack
    from sat3d.embedded import generator_for
    from sat3d.engine import train
    from sat3d.errors import (
        InputError,
        Interrupted,
        MismatchError,
        PackError,
        PluginError,
        Sat3dError,
        UsageError,
    )
    from sat3d.evaluation import evaluate
    from sat3d.hookspecs import hookimpl
    from sat3d.images import read_image, write_png
    from sat3d.interfaces import (
        Bench,
        Codes,
        Editor,
        Embedding,
        Generator,
        Reader,
        Render,
        Segmenter,
        StyleLayer,
        StyleLayout,
        WeightsCard,
    )
    from sat3d.inversion import invert
    from sat3d.latents import Latent, load_latent, resolve, save_latent
    from sat3d.qmm import QMM
    from sat3d.registry import (
        default_device,
        discover,
        load_generator,
        load_pack,
        load_reader,
        load_segmenter,
    )
    from sat3d.settings import TrainSettings
    from sat3d.specs import (
        ClipSpec,
        DescriptorSpec,
        EditorSpec,
        GeneratorSpec,
        ReaderSpec,
        SegmenterSpec,
        WeightsListSpec,
    )
    from sat3d.transfers import Edit, transfer

__version__ = "0.1.0"

_NAMES = {
    "artifact": ["Masks", "load_masks"],
    "descriptors": ["DescriptorPack"],
    "embedded": ["generator_for"],
    "engine": ["train"],
    "errors": [
        "InputError",
        "Interrupted",
        "MismatchError",
        "PackError",
        "PluginError",
        "Sat3dError",
        "UsageError",
    ],
    "evaluation": ["evaluate"],
    "hookspecs": ["hookimpl"],
    "images": ["read_image", "write_png"],
    "interfaces": [
        "Bench",
        "Codes",
        "Editor",
        "Embedding",
        "Generator",
        "Reader",
        "Render",
        "Segmenter",
        "StyleLayer",
        "StyleLayout",
        "WeightsCard",
    ],
    "inversion": ["invert"],
    "latents": ["Latent", "load_latent", "resolve", "save_latent"],
    "qmm": ["QMM"],
    "registry": [
        "default_device",
        "discover",
        "load_generator",
        "load_pack",
        "load_reader",
        "load_segmenter",
    ],
    "settings": ["TrainSettings"],
    "specs": [
        "ClipSpec",
        "DescriptorSpec",
        "EditorSpec",
        "GeneratorSpec",
        "ReaderSpec",
        "SegmenterSpec",
        "WeightsListSpec",
    ],
    "transfers": ["Edit", "transfer"],
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "QMM",
    "Bench",
    "ClipSpec",
    "Codes",
    "DescriptorPack",
    "DescriptorSpec",
    "Edit",
    "Editor",
    "EditorSpec",
    "Embedding",
    "Generator",
    "GeneratorSpec",
    "InputError",
    "Interrupted",
    "Latent",
    "Masks",
    "MismatchError",
    "PackError",
    "PluginError",
    "Reader",
    "ReaderSpec",
    "Render",
    "Sat3dError",
    "Segmenter",
    "SegmenterSpec",
    "StyleLayer",
    "StyleLayout",
    "TrainSettings",
    "UsageError",
    "WeightsCard",
    "WeightsListSpec",
    "__version__",
    "default_device",
    "discover",
    "evaluate",
    "generator_for",
    "hookimpl",
    "invert",
    "load_generator",
    "load_latent",
    "load_masks",
    "load_pack",
    "load_reader",
    "load_segmenter",
    "read_image",
    "resolve",
    "save_latent",
    "train",
    "transfer",
    "write_png",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'sat3d' has no attribute '{name}'")
    value = getattr(import_module(f"sat3d.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
