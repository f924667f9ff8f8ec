"""A quick guess of w and camera angles from an image, as a start for inversion."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from sat3d_plugins.convnet import to_square, trunk
from torch import Tensor, nn


class Encoder(nn.Module):
    """Image to one row of w, yaw and pitch.

    The trunk's features keep their places (no mean over the image), because pose and shape are in
    them. w is predicted in units of its deviation around its mean, both stored with the weights;
    entries that never vary have deviation 0 and come out as the mean.
    """

    w_mean: Tensor
    w_std: Tensor

    def __init__(
        self,
        w_dim: int = 512,
        size: int = 128,
        widths: Sequence[int] = (32, 64, 128, 192, 192),
        hidden: int = 384,
    ) -> None:
        super().__init__()
        self.size = size
        cells = (size // 2 ** len(widths)) ** 2
        self.trunk = trunk(widths)
        self.squeeze = nn.Conv2d(widths[-1], 32, 1)
        self.hidden = nn.Linear(32 * cells, hidden)
        self.head = nn.Linear(hidden, w_dim + 2)
        self.register_buffer("w_mean", torch.zeros(w_dim))
        self.register_buffer("w_std", torch.ones(w_dim))

    def standardised(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image [B, 3, H, W] in [-1, 1] to (w in deviations [B, W], (yaw, pitch) [B, 2])."""
        features = self.squeeze(self.trunk(to_square(image, self.size))).flatten(1)
        out = self.head(F.relu(self.hidden(features)))
        return out[:, :-2], out[:, -2:]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image [B, 3, H, W] in [-1, 1], any size, to w [B, W], yaw [B] and pitch [B], radians."""
        w, angles = self.standardised(image)
        return self.w_mean + self.w_std * w, angles[:, 0], angles[:, 1]
