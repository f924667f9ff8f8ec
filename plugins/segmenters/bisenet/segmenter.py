"""BiSeNet as a segmenter of faces."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sat3d.errors import InputError
from sat3d.images import imagenet_input
from sat3d.interfaces import Segmenter, WeightsCard
from sat3d.store import resolve
from sat3d.weights import load_into, load_weights, make_card

from .network import BiSeNet

# The order of face-parsing.PyTorch; CelebAMask-HQ itself numbers them differently. Published
# weights confuse left and right (trained with unswapped flips): regions should name both.
LABELS = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r",
    "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
)  # fmt: skip
BUNDLED = Path(__file__).parent / "weights" / "avatars.safetensors"


class BiSeNetSegmenter(Segmenter):
    """Frozen BiSeNet; ``size`` is the side at which it looks at an image."""

    name = "bisenet"
    labels = LABELS

    def __init__(self, network: BiSeNet, size: int, card: WeightsCard) -> None:
        self._network = network.eval().requires_grad_(False)
        self.size = size
        self.card = card

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._network.conv_out.conv_out.weight.device

    def to(self, device: torch.device) -> "BiSeNetSegmenter":
        """Move to a device; returns self."""
        self._network.to(device)
        return self

    def segment(self, image: Tensor) -> Tensor:
        """Image [B, 3, H, W] in [-1, 1] to probabilities [B, 19, H, W] summing to 1 over labels.

        The first of the three outputs; logits, not probabilities, are brought to H, W.
        """
        logits = self._network.fused(imagenet_input(image, (self.size, self.size)))
        size = (image.shape[2], image.shape[3])
        if logits.shape[2:] != size:
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return logits.softmax(1)


def load(weights: str | None, device: torch.device) -> BiSeNetSegmenter:
    """The bundled segmenter, or one by path or name of weights. Raises UsageError."""
    path = BUNDLED if weights is None else resolve(weights)
    tensors, header = load_weights(path)
    width, size = _settings(path, header)
    network = BiSeNet(len(LABELS), width)
    load_into(network, tensors, f"'{path}'")
    return BiSeNetSegmenter(network, size, make_card(path.stem, path, tensors, header)).to(device)


def _settings(path: Path, header: dict[str, Any]) -> tuple[int, int]:
    """Width and input size from a header, checked."""
    if header.get("architecture") != "bisenet":
        found = header.get("architecture")
        raise InputError(
            f"'{path}' holds weights of {found!r}, not of 'bisenet'. Give a BiSeNet file."
        )
    config = header.get("config")
    for key, low, high in (("width", 4, 256), ("size", 32, 2048)):
        value = config.get(key) if isinstance(config, dict) else None
        if not isinstance(value, int) or not low <= value <= high:
            raise InputError(
                f"'{path}' has config.{key} {value!r} in its header; allowed: {low} to {high}. "
                "The file is damaged; write it again."
            )
    assert isinstance(config, dict)
    return config["width"], config["size"]
