"""``sat3d doctor``: is this installation well, and what can this machine do."""

import json
from typing import Annotated

import typer

from sat3d.cli.text import printable


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is installed, what is wrong and what this machine can do.

    The exit code is 1 if something is wrong.

    \b
    Examples:
      sat3d doctor
      sat3d doctor --json > report.json
    """
    from dataclasses import asdict

    from sat3d.doctor import examine

    report = examine()
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
    else:
        width = max(map(len, report.facts))
        for name, value in report.facts.items():
            typer.echo(printable(f"{name.ljust(width)}  {value}"))
        typer.echo("")
        for ability in report.abilities:
            typer.echo(f"can do: {ability}")
        for problem in report.problems:
            typer.echo(printable(f"problem: {problem}"))
        if not report.problems:
            typer.echo("nothing is wrong")
    if report.problems:
        raise typer.Exit(1)
