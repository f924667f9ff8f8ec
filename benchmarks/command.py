"""A benchmark as a command whose errors are told as those of ``sat3d`` are."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from sat3d.cli.app import run


def start(main: Callable[..., Any], name: str) -> NoReturn:
    """Run ``python -m benchmarks.NAME`` by the words of the command line, and end."""
    commands = typer.Typer(add_completion=False)
    commands.command()(main)
    sys.exit(run(sys.argv[1:], commands, f"python -m benchmarks.{name}"))
