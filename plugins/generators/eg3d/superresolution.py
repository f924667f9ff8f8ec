"""EG3D's super-resolution modules: two StyleGAN2 blocks from a feature image to the final image."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ..stylegan2.layers import NoiseMode, SynthesisBlock, low_pass_filter, pixels_first

Factor = Literal["2X", "4X", "8X", "8XDC"]


@dataclass(frozen=True)
class _Shape:
    input_resolution: int
    channels: tuple[int, int]
    resolutions: tuple[int, int]
    first_up: bool


# As published: 2X and 4X begin with a block that does not up-sample.
_SHAPES: dict[Factor, _Shape] = {
    "2X": _Shape(64, (128, 64), (64, 128), False),
    "4X": _Shape(128, (128, 64), (128, 256), False),
    "8X": _Shape(128, (128, 64), (256, 512), True),
    "8XDC": _Shape(128, (256, 128), (256, 512), True),
}


class SuperResolution(nn.Module):
    """Feature image [B, 32, r, r] and its first three channels to [B, 3, R, R]."""

    def __init__(
        self,
        factor: Factor,
        w_dim: int,
        antialias: bool = True,
        clamp: float | None = None,
        channels: int = 32,
    ) -> None:
        super().__init__()
        shape = _SHAPES[factor]
        self.factor, self.shape, self.antialias = factor, shape, antialias
        self.resolution = shape.resolutions[1]
        if factor != "8XDC":  # a published name without a use; 8XDC lacks it
            self.register_buffer("resample_filter", low_pass_filter())
        first, second = shape.channels
        r0, r1 = shape.resolutions
        self.block0 = SynthesisBlock(channels, first, w_dim, r0, 3, clamp, up=shape.first_up)
        self.block1 = SynthesisBlock(first, second, w_dim, r1, 3, clamp)

    def forward(
        self, rgb: Tensor, x: Tensor, styles: dict[str, Tensor], noise_mode: NoiseMode
    ) -> Tensor:
        """rgb [B, 3, r, r], features [B, 32, r, r], styles by layer name, to [B, 3, R, R]."""
        size, wanted = x.shape[-1], self.shape.input_resolution
        # As published: 4X only enlarges, the others resize whenever the sizes differ.
        if size < wanted or (size > wanted and self.factor != "4X"):
            x, rgb = self._resize(x), self._resize(rgb)
        x, rgb = self.block0(pixels_first(x), rgb, styles, "block0", noise_mode)
        return self.block1(x, rgb, styles, "block1", noise_mode)[1]

    def _resize(self, x: Tensor) -> Tensor:
        size = self.shape.input_resolution
        return F.interpolate(
            x, (size, size), mode="bilinear", align_corners=False, antialias=self.antialias
        )
