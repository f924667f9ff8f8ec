"""Trains the attribute readers on renders: ``python -m recipes.readers --world avatars``.

They measure results; nothing that is trained for editing ever sees them.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sat3d_plugins.readers.attributes.reader import BUNDLED, ReaderNetwork, load
from torch import Tensor

from recipes.data import RESOLUTION, Renders, augment, shrunk, to_float
from recipes.fitting import datasets, fit, forget, halved, options
from recipes.worlds import World
from sat3d.interfaces import Reader
from sat3d.weights import save_weights

WIDTHS, NARROW = (32, 64, 96, 128, 160), (24, 48, 64, 96, 128)
SMOOTHING = 0.05


def file_of(world: World) -> Path:
    """The bundled weights."""
    return BUNDLED.parent / f"{world.name}.safetensors"


def widths_of(world: World) -> tuple[int, ...]:
    """The trunk: fewer attributes need less of it."""
    return WIDTHS if len(world.attributes) > 3 else NARROW


def attributes_of(world: World) -> dict[str, tuple[str, ...]]:
    """What is read, and its values."""
    return {name: world.values(name) for name in world.attributes}


class Trainer:
    """Draws batches and computes the mean cross-entropy over the attributes."""

    def __init__(self, network: ReaderNetwork, data: Renders, batch: int) -> None:
        self.network, self.data, self.batch = network, data, batch
        self.truth = {name: data.classes(name) for name in data.world.attributes}

    def __call__(self, progress: float) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The loss of a fresh batch, and what to print."""
        rows = torch.randint(len(self.data), (self.batch,), device=self.data.images.device)
        logits = self.network(augment(to_float(self.data.images[rows])))
        each, right = [], []
        for name, values in logits.items():
            truth = self.truth[name][rows]
            each.append(F.cross_entropy(values.float(), truth, label_smoothing=SMOOTHING))
            right.append((values.argmax(1) == truth).float().mean())
        return torch.stack(each).mean(), {"right": torch.stack(right).mean()}


@torch.no_grad()
def measure(reader: Reader, data: Renders) -> dict[str, Any]:
    """Accuracy per attribute at several image sizes, where nothing hides it."""
    figures: dict[str, Any] = {}
    for size in (128, 64, 48):
        parts = [reader.read(shrunk(to_float(x), size)) for x in data.images.split(256)]
        for name in data.world.attributes:
            right = torch.cat([p[name] for p in parts]).argmax(1) == data.classes(name)
            right = right[data.shows(name)]
            entry = figures.setdefault(name, {})
            entry[f"accuracy_{size}"] = round(right.float().mean().item(), 4)
    return figures


def main() -> None:
    """Train, write, measure, write again with the figures."""
    chosen = options(__doc__ or "", file_of, minutes=1.5, batch=512, rate=3e-3)
    training, held_out = datasets(chosen)
    torch.manual_seed(chosen.seed)
    device = torch.device(chosen.device)
    network = ReaderNetwork(attributes_of(chosen.world), widths_of(chosen.world)).to(
        device, memory_format=torch.channels_last
    )
    if chosen.compile:
        network.compile()
    took = fit(network, Trainer(network, training, chosen.batch), chosen, "readers")
    tensors = halved(network.state_dict())
    header = {
        "kind": "reader",
        "architecture": "avatar-reader",
        "config": {
            "attributes": {k: list(v) for k, v in attributes_of(chosen.world).items()},
            "widths": list(widths_of(chosen.world)),
            "size": RESOLUTION,
        },
        **chosen.header(took),
    }
    save_weights(chosen.out, tensors, header)
    figures = measure(load(str(chosen.out), device), held_out)
    save_weights(chosen.out, tensors, {**header, "figures": figures})
    forget(chosen, "readers")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
