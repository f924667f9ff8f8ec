"""The figures as tables for people."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def show(told: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what a measurement wrote as JSON."""
    # Wide enough for all columns also in a file or a narrow terminal.
    console = console or Console(width=max(Console().width, 128))
    versions, rate = told["versions"], told["matrix_flops_per_second"]
    console.print(
        f"{told['device']['name']}, torch {versions['torch']}, CUDA {versions['cuda']}; "
        f"bf16 matrix products {rate / 1e12:.3g} TFLOP/s",
        highlight=False,
    )
    for subject in told["subjects"]:
        if "failed" in subject:
            console.print(f"{subject['name']} failed: {subject['failed']}", markup=False)
            continue
        console.print(_speeds(subject))
        console.print(_parts(subject, rate))
        for row in subject["rows"]:
            for note in [row["failed"]] if "failed" in row else row.get("notes", []):
                console.print(f"{row['name']}: {note}", markup=False)
        times = [subject[key] for key in ("edit_seconds", "edit_seconds_bfloat16")]
        shown = ["failed" if x is None else f"{x * 1e3:.1f} ms" for x in times]
        console.print(f"one edit, one view: {shown[0]}; in bfloat16: {shown[1]}")


def _speeds(subject: Mapping[str, Any]) -> Table:
    table = Table(title=f"{subject['name']}: {subject['what']}")
    table.add_column("")
    for head in ("batch", "ms/sample", "samples/s", "times plain", "GFLOP/sample", "floor ms",
                 "share of floor", "peak GiB"):  # fmt: skip
        table.add_column(head, justify="right")
    for row in subject["rows"]:
        if "failed" in row:
            table.add_row(row["name"], "failed")
            continue
        peak, times = row["peak_gib"], row["times_plain"]
        table.add_row(
            row["name"],
            str(row["batch"]),
            f"{row['seconds_per_sample'] * 1e3:.4g}",
            f"{row['samples_per_second']:.4g}",
            "-" if times is None else f"{times:.3g}",
            f"{row['flops_per_sample'] / 1e9:.4g}",
            f"{row['floor_seconds'] * 1e3:.3g}",
            f"{row['share_of_floor']:.1%}",
            "-" if peak is None else f"{peak:.2f}",
        )
    return table


def _parts(subject: Mapping[str, Any], rate: float) -> Table:
    table = Table(title="arithmetic of one image")
    table.add_column("part")
    table.add_column("GFLOP", justify="right")
    table.add_column("floor ms", justify="right")
    for name, work in subject["flops"].items():
        table.add_row(name, f"{work / 1e9:.4g}", f"{work / rate * 1e3:.3g}")
    return table
