"""The lookup in tri-planes as Triton kernels, for CUDA devices in low precision.

A sample is the mean of three planes at four pixels each. The library's gradient adds every channel
of every pixel to memory on its own; here a pixel's channels lie side by side and are added at once.
``volume.py`` has the same in plain words, and is used everywhere else.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..stylegan2.kernels import launch

SAMPLES = 64
"""Samples that a program looks up."""


@triton.jit
def _pixels(coordinate, size):
    """The pixels before and after a coordinate in units of the box, with their shares.

    As ``volume._neighbours``: a pixel outside has the share 0.
    """
    position = coordinate * size + (size - 1) * 0.5
    # Written so that what is not a number lies outside, too.
    position = tl.minimum(tl.where(position > -1.0, position, -1.0), size * 1.0)
    low = tl.minimum(tl.floor(position), size - 1.0)
    after = position - low
    before = (1 - after) * tl.minimum(low + 1, 1.0)
    after = after * tl.minimum(size - 1 - low, 1.0)
    first = low.to(tl.int32)
    return tl.maximum(first, 0), before, tl.minimum(first + 1, size - 1), after


@triton.jit
def _point(points, image, count, box, SAMPLES: tl.constexpr):
    """The program's samples: where they are, x, y and z in units of the box, which exist."""
    p = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    inside = p < count
    place = image.to(tl.int64) * count + p
    x = tl.load(points + place * 3, mask=inside, other=0.0) / box
    y = tl.load(points + place * 3 + 1, mask=inside, other=0.0) / box
    z = tl.load(points + place * 3 + 2, mask=inside, other=0.0) / box
    return place, x, y, z, inside


@triton.jit
def _corner(
    table, x, y, z, inside, image, height, width, plane: tl.constexpr, corner: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    """One of the four pixels around each sample in a plane: the addresses of its channels and which
    exist, [samples, C], and its share [samples, 1]."""
    column, before, next_column, after = _pixels(x if plane < 2 else z, width)
    line, above, next_line, below = _pixels(y if plane == 0 else (z if plane == 1 else x), height)
    share = (after if corner % 2 else before) * (below if corner // 2 else above)
    line = image * height + (next_line if corner // 2 else line)
    column = next_column if corner % 2 else column
    c = tl.arange(0, triton.next_power_of_2(C))
    row = (line.to(tl.int64) * width + column) * 3 + plane
    at = table + row[:, None] * C + c[None, :]
    return at, inside[:, None] & (c < C)[None, :], share[:, None]


@triton.jit
def _look_up(
    table, points, out, count, height, width, box, C: tl.constexpr, SAMPLES: tl.constexpr
):  # fmt: skip
    """out[b, p] = the mean over three planes of four pixels, each times its share."""
    image = tl.program_id(1)
    place, x, y, z, inside = _point(points, image, count, box, SAMPLES)
    c = tl.arange(0, triton.next_power_of_2(C))
    total = tl.zeros((SAMPLES, triton.next_power_of_2(C)), dtype=tl.float32)
    for plane in tl.static_range(3):
        for corner in tl.static_range(4):
            at, there, share = _corner(
                table, x, y, z, inside, image, height, width, plane, corner, C
            )
            total += tl.load(at, mask=there, other=0.0) * share
    at = place[:, None] * C + c[None, :]
    tl.store(out + at, total / 3, mask=inside[:, None] & (c < C)[None, :])


@triton.jit
def _give_back(
    table, points, grad, count, height, width, box, C: tl.constexpr, SAMPLES: tl.constexpr
):  # fmt: skip
    """The gradient of :func:`_look_up` added to a table of zeros."""
    image = tl.program_id(1)
    place, x, y, z, inside = _point(points, image, count, box, SAMPLES)
    c = tl.arange(0, triton.next_power_of_2(C))
    at = place[:, None] * C + c[None, :]
    g = tl.load(grad + at, mask=inside[:, None] & (c < C)[None, :], other=0.0).to(tl.float32) / 3
    for plane in tl.static_range(3):
        for corner in tl.static_range(4):
            at, there, share = _corner(
                table, x, y, z, inside, image, height, width, plane, corner, C
            )
            tl.atomic_add(at, g * share, mask=there, sem="relaxed")


class LookUp(torch.autograd.Function):
    """As ``volume.mean_features``; only the planes get a gradient."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, points: Tensor, box_warp: float) -> Tensor:
        """planes [B, 3, C, H, W] and points [B, P, 3], both float32, to [B, P, C]."""
        batch, _, channels, height, width = planes.shape
        points = points.contiguous()
        ctx.save_for_backward(points)
        ctx.shape, ctx.box_warp = planes.shape, box_warp
        table = planes.permute(0, 3, 4, 1, 2).contiguous()
        count = points.shape[1]
        out = torch.empty(batch, count, channels, device=planes.device)
        grid = triton.cdiv(count, SAMPLES), batch
        sizes = count, height, width, box_warp, channels, SAMPLES
        launch(_look_up, grid, table, points, out, *sizes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        """The gradient of the planes, stored as the planes of a backbone are."""
        (points,) = ctx.saved_tensors
        batch, count, channels, height, width = ctx.shape
        table = torch.zeros(batch, height, width, count, channels, device=points.device)
        samples = points.shape[1]
        grid = triton.cdiv(samples, SAMPLES), batch
        sizes = samples, height, width, ctx.box_warp, channels, SAMPLES
        launch(_give_back, grid, table, points, grads[0].contiguous(), *sizes)
        return table.permute(0, 3, 4, 1, 2), None, None
