"""Speed of training, measured in one run on one machine: ``python -m benchmarks.engine --out F``.

The straightforward loop of the paper against the engine's presets, on a published configuration
with random weights and on the bundled avatars, with the least time that the device's matrix
products would allow. What is not measured is not printed.
"""

import json
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks import clock, floor
from benchmarks.plain import PlainLoop
from benchmarks.subjects import SUBJECTS, Subject
from benchmarks.table import show
from sat3d.devices import resolve_device
from sat3d.engine import StepReport, train
from sat3d.files import write_atomically
from sat3d.objective import make_setup
from sat3d.pool import build_pool
from sat3d.settings import TrainSettings, override, preset

_SETUP = ["stop.every=0", "checkpoint_every=1000000", "preview_every=0", "min_gap=0"]


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
    subject: Subject, name: str, steps: int, pool: int, assignments: Sequence[str]
) -> dict[str, Any]:
    """The engine with a preset: median over reports, each of ``steps`` steps, the first left out.

    Pool and held-out looks are made small or left out: they are paid once, not for each sample.
    """
    device, reports = subject.generator.device, 4
    settings = preset(name, device.type)
    fixed = [f"steps={steps * reports}", f"report_every={steps}", f"pool_size={pool}"]
    # 'none': the start of the matrix does not change how long a step takes.
    settings = override(settings, [*_SETUP, *fixed, "preselection.by=none", *assignments])
    heard: list[StepReport] = []
    clock.forget_peak(device)
    train(*subject.parts, settings, callback=heard.append)
    peak = clock.peak_gib(device)
    speed = statistics.median(x.samples_per_second for x in heard[1:])
    row = _row(f"engine, {name}", settings.batch, 1 / speed, _work(subject, settings), peak)
    return {**row, "settings": settings.model_dump(mode="json")}


def _work(subject: Subject, settings: TrainSettings) -> float:
    few = override(settings, [f"pool_size={max(4, min(8, settings.pool_size))}"])
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


def measure_edit_alone(subject: Subject, repeats: int) -> float:
    """Seconds from two codes to the picture of one edit, one full view."""
    from sat3d.mask import edit

    generator = subject.generator
    with torch.no_grad():
        one, two = generator.styles(generator.map(generator.sample_latents(2, 0))).split(1)
        mask = torch.rand(generator.layout.editable_channels, device=generator.device)
        camera = generator.orbit(0.0, 0.0)
        return clock.median_seconds(
            lambda: generator.render(edit(one, two, mask, generator.layout), camera),
            generator.device,
            repeats,
        )


@contextmanager
def true_float32() -> Iterator[None]:
    """No shortened multiplications: by default torch lets convolutions of GPUs use TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def measure(
    name: str,
    device: torch.device,
    presets: Sequence[str],
    rate: float,
    steps: int,
    pool: int,
    assignments: Sequence[str],
) -> dict[str, Any]:
    """Everything about one subject, as plain JSON values."""
    subject = SUBJECTS[name](device)
    rows = [measure_plain(subject, steps)]
    rows += [measure_preset(subject, one, steps, pool, assignments) for one in presets]
    for row in rows:
        row["times_plain"] = row["samples_per_second"] / rows[0]["samples_per_second"]
        row["floor_seconds"] = row["flops_per_sample"] / rate
        row["share_of_floor"] = row["floor_seconds"] / row["seconds_per_sample"]
    return {
        "name": name,
        "what": subject.what,
        "attributes": len(subject.pack.attributes),
        "flops": floor.count_parts(subject),
        "rows": rows,
        "edit_seconds": measure_edit_alone(subject, steps),
    }


def main(
    out: Annotated[Path, typer.Option(help="JSON file for all figures.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    subject: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(SUBJECTS)}; by default the first two.")
    ] = None,
    presets: Annotated[
        list[str] | None,
        typer.Option("--preset", help="By default 'paper' and the one for the device."),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, KEY=VALUE, for every preset.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to take the median of.")] = 20,
    pool: Annotated[int, typer.Option(min=4, help="Images in the pool.")] = 64,
) -> None:
    """Measure the straightforward loop and the engine's presets; print a table, write JSON."""
    target = resolve_device(device)
    names = subject or ["eg3d-512", "avatars"]
    unknown = [name for name in names if name not in SUBJECTS]
    if unknown:
        raise typer.BadParameter(f"unknown subject '{unknown[0]}'; known: {', '.join(SUBJECTS)}")
    chosen = presets or ["paper", "cpu" if target.type == "cpu" else "gpu"]
    rate = clock.matrix_rate(target)
    told: dict[str, Any] = {
        "format": 1,
        **clock.describe(target),
        "matrix_flops_per_second": rate,
        "steps": steps,
        "subjects": [],
    }
    for name in names:
        told["subjects"].append(measure(name, target, chosen, rate, steps, pool, assignments or []))
        # After each: a long measurement that is stopped has still told something.
        write_atomically(out, (json.dumps(told, indent=2) + "\n").encode())
    show(told)


if __name__ == "__main__":
    typer.run(main)
