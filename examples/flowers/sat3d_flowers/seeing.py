"""What looks at flowers: a segmenter and a reader, two small convolutional networks."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sat3d import InputError, Reader, Segmenter, WeightsCard
from sat3d.weights import load_into, load_weights, make_card

from .drawing import CENTRE_COLOURS, CENTRE_SIZES, LABELS, PETAL_COLOURS, PETAL_SHAPES

WEIGHTS = Path(__file__).parent / "weights"
SIDE = 64
READS: Mapping[str, tuple[str, ...]] = {
    "petal_color": tuple(PETAL_COLOURS),
    "petal_shape": PETAL_SHAPES,
    "centre": tuple(f"{c} {s.split()[1]}" for s in CENTRE_SIZES for c in CENTRE_COLOURS),
}
"""Attribute of the pack -> values; a centre's is its colour and its size."""


def segmenting() -> nn.Sequential:
    """Image [B, 3, H, W] to logits [B, K, H, W]; each pixel sees 31 pixels around it."""
    width, layers = 20, [nn.Conv2d(3, 20, 3, padding=1), nn.ReLU()]
    for reach in (2, 4, 8):
        layers += [nn.Conv2d(width, width, 3, padding=reach, dilation=reach), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, len(LABELS), 1))


def reading() -> nn.Sequential:
    """Image [B, 3, 64, 64] to logits of all values side by side."""
    widths, layers = (3, 16, 24, 32, 32), []
    for inner, outer in pairwise(widths):
        layers += [nn.Conv2d(inner, outer, 3, stride=2, padding=1), nn.ReLU()]
    values = sum(map(len, READS.values()))
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, values)
    )


class FlowerSegmenter(Segmenter):
    """Backdrop, stem, petals and centre."""

    name = "flowers"
    labels = LABELS

    def __init__(self, network: nn.Module, card: WeightsCard) -> None:
        self._network = network.eval().requires_grad_(False)
        self.card = card

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self._network.parameters()).device

    def to(self, device: torch.device) -> "FlowerSegmenter":
        """Move to a device; returns self."""
        self._network.to(device)
        return self

    def segment(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] to probabilities [B, 4, H, W]; looked at as 64 x 64."""
        logits = self._network(_seen(image))
        if logits.shape[-2:] != image.shape[-2:]:
            logits = F.interpolate(logits, image.shape[-2:], mode="bilinear", align_corners=False)
        found: Tensor = logits.softmax(dim=1)
        return found


class FlowerReader(Reader):
    """Reads the pack's attributes; it was trained on its own and never trains masks."""

    name = "flowers"
    attributes = READS

    def __init__(self, network: nn.Module, card: WeightsCard) -> None:
        self._network = network.eval().requires_grad_(False)
        self.card = card

    def to(self, device: torch.device) -> "FlowerReader":
        """Move to a device; returns self."""
        self._network.to(device)
        return self

    def read(self, image: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] in [-1, 1] to probabilities {attribute: [B, values]}."""
        logits = self._network(_seen(image)).split([len(x) for x in READS.values()], dim=1)
        return {name: x.softmax(dim=1) for name, x in zip(READS, logits, strict=True)}


def _seen(image: Tensor) -> Tensor:
    if image.shape[-2:] == (SIDE, SIDE):
        return image
    return F.interpolate(image, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


def load_segmenter(weights: str | None, device: torch.device) -> FlowerSegmenter:
    """The bundled weights, or those of a file. Raises InputError."""
    network = segmenting()
    return FlowerSegmenter(network, _fill(network, "segmenter", weights)).to(device)


def load_reader(weights: str | None, device: torch.device) -> FlowerReader:
    """The bundled weights, or those of a file. Raises InputError."""
    network = reading()
    return FlowerReader(network, _fill(network, "reader", weights)).to(device)


def _fill(network: nn.Module, kind: str, weights: str | None) -> WeightsCard:
    """Load a file into the network; returns its card."""
    path = Path(weights) if weights else WEIGHTS / f"{kind}.safetensors"
    tensors, header = load_weights(path)
    if (header.get("architecture"), header.get("kind")) != ("flowers", kind):
        raise InputError(f"'{path}' holds no weights of {kind} 'flowers'. Choose another file.")
    load_into(network, tensors, f"'{path}'")
    return make_card(path.stem, path, tensors, header)
