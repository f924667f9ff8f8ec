"""What the commands that use masks load alike, and options they share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

    from sat3d.artifact import Masks
    from sat3d.interfaces import Generator

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
    from sat3d.registry import load_generator

    known = load_masks(masks)
    loaded = load_generator(generator or known.header["generator"]["name"], weights, device)
    known.check(loaded)
    return known, loaded
