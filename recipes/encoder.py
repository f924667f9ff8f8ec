"""Trains the encoder that starts an inversion: ``python -m recipes.encoder --world avatars``.

The target is the w that the generator's own recipe gives the picture's factors, and the camera's
angles. ``--into FILE`` then puts the encoder beside the generator in its weights file.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sat3d_plugins.generators.eg3d.encoder import Encoder
from torch import Tensor

from recipes import worlds
from recipes.codes import factors_to_w
from recipes.data import Renders, augment, shrunk, to_float
from recipes.fitting import datasets, fit, forget, halved, muon, options
from recipes.planting import MAPPING
from recipes.worlds import World
from sat3d.weights import load_weights, read_header, save_weights

PREFIX = "encoder."
# One radian counts as much as this many deviations of an entry of w, squared.
ANGLE_WEIGHT = 10.0


def file_of(world: World) -> Path:
    """Where the recipe leaves its result."""
    return Path("work") / world.name / "encoder.safetensors"


def turned(angles: Tensor, target: Tensor) -> Tensor:
    """Differences of angles [B, 2] the short way round, in (-pi, pi]."""
    gap = angles - target
    return torch.atan2(gap.sin(), gap.cos())


class Trainer:
    """Draws batches and computes squared errors of standardised w and of the angles."""

    def __init__(self, network: Encoder, data: Renders, batch: int) -> None:
        self.network, self.data, self.batch = network, data, batch
        w = factors_to_w(data.world, data.factors)
        self.varies = (w.std(0) > 1e-4).nonzero().squeeze(1)
        network.w_mean.copy_(w.mean(0))
        network.w_std.zero_()
        network.w_std[self.varies] = w.std(0)[self.varies]
        safe = network.w_std[self.varies]
        self.target = (w[:, self.varies] - network.w_mean[self.varies]) / safe
        self.angles = data.angles()

    def __call__(self, progress: float) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The loss of a fresh batch, and what to print."""
        rows = torch.randint(len(self.data), (self.batch,), device=self.data.images.device)
        images = augment(to_float(self.data.images[rows]))
        w, angles = self.network.standardised(images)
        code = F.mse_loss(w[:, self.varies].float(), self.target[rows])
        pose = turned(angles.float(), self.angles[rows]).square().mean()
        return code + ANGLE_WEIGHT * pose, {"w": code.detach(), "angles": pose.detach().sqrt()}


@torch.no_grad()
def measure(network: Encoder, data: Renders) -> dict[str, Any]:
    """Unexplained share of w's variance and the angles' errors, at several image sizes."""
    figures: dict[str, Any] = {}
    wanted = factors_to_w(data.world, data.factors)
    varies = network.w_std > 0
    for size in (128, 64):
        parts = [network(shrunk(to_float(x), size)) for x in data.images.split(256)]
        w, yaw, pitch = (torch.cat(field) for field in zip(*parts, strict=True))
        error = ((w - wanted)[:, varies] / network.w_std[varies]).square().mean()
        angle = turned(torch.stack([yaw, pitch], 1), data.angles()).abs().mean(0)
        figures[f"w_unexplained_{size}"] = round(error.item(), 4)
        figures[f"yaw_error_{size}"] = round(angle[0].item(), 4)
        figures[f"pitch_error_{size}"] = round(angle[1].item(), 4)
    return figures


def merge(encoder: Path, into: Path) -> None:
    """Put the encoder's tensors and configuration into a generator's weights file."""
    tensors, header = load_weights(encoder)
    generator, known = load_weights(into)
    both = {k: v for k, v in generator.items() if not k.startswith(PREFIX)}
    both |= {PREFIX + k: v for k, v in tensors.items()}
    about = {k: v for k, v in header.items() if k not in ("format", "kind", "config")}
    # The mapping's steep steps need more than half precision.
    half = halved(both) | {k: v for k, v in both.items() if MAPPING in k}
    known = {k: v for k, v in known.items() if k != "format"}
    save_weights(into, half, {**known, "encoder": header["config"], "encoder_training": about})


def train() -> None:
    """Train, write, measure, write again with the figures."""
    chosen = options("Train the encoder.", file_of, minutes=2, batch=512, rate=2e-3)
    training, held_out = datasets(chosen)
    torch.manual_seed(chosen.seed)
    device = torch.device(chosen.device)
    config: dict[str, Any] = {"w_dim": chosen.world.dim, "size": 64}
    config |= {"widths": [32, 64, 128, 192], "hidden": 384}
    network = Encoder(**config).to(device)
    if chosen.compile:
        network.trunk.compile()
    optimiser = muon(network.parameters(), 10 * chosen.rate, chosen.rate)
    trainer = Trainer(network, training, chosen.batch)
    took = fit(network, trainer, chosen, "encoder", optimiser)
    tensors = halved(network.state_dict())
    header = {"kind": "encoder", "architecture": "eg3d-encoder", "config": config}
    figures = measure(network, held_out)
    save_weights(chosen.out, tensors, {**header, **chosen.header(took), "figures": figures})
    forget(chosen, "encoder")
    print(json.dumps(figures, indent=1))


def main() -> None:
    """Train, or with ``--into`` only merge."""
    if "--into" not in sys.argv:
        train()
        return
    parser = argparse.ArgumentParser(description="Put the encoder into a generator's file.")
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--world", choices=worlds.NAMES, default="avatars")
    parser.add_argument("--encoder", type=Path, help="default: work/WORLD/encoder.safetensors")
    given = parser.parse_args()
    merge(given.encoder or file_of(worlds.load(given.world)), given.into)
    print(json.dumps(read_header(given.into)["encoder"]))


if __name__ == "__main__":
    main()
