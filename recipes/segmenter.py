"""Trains a world's bundled segmenter on renders: ``python -m recipes.segmenter --world cats``.

The avatars have a narrow BiSeNet, the cats a small DeepLabv3 of segmentation-models-pytorch whose
labels are two of Pascal VOC's, so that one pack serves it and the published one.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sat3d_plugins.segmenters import bisenet, deeplabv3
from sat3d_plugins.segmenters.bisenet import segmenter as bisenet_segmenter
from sat3d_plugins.segmenters.bisenet.network import BiSeNet
from sat3d_plugins.segmenters.deeplabv3 import segmenter as deeplab_segmenter
from sat3d_plugins.segmenters.deeplabv3.networks import SMALL, DeepLabConfig, make_network
from torch import Tensor, nn

from recipes.data import Renders, augment, shrunk, to_float
from recipes.fitting import Options, datasets, fit, forget, halved, options
from recipes.worlds import World
from sat3d.images import imagenet_input
from sat3d.weights import save_weights

WIDTH = 16
# Larger than the renders: the network's finest features are at an eighth of its input.
SIZE = 256
AUXILIARY = 0.4
# Enough to tell a drawn cat from what is behind it; as published a decoder weighs six times more.
DEEPLAB_SIZE, DECODER = 192, 64

Network = Callable[[Tensor], Sequence[Tensor]]
"""Images [B, 3, H, W] in [-1, 1] to logits [B, K, h, w]; the first are the answer."""


def file_of(world: World) -> Path:
    """The bundled weights."""
    plugin = bisenet if world.goes_with["segmenter"] == "bisenet" else deeplabv3
    return Path(plugin.__file__).parent / "weights" / f"{world.name}.safetensors"


def names_of(world: World) -> tuple[str, ...]:
    """The segmenter's labels, in the order of their first part."""
    return tuple(dict.fromkeys(world.segments))


def truth_of(data: Renders) -> Tensor:
    """The segmenter's labels of all renders, [M, H, W] uint8."""
    names = names_of(data.world)
    table = [names.index(segment) for segment in data.world.segments]
    if table == [*range(len(table))]:
        return data.labels
    return torch.tensor(table, dtype=torch.uint8, device=data.labels.device)[data.labels.int()]


def label_weights(labels: Tensor, count: int) -> Tensor:
    """Weights [K] that rise as a label grows rare, so that eyes and lips count beside hair."""
    counts = torch.bincount(labels[:4096].flatten().long(), minlength=count).float()
    return (counts / counts.sum()).clamp_min(1e-3).pow(-0.4).clamp_max(8.0)


def new_network(world: World) -> tuple[nn.Module, Network, dict[str, Any]]:
    """A fresh network, how it is asked, and its part of the header."""
    names = names_of(world)
    if world.goes_with["segmenter"] == "bisenet":
        assert names == bisenet_segmenter.LABELS
        narrow = BiSeNet(len(names), WIDTH)
        header: dict[str, Any] = {"architecture": "bisenet", "config": {"width": WIDTH}}
        header["config"]["size"] = SIZE
        return narrow, lambda x: narrow(imagenet_input(x, (SIZE, SIZE))), header
    config = DeepLabConfig("smp", SMALL, names, DEEPLAB_SIZE, DECODER)
    network, size = make_network(config), (DEEPLAB_SIZE, DEEPLAB_SIZE)
    header = {"architecture": "deeplabv3", "config": config.to_dict()}
    return network, lambda x: (network(imagenet_input(x, size)),), header


class Trainer:
    """Draws batches and computes the loss of all outputs; those after the first count less."""

    def __init__(self, network: Network, data: Renders, batch: int) -> None:
        self.network, self.data, self.batch = network, data, batch
        self.labels = truth_of(data)
        self.weights = label_weights(self.labels, len(names_of(data.world)))

    def __call__(self, progress: float) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The loss of a fresh batch, and what to print."""
        rows = torch.randint(len(self.data), (self.batch,), device=self.data.images.device)
        images = augment(to_float(self.data.images[rows]))
        truth = self.labels[rows].long()
        size = (truth.shape[1], truth.shape[2])
        loss = torch.zeros((), device=images.device)
        right = loss
        for k, output in enumerate(self.network(images)):
            resized = F.interpolate(output, size, mode="bilinear", align_corners=False)
            weight = AUXILIARY if k else 1.0
            loss = loss + weight * F.cross_entropy(resized.float(), truth, self.weights)
            if k == 0:
                right = (resized.argmax(1) == truth).float().mean()
        return loss, {"right": right}


@torch.no_grad()
def measure(segmenter: Any, data: Renders) -> dict[str, Any]:
    """Share of right pixels and intersection over union per label, at several image sizes."""
    figures: dict[str, Any] = {}
    names, wanted = names_of(data.world), truth_of(data)
    for size in (128, 64):
        table = torch.zeros(len(names), len(names), device=data.images.device)
        for images, labels in zip(data.images.split(64), wanted.split(64), strict=True):
            found = segmenter.segment(shrunk(to_float(images), size)).argmax(1)
            if size != labels.shape[-1]:
                found = F.interpolate(found[:, None].float(), labels.shape[1:])[:, 0].long()
            pairs = labels.long() * len(names) + found
            table += torch.bincount(pairs.flatten(), minlength=table.numel()).view_as(table)
        both = table.diagonal()
        either = table.sum(0) + table.sum(1) - both
        seen = table.sum(1) > 0
        overlap = (both / either.clamp_min(1)).tolist()
        figures[f"pixels_{size}"] = round((both.sum() / table.sum()).item(), 4)
        figures[f"mean_iou_{size}"] = round((both / either.clamp_min(1))[seen].mean().item(), 4)
        figures[f"iou_{size}"] = {
            name: round(value, 4)
            for name, value, is_seen in zip(names, overlap, seen.tolist(), strict=True)
            if is_seen
        }
    return figures


def main() -> None:
    """Train, write, measure, write again with the figures."""
    chosen: Options = options(
        (__doc__ or "").splitlines()[0],
        file_of,
        minutes=1.5,
        batch=128,
        rate=4e-3,
        worlds_known=("avatars", "cats"),
    )
    training, held_out = datasets(chosen)
    torch.manual_seed(chosen.seed)
    device = torch.device(chosen.device)
    network, ask, header = new_network(chosen.world)
    network.to(device, memory_format=torch.channels_last)
    if chosen.compile:
        network.compile()
    took = fit(network, Trainer(ask, training, chosen.batch), chosen, "segmenter")
    tensors = halved(network.state_dict())
    header = {"kind": "segmenter", **header, **chosen.header(took)}
    save_weights(chosen.out, tensors, header)
    load = bisenet_segmenter.load if header["architecture"] == "bisenet" else deeplab_segmenter.load
    figures = measure(load(str(chosen.out), device), held_out)
    save_weights(chosen.out, tensors, {**header, "figures": figures})
    forget(chosen, "segmenter")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
