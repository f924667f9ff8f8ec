"""``sat3d evaluate``: how well masks do."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sat3d.cli.loading import (
    BatchOption,
    DeviceOption,
    GeneratorOption,
    IdentityOption,
    JsonFileOption,
    MasksOption,
    OverwriteOption,
    QuietOption,
    ReaderOption,
    SegmenterOption,
    TruncationOption,
    WeightsOption,
    checked,
    find_identity,
    find_reader,
    find_segmenter,
    load_pair,
)

if TYPE_CHECKING:
    from sat3d.evaluation import Evaluation


def evaluate(
    masks: MasksOption,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Pairs for each attribute.")] = 100,
    measure: Annotated[
        str,
        typer.Option("--measure", help="core, all, or more figures by name, joined by commas."),
    ] = "core",
    as_json: JsonFileOption = None,
    as_csv: Annotated[
        Path | None, typer.Option("--csv", help="Also write them as CSV, with intervals.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Also write a report to look at: one .html.")
    ] = None,
    examples: Annotated[
        int, typer.Option("--examples", min=0, help="Pairs shown for each attribute in --report.")
    ] = 6,
    generator: GeneratorOption = None,
    weights: WeightsOption = None,
    reader: ReaderOption = None,
    identity: IdentityOption = None,
    segmenter: SegmenterOption = None,
    bank: Annotated[
        int, typer.Option("--bank", min=2, help="Images from which the pairs are drawn.")
    ] = 400,
    multi_view_pairs: Annotated[
        int, typer.Option("--multi-view-pairs", min=0, help="Results seen from the sides; 0: none.")
    ] = 50,
    curve_pairs: Annotated[
        int, typer.Option("--curve-pairs", min=1, help="Pairs in the curves of --measure curves.")
    ] = 40,
    intensity: Annotated[float, typer.Option("--intensity", help="Strength of the edit.")] = 1.0,
    truncation: TruncationOption = 1.0,
    batch: BatchOption = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of bank and pairs.")] = 0,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure masks over pairs whose source and reference differ in an attribute.

    success: the reader sees the reference's value in the result. leakage: share of the other
    attributes that changed. background: mean change outside the alterable region, 0 to 1.
    --measure adds detail, identity, preservation, reprojection, kid, curves; see the docs.

    \b
    Examples:
      sat3d evaluate --masks runs/faces --pairs 500 --json report.json
      sat3d evaluate --masks runs/faces --measure all --report report.html
    """
    from sat3d.evaluation import EvaluateSettings, evaluate_all, parse_measures
    from sat3d.files import refuse_existing
    from sat3d.parallel import is_main
    from sat3d.progress import open_progress

    settings = checked(
        EvaluateSettings, pairs=pairs, bank=bank, multi_view_pairs=multi_view_pairs,
        curve_pairs=curve_pairs, intensity=intensity, truncation=truncation, batch=batch,
        seed=seed, measure=parse_measures(measure),
    )  # fmt: skip
    for path in filter(None, (as_json, as_csv, report)):
        refuse_existing(path, overwrite and not path.is_dir())
    known, loaded = load_pair(masks, generator, weights, device)
    judge = find_reader(reader, loaded)
    who = find_identity(identity, judge, loaded)
    outline = find_segmenter(segmenter, loaded)
    watch = open_progress(quiet=quiet or not is_main())
    shown = examples if report else 0
    found = evaluate_all(loaded, known, judge, outline, settings, watch, who, shown)
    if not is_main():
        return
    found.figures["masks"] = {"path": str(masks), **found.figures["masks"]}
    _write(found, as_json, as_csv, report)
    _tell(found.figures)
    for path in filter(None, (as_json, as_csv, report)):
        typer.echo(f"{path}: written")


def _write(
    found: "Evaluation", as_json: Path | None, as_csv: Path | None, report: Path | None
) -> None:
    """Write the files that were asked for."""
    from sat3d.files import write_atomically
    from sat3d.measuring.html import evaluation_html
    from sat3d.measuring.tables import evaluation_csv

    if as_json is not None:
        write_atomically(as_json, (json.dumps(found.figures, indent=2) + "\n").encode())
    if as_csv is not None:
        write_atomically(as_csv, evaluation_csv(found.figures))
    if report is not None:
        write_atomically(report, evaluation_html(found))


def _tell(figures: dict[str, Any]) -> None:
    """The table, upright or lying: of attributes and figures the fewer are columns."""
    from rich.console import Console
    from rich.table import Table

    keys, parts = list(figures["mean"]), {**figures["attributes"], "mean": figures["mean"]}
    rows = [[_number(values.get(key)) for key in keys] for values in parts.values()]
    head, names = [key.replace("_", " ") for key in keys], list(parts)
    if len(head) > len(names):
        head, names, rows = names, head, [list(column) for column in zip(*rows, strict=True)]
    table = Table("", caption=_caption(figures))
    for text in head:
        table.add_column(text, justify="right")
    for name, row in zip(names, rows, strict=True):
        table.add_row(name, *row)
    Console().print(table)
    for note in figures["notes"]:
        typer.echo(f"note: {note}", err=True)


def _caption(figures: dict[str, Any]) -> str:
    return f"{figures['pairs']} pairs each, {figures['seconds']:.0f} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
