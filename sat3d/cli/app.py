"""The frame of the command line: commands, errors, exit codes.

Command modules import torch and the like only inside their functions, so that ``--help`` is quick.
"""

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from sat3d import __version__
from sat3d.cli import (
    compare_command,
    descriptors_command,
    doctor_command,
    evaluate_command,
    invert_command,
    plugins_command,
    train_command,
    transfer_command,
    weights_command,
)
from sat3d.cli.text import printable
from sat3d.errors import Sat3dError

# Plain help text: the decorated one takes longer to draw than everything else together.
app = typer.Typer(
    name="sat3d",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sat3d {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; goes anywhere.")
    ] = False,
) -> None:
    """Transfer attributes between images of a 2D or 3D generator.

    \b
    First run:
      sat3d train --generator eg3d --descriptors faces --out runs/faces
      sat3d transfer --masks runs/faces/masks.safetensors --source seed:12 \\
          --reference seed:22 --attribute beard --out runs/beard
    """


app.command("train")(train_command.train)
app.command("transfer")(transfer_command.transfer)
app.command("invert")(invert_command.invert)
app.command("evaluate")(evaluate_command.evaluate)
app.command("compare")(compare_command.compare)
app.add_typer(weights_command.weights, name="weights")
app.add_typer(descriptors_command.descriptors, name="descriptors")
app.command("plugins")(plugins_command.plugins)
app.add_typer(plugins_command.plugin, name="plugin")
app.command("doctor")(doctor_command.doctor)


def main() -> None:
    """Entry point of the ``sat3d`` command."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str], commands: typer.Typer = app, program: str = "sat3d") -> int:
    """Run one command line and return its exit code: 0 done, 1 failed, 2 wrong use.

    Every error is one line on standard error; ``--debug`` shows the traceback before it.
    """
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        commands(args=arguments, prog_name=program)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        if debug:
            typer.echo(traceback.format_exc(), err=True)
        if isinstance(error, Sat3dError):
            _complain(f"error: {error}")
            return error.exit_code
        if isinstance(error, OSError) and error.strerror:  # e.g. a full disk, no permission
            where = f": '{error.filename}'" if error.filename is not None else ""
            _complain(f"error: {error.strerror}{where}")
            return 1
        what = f"unexpected {type(error).__name__}: {error}".rstrip(": ")
        _complain(what if debug else f"{what}; run with --debug to see where it comes from")
        return 1
    return 0


def _complain(message: str) -> None:
    """One red line on standard error."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text(printable(message), style="red"))
