"""The training loop that the four measuring networks share: time-boxed and resumable."""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pytorch_optimizer import Muon
from torch import Tensor, nn

from recipes.avatars.data import (
    HELD_OUT_COUNT,
    HELD_OUT_SEED,
    TRAIN_COUNT,
    TRAIN_SEED,
    Renders,
    renders,
)

LICENCE = "Apache-2.0"
SAVE_EVERY = 30.0


@dataclass(frozen=True)
class Options:
    """What the command line says."""

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

    @property
    def seeds(self) -> dict[str, int]:
        """For the header."""
        return {"training": self.seed, "renders": TRAIN_SEED, "held_out": HELD_OUT_SEED}

    def header(self, took: "Took") -> dict[str, object]:
        """How the weights came about, for the header."""
        kept = {k: v for k, v in asdict(self).items() if k not in ("out", "work")}
        return {"licence": LICENCE, "seed": self.seed, "seeds": self.seeds,
                "training": {**kept, "trained_steps": took.steps,
                             "trained_seconds": round(took.seconds, 1)}}  # fmt: skip


@dataclass(frozen=True)
class Took:
    """What a run used, earlier runs that it continued included."""

    steps: int
    seconds: float


def options(summary: str, out: Path, minutes: float, batch: int, rate: float) -> Options:
    """Read the command line; the arguments are this recipe's defaults."""
    parser = argparse.ArgumentParser(description=summary)
    add = parser.add_argument
    add("--out", type=Path, default=out, help="the weights file (default: %(default)s)")
    add("--work", type=Path, default=Path("work/avatars"), help="renders and checkpoints")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--seed", type=int, default=0)
    add("--steps", type=int, default=10**9, help="end after these steps ...")
    add("--minutes", type=float, default=minutes, help="... or these minutes of training")
    add("--batch", type=int, default=batch)
    add("--rate", type=float, default=rate, help="peak learning rate")
    add("--count", type=int, default=TRAIN_COUNT, help="training renders")
    add("--held-out", type=int, default=HELD_OUT_COUNT, help="held-out renders")
    add("--compile", action="store_true", help="compile the network")
    return Options(**vars(parser.parse_args()))


def datasets(options: Options) -> tuple[Renders, Renders]:
    """Training and held-out renders on the device."""
    training = renders(options.count, TRAIN_SEED, options.device, options.work)
    return training, renders(options.held_out, HELD_OUT_SEED, options.device, options.work)


def fit(
    network: nn.Module, loss: Callable[[], tuple[Tensor, dict[str, float | Tensor]]],
    options: Options, name: str, optimiser: torch.optim.Optimizer | None = None,
) -> Took:  # fmt: skip
    """Minimise ``loss()``, which draws its own batch, with warm-up and cosine decay.

    The default optimiser is AdamW. A checkpoint lies in the work folder while the run lasts; the
    same command continues from it.
    """
    if optimiser is None:
        optimiser = torch.optim.AdamW(_decayed(network), lr=options.rate)
    peaks = [group["lr"] for group in optimiser.param_groups]
    path = options.work / f"{name}.checkpoint.pt"
    step, before = _resume(path, network, optimiser, options)
    # A resumed run must not draw again what it drew at first.
    torch.manual_seed(options.seed + 1_000_003 * step)
    network.train()
    device = torch.device(options.device)
    began = saved = said = time.monotonic()
    while True:
        seconds = before + time.monotonic() - began
        progress = max(step / options.steps, seconds / (60 * options.minutes))
        if progress >= 1:
            break
        _set_rate(optimiser, peaks, step, progress)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            value, notes = loss()
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        step += 1
        now = time.monotonic()
        if now - said > 5 or step == 1:
            said = now
            notes = {"loss": value.detach(), **notes}
            words = " ".join(f"{k} {float(v):.3f}" for k, v in notes.items())
            print(f"{name}: step {step} {seconds:.0f} s {words}", flush=True)
        if now - saved > SAVE_EVERY:
            saved = now
            _save(path, network, optimiser, step, seconds, options)
    network.eval()
    return Took(step, before + time.monotonic() - began)


def forget(options: Options, name: str) -> None:
    """Remove the checkpoint, once the weights are written."""
    (options.work / f"{name}.checkpoint.pt").unlink(missing_ok=True)


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


def _set_rate(
    optimiser: torch.optim.Optimizer, peaks: list[float], step: int, progress: float
) -> None:
    """Two hundred steps of warm-up, then half a cosine over what is left of steps or time."""
    decay = 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * progress))))
    for group, peak in zip(optimiser.param_groups, peaks, strict=True):
        group["lr"] = peak * min(1.0, (step + 1) / 200) * max(decay, 1e-3)


def _signature(options: Options) -> str:
    return json.dumps([options.seed, options.batch, options.rate, options.count, options.steps])


def _save(
    path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, step: int, seconds: float,
    options: Options,
) -> None:  # fmt: skip
    beside = path.with_suffix(".part")
    state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
    torch.save({**state, "seconds": seconds, "signature": _signature(options)}, beside)
    beside.replace(path)


def _resume(
    path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, options: Options
) -> tuple[int, float]:
    """(step, seconds) of the checkpoint, whose state is loaded; (0, 0) without one that fits."""
    options.work.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, map_location=options.device, weights_only=True)
    if state["signature"] != _signature(options):
        print(f"{path} is of other settings; starting anew", flush=True)
        return 0, 0.0
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    print(f"continuing from step {state['step']}", flush=True)
    return state["step"], state["seconds"]


def shares(hits: dict[str, Tensor]) -> dict[str, float]:
    """Mean of each 0/1 tensor, rounded for a header."""
    return {name: round(hit.float().mean().item(), 4) for name, hit in hits.items()}
