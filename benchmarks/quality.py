"""Time to quality on the bundled avatars: ``python -m benchmarks.quality --out F``.

Trains as ``sat3d train`` does, with a clock that started with the process, keeps what the matrix
was every few steps, and afterwards finds with ``sat3d evaluate``'s measurement (readers that
training never saw, other pairs) when success and leakage first were good enough. With ``--against``
a second run with other settings tells whether a speed-up changed the masks.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.command import start

if TYPE_CHECKING:
    import torch

    from benchmarks.subjects import Subject
    from sat3d.artifact import Masks
    from sat3d.engine import StepReport
    from sat3d.interfaces import Reader
    from sat3d.settings import TrainSettings

SUCCESS, LEAKAGE = 0.90, 0.05
"""What counts as good: means over the attributes."""


def process_age() -> float:
    """Seconds since this process began; where the system does not tell, since this was imported."""
    try:
        import os

        started = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return uptime - started / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.monotonic() - _IMPORTED


_IMPORTED = time.monotonic()


@dataclass
class Course:
    """What happened in one run, in seconds on one clock."""

    clock: float
    """What ``time.time()`` was at 0."""
    phases: dict[str, float] = field(default_factory=dict)
    """How long each phase took."""
    kept: list[tuple[int, float, Path]] = field(default_factory=list)
    """Step, when, and the checkpoint."""
    measured: list[tuple[int, float, Mapping[str, float]]] = field(default_factory=list)
    """Step, when, and training's own look at its held-out pairs."""

    def now(self) -> float:
        """Seconds since 0."""
        return time.time() - self.clock

    @contextmanager
    def phase(self, description: str, total: int, start: int = 0) -> Iterator["Course"]:
        """As :class:`sat3d.progress.Progress`."""
        began = self.now()
        yield self
        self.phases[description] = self.phases.get(description, 0.0) + self.now() - began

    def advance(self, steps: int = 1, values: Mapping[str, float] | None = None) -> None:
        """Nothing to show."""

    def note(self, text: str) -> None:
        """Nothing to show."""


def run(
    subject: "Subject", settings: "TrainSettings", folder: Path, course: Course
) -> tuple["Masks", float]:
    """Train, keeping a copy of every checkpoint: the masks, and when they were there."""
    from sat3d.checkpoint import FILE
    from sat3d.engine import train

    newest = folder / FILE

    def keep() -> None:
        if not newest.exists():
            return
        when = newest.stat().st_mtime - course.clock
        if not course.kept or when > course.kept[-1][1]:
            copy = folder / f"kept-{len(course.kept)}.safetensors"
            shutil.copy2(newest, copy)
            course.kept.append((_step_of(copy), when, copy))

    def hear(report: "StepReport") -> None:
        if report.held_out is not None:
            course.measured.append((report.step, course.now(), dict(report.held_out)))
        keep()

    masks = train(*subject.parts, settings, out=folder, callback=hear, progress=course)
    return masks, course.now()


def _step_of(path: Path) -> int:
    from sat3d.checkpoint import load_checkpoint

    return load_checkpoint(path).step


def judged(
    subject: "Subject", reader: "Reader", masks: "Masks", pairs: int, bank: int
) -> dict[str, float]:
    """Success and leakage, means over the attributes, and the worst attribute's."""
    from sat3d.evaluation import EvaluateSettings, evaluate

    settings = EvaluateSettings(pairs=pairs, bank=bank, multi_view_pairs=0, batch=32)
    found = evaluate(subject.generator, masks, reader, None, settings)
    worst = found["attributes"].values()
    return {
        "success": found["mean"]["success"],
        "leakage": found["mean"]["leakage"],
        "worst_success": min(x["success"] for x in worst),
        "worst_leakage": max(x["leakage"] for x in worst),
    }


def is_good(figures: Mapping[str, float]) -> bool:
    """Whether both bounds are met."""
    return figures["success"] >= SUCCESS and figures["leakage"] <= LEAKAGE


def first_good(
    course: Course, masks: "Masks", end: tuple[int, float], judge: Any
) -> tuple[dict[str, Any] | None, dict[str, float]]:
    """The first kept matrix that is good, and the figures of the last one.

    By halving: it is taken that a good matrix stays good. ``judge`` gives the figures of masks.
    """
    from sat3d.checkpoint import load_checkpoint

    def at(k: int) -> "Masks":
        if k == len(course.kept):
            return masks
        matrix = load_checkpoint(course.kept[k][2]).matrix
        rows = matrix if matrix.shape == masks.logits.shape else matrix.T.contiguous()
        return type(masks)(rows.float(), dict(masks.header))

    points = [(step, when) for step, when, _ in course.kept] + [end]
    last = judge(masks)
    if not is_good(last):
        return None, last
    low, high, found = 0, len(points) - 1, last
    while low < high:
        middle = (low + high) // 2
        figures = judge(at(middle))
        if is_good(figures):
            high, found = middle, figures
        else:
            low = middle + 1
    return {"step": points[high][0], "seconds": points[high][1], **found}, last


def measure(
    subject: "Subject",
    reader: "Reader",
    settings: "TrainSettings",
    course: Course,
    pairs: int,
    bank: int,
) -> tuple[dict[str, Any], "Masks"]:
    """One run and its figures, as plain JSON values."""
    with tempfile.TemporaryDirectory() as folder:
        masks, ended = run(subject, settings, Path(folder), course)
        steps = masks.header["figures"]["steps"]

        def judge(some: "Masks") -> dict[str, float]:
            return judged(subject, reader, some, pairs, bank)

        good, last = first_good(course, masks, (steps, ended), judge)
    own = (x for x in course.measured if is_good(x[2]))
    first = next(own, None)
    return {
        "settings": settings.model_dump(mode="json"),
        "steps": steps,
        "seconds": {**course.phases, "in all": ended},
        "good": good,
        "good_by_training": first and {"step": first[0], "seconds": first[1], **first[2]},
        "end": last,
        "course": [{"step": s, "seconds": t, **x} for s, t, x in course.measured],
    }, masks


def likeness(one: "Masks", two: "Masks") -> dict[str, Any]:
    """Cosine of two mask matrices: of the probabilities, as the edit uses them, and the logits."""
    from torch.nn.functional import cosine_similarity

    a, b = (x.logits.double().softmax(dim=0) for x in (one, two))
    rows = cosine_similarity(a, b, dim=1).tolist()
    names = (*one.attributes, "others")
    return {
        "cosine": float(cosine_similarity(a.flatten(), b.flatten(), dim=0)),
        "cosine_of_logits": float(
            cosine_similarity(one.logits.flatten().double(), two.logits.flatten().double(), dim=0)
        ),
        "cosine_of_rows": dict(zip(names, rows, strict=True)),
    }


def load(device: "torch.device") -> tuple["Subject", "Reader"]:
    """The avatars with all that goes with them, and the reader that measures."""
    from benchmarks.subjects import avatars
    from sat3d.cli.loading import find_reader

    subject = avatars(device)
    return subject, find_reader(None, subject.generator)


def main(
    out: Annotated[Path, typer.Option(help="JSON file for all figures.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    preset: Annotated[str, typer.Option(help="As sat3d train's.")] = "auto",
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, KEY=VALUE.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Settings of a second run to compare with: KEY=VALUE,KEY=VALUE."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Steps between kept matrices.")] = 25,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs for each attribute.")] = 100,
    bank: Annotated[int, typer.Option(min=2, help="Images that the pairs are drawn from.")] = 400,
) -> None:
    """Measure the time from the start of the process to good masks; print it, write JSON."""
    age = process_age()
    clock = time.time() - age
    course = Course(clock)
    import benchmarks.clock as clocks
    from sat3d.devices import resolve_device
    from sat3d.files import write_atomically
    from sat3d.settings import override
    from sat3d.settings import preset as find_preset

    target = resolve_device(device)
    imported = course.now()
    subject, reader = load(target)
    course.phases |= {"interpreter": age, "imports": imported - age}
    course.phases["loading"] = course.now() - imported
    settings = override(find_preset(preset, target.type), assignments or [])
    # A matrix is kept at the next report after its checkpoint.
    keep = [f"checkpoint_every={every}", f"report_every={min(every, settings.report_every)}"]
    settings = override(settings, keep)
    found, masks = measure(subject, reader, settings, course, pairs, bank)
    told: dict[str, Any] = {"format": 1, **clocks.describe(target), "pairs": pairs, "run": found}
    write_atomically(out, (json.dumps(told, indent=2) + "\n").encode())
    if against is not None:
        other = override(settings, [x for x in against.split(",") if x.strip()])
        second, plain = measure(subject, reader, other, Course(time.time()), pairs, bank)
        ends = found["end"], second["end"]
        told["against"] = {
            **second,
            **likeness(masks, plain),
            "difference": {key: ends[0][key] - ends[1][key] for key in ends[0]},
        }
        write_atomically(out, (json.dumps(told, indent=2) + "\n").encode())
    tell(told)


def tell(told: Mapping[str, Any]) -> None:
    """The figures for people."""
    found, name = told["run"], told["device"]["name"]
    typer.echo(f"{name}, torch {told['versions']['torch']}, {found['steps']} steps")
    for phase, seconds in found["seconds"].items():
        typer.echo(f"  {phase:24} {seconds:8.2f} s")
    for title, key in (("by the reader", "good"), ("by training's own look", "good_by_training")):
        point, bounds = found[key], f"success >= {SUCCESS}, leakage <= {LEAKAGE}"
        when = "never" if point is None else f"{point['seconds']:.2f} s, step {point['step']}"
        typer.echo(f"{bounds} {title}: {when}")
    end = found["end"]
    typer.echo(f"at the end: success {end['success']:.3f}, leakage {end['leakage']:.3f}")
    if "against" in told:
        other = told["against"]
        gaps = other["difference"]
        typer.echo(
            f"against the other settings ({other['seconds']['in all']:.1f} s): cosine of the masks "
            f"{other['cosine']:.4f}, success {gaps['success']:+.3f}, "
            f"leakage {gaps['leakage']:+.3f}"
        )


if __name__ == "__main__":
    start(main, "quality")
