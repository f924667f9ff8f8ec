"""``sat3d weights``: published weights, and those in the store."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sat3d.cli.text import printable

if TYPE_CHECKING:
    from sat3d.importing import ImportReport
    from sat3d.weights_list import Entry, Listed

weights = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="""List, fetch, import and remove weights.

    \b
    Examples:
      sat3d weights list
      sat3d weights pull bisenet-celebamask
      sat3d weights import network-snapshot.pkl --name mine
    """,
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of 'weights list'.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@weights.command("list")
def list_weights(
    commercial_ok: Annotated[
        bool,
        typer.Option("--commercial-ok", help="Hide what may not, or not surely, be used so."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List published weights and those in the store.

    \b
    Examples:
      sat3d weights list
      sat3d weights list --commercial-ok --json
    """
    from sat3d.store import names
    from sat3d.weights_list import collect

    found, here = collect(), set(names())
    rows = [_row(listed, name in here) for name, listed in found.entries.items()]
    rows += [_own_row(name) for name in sorted(here - found.entries.keys())]
    shown = [row for row in rows if row["commercial"] in ("yes", "own") or not commercial_ok]
    if as_json:
        problems = found.problems
        typer.echo(json.dumps({"weights": shown, "problems": problems}, indent=2))
        return
    _print_table(shown)
    if len(shown) < len(rows):
        typer.echo(
            f"{len(rows) - len(shown)} hidden: no commercial use, or not clear; "
            "'sat3d weights show NAME' says why"
        )
    for problem in found.problems:
        typer.echo(printable(f"problem: {problem}"))


def _row(listed: "Listed", here: bool) -> dict[str, Any]:
    entry = listed.entry
    return {
        "name": entry.name,
        "for": listed.plugin,
        "kind": listed.kind,
        "here": here,
        "commercial": entry.commercial,
        "size": entry.size,
        "domain": entry.domain,
        "title": entry.title,
        "licence": entry.licence,
    }


def _own_row(name: str) -> dict[str, Any]:
    """Weights that no list names: the user's own."""
    row: dict[str, Any] = dict.fromkeys(("for", "kind", "size", "domain", "licence"))
    return {"name": name, **row, "here": True, "commercial": "own", "title": "imported"}


def _print_table(rows: list[dict[str, Any]]) -> None:
    header = ("name", "for", "here", "commercial use", "title")
    cells = [
        (
            str(row["name"]),
            str(row["for"] or "-"),
            "yes" if row["here"] else "no",
            "-" if row["commercial"] == "own" else str(row["commercial"]),
            str(row["title"]),
        )
        for row in rows
    ]
    widths = [max(len(line[k]) for line in (header, *cells)) for k in range(4)]
    for line in (header, *cells):
        first = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False))
        typer.echo(printable(f"{first}  {line[4]}"))


@weights.command("show")
def show(name: NameArgument, as_json: JsonOption = False) -> None:
    """Say all that is known about some weights.

    \b
    Example:
      sat3d weights show bisenet-celebamask
    """
    from sat3d.pull import read_records
    from sat3d.store import find, names
    from sat3d.weights_list import published

    listed = published().get(name)
    facts: dict[str, Any] = {"name": name}
    if listed is not None:
        facts |= {"for": f"{listed.kind} {listed.plugin}", **listed.entry.model_dump(mode="json")}
    if name in names():
        from sat3d.weights import read_header

        path = find(name)
        facts |= {"path": str(path), "header": read_header(path)}
    elif listed is None:
        find(name, published)  # raises, and names the nearest
    facts["pulled"] = read_records()["pulled"].get(name)
    facts = {key: value for key, value in facts.items() if value not in (None, [], {}, ())}
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    _print_facts(facts)


def _print_facts(facts: dict[str, Any], indent: str = "") -> None:
    """One line a fact; tables and lists are indented."""
    for key, value in facts.items():
        label = key.replace("_", " ")
        if isinstance(value, dict):
            typer.echo(printable(f"{indent}{label}:"))
            _print_facts(value, indent + "  ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            typer.echo(printable(f"{indent}{label}: {text}"))


@weights.command("pull")
def pull_weights(
    name: NameArgument,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="You have read the licence and accept it.")
    ] = False,
    mirror: Annotated[
        str | None,
        typer.Option(
            "--mirror", help="Try first: https, http or file: address; ends in / for a folder."
        ),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option("--offline", envvar="SAT3D_OFFLINE", help="Use no network, only file:."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Fetch, check and import published weights.

    An interrupted pull goes on where it stopped when the command is run again.

    \b
    Examples:
      sat3d weights pull bisenet-celebamask
      sat3d weights pull bisenet-celebamask --accept-licence --mirror file:///media/weights/
    """
    from sat3d.errors import Interrupted
    from sat3d.progress import open_progress
    from sat3d.pull import pull
    from sat3d.weights_list import lookup

    listed = lookup(name)
    try:
        done = pull(
            listed,
            lambda entry: accept_licence or _ask(entry),
            mirror=mirror,
            offline=offline,
            progress=open_progress(quiet=quiet),
        )
    except KeyboardInterrupt:
        raise Interrupted("stopped; run the same command again to go on where it was") from None
    if not done.sha256:
        typer.echo(f"{done.path}: already here")
        return
    typer.echo(f"sha256 {done.sha256}" + ("" if done.hash_was_known else ": recorded, not known"))
    typer.echo(f"{done.path}: use it with {_flag(listed)} {name}")


def _ask(entry: "Entry") -> bool:
    """Put the licence to whoever sits there; False where nobody does."""
    import sys

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    use = f"commercial use: {entry.commercial}"
    for line in (entry.title, f"licence: {entry.licence}", use, entry.licence_url):
        typer.echo(printable(line), err=True)
    return typer.confirm("Have you read the licence, and do you accept it?", err=True)


def _flag(listed: "Listed") -> str:
    flags = {"generator": "--weights", "segmenter": "--segmenter-weights"}
    return f"{flags[listed.kind]}" if listed.kind in flags else "name"


@weights.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(help="Published checkpoint: .pkl, .pt, .pth ...")],
    name: Annotated[
        str | None, typer.Option("--name", help="Name in the store; by default after the file.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace weights.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Import a checkpoint; nothing in it is executed.

    With the name of published weights, their licence and what goes with them are noted too.

    \b
    Examples:
      sat3d weights import network-snapshot.pkl --name mine
      sat3d weights import 79999_iter.pth --name bisenet-celebamask
    """
    from sat3d.importing import import_file
    from sat3d.weights_list import published

    listed = published().get(name or "")
    header = None if listed is None else listed.entry.header()
    if listed is not None:
        _check_published(file, listed.entry)
    report = import_file(file, name, header=header, overwrite=overwrite)
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps({**asdict(report), "path": str(report.path)}, indent=2))
        return
    for line in _report_lines(report):
        typer.echo(printable(line))


def _check_published(file: Path, entry: "Entry") -> None:
    """A published name, and with it a licence, is for the published file only."""
    from sat3d.download import sha256_of
    from sat3d.errors import UsageError

    if entry.sha256 is None or not file.is_file():
        return
    digest = sha256_of(file)
    if not digest.startswith(entry.sha256):
        raise UsageError(
            f"'{file}' is not the file published as '{entry.name}': its sha256 is {digest}, "
            f"not {entry.sha256}. Choose another --name."
        )


def _report_lines(report: "ImportReport") -> list[str]:
    facts = {
        "found": report.layout,
        "architecture": f"{report.architecture} ({report.kind})",
        "resolution": report.resolution,
        "style channels": report.style_channels,
        "licence": report.licence,
        "sha256": report.sha256,
        "written": report.path,
    }
    lines = [f"{key}: {value}" for key, value in facts.items() if value is not None]
    return [*lines, *(f"note: {note}" for note in report.notes)]


@weights.command("remove")
def remove_weights(
    name: NameArgument,
    forget: Annotated[
        bool, typer.Option("--forget", help="Also forget its hash; the next pull trusts anew.")
    ] = False,
) -> None:
    """Delete weights, and what an interrupted pull left.

    \b
    Example:
      sat3d weights remove bisenet-celebamask
    """
    from sat3d import pull, store

    left = pull.drop_download(name)
    if forget:
        pull.forget(name)
    if not (left or forget) or name in store.names():
        typer.echo(f"{store.remove(name)}: removed")
    else:
        typer.echo(f"{name}: " + ("unfinished download removed" if left else "hash forgotten"))


@weights.command("path")
def path(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Weights' name.")] = None,
) -> None:
    """Print the path of weights, or of the store.

    The environment variable SAT3D_WEIGHTS names the folder of the store.

    \b
    Examples:
      sat3d weights path
      sat3d weights path bisenet-celebamask
    """
    from sat3d.store import find, store_folder
    from sat3d.weights_list import published

    typer.echo(str(store_folder() if name is None else find(name, published)))
