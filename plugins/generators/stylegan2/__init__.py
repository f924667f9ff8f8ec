"""StyleGAN2 (Karras et al. 2020): 2D generator, pure PyTorch."""

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
    """Offer StyleGAN2; weights have to be given unless the flat avatars are there."""
    found = weights_in(_HERE / "weights")
    embedded = "avatars2d" in found
    summary = "StyleGAN2 2D generator" + ("" if embedded else "; give --weights")
    register(GeneratorSpec("stylegan2", summary, _load, embedded, found))


@hookimpl
def register_weights(register: "Callable[[WeightsListSpec], None]") -> None:
    """Offer the list of published weights."""
    path = _HERE / "weights.yaml"
    register(WeightsListSpec("stylegan2", "published StyleGAN2 generators", path))


@hookimpl
def register_importers(register: "Callable[[ImporterSpec], None]") -> None:
    """Offer to read published checkpoints."""
    summary = (
        "snapshots of StyleGAN2-ADA-PyTorch and StyleGAN3's repository, rosinality's layout "
        "(also in e4e and pSp), state dicts"
    )
    register(ImporterSpec("stylegan2", summary, _recognise, _convert))
