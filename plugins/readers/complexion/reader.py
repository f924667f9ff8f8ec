"""Identity of avatars without a recognition network: the colours of skin, nose and neck.

The features of the attribute readers do not tell heads apart: they follow the attributes even
where no head looks. The bundled segmenter finds the parts, so that hair and glasses do not count.
"""

import torch
from sat3d_plugins.segmenters.bisenet import segmenter as bisenet
from torch import Tensor

from sat3d.interfaces import Embedding, Reader, Segmenter

PARTS = ("skin", "nose", "neck")


class ComplexionReader(Reader):
    """Reads no attribute; its embedding is the parts' mean colours."""

    name = "complexion"

    def __init__(self, segmenter: Segmenter) -> None:
        self.attributes: dict[str, tuple[str, ...]] = {}
        self.card = segmenter.card
        self._segmenter = segmenter
        self._labels = [segmenter.labels.index(part) for part in PARTS]

    def to(self, device: torch.device) -> "ComplexionReader":
        """Move to a device; returns self."""
        self._segmenter.to(device)
        return self

    def read(self, image: Tensor) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def embed(self, image: Tensor) -> Embedding:
        """Image [B, 3, H, W] in [-1, 1] to the identity [B, 9], in [-1, 1].

        A part that is hidden has the colour of those that are not; 0 if none is seen.
        """
        label = self._segmenter.segment(image).argmax(dim=1)
        masks = torch.stack([label == k for k in self._labels], dim=1).to(image.dtype)
        sums = torch.einsum("bchw,bphw->bpc", image, masks)
        sizes = masks.sum(dim=(2, 3))[:, :, None]
        seen = sums.sum(dim=1, keepdim=True) / sizes.sum(dim=1, keepdim=True).clamp(min=1)
        colours = torch.where(sizes > 0, sums / sizes.clamp(min=1), seen)
        return Embedding({}, {}, identity=colours.flatten(1))


def load(weights: str | None, device: torch.device) -> ComplexionReader:
    """With the bundled segmenter, or one of these weights. Raises UsageError."""
    return ComplexionReader(bisenet.load(weights, device))
