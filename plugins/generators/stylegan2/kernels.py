"""The layers' passes over features as Triton kernels, for bfloat16 on CUDA devices.

Between two convolutions a layer scales, filters, adds and cuts off. By the library each of these is
a pass over memory of its own, and a scale for each image and channel takes a slow one. Here each
pass reads once and writes once, computes in float32, and its gradient computes anew what it needs
instead of keeping it. ``layers.py`` has the same in plain words, and is used everywhere else.

Triton comes with PyTorch on Linux. Features are [B, C, H, W] with a pixel's channels side by side
in memory; P below is their H*W pixels.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 4096
"""Features that a program holds at once."""
PIXELS = 512
"""Pixels of an image that a program goes through to sum over them."""
LINES, COLUMNS = 32, 16
"""Part of an image that a program filters."""


@triton.jit
def _offset(bias, noise, p, c, pixels, channels, BIASED: tl.constexpr, NOISY: tl.constexpr):
    """bias[c] + noise[p], each if there is one: to be added to [pixels, channels]."""
    offset = tl.zeros((1, 1), dtype=tl.float32)
    if BIASED:
        offset = offset + tl.load(bias + c, mask=c < channels, other=0.0)[None, :]
    if NOISY:
        offset = offset + tl.load(noise + p, mask=p < pixels, other=0.0)[:, None]
    return offset


@triton.jit
def _activate(
    x, scale, bias, noise, out, pixels, channels, slope, limit,
    BIASED: tl.constexpr, NOISY: tl.constexpr, WIDE: tl.constexpr, HIGH: tl.constexpr,
):  # fmt: skip
    """out = clamp(leaky_relu(x * scale[b, c] + bias[c] + noise[p]), -limit, limit)."""
    image = tl.program_id(2)
    p = tl.program_id(0) * HIGH + tl.arange(0, HIGH)
    c = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    factor = tl.load(scale + image * channels + c, mask=c < channels, other=0.0)
    offset = _offset(bias, noise, p, c, pixels, channels, BIASED, NOISY)
    at = (image.to(tl.int64) * pixels + p[:, None]) * channels + c[None, :]
    inside = (p < pixels)[:, None] & (c < channels)[None, :]
    y = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * factor + offset
    y = tl.where(y < 0, y * slope, y)
    tl.store(out + at, tl.minimum(tl.maximum(y, -limit), limit), mask=inside)


@triton.jit
def _activate_gradient(
    grad, x, scale, bias, noise, grad_x, sums, pixels, channels, parts, slope, limit,
    BIASED: tl.constexpr, NOISY: tl.constexpr,
    WIDE: tl.constexpr, HIGH: tl.constexpr, LONG: tl.constexpr,
):  # fmt: skip
    """grad_x, and sums[b, part, c]: the gradient of scale[b, c] from the part's pixels."""
    image, part = tl.program_id(2), tl.program_id(0)
    c = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    factor = tl.load(scale + image * channels + c, mask=c < channels, other=0.0)
    total = tl.zeros((WIDE,), dtype=tl.float32)
    for start in range(0, LONG, HIGH):
        p = part * LONG + start + tl.arange(0, HIGH)
        offset = _offset(bias, noise, p, c, pixels, channels, BIASED, NOISY)
        at = (image.to(tl.int64) * pixels + p[:, None]) * channels + c[None, :]
        inside = (p < pixels)[:, None] & (c < channels)[None, :]
        features = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        y = features * factor + offset
        g = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        g = tl.where(y < 0, g * slope, g)
        g = tl.where(tl.abs(tl.where(y < 0, y * slope, y)) > limit, 0.0, g)
        total += tl.sum(g * features, axis=0)
        tl.store(grad_x + at, g * factor, mask=inside)
    tl.store(sums + (image * parts + part) * channels + c, total, mask=c < channels)


@triton.jit
def _tap(y, line, at, channel, height, width, channels):
    """The features of some pixels of a line, 0 outside the image: [columns, channels]."""
    row = tl.zeros_like(at) + line
    there = (at >= 0) & (at < width) & (row >= 0) & (row < height)
    there = there[:, None] & (channel < channels)[None, :]
    place = (row * width + at)[:, None] * channels + channel[None, :]
    return tl.load(y + place, mask=there, other=0.0).to(tl.float32)


@triton.jit
def _line(y, line, at, channel, height, width, channels):
    """Pixels ``at`` and the three after them, weighted by (1, 3, 3, 1) / 4: [columns, channels]."""
    outer = _tap(y, line, at, channel, height, width, channels)
    outer += _tap(y, line, at + 3, channel, height, width, channels)
    inner = _tap(y, line, at + 1, channel, height, width, channels)
    inner += _tap(y, line, at + 2, channel, height, width, channels)
    return outer * 0.25 + inner * 0.75


@triton.jit
def _low_pass(
    y, out, height, width, high, wide, channels, shift,
    LINES: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The binomial filter times 4 of images [height, width] in a frame of zeros, as [high, wide].

    out[i, j] is of y[i + shift ... i + shift + 3, j + shift ...]. A program goes down some lines
    and keeps the three before, so that each is read once.
    """
    blocks = tl.cdiv(wide, COLUMNS)
    image = tl.program_id(2).to(tl.int64)
    first = (tl.program_id(0) // blocks) * LINES
    columns = (tl.program_id(0) % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    channel = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    y += image * height * width * channels
    out += image * high * wide * channels
    top, at = first + shift, columns + shift
    a = _line(y, top, at, channel, height, width, channels)
    b = _line(y, top + 1, at, channel, height, width, channels)
    c = _line(y, top + 2, at, channel, height, width, channels)
    for k in range(LINES):
        row = tl.zeros_like(columns) + first + k
        d = _line(y, top + 3 + k, at, channel, height, width, channels)
        there = (channel < channels)[None, :] & ((columns < wide) & (row < high))[:, None]
        place = (row * wide + columns)[:, None] * channels + channel[None, :]
        tl.store(out + place, (a + d) * 0.25 + (b + c) * 0.75, mask=there)
        a, b, c = b, c, d


@triton.jit
def _enlarge(
    image, added, bias, out, height, width, channels, WIDE: tl.constexpr, HIGH: tl.constexpr
):  # fmt: skip
    """out = added + bias + the image [height, width], in a frame of zeros, twice as large."""
    number = tl.program_id(2).to(tl.int64)
    p = tl.program_id(0) * HIGH + tl.arange(0, HIGH)
    c = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    row, column, known = p // (2 * width), p % (2 * width), (c < channels)[None, :]
    inside = (row < 2 * height)[:, None] & known
    at = (number * 4 * height * width + p[:, None]) * channels + c[None, :]
    total = tl.load(added + at, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(bias + c, mask=c < channels, other=0.0)[None, :]
    image += number * height * width * channels
    # A pixel is three quarters of the one it lies in, and one of that which it is next to.
    for far in tl.static_range(4):
        i, j = row // 2, column // 2
        if far // 2 == 1:
            i += row % 2 * 2 - 1
        if far % 2 == 1:
            j += column % 2 * 2 - 1
        there = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        pixel = (i * width + j)[:, None] * channels + c[None, :]
        value = tl.load(image + pixel, mask=there[:, None] & known, other=0.0)
        total += value * (0.5625 if far == 0 else (0.0625 if far == 3 else 0.1875))
    tl.store(out + at, total, mask=inside)


@triton.jit
def _enlarge_gradient(
    grad, out, height, width, channels, WIDE: tl.constexpr, HIGH: tl.constexpr
):  # fmt: skip
    """What gradients of the large image are for the small one, [height, width]."""
    number = tl.program_id(2).to(tl.int64)
    p = tl.program_id(0) * HIGH + tl.arange(0, HIGH)
    c = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    row, column, known = p // width, p % width, (c < channels)[None, :]
    grad += number * 4 * height * width * channels
    total = tl.zeros((HIGH, WIDE), dtype=tl.float32)
    for tap in tl.static_range(16):
        i, j = 2 * row - 1 + tap // 4, 2 * column - 1 + tap % 4
        there = (i >= 0) & (i < 2 * height) & (j >= 0) & (j < 2 * width)
        pixel = (i * 2 * width + j)[:, None] * channels + c[None, :]
        value = tl.load(grad + pixel, mask=there[:, None] & known, other=0.0)
        inner = (1 if tap // 4 == 1 or tap // 4 == 2 else 0) + (
            1 if tap % 4 == 1 or tap % 4 == 2 else 0
        )
        total += value * (0.5625 if inner == 2 else (0.0625 if inner == 0 else 0.1875))
    at = (number * height * width + p[:, None]) * channels + c[None, :]
    tl.store(out + at, total, mask=(row < height)[:, None] & known)


def launch(kernel: Any, grid: tuple[int, ...], first: Tensor, *rest: Any) -> None:
    """Run a kernel on the device of its first argument, whichever is the current one."""
    with torch.cuda.device_of(first):
        kernel[grid](first, *rest)


@dataclass(frozen=True)
class _Plan:
    """How programs share features out: by pieces of the pixels, of the channels, and by images."""

    pixels: int
    channels: int
    tile: tuple[int, int]
    """Channels and pixels at once."""
    batch: int

    @classmethod
    def of(cls, x: Tensor) -> "_Plan":
        batch, channels, height, width = x.shape
        wide = min(128, triton.next_power_of_2(channels))
        return cls(height * width, channels, (wide, TILE // wide), batch)

    def grid(self, pixels: int) -> tuple[int, int, int]:
        """Programs that take so many pixels each."""
        wide = self.tile[0]
        return triton.cdiv(self.pixels, pixels), triton.cdiv(self.channels, wide), self.batch


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _ordered(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class Activate(torch.autograd.Function):
    """Scale, bias, noise, leaky ReLU and clamp in one pass; by default a scale alone."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        noise: Tensor | None = None,
        slope: float = 1.0,
        limit: float | None = None,
    ) -> Tensor:
        """x [B, C, H, W] with scale [B, C], bias [C] and noise [H, W], all float32, to the same
        shape as x. Only x and scale get gradients."""
        ctx.numbers = slope, math.inf if limit is None else limit
        ctx.flags = bias is not None, noise is not None
        # Where there is none something has to stand in its place, and is not read.
        every = (scale, scale if bias is None else bias, scale if noise is None else noise)
        known = _ordered(x), *(y.contiguous() for y in every)
        ctx.save_for_backward(*known)
        plan, out = _Plan.of(x), _like(x)
        grid, sizes = plan.grid(plan.tile[1]), (plan.pixels, plan.channels)
        launch(_activate, grid, *known, out, *sizes, *ctx.numbers, *ctx.flags, *plan.tile)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradients of features and factors."""
        known = ctx.saved_tensors
        plan, grad = _Plan.of(known[0]), _like(known[0])
        grid = plan.grid(PIXELS)
        sums = torch.empty(plan.batch, grid[0], plan.channels, device=grad.device)
        tensors = _ordered(grads[0]), *known, grad, sums
        sizes = plan.pixels, plan.channels, grid[0], *ctx.numbers
        launch(_activate_gradient, grid, *tensors, *sizes, *ctx.flags, *plan.tile, PIXELS)
        return grad, sums.sum(dim=1), None, None, None, None


class LowPass(torch.autograd.Function):
    """The binomial filter times 4, as after an up-sampling convolution."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        """[B, C, 2H+1, 2W+1] to [B, C, 2H, 2W]."""
        return _filtered(y, y.shape[2] - 1, y.shape[3] - 1, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        """[B, C, 2H, 2W] to [B, C, 2H+1, 2W+1]."""
        return _filtered(grads[0], grads[0].shape[2] + 1, grads[0].shape[3] + 1, -2)


def _filtered(y: Tensor, high: int, wide: int, shift: int) -> Tensor:
    y = _ordered(y)
    batch, channels, height, width = y.shape
    out = torch.empty(
        (batch, channels, high, wide),
        dtype=y.dtype, device=y.device, memory_format=torch.channels_last,
    )  # fmt: skip
    lanes = min(64, triton.next_power_of_2(channels))
    blocks = triton.cdiv(high, LINES) * triton.cdiv(wide, COLUMNS)
    grid = blocks, triton.cdiv(channels, lanes), batch
    launch(
        _low_pass, grid, y, out, height, width, high, wide, channels, shift, LINES, COLUMNS, lanes
    )
    return out


class Enlarge(torch.autograd.Function):
    """The image so far, up-sampled, plus what a layer adds to it."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, added: Tensor, bias: Tensor) -> Tensor:
        """image [B, C, H, W] and bias [C], both float32, and added [B, C, 2H, 2W] to float32
        [B, C, 2H, 2W]. Only image and added get gradients."""
        image, added = _ordered(image), _ordered(added)
        ctx.short = added.dtype
        out, plan = torch.empty_like(added, dtype=image.dtype), _Plan.of(added)
        sizes = *image.shape[2:], plan.channels
        launch(_enlarge, plan.grid(plan.tile[1]), image, added, bias, out, *sizes, *plan.tile)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradients of the image and of what was added."""
        grad = _ordered(grads[0])
        batch, channels, height, width = grad.shape
        small = torch.empty(
            (batch, channels, height // 2, width // 2),
            dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last,
        )  # fmt: skip
        plan = _Plan.of(small)
        sizes = *small.shape[2:], channels
        launch(_enlarge_gradient, plan.grid(plan.tile[1]), grad, small, *sizes, *plan.tile)
        return small, grad.to(ctx.short), None
