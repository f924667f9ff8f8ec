"""``sat3d compare``: methods of editing side by side."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sat3d.cli.loading import (
    BatchOption,
    ClipOption,
    ClipPretrainedOption,
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
    fitting_clip,
    load_pair,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from sat3d.artifact import Masks
    from sat3d.compare import Comparison
    from sat3d.interfaces import Generator
    from sat3d.qmm import QMM


def compare(
    masks: MasksOption,
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", help="NAME or NAME:KEY=VALUE,...; may be repeated; default all."),
    ] = None,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Pairs for each attribute.")] = 40,
    tune_pairs: Annotated[
        int, typer.Option("--tune-pairs", min=1, help="Other pairs, to find the best intensity.")
    ] = 12,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also a labelled picture (.png).")
    ] = None,
    as_json: JsonFileOption = None,
    as_csv: Annotated[Path | None, typer.Option("--csv", help="Also write them as CSV.")] = None,
    generator: GeneratorOption = None,
    weights: WeightsOption = None,
    clip: ClipOption = None,
    pretrained: ClipPretrainedOption = None,
    reader: ReaderOption = None,
    identity: IdentityOption = None,
    segmenter: SegmenterOption = None,
    bank: Annotated[
        int, typer.Option("--bank", min=2, help="Images from which the pairs are drawn.")
    ] = 200,
    pool: Annotated[
        int | None, typer.Option("--pool", min=4, help="Images that the methods learn from.")
    ] = None,
    truncation: TruncationOption = 1.0,
    batch: BatchOption = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of everything drawn.")] = 0,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure methods of editing side by side, each at its best intensity.

    The first method is compared with every other one; by default that is the masks.

    \b
    Examples:
      sat3d compare --masks runs/faces --out compare.png --json compare.json
      sat3d compare --masks runs/faces --method masks --method styleclip:beta=0.1
    """
    from sat3d.compare import CompareSettings
    from sat3d.compare import compare as measure
    from sat3d.editors import load_editor
    from sat3d.files import refuse_existing
    from sat3d.progress import open_progress

    settings = checked(
        CompareSettings, pairs=pairs, tune_pairs=tune_pairs, bank=bank, pool=pool,
        truncation=truncation, batch=batch, seed=seed,
    )  # fmt: skip
    for path in filter(None, (out, as_json, as_csv)):
        refuse_existing(path, overwrite and not path.is_dir())
    editors = {text: load_editor(text) for text in methods or _all_methods()}
    known, loaded = load_pair(masks, generator, weights, device)
    judge = find_reader(reader, loaded)
    found = measure(
        loaded, known, editors,
        judge, _text_image(clip, pretrained, loaded, known),
        find_segmenter(segmenter, loaded), settings, open_progress(quiet=quiet),
        find_identity(identity, judge, loaded),
    )  # fmt: skip
    found.figures["masks"] = str(masks)
    _write(found, known, out, as_json, as_csv)
    _tell(found.figures, [path for path in (out, as_json, as_csv) if path])


def _all_methods() -> list[str]:
    """Every editor on offer, the masks first."""
    from sat3d.registry import discover

    return sorted(discover().editors, key=lambda name: (name != "masks", name))


def _text_image(
    clip: str | None, pretrained: str | None, generator: "Generator", masks: "Masks"
) -> "QMM | None":
    """The text-image model asked for, or the one that goes with the weights; None without one."""
    from sat3d.qmm import QMM

    name, pretrained = fitting_clip(clip, pretrained, generator)
    if name is None:
        return None
    return QMM.load(masks.pack, name, pretrained, generator.device)


def _write(
    found: "Comparison",
    masks: "Masks",
    out: Path | None,
    as_json: Path | None,
    as_csv: Path | None,
) -> None:
    from sat3d.files import write_atomically
    from sat3d.images import write_png
    from sat3d.measuring.tables import comparison_csv

    if out is not None:
        write_png(out, picture(found, {a.name: a.title for a in masks.pack.attributes}))
    if as_json is not None:
        write_atomically(as_json, (json.dumps(found.figures, indent=2) + "\n").encode())
    if as_csv is not None:
        write_atomically(as_csv, comparison_csv(found.figures))


def picture(found: "Comparison", titles: Mapping[str, str]) -> "Image":
    """Columns are attributes; rows source, reference, and each method's result."""
    from sat3d.picture import Panel, Tile, sheet

    first = next(iter(found.examples.values()))
    names = list(first)
    rows = [
        [Tile(first[name].source) for name in names],
        [Tile(first[name].reference) for name in names],
    ]
    methods = found.figures["methods"]
    for method, examples in found.examples.items():
        strength = {name: methods[method]["attributes"][name]["intensity"] for name in names}
        rows.append([Tile(examples[name].result, f"{strength[name]:g}") for name in names])
    labels = ["source", "reference", *found.examples]
    columns = [titles[name] for name in names]
    note = "Under each result: the intensity that was best for this method and attribute."
    return sheet([Panel(rows, "", labels, columns)], "Methods side by side", note)


def _tell(figures: dict[str, Any], written: Sequence[Path]) -> None:
    """A block of rows for each method, the mean last; then what was skipped and written."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from sat3d.compare import FIGURES

    caption = f"{figures['pairs']} pairs each; 'at' is the best intensity"
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=caption)
    table.add_column(overflow="fold", min_width=12)
    for key in ("at", *FIGURES, "s/edit"):
        table.add_column(_HEADS.get(key, key), justify="right", no_wrap=True)
    seconds = figures["timings"]["seconds_per_edit"]
    for method, told in figures["methods"].items():
        table.add_row(f"[bold]{escape(method)}[/]")
        for name, values in told["attributes"].items():
            cells = (_number(values[key]) for key in FIGURES)
            table.add_row(f"  {name}", f"{values['intensity']:g}", *cells, "")
        cells = (_number(told["mean"][key]) for key in FIGURES)
        table.add_row("  mean", "", *cells, f"{seconds[method]:.3f}", end_section=True)
    Console().print(table)
    for method, reason in figures["skipped"].items():
        typer.echo(f"note: '{method}' was skipped: {reason}", err=True)
    for path in written:
        typer.echo(f"{path}: written")


_HEADS = {"identity": "ident.", "consistency": "consist."}  # fits 80 columns


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
