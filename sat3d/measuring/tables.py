"""Figures as CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def to_csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """UTF-8 CSV with a head; None becomes an empty field, numbers are written in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    return text.getvalue().encode()


def evaluation_csv(report: Mapping[str, Any]) -> bytes:
    """One row for each figure of each attribute and of the mean, with its interval."""
    return to_csv(("attribute", "figure", "value", "low", "high"), _rows(report))


def _rows(report: Mapping[str, Any]) -> Iterable[tuple[Any, ...]]:
    known = report["intervals"]
    parts = {**report["attributes"], "mean": report["mean"]}
    for name, figures in parts.items():
        bounds = known["mean"] if name == "mean" else known["attributes"][name]
        for key, value in figures.items():
            low, high = bounds.get(key) or (None, None)
            yield name, key, value, low, high


COMPARED = (
    "success", "leakage", "margin", "detail", "identity", "consistency",
)  # fmt: skip


def comparison_csv(report: Mapping[str, Any]) -> bytes:
    """One row for each method and attribute at its best intensity, with the margin's interval."""
    head = ("method", "attribute", "intensity", *COMPARED, "margin_low", "margin_high", "seconds")
    return to_csv(head, _compared(report))


def _compared(report: Mapping[str, Any]) -> Iterable[tuple[Any, ...]]:
    for method, told in report["methods"].items():
        seconds = report["timings"]["seconds_per_edit"].get(method)
        for name, figures in {**told["attributes"], "mean": told["mean"]}.items():
            low, high = figures.get("interval") or (None, None)
            values = (figures.get(key) for key in COMPARED)
            yield method, name, figures.get("intensity"), *values, low, high, seconds
