"""What the commands that use masks load alike, and options they share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel

    from sat3d.artifact import Masks
    from sat3d.descriptors import DescriptorPack
    from sat3d.interfaces import Generator, Reader, Segmenter
    from sat3d.registry import Catalogue

MasksOption = Annotated[
    Path, typer.Option("--masks", help="masks.safetensors of 'sat3d train', or its folder.")
]
GeneratorOption = Annotated[
    str | None, typer.Option("--generator", help="Generator; by default the masks' own.")
]
WeightsOption = Annotated[
    str | None, typer.Option("--weights", help="Weights by name or path; by default embedded.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 ...")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
TruncationOption = Annotated[
    float, typer.Option("--truncation", min=0.0, max=2.0, help="Pull seeds to the mean: 0 to 2.")
]
ClipOption = Annotated[
    str | None, typer.Option("--clip", help="Text-image model; by default the weights' own.")
]
ClipPretrainedOption = Annotated[
    str | None, typer.Option("--clip-pretrained", help="Its weights: open_clip tag or path.")
]
ReaderOption = Annotated[
    str | None, typer.Option("--reader", help="Reader; by default the weights' own.")
]
IdentityOption = Annotated[
    str | None, typer.Option("--identity", help="Reader that tells who is shown; as --reader.")
]
SegmenterOption = Annotated[
    str | None, typer.Option("--segmenter", help="Segmenter or 'none'; by default as reader.")
]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Images drawn at once.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress.")]
JsonFileOption = Annotated[
    Path | None, typer.Option("--json", help="Also write the figures to this file.")
]

Settings = TypeVar("Settings", bound="BaseModel")


def checked(model: type[Settings], **options: Any) -> Settings:
    """Settings from command line options; None takes the default. Raises UsageError."""
    from pydantic import ValidationError

    from sat3d.errors import UsageError

    try:
        return model(**{key: value for key, value in options.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        flag = str(first["loc"][0]).replace("_", "-")
        raise UsageError(f"--{flag} {first['input']}: {first['msg']}. Choose another.") from None


def load_pair(
    masks: Path, generator: str | None, weights: str | None, device: str
) -> "tuple[Masks, Generator]":
    """Masks and the generator they were made for. Raises MismatchError and what loading does."""
    from sat3d.artifact import load_masks
    from sat3d.embedded import generator_for

    known = load_masks(masks)
    return known, generator_for(known, generator, weights, device)


def load_for(
    pack: "DescriptorPack | None",
    name: str,
    weights: str | None,
    device: "torch.device",
    catalogue: "Catalogue",
) -> "Generator":
    """A generator with the weights asked for, or with the embedded ones that go with the pack."""
    from sat3d.embedded import for_pack
    from sat3d.registry import load_generator

    if weights is None and pack is not None:
        weights = for_pack(catalogue.generator(name).spec, pack.name, catalogue)
    return load_generator(name, weights, device, catalogue)


def find_reader(name: str | None, generator: "Generator") -> "Reader":
    """The reader asked for, or the one that goes with the weights. Raises UsageError."""
    from sat3d.errors import UsageError
    from sat3d.registry import discover, load_reader

    name = name or generator.card.goes_with.get("reader")
    if name is None:
        raise UsageError(
            f"weights '{generator.card.name}' name no reader. Add --reader, one of: "
            f"{', '.join(sorted(discover().readers)) or 'none installed'}."
        )
    return load_reader(name, None, generator.device)


def find_identity(name: str | None, reader: "Reader", generator: "Generator") -> "Reader | None":
    """The reader asked for, or the one that goes with generator or reader, to tell identities."""
    from sat3d.registry import load_reader

    fitting = {**reader.card.goes_with, **generator.card.goes_with}
    name = name or fitting.get("identity")
    return None if name is None else load_reader(name, None, generator.device)


def find_segmenter(
    name: str | None,
    generator: "Generator",
    weights: str | None = None,
    catalogue: "Catalogue | None" = None,
) -> "Segmenter | None":
    """The segmenter asked for, or the one that goes with the weights; None for 'none'."""
    from sat3d.registry import load_segmenter

    if name is None:
        name = generator.card.goes_with.get("segmenter", "none")
        weights = weights or generator.card.goes_with.get("segmenter_weights")
    return None if name == "none" else load_segmenter(name, weights, generator.device, catalogue)


def fitting_clip(
    name: str | None, pretrained: str | None, generator: "Generator"
) -> tuple[str | None, str | None]:
    """Text-image model and its weights: as asked for, else those that go with the generator's."""
    fits = generator.card.goes_with
    if name is not None or "clip" not in fits:
        return name, pretrained
    return fits["clip"], pretrained or fits.get("clip_pretrained")
