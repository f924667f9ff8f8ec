"""Cases that are hard by nature: ``python -m benchmarks.harder --masks runs/faces --out F``.

Two attributes at once that share a region, references of which only a picture from the side is
known, and values that few images show. What the readers see is counted as in ``sat3d evaluate``.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.clock import describe
from benchmarks.command import start
from benchmarks.harder_cases import POSES, Ground, Plan, poses, prepare, rare, sharing, together
from sat3d.artifact import Masks
from sat3d.cli.loading import (
    BatchOption,
    DeviceOption,
    GeneratorOption,
    MasksOption,
    QuietOption,
    ReaderOption,
    WeightsOption,
    find_reader,
    load_pair,
)
from sat3d.errors import UsageError
from sat3d.files import write_atomically
from sat3d.interfaces import Reader
from sat3d.measuring.studio import measured
from sat3d.progress import open_progress
from sat3d.transfers import check_intensity
from sat3d.weights import fingerprint


def parse_together(texts: Sequence[str], masks: Masks) -> list[tuple[str, str]]:
    """Texts ``A+B`` as the pack's own names. Raises UsageError, PackError."""
    found = []
    for text in texts:
        names = [masks.attributes[masks.pack.index(x)] for x in text.split("+") if x.strip()]
        if len(set(names)) != 2 or len(names) != 2:
            raise UsageError(f"--together '{text}' is not two attributes. Write A+B.")
        found.append((names[0], names[1]))
    return list(dict.fromkeys(found))


def check_read(twos: Sequence[tuple[str, str]], masks: Masks, reader: Reader) -> None:
    """Raise UsageError for an attribute that the reader does not know."""
    known = measured(masks.attributes, reader)
    for name in (name for two in twos for name in two):
        if name not in known:
            raise UsageError(
                f"reader '{reader.name}' does not read '{name}'. It reads: {', '.join(known)}."
            )


def why_no_poses(ground: Ground) -> str | None:
    """Why references in another pose cannot be measured; None if they can."""
    if not ground.studio.generator.is_3d:
        return f"generator '{ground.studio.generator.name}' is 2D"
    return None if ground.plan.inverted else "--inverted 0"


def main(
    masks: MasksOption,
    out: Annotated[Path, typer.Option(help="JSON file for all figures.")],
    both: Annotated[
        list[str] | None,
        typer.Option("--together", help="Two attributes, A+B; repeatable. All that share a label."),
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of each case.")] = Plan.pairs,
    bank: Annotated[int, typer.Option(min=2, help="Images that pairs are drawn from.")] = Plan.bank,
    inverted: Annotated[
        int, typer.Option(min=0, help="References inverted, each in two poses; 0: none.")
    ] = Plan.inverted,
    yaw: Annotated[float, typer.Option(min=0, max=90, help="Degrees to either side.")] = Plan.yaw,
    intensity: Annotated[float, typer.Option(help="Strength of the edit.")] = Plan.intensity,
    generator: GeneratorOption = None,
    weights: WeightsOption = None,
    reader: ReaderOption = None,
    batch: BatchOption = Plan.batch,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Of bank and pairs.")] = Plan.seed,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Measure each case, print its table, write JSON after each."""
    plan = Plan(pairs, bank, inverted, yaw, check_intensity(intensity), batch, seed)
    known, loaded = load_pair(masks, generator, weights, device)
    twos, judge = parse_together(both or (), known), find_reader(reader, loaded)
    check_read(twos, known, judge)  # a wrong name is told before the work
    ground = prepare(loaded, known, judge, plan, open_progress(quiet=quiet))
    twos = twos or sharing(known.pack, ground.names)
    told: dict[str, Any] = {
        "format": 1, **describe(loaded.device), "settings": dataclasses.asdict(plan),
        "generator": {"name": loaded.name, "weights": loaded.card.fingerprint},
        "masks": fingerprint({"mask.logits": known.logits}), "reader": ground.studio.reader.name,
        "notes": [], "seconds": {},
    }  # fmt: skip
    cases: dict[str, Callable[[], Any]] = {
        "together": lambda: {"+".join(two): together(ground, two) for two in twos},
        "rare": lambda: rare(ground),
        "poses": lambda: poses(ground),
    }
    if reason := why_no_poses(ground):
        told["notes"].append(f"references at another pose are left out: {reason}.")
        cases["poses"] = lambda: None
    for case, measure in cases.items():
        began = time.monotonic()
        told[case] = measure()
        told["seconds"][case] = round(time.monotonic() - began, 3)
        write_atomically(out, (json.dumps(told, indent=1) + "\n").encode())
    # Wide enough for all columns also in a file or a narrow terminal.
    show(told, Console(width=max(Console().width, 160)))


def show(told: Mapping[str, Any], console: Console) -> None:
    """Print all tables."""
    console.print(_together(told["together"]))
    console.print(_rare(told["rare"]))
    if told["poses"]:
        console.print(_poses(told["poses"], told["settings"]["yaw"]))
    for note in told["notes"]:
        console.print(f"note: {note}", markup=False)


def _cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "-"
    if figure["interval"] is None:
        return f"{figure['mean']:.3f}"
    low, high = figure["interval"]
    return f"{figure['mean']:.3f} ({low:.2f} to {high:.2f})"


def _table(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=title)
    table.add_column("")
    for head in heads:
        table.add_column(head, justify="right")
    return table


def _together(cases: Mapping[str, Any]) -> Table:
    heads = ("transferred", "success", "of the first", "of the second", "other moved", "leakage")
    table = _table("two at once that share a region", heads)
    for title, case in cases.items():
        both = case["both"]
        each = [_cell(x) for x in both["each"].values()]
        table.add_row(title, "both", _cell(both["success"]), *each, "", _cell(both["leakage"]))
        for name, one in case["alone"].items():
            figures = [_cell(one[key]) for key in ("success", "moved", "leakage")]
            table.add_row("", name, figures[0], "", "", *figures[1:])
    return table


def _rare(told: Mapping[str, Any]) -> Table:
    table = _table("by the reference's value", ("value", "share", "pairs", "success"))
    for name, rows in told["attributes"].items():
        for k, row in enumerate(rows):
            value = f"{row['value']} (rare)" if row["rare"] else row["value"]
            figures = (f"{row['share']:.1%}", str(row["pairs"]), _cell(row["success"]))
            table.add_row("" if k else name, value, *figures)
    table.add_section()
    for key in ("rare", "others"):
        table.add_row("mean", key, "", "", _cell(told[key]))
    return table


def _poses(told: Mapping[str, Any], yaw: float) -> Table:
    heads = [f"{pose}: {key}" for pose in POSES for key in ("success", "leakage")]
    quality = ", ".join(f"{pose} {x['psnr']['mean']:.1f} dB" for pose, x in
                        told["inversions"].items())  # fmt: skip
    title = f"{told['references']} references, turned by {yaw:g} degrees; inverted: {quality}"
    table = _table(title, heads)
    for name, row in {**told["attributes"], "mean": told["mean"]}.items():
        table.add_row(name, *(_cell(x) for pose in POSES for x in row[pose].values()))
    return table


if __name__ == "__main__":
    start(main, "harder")
