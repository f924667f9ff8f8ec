"""The convolutional trunk that the small measuring networks share."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class Halving(nn.Module):
    """Residual block that halves height and width (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / 2, W / 2]; H and W even."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(F.avg_pool2d(x, 2)))


def trunk(widths: Sequence[int]) -> nn.Sequential:
    """RGB [B, 3, H, W] to [B, widths[-1], H / s, W / s] with s = 2 ** len(widths)."""
    stem = nn.Sequential(
        nn.Conv2d(3, widths[0], 5, 2, 2, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
    )
    return nn.Sequential(stem, *(Halving(a, b) for a, b in pairwise(widths)))


def to_square(image: Tensor, size: int) -> Tensor:
    """Image [B, 3, H, W] resized to [B, 3, size, size], smoothed where it shrinks."""
    if image.shape[2:] == (size, size):
        return image
    return F.interpolate(image, (size, size), mode="bilinear", align_corners=False, antialias=True)
