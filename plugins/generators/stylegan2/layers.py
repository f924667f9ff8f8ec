"""The layers of StyleGAN2 (Karras et al. 2020), shared by every generator built from them.

State-dict names follow the published StyleGAN2-ADA-PyTorch checkpoints. A layer's style vector is
an input of its ``forward``, never computed inside, so that editing in style space is the normal
path. Modulation scales the activations and demodulates afterwards: the same sum as modulating
the weights, without a set of weights per image.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sat3d.precision import exact, low_dtype, lower

from .fused import fused

Activation = Literal["linear", "lrelu"]
NoiseMode = Literal["const", "none", "random"]
SLOPE = 0.2
_GAIN = {"linear": 1.0, "lrelu": math.sqrt(2)}


def normalize_second_moment(x: Tensor) -> Tensor:
    """Scale each row of [B, C] to unit mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def bias_act(
    x: Tensor,
    bias: Tensor,
    activation: Activation = "lrelu",
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Bias over dim 1, activation, gain (default: the activation's own), clamp to +-clamp."""
    x = x + bias.reshape([1, -1] + [1] * (x.ndim - 2))
    if activation == "lrelu":
        x = F.leaky_relu(x, SLOPE)
    gain = _GAIN[activation] if gain is None else gain
    x = x * gain if gain != 1 else x
    return x.clamp(-clamp, clamp) if clamp is not None else x


def low_pass_filter() -> Tensor:
    """The [4, 4] binomial filter of every up-sampling, sum 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64


def pixels_first(x: Tensor) -> Tensor:
    """The same features [B, C, H, W], on a CPU with a pixel's channels side by side in memory, and
    in low precision everywhere: tensor cores read them so.

    Convolutions there, above all of each channel alone, are faster so, and keep the order.
    """
    if x.device.type != "cpu" and low_dtype(x) is None:
        return x
    return x.contiguous(memory_format=torch.channels_last)


def upsample(image: Tensor, added: Tensor | None = None) -> Tensor:
    """Zero insertion and low-pass filter: [B, C, H, W] to [B, C, 2H, 2W], plus what is ``added``.

    With the binomial filter that is bilinear interpolation of the image in a frame of zeros, which
    libraries do several times faster than the convolution. They continue an image by its edge
    instead, of which the frame leaves three quarters.
    """
    if image.device.type == "cpu" and image.requires_grad:
        result: Tensor = _Upsample.apply(image, added)
        return result
    return _upsample(image, added)


def _upsample(image: Tensor, added: Tensor | None) -> Tensor:
    large = F.interpolate(image, scale_factor=2, mode="bilinear")
    sides = [large.new_ones(length) for length in large.shape[2:]]
    for side in sides:
        side[:1].fill_(0.75)  # an assignment would copy from the host, and wait
        side[-1:].fill_(0.75)
    frame = torch.outer(*sides)
    return large * frame if added is None else torch.addcmul(added, large, frame)


class _Upsample(torch.autograd.Function):
    """:func:`upsample` with the gradient as a convolution, which CPUs do faster than the library's
    gradient of an interpolation."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, added: Tensor | None) -> Tensor:
        return _upsample(image, added)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        channels = grads[0].shape[1]
        kernel = (low_pass_filter() * 4).to(grads[0]).expand(channels, 1, -1, -1)
        small = F.conv2d(pixels_first(grads[0]), kernel, stride=2, padding=1, groups=channels)
        return small, grads[0] if ctx.needs_input_grad[1] else None


def modulated_conv(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    kernel: Tensor | None = None,
    demodulate: bool = True,
) -> Tensor:
    """Convolve with per-image scaled input channels (StyleGAN2, equations 1 and 3).

    x [B, I, H, W], weight [O, I, k, k], style [B, I]; with a low-pass ``kernel`` the output is
    up-sampled to [B, O, 2H, 2W], else [B, O, H, W].
    """
    x = scale_channels(x, style)
    if kernel is None:
        y = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    else:
        y = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        y = low_pass(y, kernel)
    return y * demodulation(weight, style).to(y.dtype) if demodulate else y


def scale_channels(x: Tensor, style: Tensor) -> Tensor:
    """Features [B, C, H, W] times [B, C]."""
    if (kernels := fused(x)) is not None:
        return kernels.Activate.apply(x, style.float())
    return x * style.to(x.dtype)[:, :, None, None]


def low_pass(y: Tensor, kernel: Tensor) -> Tensor:
    """The binomial ``kernel`` times 4 over features [B, C, 2H+1, 2W+1]: [B, C, 2H, 2W].

    For bfloat16 on GPUs libraries have no good convolution of each channel alone.
    """
    if (kernels := fused(y)) is not None:
        return kernels.LowPass.apply(y)
    if y.device.type != "cpu" and (y.dtype == torch.bfloat16 or torch.compiler.is_compiling()):
        return sums_of_neighbours(y)
    channels = y.shape[1]
    smooth = (kernel * 4).to(y.dtype).expand(channels, 1, -1, -1)
    return F.conv2d(y, smooth, padding=1, groups=channels)


def sums_of_neighbours(y: Tensor) -> Tensor:
    """:func:`low_pass` as what the filter is made of, which a compiler makes one loop of."""
    y = F.pad(y, (1, 1, 1, 1))
    for dim in (2, 3):
        for _ in range(3):
            count = y.shape[dim] - 1
            y = y.narrow(dim, 0, count) + y.narrow(dim, 1, count)
    return y / 16


def demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """The factor [B, O, 1, 1] that gives every output channel unit expected size."""
    with exact(style):
        energy = style.square() @ weight.square().sum(dim=(2, 3)).t()
    return (energy + 1e-8).rsqrt()[:, :, None, None]


class FullyConnected(nn.Module):
    """Dense layer with equalised learning rate: [B, I] to [B, O]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        activation: Activation = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias_init / lr_multiplier))
        self.activation = activation
        self.weight_gain = lr_multiplier / math.sqrt(inputs)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O]; activations other than linear need [B, I]."""
        weight, bias = self.weight * self.weight_gain, self.bias * self.bias_gain
        if self.activation == "linear":
            return F.linear(x, weight, bias)
        return bias_act(F.linear(x, weight), bias, self.activation)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU; optionally up-samples first."""

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        w_dim: int,
        resolution: int,
        up: bool = False,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.up, self.clamp, self.resolution, self.style_channels = up, clamp, resolution, inputs
        self.affine = FullyConnected(w_dim, inputs, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("resample_filter", low_pass_filter())
        self.register_buffer("noise_const", torch.randn(resolution, resolution))

    def forward(
        self,
        x: Tensor,
        style: Tensor,
        noise_mode: NoiseMode = "const",
        source: torch.Generator | None = None,
    ) -> Tensor:
        """x [B, I, H, W] and style [B, I] to [B, O, R, R]; ``source`` as in :meth:`noise`."""
        kernel = self.resample_filter if self.up else None
        y = modulated_conv(lower(x), self.weight, style, kernel, demodulate=False)
        # The activation's gain is applied early, together with demodulation and bias: one pass
        # over the features instead of three.
        gain = _GAIN["lrelu"]
        scale, bias = demodulation(self.weight, style) * gain, self.bias * gain
        noise = self.noise(y, noise_mode, source)
        if noise is not None:
            noise = noise * (self.noise_strength * gain)
        trained = bias.requires_grad or (noise is not None and noise.requires_grad)
        if not trained and noise_mode != "random" and (kernels := fused(y)) is not None:
            return kernels.Activate.apply(y, scale[..., 0, 0], bias, noise, SLOPE, self.clamp)
        y = torch.addcmul(bias.to(y.dtype)[:, None, None], y, scale.to(y.dtype))
        if noise is not None:
            y = y + noise.to(y.dtype)
        y = F.leaky_relu(y, SLOPE, inplace=True)
        return y.clamp(-self.clamp, self.clamp) if self.clamp is not None else y

    def noise(self, y: Tensor, mode: NoiseMode, source: torch.Generator | None) -> Tensor | None:
        """What is added to features [B, O, R, R], times the learned strength; None for nothing.

        Random noise is another for each image, from the global state of torch; with a CPU
        ``source`` it is drawn there, the same for all images and on every device.
        """
        if mode == "none":
            return None
        if mode == "const":
            return self.noise_const
        if source is None:
            return torch.randn(len(y), 1, *y.shape[2:], device=y.device, dtype=y.dtype)
        return torch.randn(y.shape[2:], generator=source).to(y)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to the image's channels, without demodulation."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, clamp: float | None = None) -> None:
        super().__init__()
        self.clamp, self.style_channels = clamp, inputs
        self.affine = FullyConnected(w_dim, inputs, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.gain = 1 / math.sqrt(inputs)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [B, I, H, W] and style [B, I] (before the 1/sqrt(I) gain) to [B, O, H, W], as long
        as the style's numbers."""
        style = style * self.gain
        if x.device.type == "cpu":
            # With a pixel's channels side by side this is one product of matrices per image.
            weight = self.weight[:, :, 0, 0].t() * style[:, :, None]
            pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
            y = torch.baddbmm(self.bias, pixels, weight).unflatten(1, x.shape[2:])
            y = y.permute(0, 3, 1, 2).to(style.dtype)
            return y.clamp(-self.clamp, self.clamp) if self.clamp is not None else y
        # Images add up over the resolutions, so they stay long.
        y = modulated_conv(lower(x), self.weight, style, demodulate=False).to(style.dtype)
        return bias_act(y, self.bias, "linear", clamp=self.clamp)

    def onto(self, image: Tensor, x: Tensor, style: Tensor) -> Tensor:
        """The image of the block before [B, O, H, W], up-sampled, plus what ``forward`` gives."""
        short = lower(x)
        plain = self.clamp is not None or self.bias.requires_grad
        kernels = None if plain else fused(short)
        if kernels is None:
            return upsample(image, self(x, style))
        y = modulated_conv(short, self.weight, style * self.gain, demodulate=False)
        return kernels.Enlarge.apply(image, y, self.bias)


class SynthesisBlock(nn.Module):
    """One resolution of the 'skip' architecture: up to two convolutions and a toRGB."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        w_dim: int,
        resolution: int,
        image_channels: int,
        clamp: float | None = None,
        up: bool = True,
    ) -> None:
        super().__init__()
        self.up = up
        self.register_buffer("resample_filter", low_pass_filter())
        if inputs == 0:
            self.const = nn.Parameter(torch.randn(outputs, resolution, resolution))
            self.conv0 = None
        else:
            self.conv0 = SynthesisLayer(inputs, outputs, w_dim, resolution, up=up, clamp=clamp)
        self.conv1 = SynthesisLayer(outputs, outputs, w_dim, resolution, clamp=clamp)
        self.torgb = ToRGB(outputs, image_channels, w_dim, clamp=clamp)

    def forward(
        self,
        x: Tensor | None,
        image: Tensor | None,
        styles: dict[str, Tensor],
        prefix: str,
        noise_mode: NoiseMode = "const",
        source: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(features, image) of the block before to those of this one; styles by layer name."""
        if self.conv0 is None:
            batch = styles[f"{prefix}.conv1"].shape[0]
            x = pixels_first(lower(self.const.expand(batch, -1, -1, -1)))
        else:
            assert x is not None, "only the first block starts from its constant"
            x = self.conv0(x, styles[f"{prefix}.conv0"], noise_mode, source)
        x = self.conv1(x, styles[f"{prefix}.conv1"], noise_mode, source)
        style = styles[f"{prefix}.torgb"]
        if image is not None and self.up:
            return x, self.torgb.onto(image, x, style)
        rgb = self.torgb(x, style)
        return x, rgb if image is None else image + rgb
