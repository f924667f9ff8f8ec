"""Progress of long work, for whoever watches.

The library calls a :class:`Progress`; :data:`SILENT` ignores everything and is the default. The
command line takes :func:`open_progress`: a live bar on a terminal, seldom plain lines elsewhere.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID

PLAIN_SECONDS = 15.0
"""Least time between two plain lines of one phase."""


class Phase(Protocol):
    """One counted piece of work, e.g. the steps of a training run."""

    def advance(self, steps: int = 1, values: Mapping[str, float] | None = None) -> None:
        """So many steps are done; ``values`` are the latest losses or measurements by name."""


class Progress(Protocol):
    """Receives what a long function is doing."""

    def phase(self, description: str, total: int, start: int = 0) -> AbstractContextManager[Phase]:
        """A ``with`` block for ``total`` steps, of which ``start`` were done before."""

    def note(self, text: str) -> None:
        """One line worth keeping, e.g. a warning or where a file was written."""


class Silent:
    """Ignores everything; both a Progress and a Phase."""

    @contextmanager
    def phase(self, description: str, total: int, start: int = 0) -> Iterator["Silent"]:
        """Nothing to see."""
        yield self

    def advance(self, steps: int = 1, values: Mapping[str, float] | None = None) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""


SILENT = Silent()


def open_progress(stream: TextIO | None = None, quiet: bool = False) -> Progress:
    """What suits the stream (standard error by default): live bars, plain lines or silence."""
    stream = stream or sys.stderr
    if quiet:
        return SILENT
    return Live(stream) if stream.isatty() else Plain(stream)


class Plain:
    """Seldom, complete lines: for log files and pipes."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock

    @contextmanager
    def phase(self, description: str, total: int, start: int = 0) -> Iterator["_PlainPhase"]:
        """Lines at the start, at most every PLAIN_SECONDS between, and at the end."""
        phase = _PlainPhase(self, description, total, start, self._clock)
        self.note(f"{description} ...")
        yield phase
        phase.finish()

    def note(self, text: str) -> None:
        """Write one line."""
        self._stream.write(text + "\n")
        self._stream.flush()


class _PlainPhase:
    def __init__(
        self, plain: Plain, description: str, total: int, start: int, clock: Callable[[], float]
    ) -> None:
        self._plain, self._description, self._total = plain, description, total
        self._start = self._done = start
        self._clock = clock
        self._began = self._told = clock()
        self._values = ""

    def advance(self, steps: int = 1, values: Mapping[str, float] | None = None) -> None:
        """Count, and write a line if the last one is long ago."""
        self._done += steps
        self._values = values_text(values) if values else self._values
        if self._clock() - self._told >= PLAIN_SECONDS:
            self._told = self._clock()
            self._line(self._remaining())

    def finish(self) -> None:
        """Write the last line: how much was done, and how fast."""
        seconds = self._clock() - self._began
        self._line(f"took {clock_text(seconds)}")

    def _line(self, time_text: str) -> None:
        speed = (self._done - self._start) / max(self._clock() - self._began, 1e-9)
        parts = [
            f"{self._description} {self._done}/{self._total}",
            self._values,
            f"{speed:.3g}/s",
            time_text,
        ]
        self._plain.note("  ".join(part for part in parts if part))

    def _remaining(self) -> str:
        done = self._done - self._start
        if done <= 0:
            return ""
        seconds = (self._clock() - self._began) / done * (self._total - self._done)
        return f"{clock_text(seconds)} left"


class Live:
    """Bars with losses, speed, time spent and time left, for a terminal."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False)

    @contextmanager
    def phase(self, description: str, total: int, start: int = 0) -> Iterator["_LivePhase"]:
        """A bar that stays when the work is done."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}", style="dim"),
            console=self._console,
            refresh_per_second=4,
        )
        task = bars.add_task(description, total=total, completed=start, values="", speed="")
        with bars:
            yield _LivePhase(bars, task)

    def note(self, text: str) -> None:
        """Write one line above the bar."""
        self._console.print(text, markup=False, soft_wrap=True)


class _LivePhase:
    def __init__(self, bars: "RichBars", task: "TaskID") -> None:
        self._bars, self._task = bars, task

    def advance(self, steps: int = 1, values: Mapping[str, float] | None = None) -> None:
        """Move the bar and show the values."""
        speed = self._bars.tasks[0].speed
        text = f"{speed:.3g}/s" if speed else ""
        self._bars.update(self._task, advance=steps, speed=text)
        if values:
            self._bars.update(self._task, values=values_text(values))


def values_text(values: Mapping[str, float]) -> str:
    """Losses in words: ``ref 0.123 src 4.56e-05``."""
    return " ".join(f"{name} {value:.3g}" for name, value in values.items())


def clock_text(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    head = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{head}:{whole % 60:02d}"
