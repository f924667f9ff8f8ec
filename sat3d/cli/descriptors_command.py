"""``sat3d descriptors``: packs that there are, and whether a pack of one's own is any good."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sat3d.cli.loading import (
    ClipOption,
    ClipPretrainedOption,
    DeviceOption,
    OverwriteOption,
    WeightsOption,
    fitting_clip,
    load_for,
)
from sat3d.cli.text import printable

if TYPE_CHECKING:
    from torch import Tensor

    from sat3d.descriptors import Attribute, DescriptorPack, Rule
    from sat3d.interfaces import Generator
    from sat3d.qmm import QMM
    from sat3d.registry import Catalogue
    from sat3d.trial import Trial

descriptors = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="""List, show, check and try descriptor packs.

    \b
    Examples:
      sat3d descriptors list
      sat3d descriptors check my.yaml
      sat3d descriptors try my.yaml --generator eg3d
    """,
)
PackArgument = Annotated[
    str, typer.Argument(metavar="PACK", help="Name of 'descriptors list', or a YAML file.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@descriptors.command("list")
def list_packs(as_json: JsonOption = False) -> None:
    """List the installed packs.

    \b
    Example:
      sat3d descriptors list
    """
    from sat3d.errors import Sat3dError
    from sat3d.registry import discover, load_pack

    catalogue = discover()
    rows: list[dict[str, Any]] = []
    for name, offer in catalogue.descriptors.items():
        row: dict[str, Any] = {"name": name, "from": offer.source, "summary": offer.spec.summary}
        try:
            pack = load_pack(name, catalogue)
            row |= {"attributes": list(pack.names), "problem": None}
        except Sat3dError as error:
            row |= {"attributes": [], "problem": str(error)}
        rows.append(row)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    header = ("name", "from", "attributes")
    cells = [(x["name"], x["from"], ", ".join(x["attributes"]) or "-") for x in rows]
    widths = [max(len(line[k]) for line in (header, *cells)) for k in range(2)]
    for line in (header, *cells):
        first = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False))
        typer.echo(printable(f"{first}  {line[2]}"))
    for row in rows:
        if row["problem"]:
            typer.echo(printable(f"problem: pack '{row['name']}': {row['problem']}"))


@descriptors.command("show")
def show(name: PackArgument, as_json: JsonOption = False) -> None:
    """Print a pack, with all that it takes from packs that it extends.

    \b
    Example:
      sat3d descriptors show faces
    """
    from sat3d.registry import load_pack

    pack = load_pack(name)
    if as_json:
        typer.echo(json.dumps(pack.model_dump(mode="json"), indent=2))
        return
    for line in _lines(pack):
        typer.echo(printable(line))


def _lines(pack: "DescriptorPack") -> Iterator[str]:
    yield f"{pack.title} ({pack.name}, version {pack.version}): {pack.domain}"
    yield f'every phrase is read as "{pack.template}"'
    for attribute in pack.attributes:
        yield f"{attribute.name} ({attribute.title}), may alter {_region(attribute)}"
        for group in attribute.groups:
            yield f"  {group.name}: {' | '.join(group.phrases)}"
    for rule in pack.pool.exclude:
        yield f"pool: leaves out what reads as {_rule(rule)} with {rule.above:g} or more"
    for quota in pack.pool.quotas:
        yield f"pool: {quota.share:.0%} or more read as {_rule(quota)}"


def _region(attribute: "Attribute") -> str:
    region = attribute.region
    if region is None:
        return "all of the image"
    half = "" if region.cut == "none" else f", {region.cut} half"
    grown = f", grown by {region.grow:.0%}" if region.grow else ""
    return ", ".join(region.labels) + half + grown


def _rule(rule: "Rule") -> str:
    return f"'{rule.phrase}' of {' | '.join(rule.phrases)}"


@descriptors.command("check")
def check(
    file: PackArgument,
    segmenter: Annotated[
        str | None, typer.Option("--segmenter", help="Also check the labels of the regions.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a pack, and say what is wrong with it; the exit code is 2 if something is.

    \b
    Examples:
      sat3d descriptors check my.yaml
      sat3d descriptors check my.yaml --segmenter bisenet
    """
    from sat3d.registry import discover, load_pack, load_segmenter

    catalogue = discover()
    pack = load_pack(file, catalogue)
    if segmenter is not None:
        labels = load_segmenter(segmenter, None, "cpu", catalogue).labels
        pack.check_labels(labels, segmenter)
    groups = sum(len(a.groups) for a in pack.attributes)
    phrases = sum(len(g.phrases) for a in pack.attributes for g in a.groups)
    if as_json:
        found = {"pack": pack.name, "valid": True, "attributes": list(pack.names)}
        typer.echo(json.dumps({**found, "groups": groups, "phrases": phrases}, indent=2))
        return
    typer.echo(
        printable(
            f"{file}: pack '{pack.name}' is valid: {len(pack.attributes)} attributes, "
            f"{groups} groups, {phrases} phrases"
        )
    )


@descriptors.command("schema")
def schema(
    out: Annotated[Path | None, typer.Option("--out", help="Write it to this file.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Print the JSON Schema of pack files, with which editors complete and check them.

    \b
    Example:
      sat3d descriptors schema --out descriptor-pack.schema.json
    """
    from sat3d.descriptors import json_schema
    from sat3d.files import refuse_existing, write_atomically

    text = json.dumps(json_schema(), indent=2)
    if out is None:
        typer.echo(text)
        return
    refuse_existing(out, overwrite and not out.is_dir())
    write_atomically(out, f"{text}\n".encode())
    typer.echo(printable(f"{out}: name it in the first line of a pack, as docs/own-domain.md says"))


@descriptors.command("try")
def try_(
    file: PackArgument,
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="A picture; may be given many times.")
    ] = None,
    generator: Annotated[
        str | None, typer.Option("--generator", help="Try it on what this generator draws.")
    ] = None,
    weights: WeightsOption = None,
    draws: Annotated[
        int, typer.Option("--draws", min=1, max=4096, help="Images that the generator draws.")
    ] = 48,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of these.")] = 0,
    clip: ClipOption = None,
    clip_pretrained: ClipPretrainedOption = None,
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Also draw it: a PNG file.")] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what the measurement reads for each group of phrases, on pictures or on a generator.

    A group whose phrases do not tell images apart gets a warning: training could not learn from it.

    \b
    Examples:
      sat3d descriptors try my.yaml --generator eg3d --out readings.png
      sat3d descriptors try my.yaml --image a.png --image b.png --clip sat3d-avatars
    """
    from sat3d.errors import UsageError
    from sat3d.files import refuse_existing
    from sat3d.registry import discover, load_pack, resolve_device
    from sat3d.trial import try_pack

    if not image and generator is None:
        raise UsageError("there is nothing to try the pack on. Add --image FILE or --generator.")
    if out is not None:
        refuse_existing(out, overwrite and not out.is_dir())
    target, catalogue = resolve_device(device), discover()
    pack = load_pack(file, catalogue)
    loaded = None if generator is None else load_for(pack, generator, weights, target, catalogue)
    qmm = _qmm(clip, clip_pretrained, pack, loaded, catalogue, device)
    trial = try_pack(pack, qmm, _images(image or [], loaded, draws, seed, qmm))
    if out is not None:
        _draw(trial, pack, out)
    if as_json:
        groups = [group.plain() for group in trial.groups]
        summary = {"pack": pack.name, "clip": dict(qmm.identity), "images": len(trial.images)}
        typer.echo(json.dumps({**summary, "groups": groups}, indent=2))
        return
    _tell(trial)
    if out is not None:
        typer.echo(printable(f"{out}: the images that read most as each phrase"))


def _qmm(
    clip: str | None,
    pretrained: str | None,
    pack: "DescriptorPack",
    generator: "Generator | None",
    catalogue: "Catalogue",
    device: str,
) -> "QMM":
    """The measurement: as asked for, the one that goes with the weights, or the only one."""
    from sat3d.errors import UsageError
    from sat3d.qmm import QMM
    from sat3d.registry import resolve_device

    if generator is not None:
        clip, pretrained = fitting_clip(clip, pretrained, generator)
    known = sorted(catalogue.clip_models)
    if clip is None and len(known) == 1:
        clip = known[0]
    if clip is None:
        raise UsageError(
            "which text-image model is to read the images? Add --clip, one of: "
            f"{', '.join(known) or 'none installed'}, or an architecture of open_clip."
        )
    return QMM.load(pack, clip, pretrained, resolve_device(device), catalogue)


def _images(
    files: list[Path], generator: "Generator | None", count: int, seed: int, qmm: "QMM"
) -> "Iterator[Tensor]":
    """Pictures from files, then those that the generator draws, in batches."""
    from sat3d.images import read_image
    from sat3d.trial import draws

    for file in files:
        yield read_image(file).to(qmm.device)
    if generator is not None:
        yield from draws(generator, count, seed)


def _draw(trial: "Trial", pack: "DescriptorPack", out: Path) -> None:
    from sat3d.images import write_png
    from sat3d.trial import draw_trial

    write_png(out, draw_trial(trial, f"{pack.title}: what is read"))


def _tell(trial: "Trial") -> None:
    """A row for each phrase, then the warnings."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table("group", "phrase", caption=f"{len(trial.images)} images")
    for head in ("mean", "lowest", "highest", "first in"):
        table.add_column(head, justify="right")
    for group in trial.groups:
        table.add_section()
        name = f"{group.attribute}: {group.group}"
        for k, row in enumerate(group.plain()["phrases"]):
            figures = (f"{row[key]:.2f}" for key in ("mean", "lowest", "highest"))
            phrase = Text(printable(row["phrase"]))
            table.add_row("" if k else name, phrase, *figures, str(row["first"]))
    console.print(table)
    for group in trial.groups:
        for warning in group.warnings:
            line = printable(f"warning: {group.attribute}: {group.group}: {warning}")
            console.print(Text(line, style="yellow"), soft_wrap=True)
    if not any(group.warnings for group in trial.groups):
        typer.echo("every group tells these images apart")
