"""DeepLabv3 as a segmenter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sat3d.errors import InputError
from sat3d.images import imagenet_input
from sat3d.interfaces import Segmenter, WeightsCard
from sat3d.store import resolve
from sat3d.weights import load_into, load_weights, make_card

from .networks import STRIDE, DeepLabConfig, logits, make_network

BUNDLED = Path(__file__).parent / "weights" / "cats.safetensors"


def input_size(height: int, width: int, shorter: int, stride: int = 1) -> tuple[int, int]:
    """The network's input for an image: the same shape with the shorter side as asked.

    Both sides are cut to multiples of ``stride``; the longer is at most four times the shorter.
    """
    least = min(height, width)
    first, second = (
        max(min(side * shorter // least, 4 * shorter) // stride, 1) * stride
        for side in (height, width)
    )
    return first, second


class DeepLabSegmenter(Segmenter):
    """Frozen DeepLabv3; labels and input size are those of the weights."""

    name = "deeplabv3"

    def __init__(self, network: nn.Module, config: DeepLabConfig, card: WeightsCard) -> None:
        self._network = network.eval().requires_grad_(False)
        self.config, self.card, self.labels = config, card, config.labels

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self._network.parameters()).device

    def to(self, device: torch.device) -> Self:
        """Move to a device; returns self."""
        self._network.to(device)
        return self

    def segment(self, image: Tensor) -> Tensor:
        """Image [B, 3, H, W] in [-1, 1] to probabilities [B, K, H, W] summing to 1 over labels.

        Logits, not probabilities, are brought to H, W.
        """
        height, width = image.shape[2:]
        size = input_size(height, width, self.config.size, STRIDE[self.config.source])
        found = logits(self._network, imagenet_input(image, size))
        if found.shape[2:] != (height, width):
            found = F.interpolate(found, (height, width), mode="bilinear", align_corners=False)
        return found.softmax(1)


def load(weights: str | None, device: torch.device) -> DeepLabSegmenter:
    """Read weights by path or name (None: the bundled ones, if any). Raises UsageError."""
    if weights is None and not BUNDLED.is_file():
        raise InputError(
            "no weights of 'deeplabv3' are bundled. Add --segmenter-weights with a path or a name; "
            "'sat3d weights list' shows published ones."
        )
    path = BUNDLED if weights is None else resolve(weights)
    tensors, header = load_weights(path)
    if header.get("architecture") != "deeplabv3":
        found = header.get("architecture")
        raise InputError(
            f"'{path}' holds weights of {found!r}, not of 'deeplabv3'. Choose another file."
        )
    return build(tensors, header, path).to(device)


def build(tensors: Mapping[str, Tensor], header: Mapping[str, Any], path: Path) -> DeepLabSegmenter:
    """A segmenter from the tensors and header of a weights file. Raises InputError."""
    values = header.get("config")
    if not isinstance(values, dict):
        raise InputError(f"'{path}' has no configuration in its header. Import it again.")
    config = DeepLabConfig.from_dict(values)
    # Nothing is drawn at random just to be replaced. Encoders of smp may hold more than a state
    # dict says, so they are built in full.
    bare = config.source == "torchvision"
    with torch.device("meta" if bare else "cpu"):
        network = make_network(config)
    load_into(network, tensors, f"'{path}'", assign=bare)
    return DeepLabSegmenter(network, config, make_card(path.stem, path, tensors, header))
