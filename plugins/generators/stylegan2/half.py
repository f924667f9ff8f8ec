"""Blocks of StyleGAN2 in float16, for CUDA devices (Karras et al. 2020b, appendix on fp16).

Values stay in range because weights and styles are scaled to at most one before a convolution;
demodulation takes any scale out again. Gradients stay in range because they are multiplied by a
power of two, read off the image's gradient, on their way through the float16 blocks: without it
the gradient of a mean over a million pixels rounds to zero.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .layers import (
    SLOPE,
    NoiseMode,
    SynthesisBlock,
    SynthesisLayer,
    ToRGB,
    demodulation,
    modulated_conv,
    upsample,
)

_TOTAL = 256.0
"""Sum of an image's scaled gradient: far from float16's 65504, one pixel's share far from 6e-8."""


class HalfRange:
    """One drawing: knows the factor by which its float16 gradients are multiplied."""

    def __init__(self) -> None:
        self.factor: Tensor | None = None

    def watch(self, image: Tensor) -> Tensor:
        """The image itself; when its gradient arrives, the factor is set by it."""
        return _Watch.apply(image, self)

    def lower(self, x: Tensor) -> Tensor:
        """To float16."""
        return x if x.dtype == torch.float16 else _Lower.apply(x, self)

    def block(
        self,
        block: SynthesisBlock,
        x: Tensor,
        image: Tensor,
        styles: dict[str, Tensor],
        prefix: str,
        noise_mode: NoiseMode,
        source: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """As SynthesisBlock.forward; features in float16, the image stays float32."""
        assert block.conv0 is not None
        x = self.lower(x)
        x = self._convolve(block.conv0, x, styles[f"{prefix}.conv0"], noise_mode, source)
        x = self._convolve(block.conv1, x, styles[f"{prefix}.conv1"], noise_mode, source)
        rgb = self._colour(block.torgb, x, styles[f"{prefix}.torgb"])
        return x, upsample(image) + _Lift.apply(rgb, self)

    def _convolve(
        self,
        layer: SynthesisLayer,
        x: Tensor,
        style: Tensor,
        noise_mode: NoiseMode,
        source: torch.Generator | None,
    ) -> Tensor:
        weight, style = in_range(layer.weight, style)
        kernel = layer.resample_filter if layer.up else None
        y = modulated_conv(x, self.lower(weight), self.lower(style), kernel, demodulate=False)
        gain = math.sqrt(2)
        scale = self.lower(demodulation(weight, style) * gain)
        y = torch.addcmul(self.lower(layer.bias * gain)[:, None, None], y, scale)
        noise = layer.noise(y, noise_mode, source)
        if noise is not None:
            y = y + self.lower(noise * (layer.noise_strength * gain))
        y = F.leaky_relu(y, SLOPE)
        return y.clamp(-layer.clamp, layer.clamp) if layer.clamp is not None else y

    def _colour(self, layer: ToRGB, x: Tensor, style: Tensor) -> Tensor:
        style = self.lower(style * layer.gain)
        y = modulated_conv(x, self.lower(layer.weight), style, demodulate=False)
        y = y + self.lower(layer.bias)[:, None, None]
        return y.clamp(-layer.clamp, layer.clamp) if layer.clamp is not None else y


def in_range(weight: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [O, I, k, k] and style [B, I] scaled so that no sum of products leaves float16.

    Each output channel and each image has a scale of its own, which demodulation removes; the
    result therefore does not depend on it, and no gradient goes through it.
    """
    largest = weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-8)
    reach = style.detach().abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
    return weight / (largest * math.sqrt(weight[0].numel())), style / reach


class _Watch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, half: HalfRange) -> Tensor:
        ctx.half = half
        return image.view_as(image)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        # What reaches one style channel is a sum over all pixels of one image, times features.
        total = grads[0].abs().sum(dim=(1, 2, 3)).amax().clamp(min=1e-30)
        ctx.half.factor = _TOTAL * torch.exp2(-total.log2().ceil())
        return grads[0], None


class _Lower(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, half: HalfRange) -> Tensor:
        ctx.half, ctx.dtype = half, x.dtype
        return x.half()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0].to(ctx.dtype) / ctx.half.factor, None


class _Lift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, half: HalfRange) -> Tensor:
        ctx.half = half
        return x.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        return (grads[0] * ctx.half.factor).half(), None
