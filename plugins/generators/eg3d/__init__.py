"""EG3D (Chan et al. 2022): 3D-aware generator, pure PyTorch."""

from pathlib import Path
from typing import TYPE_CHECKING

from sat3d.embedded import weights_in
from sat3d.hookspecs import hookimpl
from sat3d.specs import GeneratorSpec, ImporterSpec, WeightsListSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from sat3d.foreign import Checkpoint
    from sat3d.importing import Conversion
    from sat3d.interfaces import Generator

_HERE = Path(__file__).parent
# Parts of published snapshots that carry no source text; read as inert records.
_CLASSES = (
    "torch.nn.modules.activation.Softplus",
    "torch.nn.modules.container.Sequential",
    "training.triplane.OSGDecoder",
    "training.volumetric_rendering.ray_marcher.MipRayMarcher2",
    "training.volumetric_rendering.ray_sampler.RaySampler",
    "training.volumetric_rendering.renderer.ImportanceRenderer",
)


def _load(weights: str | None, device: "torch.device") -> "Generator":
    from .generator import load

    return load(weights, device)


def _recognise(checkpoint: "Checkpoint") -> bool:
    from .importer import recognise

    return recognise(checkpoint)


def _convert(checkpoint: "Checkpoint") -> "Conversion":
    from .importer import convert

    return convert(checkpoint)


@hookimpl
def register_generators(register: "Callable[[GeneratorSpec], None]") -> None:
    """Offer EG3D with whatever weights are embedded; the avatars are the default."""
    found = weights_in(_HERE / "weights")
    register(GeneratorSpec("eg3d", "EG3D tri-plane generator, 3D", _load, weights_files=found))


@hookimpl
def register_weights(register: "Callable[[WeightsListSpec], None]") -> None:
    """Offer the list of published weights."""
    register(WeightsListSpec("eg3d", "published EG3D generators", _HERE / "weights.yaml"))


@hookimpl
def register_importers(register: "Callable[[ImporterSpec], None]") -> None:
    """Offer to read published checkpoints."""
    register(ImporterSpec("eg3d", "EG3D snapshots", _recognise, _convert, _CLASSES))
