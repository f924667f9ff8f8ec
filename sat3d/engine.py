"""Training of the mask matrix (paper, sections 3.1, 3.2 and 4), to be read from top to bottom.

Knows generators, segmenters and measurements by their interfaces only. Nothing but the matrix is
learned.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sat3d import __version__, artifact, checkpoint, parallel
from sat3d.artifact import Masks
from sat3d.checkpoint import Checkpoint
from sat3d.descent import learning_rate as learning_rate
from sat3d.descent import make_optimiser as make_optimiser
from sat3d.descriptors import DescriptorPack
from sat3d.errors import InputError, Interrupted, Sat3dError, UsageError
from sat3d.identity import identity_of
from sat3d.images import write_png
from sat3d.interfaces import Generator, Segmenter
from sat3d.losses import total_loss
from sat3d.objective import PARTS, Pairs, Setup, judge, make_setup, measure_edit, preview
from sat3d.pool import Measure, build_pool, draw_pairs, split
from sat3d.preselect import start_matrix
from sat3d.progress import SILENT, Phase, Progress
from sat3d.settings import TrainSettings

JOURNAL = "training.jsonl"
PREVIEW = "preview.png"
# Of the settings, only these may change between a run and its continuation.
_FREE = frozenset(
    f"settings.{x}"
    for x in (
        *("steps", "report_every", "checkpoint_every", "preview_every"),
        *("chunk", "graphs", "checkpointing"),
    )
)


@dataclass(frozen=True)
class StepReport:
    """What a run has to tell every ``report_every`` steps."""

    step: int
    losses: Mapping[str, float]
    """Means since the last report: 'target', 'preserve', 'background', 'probability', 'total'."""
    samples_per_second: float
    held_out: Mapping[str, float] | None
    """The newest look at the held-out pairs: 'loss', 'success', 'leakage'."""


Callback = Callable[[StepReport], None]
"""Hears each report. Raising KeyboardInterrupt stops the run as Ctrl-C does."""


@dataclass(frozen=True)
class _Run:
    """All that stays the same during a run."""

    setup: Setup
    places: Tensor
    """Places of the pool to train on."""
    watched: Pairs
    """The held-out pairs."""
    shown: Pairs
    """One held-out pair per attribute, in the order of the attributes."""
    belongs: Mapping[str, Any]
    out: Path | None


@dataclass
class _State:
    """All that changes during a run; a checkpoint holds it."""

    matrix: Tensor
    optimiser: torch.optim.Optimizer
    source: torch.Generator
    step: int = 0
    best: float | None = None
    stale: int = 0
    held_out: dict[str, float] | None = None
    recent: list[Tensor] = field(default_factory=list)
    """Losses since the last report, left on the device; not part of a checkpoint."""


def train(
    generator: Generator,
    pack: DescriptorPack,
    qmm: Measure,
    segmenter: Segmenter | None,
    settings: TrainSettings,
    *,
    out: Path | None = None,
    resume: bool = False,
    callback: Callback | None = None,
    progress: Progress = SILENT,
) -> Masks:
    """Learn the mask matrix of one generator.

    With ``out``, writes masks.safetensors, checkpoint.safetensors, preview.png and training.jsonl
    there. ``resume`` goes on from the checkpoint in ``out``; on the CPU the result is then bit for
    bit that of an unbroken run. Started by ``torchrun``, each process takes its part of all the
    work and gets the masks; files are written, and ``callback`` called, by the first. Raises
    Interrupted after Ctrl-C (what was saved is named), MismatchError for a checkpoint of another
    run, UsageError for rules that no pool can meet, parallel.Lost if another process ends.
    """
    began = time.monotonic()
    parallel.join(generator.device)
    parallel.clear_mark(out)
    belongs = identity_of(generator, pack, qmm, segmenter, settings)
    saved = parallel.decided(lambda: _find_checkpoint(out, belongs)) if resume else None
    try:
        run = _prepare(generator, pack, qmm, segmenter, settings, belongs, out, progress)
        state = _fresh(run, progress) if saved is None else _restored(run, saved)
    except KeyboardInterrupt:
        raise Interrupted("stopped before the first step; nothing was saved.") from None
    except parallel.Lost as lost:
        raise parallel.spoken(lost, out, lambda: "It had not begun its steps.") from None
    if out is not None and parallel.is_main():
        checkpoint.trim_lines(out / JOURNAL, state.step)
    try:
        with progress.phase("Training", settings.steps, state.step) as phase:
            _loop(run, state, phase, callback)
        state.held_out = judge(run.setup, _logits(run, state), run.watched)
    except KeyboardInterrupt:
        raise Interrupted(_save_interrupted(run, state)) from None
    except parallel.Lost as lost:
        raise parallel.spoken(lost, out, lambda: _save_lost(run, state)) from None
    except torch.cuda.OutOfMemoryError:
        raise Sat3dError(
            f"the device ran out of memory at batch {settings.batch}. Lower --batch, keep less "
            "with --set checkpointing=true, or train on drafts with --set draft=true."
        ) from None
    masks = _masks(run, state, finished=True, seconds=time.monotonic() - began)
    if out is not None and parallel.is_main():
        _save(run, state, out, masks)
    return masks


def _loop(run: _Run, state: _State, phase: Phase, callback: Callback | None) -> None:
    """Step until the number of steps is reached or the held-out pairs no longer improve."""
    settings = run.setup.settings
    since = time.monotonic()
    while state.step < settings.steps and not _stale(run, state):
        parallel.check()
        with checkpoint.uninterrupted():
            _step(run, state)
            if settings.stop.every and state.step % settings.stop.every == 0:
                _look(run, state)
        last = state.step == settings.steps or _stale(run, state)
        values = None
        if last or state.step % settings.report_every == 0:
            report = _report(run, state, since)
            since, values = time.monotonic(), report.losses
            if run.out is not None and parallel.is_main():
                checkpoint.append_line(run.out / JOURNAL, asdict(report))
            if callback is not None and parallel.is_main():
                callback(report)
        phase.advance(1, values)
        if run.out is not None and parallel.is_main():
            _keep(run, state, run.out, last)


def _step(run: _Run, state: _State) -> None:
    """One step: draw pairs, edit the sources, render and measure the edits, descend."""
    setup, settings = run.setup, run.setup.settings
    before = state.source.get_state()
    pairs = draw_pairs(
        setup.pool.readings,
        setup.owner_cpu,
        run.places,
        settings.batch,
        settings.targets,
        settings.min_gap,
        state.source,
    )
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(settings, state.step)
    own = parallel.part(settings.batch)
    share = (own.stop - own.start) / settings.batch
    first, second, chosen = (x[own] for x in pairs)
    parts, _, _ = measure_edit(setup, _logits(run, state), (first, second, chosen))
    total = total_loss(parts, settings.weights) * share
    state.optimiser.zero_grad(set_to_none=True)
    total.backward()
    assert state.matrix.grad is not None, "the loss depends on the matrix"
    try:
        state.matrix.grad = parallel.summed(state.matrix.grad)
    except parallel.Lost:
        state.source.set_state(before)  # this step was not made
        raise
    state.optimiser.step()
    state.step += 1
    # Reading the losses here would make the host wait for the device.
    means = [parts[x].detach().mean() * share for x in PARTS]
    state.recent.append(torch.stack([*means, total.detach()]))


def _look(run: _Run, state: _State) -> None:
    """Judge the matrix on the held-out pairs and count looks without improvement."""
    state.held_out = judge(run.setup, _logits(run, state), run.watched)
    loss = state.held_out["loss"]
    if state.best is None or loss < state.best * (1 - run.setup.settings.stop.tolerance):
        state.best, state.stale = loss, 0
    else:
        state.stale += 1


def _stale(run: _Run, state: _State) -> bool:
    stop = run.setup.settings.stop
    return stop.every > 0 and state.stale >= stop.patience


def _keep(run: _Run, state: _State, out: Path, last: bool) -> None:
    """Write the preview and the checkpoint when they are due."""
    settings = run.setup.settings
    if settings.preview_every and (last or state.step % settings.preview_every == 0):
        write_png(out / PREVIEW, preview(run.setup, _logits(run, state), run.shown))
    if not last and state.step % settings.checkpoint_every == 0:
        _save(run, state, out)


def _logits(run: _Run, state: _State) -> Tensor:
    """The trained tensor as [A+1, n]."""
    return state.matrix.T if run.setup.settings.matrix_layout == "channels" else state.matrix


def _prepare(
    generator: Generator,
    pack: DescriptorPack,
    qmm: Measure,
    segmenter: Segmenter | None,
    settings: TrainSettings,
    belongs: Mapping[str, Any],
    out: Path | None,
    progress: Progress,
) -> _Run:
    """Build the pool and choose the held-out pairs."""
    if settings.targets > len(pack.attributes):
        raise UsageError(
            f"setting 'targets' is {settings.targets}, pack '{pack.name}' has "
            f"{len(pack.attributes)} attributes. Choose at most that many."
        )
    if settings.batch < parallel.world():
        raise UsageError(
            f"{parallel.world()} processes cannot share a batch of {settings.batch}. Raise "
            "--batch, or start fewer."
        )
    pool = build_pool(generator, pack, qmm, segmenter, settings, progress)
    setup = make_setup(generator, pack, qmm, segmenter, settings, pool)
    places, held = split(len(pool), settings.held_out)
    draw = (pool.readings, setup.owner_cpu, held)
    source = _random(settings, stream=1)
    watched = draw_pairs(*draw, settings.stop.pairs, settings.targets, settings.min_gap, source)
    shown = draw_pairs(*draw, len(pack.attributes), 1, settings.min_gap, source)
    order = shown[2].int().argmax(dim=1).argsort()
    ordered = (shown[0][order], shown[1][order], shown[2][order])
    return _Run(setup, places, watched, ordered, belongs, out)


def _random(settings: TrainSettings, stream: int) -> torch.Generator:
    """One of the run's three independent random sources: 0 steps, 1 held-out pairs, 2 start."""
    return torch.Generator().manual_seed(settings.seed * 3 + stream)


def _fresh(run: _Run, progress: Progress) -> _State:
    """The state before the first step."""
    setup, settings = run.setup, run.setup.settings
    start = start_matrix(
        setup.generator,
        setup.pack,
        setup.qmm,
        setup.segmenter,
        setup.pool,
        settings,
        _random(settings, stream=2),
        progress,
    )
    start = parallel.decided(lambda: start.cpu()).to(start.device)
    matrix = (start.T if settings.matrix_layout == "channels" else start).contiguous()
    matrix.requires_grad_()
    return _State(matrix, make_optimiser(matrix, settings), _random(settings, stream=0))


def _restored(run: _Run, saved: Checkpoint) -> _State:
    """The state that a checkpoint holds. Raises InputError if its parts do not fit together."""
    setup = run.setup
    rows, columns = len(setup.pack.attributes) + 1, setup.generator.layout.editable_channels
    channels_first = setup.settings.matrix_layout == "channels"
    try:
        if saved.matrix.shape != ((columns, rows) if channels_first else (rows, columns)):
            raise ValueError(f"matrix of shape {list(saved.matrix.shape)}")
        matrix = saved.matrix.to(setup.generator.device).requires_grad_()
        optimiser = make_optimiser(matrix, setup.settings)
        optimiser.load_state_dict(dict(saved.optimiser))
        source = torch.Generator()
        source.set_state(saved.random)
        return _State(matrix, optimiser, source, saved.step, **saved.progress)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the checkpoint is damaged ({error}). Start anew.") from None


def _find_checkpoint(out: Path | None, belongs: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint to go on from, checked before the costly preparation."""
    if out is None:
        raise UsageError("there is nothing to resume without a folder. Give the run's own --out.")
    path = out / checkpoint.FILE
    if not path.exists():
        raise InputError(f"no checkpoint '{path}'. Check --out, or start without --resume.")
    saved = checkpoint.load_checkpoint(path)
    checkpoint.check_belongs(saved.belongs, belongs, _FREE, path)
    return saved


def _masks(run: _Run, state: _State, finished: bool, seconds: float | None) -> Masks:
    """The matrix as it is now, with its header."""
    figures = {
        "steps": state.step,
        "finished": finished,
        "seconds": None if seconds is None else round(seconds, 1),
        "held_out": state.held_out,
    }
    header = {"kind": "masks", "sat3d": __version__, **run.belongs, "figures": figures}
    return Masks(_logits(run, state).detach().float().cpu().contiguous(), header)


def _save(run: _Run, state: _State, out: Path, masks: Masks | None = None) -> None:
    """Write the checkpoint, and the masks where given."""
    now = Checkpoint(
        step=state.step,
        matrix=state.matrix.detach(),
        optimiser=state.optimiser.state_dict(),
        random=state.source.get_state(),
        progress={"best": state.best, "stale": state.stale, "held_out": state.held_out},
        belongs=run.belongs,
    )
    with checkpoint.uninterrupted():
        checkpoint.save_checkpoint(out / checkpoint.FILE, now)
        if masks is not None:
            masks.save(out / artifact.FILE)


def _save_interrupted(run: _Run, state: _State) -> str:
    """Save what there is and say where."""
    done = f"stopped after step {state.step} of {run.setup.settings.steps}"
    if run.out is None:
        return f"{done}; nothing was saved, as no folder was given."
    _save(run, state, run.out, _masks(run, state, finished=False, seconds=None))
    return (
        f"{done}; saved '{run.out / checkpoint.FILE}' and '{run.out / artifact.FILE}'. "
        "Go on with the same command and --resume."
    )


def _save_lost(run: _Run, state: _State) -> str:
    """Save what there is and say what to go on from."""
    done = f"It stopped after step {state.step} of {run.setup.settings.steps}"
    if run.out is None:
        return f"{done}; nothing was saved, as no folder was given."
    # On a GPU the matrix may wait for the exchange that failed, and so would saving it.
    if state.matrix.device.type == "cpu":
        _save(run, state, run.out)
    elif not (run.out / checkpoint.FILE).exists():
        return f"{done}; there was no checkpoint yet."
    return (
        f"{done}; '{run.out / checkpoint.FILE}' goes on with the same command and --resume, on any "
        "number of processes."
    )


def _report(run: _Run, state: _State, since: float) -> StepReport:
    """Means since the last report. Raises Sat3dError if they are no longer numbers."""
    means = parallel.summed(torch.stack(state.recent).mean(dim=0)).tolist()
    # Only now has the device done what was asked of it.
    seconds = time.monotonic() - since
    samples = len(state.recent) * run.setup.settings.batch
    state.recent = []
    named = dict(zip((*PARTS, "total"), means, strict=True))
    if not all(abs(x) < float("inf") for x in means):
        raise Sat3dError(
            f"the loss is not a number after step {state.step}: {named}. Lower the learning rate "
            f"(--set lr=VALUE, now {run.setup.settings.lr})."
        )
    return StepReport(state.step, named, samples / max(seconds, 1e-9), state.held_out)
