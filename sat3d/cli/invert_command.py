"""``sat3d invert``: the latents of image files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sat3d.cli.loading import (
    DeviceOption,
    OverwriteOption,
    QuietOption,
    WeightsOption,
    checked,
)

if TYPE_CHECKING:
    from sat3d.interfaces import Generator
    from sat3d.inversion import Inversion, InvertSettings
    from sat3d.progress import Progress


def invert(
    images: Annotated[Path, typer.Argument(help="An image file, or a folder of them.")],
    generator: Annotated[str, typer.Option("--generator", help="Generator, by name.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")],
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    space: Annotated[
        Literal["w", "w+", "s"], typer.Option("--space", help="One w, one a layer, or styles.")
    ] = "w+",
    steps: Annotated[int | None, typer.Option("--steps", min=0, help="Full steps.")] = None,
    draft_steps: Annotated[
        int | None, typer.Option("--draft-steps", min=0, help="Steps on small renders before.")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option("--max-seconds", min=1.0, help="Limit for one image.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the starts.")] = 0,
    overwrite: OverwriteOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Find the latent of an image, or of every image of a folder.

    Each image leaves NAME.safetensors (a --source for transfer), NAME.png (given and found side by
    side) and NAME.json. An image that fails is reported and the others go on.

    \b
    Examples:
      sat3d invert me.png --generator eg3d --out runs/me
      sat3d invert photos --generator eg3d --space s --out runs/photos
    """
    from sat3d.errors import Sat3dError
    from sat3d.files import refuse_existing
    from sat3d.inversion import InvertSettings
    from sat3d.progress import open_progress
    from sat3d.registry import load_generator

    settings = checked(
        InvertSettings, space=space, seed=seed, steps=steps, draft_steps=draft_steps,
        max_seconds=max_seconds,
    )  # fmt: skip
    files = _image_files(images)
    refuse_existing(out, overwrite and out.is_dir())
    loaded = load_generator(generator, weights, device)
    progress = open_progress(quiet=quiet or as_json)
    rows = []
    for stem, path in _stems(files):
        rows.append(_invert_one(loaded, path, out / stem, settings, progress, images.is_dir()))
    _tell(rows, out, as_json)
    failed = [row["image"] for row in rows if "error" in row]
    if failed:
        raise Sat3dError(
            f"{len(failed)} of {len(rows)} images could not be inverted: {', '.join(failed)}. "
            "Mend or remove them; the others are done."
        )


def _image_files(images: Path) -> list[Path]:
    """The file itself, or the folder's images by name. Raises InputError."""
    from sat3d.errors import InputError
    from sat3d.latents import IMAGE_ENDINGS

    if not images.is_dir():
        if not images.is_file():
            raise InputError(f"'{images}' does not exist. Give an image file or a folder of them.")
        return [images]
    found = [x for x in images.iterdir() if x.is_file() and x.suffix.lower() in IMAGE_ENDINGS]
    if not found:
        raise InputError(
            f"folder '{images}' has no images. Known endings: {' '.join(IMAGE_ENDINGS)}."
        )
    return sorted(found)


def _stems(files: list[Path]) -> list[tuple[str, Path]]:
    """(name of the results, file): a.png and a.jpg of one folder must not meet."""
    stems = [path.stem for path in files]
    return [
        (stem if stems.count(stem) == 1 else path.name.replace(".", "-"), path)
        for stem, path in zip(stems, files, strict=True)
    ]


def _invert_one(
    generator: "Generator",
    path: Path,
    target: Path,
    settings: "InvertSettings",
    progress: "Progress",
    lenient: bool,
) -> dict[str, Any]:
    """Invert and write one image; ``lenient`` returns an error instead of raising it."""
    from sat3d.errors import InputError
    from sat3d.images import read_image
    from sat3d.inversion import invert as search

    try:
        image = read_image(path)
    except InputError as error:
        if not lenient:
            raise
        return {"image": path.name, "error": str(error)}
    found = search(generator, image, settings, progress, path.name)
    for warning in found.warnings:
        typer.echo(f"warning: '{path.name}': {warning}", err=True)
    row = {"image": path.name, "latent": f"{target.name}.safetensors", **found.record()}
    _write(generator, found, row, target)
    return row


def _write(generator: "Generator", found: "Inversion", row: dict[str, Any], target: Path) -> None:
    from sat3d.files import write_atomically
    from sat3d.images import write_png
    from sat3d.latents import save_latent
    from sat3d.picture import Panel, Tile, sheet

    given = Tile(found.target[0], f"Given\n{row['image']}")
    made = Tile(found.image[0], f"Inverted\n{found.psnr:.1f} dB")
    write_png(target.parent / f"{target.name}.png", sheet([Panel([[given, made]])]))
    write_atomically(
        target.parent / f"{target.name}.json", (json.dumps(row, indent=2) + "\n").encode()
    )
    # Last, so that a latent is there only if all of its company is.
    save_latent(target.parent / f"{target.name}.safetensors", found.latent, generator)


def _tell(rows: list[dict[str, Any]], out: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"out": str(out), "images": rows}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "PSNR dB", "seconds", "result")
    for row in rows:
        if "error" in row:
            table.add_row(Text(row["image"]), "", "", Text(row["error"], style="red"))
        else:
            figures = (f"{row['psnr']:.1f}", f"{row['seconds']:.1f}")
            table.add_row(Text(row["image"]), *figures, Text(str(out / row["latent"])))
    Console().print(table)
