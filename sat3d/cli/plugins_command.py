"""``sat3d plugins``: what was found, and what could not be used; ``sat3d plugin new``: more."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sat3d.cli.text import printable

if TYPE_CHECKING:
    from sat3d.registry import Catalogue, Offer
    from sat3d.specs import AnySpec

plugin = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="""Begin a plugin package.

    \b
    Example:
      sat3d plugin new my-domain --generator --segmenter
    """,
)


@plugin.callback()
def _group() -> None:
    """Keeps ``new`` a word of its own, also while it is the only command."""


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
            **({"weights": found} if (found := _weights(offer)) else {}),
        }
        for kind, offer in catalogue.offers()
    ]
    return {"offers": offers, "problems": [asdict(problem) for problem in catalogue.problems]}


def _weights(offer: "Offer[AnySpec]") -> dict[str, str]:
    """Embedded weights of a generator and the packs that they go with."""
    from sat3d.embedded import packs
    from sat3d.specs import GeneratorSpec

    return packs(offer.spec) if isinstance(offer.spec, GeneratorSpec) else {}


def _summary(offer: "Offer[AnySpec]") -> str:
    """What the plugin says, and the embedded weights by name, each with its pack."""
    known = ", ".join(f"{name} ({pack})" for name, pack in _weights(offer).items())
    return f"{offer.spec.summary}; weights: {known}" if known else offer.spec.summary


def _lines(catalogue: "Catalogue") -> list[str]:
    """Aligned columns, complete also where the terminal is narrow or there is none."""
    header = ("kind", "name", "from", "summary")
    rows = [
        (kind, offer.spec.name, offer.source, _summary(offer)) for kind, offer in catalogue.offers()
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


@plugin.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name, e.g. my-domain.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; by default sat3d-NAME here.")
    ] = None,
    generator: Annotated[
        bool, typer.Option("--generator", help="With a small generator to replace.")
    ] = False,
    segmenter: Annotated[
        bool, typer.Option("--segmenter", help="With a small segmenter to replace.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a package with a descriptor pack, tests and a README, ready for pip.

    \b
    Examples:
      sat3d plugin new my-domain
      sat3d plugin new my-domain --generator --segmenter --out work/my-domain
    """
    from sat3d.registry import discover
    from sat3d.scaffold import Plan, write_plugin

    plan = Plan(name, generator, segmenter)
    folder = out or Path(plan.distribution)
    files = write_plugin(plan, folder, discover())
    if as_json:
        names = [str(folder / file) for file in files]
        typer.echo(json.dumps({"folder": str(folder), "name": plan.word, "files": names}, indent=2))
        return
    for file in files:
        typer.echo(printable(str(folder / file)))
    typer.echo(printable(f"next: pip install -e {folder}, then see {folder / 'README.md'}"))
