"""``sat3d evaluate``: how well masks do."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sat3d.cli.loading import (
    DeviceOption,
    GeneratorOption,
    MasksOption,
    OverwriteOption,
    TruncationOption,
    WeightsOption,
    checked,
    load_pair,
)

if TYPE_CHECKING:
    from sat3d.interfaces import Generator, Reader, Segmenter


def evaluate(
    masks: MasksOption,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Pairs for each attribute.")] = 100,
    report: Annotated[
        Path | None, typer.Option("--json", help="Also write the figures to this file.")
    ] = None,
    generator: GeneratorOption = None,
    weights: WeightsOption = None,
    reader: Annotated[
        str | None, typer.Option("--reader", help="Reader; by default the weights' own.")
    ] = None,
    segmenter: Annotated[
        str | None, typer.Option("--segmenter", help="Segmenter or 'none'; by default as reader.")
    ] = None,
    bank: Annotated[
        int, typer.Option("--bank", min=2, help="Images from which the pairs are drawn.")
    ] = 400,
    multi_view_pairs: Annotated[
        int, typer.Option("--multi-view-pairs", min=0, help="Results seen from the sides; 0: none.")
    ] = 50,
    intensity: Annotated[float, typer.Option("--intensity", help="Strength of the edit.")] = 1.0,
    truncation: TruncationOption = 1.0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images drawn at once.")] = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of bank and pairs.")] = 0,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Measure masks over pairs whose source and reference differ in an attribute.

    success: the reader sees the reference's value in the result. leakage: share of the other
    attributes that changed. background: mean change outside the alterable region, 0 to 1.

    \b
    Examples:
      sat3d evaluate --masks runs/faces --pairs 500 --json report.json
    """
    from sat3d.evaluation import EvaluateSettings
    from sat3d.evaluation import evaluate as measure
    from sat3d.files import refuse_existing, write_atomically
    from sat3d.progress import open_progress

    settings = checked(
        EvaluateSettings, pairs=pairs, bank=bank, multi_view_pairs=multi_view_pairs,
        intensity=intensity, truncation=truncation, batch=batch, seed=seed,
    )  # fmt: skip
    if report is not None:
        refuse_existing(report, overwrite and not report.is_dir())
    known, loaded = load_pair(masks, generator, weights, device)
    judge = _reader(reader, loaded)
    outline = _segmenter(segmenter, loaded)
    figures = measure(loaded, known, judge, outline, settings, open_progress(quiet=quiet))
    figures["masks"] = {"path": str(masks), **figures["masks"]}
    if report is not None:
        write_atomically(report, (json.dumps(figures, indent=2) + "\n").encode())
    _tell(figures, report)


def _reader(name: str | None, generator: "Generator") -> "Reader":
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


def _segmenter(name: str | None, generator: "Generator") -> "Segmenter | None":
    from sat3d.registry import load_segmenter

    weights = None
    if name is None:
        name = generator.card.goes_with.get("segmenter", "none")
        weights = generator.card.goes_with.get("segmenter_weights")
    return None if name == "none" else load_segmenter(name, weights, generator.device)


def _tell(figures: dict[str, Any], report: Path | None) -> None:
    """One row an attribute, and the means."""
    from rich.console import Console
    from rich.table import Table

    keys = list(figures["mean"])
    table = Table("attribute", caption=_caption(figures))
    for key in keys:
        table.add_column(key.replace("_", " "), justify="right")
    for name, values in figures["attributes"].items():
        table.add_row(name, *(_number(values.get(key)) for key in keys))
    table.add_section()
    table.add_row("mean", *(_number(figures["mean"][key]) for key in keys))
    Console().print(table)
    if report is not None:
        typer.echo(f"{report}: the figures as JSON")


def _caption(figures: dict[str, Any]) -> str:
    return f"{figures['pairs']} pairs each, {figures['seconds']:.0f} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
