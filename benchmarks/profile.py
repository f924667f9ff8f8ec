"""Where the time of a training step goes: ``python -m benchmarks.profile --out F``.

Runs the engine's step as a preset makes it and prints the operations that take longest, on the
device and on the host. With ``--set graphs=false`` kernels keep the names of their operations.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import clock
from benchmarks.command import start
from benchmarks.subjects import SUBJECTS, Subject
from sat3d.devices import resolve_device
from sat3d.engine import make_optimiser
from sat3d.files import write_atomically
from sat3d.losses import total_loss
from sat3d.objective import make_setup, measure_edit
from sat3d.pool import build_pool, draw_pairs
from sat3d.settings import TrainSettings, override
from sat3d.settings import preset as find_preset


class Step:
    """The engine's step on a small pool, again and again."""

    def __init__(self, subject: Subject, settings: TrainSettings) -> None:
        self.setup = make_setup(*subject.parts, settings, build_pool(*subject.parts, settings))
        rows, columns = len(subject.pack.attributes) + 1, len(self.setup.editable)
        device = subject.generator.device
        self.matrix = torch.zeros(columns, rows, device=device, requires_grad=True)
        self.optimiser = make_optimiser(self.matrix, settings)
        self.source = torch.Generator().manual_seed(0)

    def __call__(self) -> None:
        """One step."""
        setup, settings = self.setup, self.setup.settings
        places = torch.arange(len(setup.pool))
        pairs = draw_pairs(
            *(setup.pool.readings, setup.owner_cpu, places),
            *(settings.batch, settings.targets, settings.min_gap, self.source),
        )
        parts, _, _ = measure_edit(setup, self.matrix.T, pairs)
        self.optimiser.zero_grad(set_to_none=True)
        total_loss(parts, settings.weights).backward()
        self.optimiser.step()


def watch(step: Step, device: torch.device, steps: int) -> list[dict[str, Any]]:
    """Operations by name, longest first: milliseconds and calls of one step."""
    for _ in range(3):
        step()
    clock.synchronise(device)
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=kinds) as seen:
        for _ in range(steps):
            step()
        clock.synchronise(device)
    rows = [
        {
            "name": x.key,
            "kernel": x.device_type != DeviceType.CPU,
            "device_ms": getattr(x, "self_device_time_total", 0) / 1e3 / steps,
            "host_ms": x.self_cpu_time_total / 1e3 / steps,
            "calls": x.count / steps,
        }
        for x in seen.key_averages()
        if not getattr(x, "is_user_annotation", False)
    ]
    return sorted(rows, key=lambda row: (-row["device_ms"], -row["host_ms"]))


def main(
    out: Annotated[Path, typer.Option(help="JSON file for all operations.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    subject: Annotated[str, typer.Option(help=", ".join(SUBJECTS))] = "eg3d-512",
    preset: Annotated[str, typer.Option(help="As sat3d train's.")] = "auto",
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, KEY=VALUE.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to watch.")] = 5,
    top: Annotated[int, typer.Option(min=1, help="Operations to print.")] = 40,
) -> None:
    """Watch a few steps; print the operations that take longest, write all as JSON."""
    if subject not in SUBJECTS:
        raise typer.BadParameter(f"unknown subject '{subject}'; known: {', '.join(SUBJECTS)}")
    target = resolve_device(device)
    few = ["pool_size=64", "min_gap=0", *(assignments or [])]
    settings = override(find_preset(preset, target.type), few)
    step = Step(SUBJECTS[subject](target), settings)
    rows = watch(step, target, steps)
    seconds = clock.median_seconds(step, target, steps)
    told = {
        "format": 1,
        **clock.describe(target),
        "subject": subject,
        "settings": settings.model_dump(mode="json"),
        "step_ms": seconds * 1e3,
        "operations": rows,
    }
    write_atomically(out, (json.dumps(told, indent=2) + "\n").encode())
    typer.echo(f"{subject}: {seconds * 1e3:.2f} ms a step of {settings.batch}")
    if target.type == "cuda":
        # An operation's own time is that of its kernels, which are told, too.
        busy = sum(row["device_ms"] for row in rows if row["kernel"])
        typer.echo(f"the device is busy for {busy:.2f} ms of it")
    typer.echo(f"{'device ms':>10} {'host ms':>10} {'calls':>8}  operation")
    for row in rows[:top]:
        figures = f"{row['device_ms']:10.3f} {row['host_ms']:10.3f} {row['calls']:8.1f}"
        typer.echo(f"{figures}  {row['name'][:90]}")


if __name__ == "__main__":
    start(main, "profile")
