"""The training loop that the recipes share: time-boxed, resumable, and safe from NaN."""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_optimizer import Muon
from torch import Tensor, nn

from recipes import worlds
from recipes.checkpoints import History
from recipes.data import (
    HELD_OUT_COUNT,
    HELD_OUT_SEED,
    TRAIN_COUNT,
    TRAIN_SEED,
    Renders,
    renders,
)
from recipes.worlds import World

LICENCE = "Apache-2.0"
SAVE_EVERY = 30.0
PATIENCE = 20
"""Skipped steps in a row before the run goes back to a checkpoint."""

Loss = Callable[[float], tuple[Tensor, dict[str, float | Tensor]]]
"""From the progress in [0, 1] to the loss of a fresh batch, and what to print."""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    world: World
    out: Path
    work: Path
    device: str
    seed: int
    steps: int
    minutes: float
    batch: int
    rate: float
    count: int
    held_out: int
    compile: bool
    more: Mapping[str, Any]
    """What a recipe asks beyond the rest."""

    @property
    def seeds(self) -> dict[str, int]:
        """For the header."""
        return {"training": self.seed, "renders": TRAIN_SEED, "held_out": HELD_OUT_SEED}

    def header(self, took: "Took") -> dict[str, object]:
        """How the weights came about, for the header."""
        names = ("device", "seed", "steps", "minutes", "batch", "rate", "count", "held_out")
        kept = {name: getattr(self, name) for name in (*names, "compile")}
        return {"licence": LICENCE, "seed": self.seed, "seeds": self.seeds,
                "training": {**kept, "trained_steps": took.steps, "skipped_steps": took.skipped,
                             "trained_seconds": round(took.seconds, 1)}}  # fmt: skip


@dataclass(frozen=True)
class Took:
    """What a run used, earlier runs that it continued included."""

    steps: int
    seconds: float
    skipped: int = 0


def options(
    summary: str,
    out: Callable[[World], Path],
    minutes: float,
    batch: int,
    rate: float,
    worlds_known: Sequence[str] = ("avatars", "cats", "cars"),
    more: Callable[[argparse.ArgumentParser], None] | None = None,
) -> Options:
    """Read the command line; the arguments are this recipe's defaults. ``more`` adds to it."""
    parser = argparse.ArgumentParser(description=summary)
    add = parser.add_argument
    add("--world", choices=worlds_known, default=worlds_known[0], help="what to draw")
    add("--out", type=Path, help="the weights file (default: the bundled file of the world)")
    add("--work", type=Path, help="renders and checkpoints (default: work/WORLD)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--seed", type=int, default=0)
    add("--steps", type=int, default=10**9, help="end after these steps ...")
    add("--minutes", type=float, default=minutes, help="... or these minutes of training")
    add("--batch", type=int, default=batch)
    add("--rate", type=float, default=rate, help="peak learning rate")
    add("--count", type=int, default=TRAIN_COUNT, help="training renders")
    add("--held-out", type=int, default=HELD_OUT_COUNT, help="held-out renders")
    add("--compile", action="store_true", help="compile the network; on a CPU in bfloat16 then")
    if more is not None:
        more(parser)
    given = vars(parser.parse_args())
    world = worlds.load(given.pop("world"))
    given["out"] = given["out"] or out(world)
    given["work"] = given["work"] or Path("work") / world.name
    own = {key: given.pop(key) for key in [*given] if key not in Options.__dataclass_fields__}
    return Options(world=world, more=own, **given)


def datasets(options: Options) -> tuple[Renders, Renders]:
    """Training and held-out renders on the device."""
    return training_set(options), held_out_set(options)


def training_set(options: Options) -> Renders:
    """The renders to train on."""
    return renders(options.world, options.count, TRAIN_SEED, options.device, options.work)


def held_out_set(options: Options) -> Renders:
    """Renders for measuring."""
    return renders(options.world, options.held_out, HELD_OUT_SEED, options.device, options.work)


# ---------------------------------------------------------------- the loop


def cosine(step: int, progress: float) -> float:
    """Share of the peak rate: two hundred steps of warm-up, then half a cosine."""
    decay = 0.5 * (1 + math.cos(math.pi * progress))
    return min(1.0, (step + 1) / 200) * max(decay, 1e-3)


class Run:
    """Everything of a run that a checkpoint holds."""

    def __init__(
        self,
        options: Options,
        name: str,
        parts: Mapping[str, nn.Module | torch.optim.Optimizer],
    ) -> None:
        self.options, self.name, self.parts = options, name, dict(parts)
        self.history = History(options.work, name)
        self.step, self.before, self.skipped, self.in_a_row, self.returns = 0, 0.0, 0, 0, 0
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of training, all runs together."""
        return self.before + time.monotonic() - self.began

    @property
    def progress(self) -> float:
        """1 when steps or minutes are used up."""
        return max(
            self.step / self.options.steps, self.seconds / max(60 * self.options.minutes, 1e-9)
        )

    def save(self) -> None:
        """Keep the state, unless it is not finite."""
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"step": self.step, "seconds": self.seconds, "skipped": self.skipped}
        if self.history.save({**state, "signature": _signature(self.options)}):
            self.returns = 0

    def resume(self) -> None:
        """Take up the newest checkpoint, if there is one of the same settings."""
        state = self.history.load(self.options.device)
        if state is None:
            return
        if state["signature"] != _signature(self.options):
            print(f"{self.history.paths[0]} is of other settings; starting anew", flush=True)
            return
        self._take(state)
        self.before = state["seconds"]
        print(f"continuing from step {self.step}", flush=True)

    def go_back(self) -> None:
        """Take up a checkpoint, after a second failure an older one; time goes on.

        Raises RuntimeError if nothing helps: the loss is at fault then, not chance.
        """
        state = self.history.load(self.options.device, skip=self.returns)
        self.returns += 1
        if state is None or state["signature"] != _signature(self.options) or self.returns > 6:
            raise RuntimeError(f"{self.name}: the gradient is not finite, and going back is no use")
        self._take(state)
        print(f"{self.name}: not finite; back to step {self.step}", flush=True)

    def _take(self, state: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.step, self.in_a_row = state["step"], 0
        self.skipped = max(self.skipped, state["skipped"])

    def sow(self) -> None:
        """Seed torch: neither a resumed run nor one that went back draws again what it drew."""
        torch.manual_seed(self.options.seed + 1_000_003 * self.step + 7919 * self.skipped)


def fit(
    network: nn.Module, loss: Loss, options: Options, name: str,
    optimiser: torch.optim.Optimizer | None = None,
    schedule: Callable[[int, float], float] = cosine,
    after: Callable[[], None] | None = None,
    beside: Mapping[str, nn.Module] | None = None,
) -> Took:  # fmt: skip
    """Minimise ``loss``, which draws its own batch; the default optimiser is AdamW.

    The last checkpoints lie in the work folder; the same command continues from them. A step whose
    gradient is not finite is skipped, and after PATIENCE of them the run goes back. ``schedule``
    says the share of the peak rate, ``after`` follows every step, ``beside`` is kept too.
    """
    if optimiser is None:
        optimiser = torch.optim.AdamW(_decayed(network), lr=options.rate)
    peaks = [group["lr"] for group in optimiser.param_groups]
    run = Run(options, name, {"network": network, "optimiser": optimiser, **(beside or {})})
    run.resume()
    run.sow()
    network.train()
    device = torch.device(options.device)
    half = device.type == "cuda" or options.compile
    saved = said = time.monotonic()
    while run.progress < 1:
        progress = run.progress
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule(run.step, progress)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            value, notes = loss(progress)
        if not _moved(network, optimiser, value):
            _skip(run)
            continue
        run.step, run.in_a_row = run.step + 1, 0
        if after is not None:
            after()
        now = time.monotonic()
        if now - said > 5 or run.step == 1:
            said = now
            notes = {"loss": value.detach(), **notes}
            words = " ".join(f"{k} {float(v):.3f}" for k, v in notes.items())
            print(f"{name}: step {run.step} {run.seconds:.0f} s {words}", flush=True)
        if now - saved > SAVE_EVERY:
            saved = now
            run.save()
    run.save()
    network.eval()
    return Took(run.step, run.seconds, run.skipped)


def _moved(network: nn.Module, optimiser: torch.optim.Optimizer, value: Tensor) -> bool:
    """One step down the gradient; False, and nothing has moved, if it is not finite."""
    optimiser.zero_grad(set_to_none=True)
    value.backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    if not bool(norm.isfinite()):
        optimiser.zero_grad(set_to_none=True)
        return False
    optimiser.step()
    return True


def _skip(run: Run) -> None:
    """Count a step that was not made; go back where that alone does not help."""
    run.skipped, run.in_a_row = run.skipped + 1, run.in_a_row + 1
    print(f"{run.name}: step {run.step + 1} skipped, its gradient is not finite", flush=True)
    if run.in_a_row >= PATIENCE:
        run.go_back()
    run.sow()


def forget(options: Options, name: str) -> None:
    """Remove the checkpoints, once the weights are written."""
    History(options.work, name).forget()


def muon(
    parameters: Iterable[nn.Parameter], kernels: float, others: float, adjusted: bool = False
) -> torch.optim.Optimizer:
    """Muon at rate ``kernels`` for convolutions, Adam at rate ``others`` for everything else.

    With ``adjusted`` a fifth of the rate is the size of an update's entries, whatever the shape.
    It learns to draw and to read in a fraction of the steps that Adam needs.
    """
    known = list(parameters)
    return Muon([
        {"params": [p for p in known if p.ndim == 4], "lr": kernels, "use_muon": True,
         "use_adjusted_lr": adjusted},
        {"params": [p for p in known if p.ndim != 4], "lr": others, "use_muon": False,
         "betas": (0.9, 0.99)},
    ])  # fmt: skip


def _decayed(network: nn.Module) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels, none for biases, norms and scalars."""
    every: Iterable[nn.Parameter] = [p for p in network.parameters() if p.requires_grad]
    wide = [p for p in every if p.ndim > 1]
    flat = [p for p in every if p.ndim <= 1]
    return [{"params": wide, "weight_decay": 0.05}, {"params": flat, "weight_decay": 0.0}]


def _signature(options: Options) -> str:
    settings = [options.seed, options.batch, options.rate, options.count, options.steps]
    return json.dumps([options.world.name, *settings])


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating tensors in half precision, for a weights file."""
    return {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
