"""``sat3d plugins``: what was found, and what could not be used."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sat3d.cli.text import printable

if TYPE_CHECKING:
    from sat3d.registry import Catalogue


def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what the installed plugins offer, then those that cannot be used.

    \b
    Examples:
      sat3d plugins
      sat3d plugins --json
      SAT3D_PLUGINS=eg3d,descriptors sat3d plugins
    """
    from sat3d.registry import discover

    catalogue = discover()
    if as_json:
        typer.echo(json.dumps(_plain(catalogue), indent=2))
        return
    for line in _lines(catalogue):
        typer.echo(printable(line))


def _plain(catalogue: "Catalogue") -> dict[str, Any]:
    from dataclasses import asdict

    offers = [
        {
            "kind": kind,
            "name": offer.spec.name,
            "summary": offer.spec.summary,
            "plugin": offer.plugin,
            "distribution": offer.distribution,
            "version": offer.version,
        }
        for kind, offer in catalogue.offers()
    ]
    return {"offers": offers, "problems": [asdict(problem) for problem in catalogue.problems]}


def _lines(catalogue: "Catalogue") -> list[str]:
    """Aligned columns, complete also where the terminal is narrow or there is none."""
    header = ("kind", "name", "from", "summary")
    rows = [
        (kind, offer.spec.name, offer.source, offer.spec.summary)
        for kind, offer in catalogue.offers()
    ]
    widths = [max(len(row[k]) for row in (header, *rows)) for k in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in (header, *rows)
    ]
    for problem in catalogue.problems:
        source = f"{problem.distribution} {problem.version}".strip()
        lines.append(f"problem: plugin '{problem.plugin}' ({source}): {problem.reason}")
    return lines
