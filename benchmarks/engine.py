"""Speed of training, measured in one run on one machine: ``python -m benchmarks.engine --out F``.

The straightforward loop of the paper against the engine's presets, on a published configuration
with random weights and on the bundled avatars, with the least time that the device's matrix
products would allow; and what each setting of speed adds. What is not measured is not printed, and
a row that fails says so without taking the others along.
"""

import json
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks import clock, floor
from benchmarks.command import start
from benchmarks.plain import PlainLoop
from benchmarks.subjects import SUBJECTS, Subject
from benchmarks.table import show
from sat3d.devices import resolve_device
from sat3d.engine import StepReport, train
from sat3d.files import write_atomically
from sat3d.objective import make_setup
from sat3d.pool import build_pool
from sat3d.precision import Precision, shortened
from sat3d.settings import TrainSettings, override, preset

_SETUP = ["stop.every=0", "checkpoint_every=1000000", "preview_every=0", "min_gap=0"]
_SLOW = ["precision=float32", "graphs=false", "checkpointing=false"]
VARIANTS = {
    "float32": _SLOW,
    "+ bfloat16": [*_SLOW, "precision=bfloat16"],
    "+ graphs": [*_SLOW, "precision=bfloat16", "graphs=true"],
}
"""What is added to a preset, one after the other."""


def measure_plain(subject: Subject, steps: int) -> dict[str, Any]:
    """The straightforward loop: batch 1, float32, nothing kept."""
    device = subject.generator.device
    clock.forget_peak(device)
    with true_float32():
        loop = PlainLoop(subject)
        seconds = clock.median_seconds(loop.step, device, steps)
        work = floor.count_plain(loop)
    return _row("straightforward loop", 1, seconds, work, clock.peak_gib(device))


def measure_preset(
    subject: Subject,
    name: str,
    steps: int,
    pool: int,
    assignments: Sequence[str],
    label: str | None = None,
) -> dict[str, Any]:
    """The engine with a preset: median over reports, each of ``steps`` steps, the first left out.

    Pool and held-out looks are made small or left out: they are paid once, not for each sample.
    What is paid before the second report is ``seconds_to_first_report``: the small pool, the first
    steps, and whatever is captured then.
    """
    device, reports = subject.generator.device, 4
    settings = preset(name, device.type)
    fixed = [f"steps={steps * reports}", f"report_every={steps}", f"pool_size={pool}"]
    # 'none': the start of the matrix does not change how long a step takes.
    settings = override(settings, [*_SETUP, *fixed, "preselection.by=none", *assignments])
    heard: list[StepReport] = []
    times: list[float] = []

    def hear(report: StepReport) -> None:
        times.append(time.perf_counter())
        heard.append(report)

    clock.forget_peak(device)
    began = time.perf_counter()
    with _notes() as notes:
        train(*subject.parts, settings, callback=hear)
    peak = clock.peak_gib(device)
    speed = statistics.median(x.samples_per_second for x in heard[1:])
    clock.forget_peak(device)
    work = _work(subject, settings)
    row = _row(label or f"engine, {name}", settings.batch, 1 / speed, work, peak)
    row |= {"seconds_to_first_report": times[0] - began, "notes": notes}
    return {**row, "settings": settings.model_dump(mode="json")}


@contextmanager
def _notes() -> Iterator[list[str]]:
    """What the library warns of inside, e.g. that something could not be captured."""
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("sat3d")
    logger.addHandler(handler)
    try:
        yield heard
    finally:
        logger.removeHandler(handler)


def _work(subject: Subject, settings: TrainSettings) -> float:
    # What is replayed cannot be watched; the arithmetic is the same.
    few = override(settings, [f"pool_size={max(4, min(8, settings.pool_size))}", "graphs=false"])
    pool = build_pool(*subject.parts, few)
    return floor.count_engine(make_setup(*subject.parts, few, pool), few)


def _row(name: str, batch: int, seconds: float, work: float, peak: float | None) -> dict[str, Any]:
    return {
        "name": name,
        "batch": batch,
        "seconds_per_sample": seconds,
        "samples_per_second": 1 / seconds,
        "flops_per_sample": work,
        "peak_gib": peak,
    }


def measure_edit_alone(subject: Subject, repeats: int, precision: Precision = "float32") -> float:
    """Seconds from two codes to the picture of one edit, one full view."""
    from sat3d.mask import edit

    generator = subject.generator
    with torch.no_grad():
        one, two = generator.styles(generator.map(generator.sample_latents(2, 0))).split(1)
        mask = torch.rand(generator.layout.editable_channels, device=generator.device)
        camera = generator.orbit(0.0, 0.0)

        def draw() -> None:
            with shortened(generator.device, precision):
                generator.render(edit(one, two, mask, generator.layout), camera)

        return clock.median_seconds(draw, generator.device, repeats)


@contextmanager
def true_float32() -> Iterator[None]:
    """No shortened multiplications: by default torch lets convolutions of GPUs use TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def tried(name: str, device: torch.device, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` finds, or {'name', 'failed': why}: one row must not cost the others."""
    try:
        return work()
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    # Out here the error no longer holds on to the memory that may have run out.
    clock.forget_peak(device)
    return {"name": name, "failed": why}


def measure(
    name: str,
    device: torch.device,
    presets: Sequence[str],
    variants: Sequence[str],
    rate: float,
    steps: int,
    pool: int,
    assignments: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """Everything about one subject, as plain JSON values, with one row more each time.

    Variants are of the first preset.
    """
    subject = SUBJECTS[name](device)
    base = presets[0]
    parts = tried("flops", device, lambda: {"flops": floor.count_parts(subject)})
    edits = {
        key: tried(key, device, lambda p=p: {"s": measure_edit_alone(subject, steps, p)}).get("s")  # type: ignore[misc]
        for key, p in (("edit_seconds", "float32"), ("edit_seconds_bfloat16", "bfloat16"))
    }
    rows: list[dict[str, Any]] = []
    found = {
        "name": name,
        "what": subject.what,
        "attributes": len(subject.pack.attributes),
        "flops": parts.get("flops", {}),
        "rows": rows,
        **edits,
    }
    ways = [(f"engine, {one}", one, list(assignments)) for one in presets]
    ways += [(f"{base}: {x}", base, [*VARIANTS[x], *assignments]) for x in variants]
    works = {"straightforward loop": lambda: measure_plain(subject, steps)}
    for label, one, changes in ways:
        job = (subject, one, steps, pool, changes, label)
        works[label] = lambda job=job: measure_preset(*job)  # type: ignore[misc]
    for label, work in works.items():
        rows.append(tried(label, device, work))
        compare(rows[-1], rows[0], rate)
        yield found


def compare(row: dict[str, Any], plain: dict[str, Any], rate: float) -> None:
    """Add the ratio to the straightforward loop and the share of the floor, where known."""
    if "failed" in row:
        return
    known = "failed" not in plain
    row["times_plain"] = row["samples_per_second"] / plain["samples_per_second"] if known else None
    row["floor_seconds"] = row["flops_per_sample"] / rate
    row["share_of_floor"] = row["floor_seconds"] / row["seconds_per_sample"]


def main(
    out: Annotated[Path, typer.Option(help="JSON file for all figures.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    subject: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(SUBJECTS)}; by default the first two.")
    ] = None,
    presets: Annotated[
        list[str] | None,
        typer.Option("--preset", help="By default those for the device and 'paper'."),
    ] = None,
    variants: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            help=f"Of the first preset: {', '.join(VARIANTS)}, 'none'. By default all on a GPU.",
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, KEY=VALUE, for every preset.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to take the median of.")] = 20,
    pool: Annotated[int, typer.Option(min=4, help="Images in the pool.")] = 64,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the JSON instead of a table.")
    ] = False,
) -> None:
    """Measure the straightforward loop and the engine's presets; print a table, write JSON."""
    target = resolve_device(device)
    names = subject or ["eg3d-512", "avatars"]
    unknown = [name for name in names if name not in SUBJECTS]
    if unknown:
        raise typer.BadParameter(f"unknown subject '{unknown[0]}'; known: {', '.join(SUBJECTS)}")
    on_gpu = target.type != "cpu"
    chosen = presets or (["gpu", "gpu8", "paper"] if on_gpu else ["cpu", "paper"])
    added = variants or (list(VARIANTS) if on_gpu else ["none"])
    added = [] if added == ["none"] else added
    strange = [name for name in added if name not in VARIANTS]
    if strange:
        raise typer.BadParameter(f"unknown variant '{strange[0]}'; known: {', '.join(VARIANTS)}")
    rate = clock.matrix_rate(target)
    told: dict[str, Any] = {
        "format": 1,
        **clock.describe(target),
        "matrix_flops_per_second": rate,
        "steps": steps,
        "subjects": [],
    }
    for name in names:
        job = (name, target, chosen, added, rate, steps, pool, assignments or [])
        told["subjects"].append({"name": name, "failed": "not measured"})

        def keep(job: Any = job) -> dict[str, Any]:
            for found in measure(*job):
                told["subjects"][-1] = found
                # After each row: a measurement that is stopped has still told something.
                write_atomically(out, (json.dumps(told, indent=2) + "\n").encode())
            return told["subjects"][-1]

        told["subjects"][-1] = tried(name, target, keep)
    write_atomically(out, (json.dumps(told, indent=2) + "\n").encode())
    if as_json:
        typer.echo(json.dumps(told, indent=2))
    else:
        show(told)


if __name__ == "__main__":
    start(main, "engine")
