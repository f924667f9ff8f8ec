"""Trains the bundled narrow BiSeNet on renders: ``python -m recipes.avatars.segmenter``."""

import json
from typing import Any

import torch
import torch.nn.functional as F
from sat3d_plugins.segmenters.bisenet.network import BiSeNet
from sat3d_plugins.segmenters.bisenet.segmenter import BUNDLED, LABELS, load, normalise
from torch import Tensor

from recipes.avatars.data import Renders, augment, shrunk, to_float
from recipes.avatars.fitting import datasets, fit, forget, options
from sat3d.weights import save_weights

WIDTH = 16
# Larger than the renders: the network's finest features are at an eighth of its input.
SIZE = 256
AUXILIARY = 0.4


def label_weights(labels: Tensor) -> Tensor:
    """Weights [K] that rise as a label grows rare, so that eyes and lips count beside hair."""
    counts = torch.bincount(labels[:4096].flatten().long(), minlength=len(LABELS)).float()
    return (counts / counts.sum()).clamp_min(1e-3).pow(-0.4).clamp_max(8.0)


class Trainer:
    """Draws batches and computes the loss of the three outputs."""

    def __init__(self, network: BiSeNet, data: Renders, batch: int) -> None:
        self.network, self.data, self.batch = network, data, batch
        self.weights = label_weights(data.labels)

    def __call__(self) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The loss of a fresh batch, and what to print."""
        rows = torch.randint(len(self.data), (self.batch,), device=self.data.images.device)
        images = augment(to_float(self.data.images[rows]))
        truth = self.data.labels[rows].long()
        size = (truth.shape[1], truth.shape[2])
        loss = torch.zeros((), device=images.device)
        logits = self.network(normalise(images, SIZE))
        for output, weight in zip(logits, (1.0, AUXILIARY, AUXILIARY), strict=True):
            resized = F.interpolate(output, size, mode="bilinear", align_corners=False)
            loss = loss + weight * F.cross_entropy(resized, truth, self.weights)
        right = (logits.fused.argmax(1)[:, 1::2, 1::2] == truth).float().mean()
        return loss, {"right": right}


@torch.no_grad()
def measure(segmenter: Any, data: Renders) -> dict[str, Any]:
    """Share of right pixels and intersection over union per label, at several image sizes."""
    figures: dict[str, Any] = {}
    for size in (128, 64):
        table = torch.zeros(len(LABELS), len(LABELS), device=data.images.device)
        for images, labels in zip(data.images.split(64), data.labels.split(64), strict=True):
            found = segmenter.segment(shrunk(to_float(images), size)).argmax(1)
            if size != labels.shape[-1]:
                found = F.interpolate(found[:, None].float(), labels.shape[1:])[:, 0].long()
            pairs = labels.long() * len(LABELS) + found
            table += torch.bincount(pairs.flatten(), minlength=table.numel()).view_as(table)
        both = table.diagonal()
        either = table.sum(0) + table.sum(1) - both
        seen = table.sum(1) > 0
        overlap = (both / either.clamp_min(1)).tolist()
        figures[f"pixels_{size}"] = round((both.sum() / table.sum()).item(), 4)
        figures[f"mean_iou_{size}"] = round((both / either.clamp_min(1))[seen].mean().item(), 4)
        figures[f"iou_{size}"] = {
            name: round(value, 4)
            for name, value, is_seen in zip(LABELS, overlap, seen.tolist(), strict=True)
            if is_seen
        }
    return figures


def main() -> None:
    """Train, write, measure, write again with the figures."""
    chosen = options(__doc__ or "", BUNDLED, minutes=1.5, batch=128, rate=4e-3)
    training, held_out = datasets(chosen)
    torch.manual_seed(chosen.seed)
    device = torch.device(chosen.device)
    network = BiSeNet(len(LABELS), WIDTH).to(device, memory_format=torch.channels_last)
    if chosen.compile:
        network.compile()
    took = fit(network, Trainer(network, training, chosen.batch), chosen, "segmenter")
    state = network.state_dict()
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    header = {
        "kind": "segmenter",
        "architecture": "bisenet",
        "config": {"width": WIDTH, "size": SIZE},
        **chosen.header(took),
    }
    save_weights(chosen.out, tensors, header)
    figures = measure(load(str(chosen.out), device), held_out)
    save_weights(chosen.out, tensors, {**header, "figures": figures})
    forget(chosen, "segmenter")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
