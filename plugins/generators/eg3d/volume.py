"""Volume rendering of tri-planes: sampling, decoding, ray marching (EG3D, Chan et al. 2022).

Everything is a function of its arguments. Shapes: M rays, S samples on a ray, C plane channels.

Three things make it fast. A sample's colour counts with half the weights of the two intervals it
bounds, so colours are never sorted, only these shares are put back in the order of the samples.
A CPU finds features by rows of a table and, without gradients, draws in pieces that fit its
caches. And a GPU in low precision looks features up by kernels of our own.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sat3d.precision import exact, low_dtype

from ..stylegan2.fused import fusible
from ..stylegan2.layers import FullyConnected
from .rays import box_limits

AXES = ((0, 1), (0, 2), (2, 0))
"""Which coordinates the planes' columns and rows are. The third plane is (z, x), not (y, z): the
published weights were trained so."""
PIECE = 1 << 15
"""Samples of a piece on a CPU: their hidden layer takes 8 MB."""


@dataclass(frozen=True)
class VolumeOptions:
    """How rays are sampled. Names as in the published ``rendering_kwargs``."""

    depth_resolution: int = 48
    depth_resolution_importance: int = 48
    ray_start: float | Literal["auto"] = 2.25
    ray_end: float | Literal["auto"] = 3.3
    box_warp: float = 1.0
    white_back: bool = False
    disparity_space_sampling: bool = False


class Decoder(nn.Module):
    """Plane features to colour and density: 32 -> 64 softplus -> 1 + 32."""

    def __init__(self, features: int = 32, outputs: int = 32, lr_multiplier: float = 1.0) -> None:
        super().__init__()
        self.outputs = outputs
        self.net = nn.Sequential(
            FullyConnected(features, 64, lr_multiplier=lr_multiplier),
            nn.Softplus(),
            FullyConnected(64, 1 + outputs, lr_multiplier=lr_multiplier),
        )

    def forward(self, features: Tensor, channels: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean plane features [B, P, 32] to colours [B, P, 32] in (0, 1) and density [B, P, 1].

        The density is a parameter: the ray marcher applies softplus(x - 1). With ``channels`` only
        the first so many colours are computed. Under autocast colours are short, densities not.
        """
        raw, density = self.raw(features, channels)
        return raw * 1.002 - 0.001, density

    def raw(self, features: Tensor, channels: int | None = None) -> tuple[Tensor, Tensor]:
        """As ``forward``, but colours before they are stretched by 1.002 and moved by -0.001."""
        rows = 1 + (self.outputs if channels is None else channels)
        hidden, last = self.net[0](features), self.net[2]
        with exact(features):  # autocast would make the largest tensor of all long again
            hidden = self.net[1](hidden)
        assert isinstance(last, FullyConnected)
        weight, bias = last.weight[:rows] * last.weight_gain, last.bias[:rows] * last.bias_gain
        x = F.linear(hidden, weight, bias)
        return x[..., 1:].sigmoid(), x[..., :1].to(features.dtype)


def project(points: Tensor) -> Tensor:
    """Points [B, P, 3] to plane coordinates [B, 3, P, 2]: (x, y), (x, z), (z, x)."""
    # An index of two numbers would be sent from the host each time.
    x = points.unbind(dim=-1)
    return torch.stack([torch.stack([x[a], x[b]], dim=-1) for a, b in AXES], dim=1)


def mean_features(planes: Tensor, points: Tensor, box_warp: float) -> Tensor:
    """Bilinear features [B, P, C] of planes [B, 3, C, H, W] at points [B, P, 3]: the planes' mean.

    Zero outside the box of side ``box_warp``. Differentiable in planes and points.
    """
    if planes.device.type == "cpu":
        rows, shares, table = _rows(planes, points / box_warp)
        index, share = (torch.stack(x, dim=-1).flatten(0, 1) for x in (rows, shares))
        out = F.embedding_bag(index, table, mode="sum", per_sample_weights=share.to(table.dtype))
        return out.view(*points.shape[:2], -1)
    if torch.compiler.is_compiling():
        # One loop that reads whole rows, and for the gradient one that adds to them.
        rows, shares, table = _rows(planes, points / box_warp)
        terms = [table[i] * s[..., None] for i, s in zip(rows, shares, strict=True)]
        return functools.reduce(torch.add, terms)
    if low_dtype(planes) is not None and not points.requires_grad and fusible(planes):
        from .kernels import LookUp  # Triton is not everywhere

        return LookUp.apply(planes, points, box_warp)
    grid = project(points * (2 / box_warp)).flatten(0, 1)[:, None]
    flat = planes.flatten(0, 1)
    out = F.grid_sample(flat, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return out.view(*planes.shape[:3], -1).mean(dim=1).transpose(1, 2)


def _rows(planes: Tensor, points: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """:func:`mean_features` as the weighted sum of 12 rows of a table, points in units of the box:
    where they are, their shares, each 12 times [B, P], and the table [B*H*W*3, C].

    The sum is grid_sample's, but a row of the table is a pixel of a plane with all its channels,
    side by side in memory. If the planes are stored so, as the backbone leaves them, the table
    costs nothing.
    """
    batch, count, channels, height, width = planes.shape
    table = planes.permute(0, 3, 4, 1, 2).reshape(-1, channels)
    image = torch.arange(batch, dtype=torch.int32, device=planes.device)[:, None] * height
    pixels: dict[tuple[int, int], tuple[tuple[Tensor, Tensor], ...]] = {}
    for axis, size in {(pair[k], (width, height)[k]) for pair in AXES for k in (0, 1)}:
        pixels[axis, size] = _neighbours(points[..., axis], size)
    rows, shares = [], []
    for k, (across, down) in enumerate(AXES):
        for y, y_share in pixels[down, height]:
            line, y_share = (image + y) * (width * count) + k, y_share / count
            for x, x_share in pixels[across, width]:
                rows.append(line + x * count)
                shares.append(x_share * y_share)
    return rows, shares, table


def _neighbours(coordinate: Tensor, size: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """The pixels before and after a coordinate in units of the box: (int32 index, share), twice.

    A pixel outside has the share 0.
    """
    position = (coordinate * size + (size - 1) / 2).clamp(-1, size)
    low = position.detach().floor().nan_to_num(0.0).clamp(max=size - 1)
    after = position - low
    # What the last factors multiply by is 0 for the pixels -1 and size, and 1 for all others.
    before = (1 - after) * (low + 1).clamp(max=1)
    after = after * (size - 1 - low).clamp(max=1)
    first = low.int()
    return (first.clamp(min=0), before), ((first + 1).clamp(max=size - 1), after)


def query(
    planes: Tensor,
    decoder: Decoder,
    points: Tensor,
    box_warp: float,
    channels: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Colour [B, P, 32 or ``channels``] and density parameter [B, P, 1] at points [B, P, 3]."""
    colors, density = decoder(mean_features(planes, points, box_warp), channels)
    return colors, density


def stratified_depths(near: Tensor, far: Tensor, uniform: Tensor, disparity: bool) -> Tensor:
    """One depth per stratum: near, far broadcastable to uniform [B, M, S, 1] in [0, 1).

    The jitter goes forward from the grid points, so the last sample may pass ``far``.
    """
    count = uniform.shape[2]
    steps = torch.linspace(0, 1, count, device=uniform.device, dtype=uniform.dtype)
    steps = steps.view(1, 1, count, 1)
    if disparity:
        steps = steps + uniform / (count - 1)
        return 1 / ((1 - steps) / near + steps / far)
    return near + steps * (far - near) + uniform * (far - near) / (count - 1)


def ray_weights(densities: Tensor, depths: Tensor) -> Tensor:
    """How much each interval between sorted samples [B, M, S, 1] is seen: [B, M, S-1, 1]."""
    step = depths[:, :, 1:] - depths[:, :, :-1]
    density = F.softplus((densities[:, :, 1:] + densities[:, :, :-1]) / 2 - 1)
    alpha = 1 - torch.exp(-density * step)
    passed: Tensor = Products.apply(1 - alpha + 1e-10)
    passed = torch.cat([torch.ones_like(passed[:, :, :1]), passed[:, :, :-1]], dim=2)
    return alpha * passed


class Products(torch.autograd.Function):
    """Running products over dim 2 of factors above 0. The library's gradient first asks the host
    whether a factor is 0, and for that every step of training would wait for the device."""

    @staticmethod
    def forward(ctx: Any, factors: Tensor) -> Tensor:
        """[B, M, S, 1] to [B, M, S, 1]."""
        products = torch.cumprod(factors, dim=2)
        ctx.save_for_backward(factors, products)
        return products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        """A factor counts in its own product and all after it."""
        factors, products = ctx.saved_tensors
        return (products * grads[0]).flip(2).cumsum(2).flip(2) / factors


def inverse_cdf(bins: Tensor, weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw from a piecewise constant density.

    bins [M, K+1], weights [M, K] and uniform [M, S] in [0, 1] to [M, S].
    """
    pdf = weights + 1e-5
    cdf = (pdf / pdf.sum(dim=-1, keepdim=True)).cumsum(dim=-1)
    cdf = torch.cat([torch.zeros_like(cdf[:, :1]), cdf], dim=-1)
    above = torch.searchsorted(cdf.contiguous(), uniform.contiguous(), right=True)
    below = (above - 1).clamp(min=0)
    above = above.clamp(max=weights.shape[-1])
    low, high = cdf.gather(1, below), cdf.gather(1, above)
    width = torch.where(high - low < 1e-5, torch.ones_like(low), high - low)
    start, end = bins.gather(1, below), bins.gather(1, above)
    return start + (uniform - low) / width * (end - start)


def importance_depths(depths: Tensor, weights: Tensor, uniform: Tensor) -> Tensor:
    """Depths [B, M, S, 1] where the coarse pass [B, M, *, 1] found something; uniform [B*M, S].

    Weights are smoothed (maximum, then mean of neighbours) and get a floor of 0.01. No gradient.
    """
    with torch.no_grad():
        batch, rays, count = depths.shape[:3]
        z = depths.reshape(batch * rays, count)
        w = weights.reshape(batch * rays, 1, -1)
        w = F.avg_pool1d(F.max_pool1d(w, 2, 1, padding=1), 2, 1).squeeze(1) + 0.01
        middle = (z[:, 1:] + z[:, :-1]) / 2
        return inverse_cdf(middle, w[:, 1:-1], uniform).view(batch, rays, -1, 1)


def ray_limits(
    origins: Tensor, directions: Tensor, options: VolumeOptions
) -> tuple[Tensor, Tensor]:
    """Near and far, broadcastable to [B, M, S, 1], from the options or from the box."""
    if options.ray_start != "auto" and options.ray_end != "auto":
        near, far = (
            torch.full((), x, dtype=torch.float32, device=origins.device).to(origins)
            for x in (options.ray_start, options.ray_end)
        )
        return near, far
    near, far = box_limits(origins, directions, options.box_warp)
    hit = far > near
    # As published: rays that miss get the LARGEST NEAR of the hits as their far limit. Where all
    # miss, nothing changes; the host need not know.
    lowest = near.masked_fill(~hit, float("inf")).amin()
    largest = near.masked_fill(~hit, float("-inf")).amax()
    keep = hit | ~hit.any()
    near, far = torch.where(keep, near, lowest), torch.where(keep, far, largest)
    return near[..., None], far[..., None]


@dataclass(frozen=True)
class VolumeRender:
    """The results of :func:`render_rays` and what a test or an editor may want to look at."""

    feature: Tensor
    """[B, M, 32] in (-1, 1)."""
    depth: Tensor
    """[B, M, 1]."""
    weights: Tensor
    """[B, M, S-1, 1] of the final pass."""
    coarse_depths: Tensor
    fine_depths: Tensor | None
    coarse_weights: Tensor | None = None


def render_rays(
    planes: Tensor,
    decoder: Decoder,
    origins: Tensor,
    directions: Tensor,
    options: VolumeOptions,
    coarse_depths: Tensor,
    fine: Tensor | None,
    fine_are_depths: bool = False,
    channels: int | None = None,
) -> VolumeRender:
    """Two-pass rendering of rays [B, M, 3] through planes [B, 3, C, H, W].

    ``coarse_depths`` is [B, M, S, 1]. ``fine`` is the uniform draws [B*M, S'] of the importance
    sampling, or the depths [B, M, S', 1] themselves, or None for a single pass. ``channels``
    renders only the first so many features. Depth is normalised by the weight sum and clamped to
    the sample depths of the whole batch.
    """
    batch, rays, count = coarse_depths.shape[:3]
    if fine is not None and not fine_are_depths:
        fine = fine.view(batch, rays, -1, 1)

    def draw(planes: Tensor, at: tuple[slice, slice]) -> VolumeRender:
        sample = _sampler(planes, decoder, origins[at], directions[at], options, channels)
        given = None if fine is None else fine[at]
        return _march(sample, coarse_depths[at], given, fine_are_depths, options.white_back)

    if planes.device.type == "cpu":
        step = rays if torch.is_grad_enabled() else max(1, PIECE // count)
        some = [slice(m, m + step) for m in range(0, rays, step)]
        images = [(p, slice(b, b + 1)) for b, p in enumerate(planes.split(1))]
        drawn = _join([_join([draw(p, (b, m)) for m in some], 1) for p, b in images], 0)
    else:
        drawn = draw(planes, (slice(None), slice(None)))
    every = [coarse_depths] if drawn.fine_depths is None else [coarse_depths, drawn.fine_depths]
    nearest = torch.stack([d.min() for d in every]).min()
    farthest = torch.stack([d.max() for d in every]).max()
    return replace(drawn, depth=drawn.depth.clamp(nearest, farthest))


Sampler = Callable[[Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]]
"""Depths [B, M, S, 1] to densities [B, M, S, 1] and a function from shares [B, M, S, 1] to the sum
of the samples' colours [B, M, C], each times its share."""


def _sampler(
    planes: Tensor,
    decoder: Decoder,
    origins: Tensor,
    directions: Tensor,
    options: VolumeOptions,
    channels: int | None,
) -> Sampler:
    """How the samples of some rays are decoded."""
    # Coordinates come first in memory: every step of the lookup works on one of them.
    start, way = (x.movedim(-1, 0)[..., None].contiguous() for x in (origins, directions))

    def sample(depths: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        points = (start + depths.squeeze(-1) * way).movedim(0, -1).flatten(1, 2)
        raw, density = decoder.raw(mean_features(planes, points, options.box_warp), channels)
        raw = raw.view(*depths.shape[:3], -1)

        def blend(share: Tensor) -> Tensor:
            return (share * raw).sum(dim=2) * 1.002 - 0.001 * share.sum(dim=2)

        return density.view_as(depths), blend

    return sample


def _march(
    sample: Sampler,
    coarse: Tensor,
    fine: Tensor | None,
    fine_are_depths: bool,
    white_back: bool,
) -> VolumeRender:
    """Both passes over some rays; their depth is not clamped yet."""
    density, blend = sample(coarse)
    if fine is None:
        weights, shares, depth = composite(density, coarse)
        feature = blend(shares)
        return VolumeRender(_scaled(feature, weights, white_back), depth, weights, coarse, None)
    coarse_weights = None
    if not fine_are_depths:
        with torch.no_grad():
            coarse_weights = ray_weights(density, coarse)
        fine = importance_depths(coarse, coarse_weights, fine.flatten(0, 1).squeeze(-1))
    more, blend_more = sample(fine)
    depths, order = torch.cat([coarse, fine], dim=2).sort(dim=2)
    weights, shares, depth = composite(torch.cat([density, more], dim=2).gather(2, order), depths)
    shares = torch.zeros_like(shares).scatter(2, order, shares)
    first, second = shares.split([coarse.shape[2], fine.shape[2]], dim=2)
    feature = _scaled(blend(first) + blend_more(second), weights, white_back)
    return VolumeRender(feature, depth, weights, coarse, fine, coarse_weights)


def composite(densities: Tensor, depths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sorted samples [B, M, S, 1] to interval weights [B, M, S-1, 1], what each sample counts
    [B, M, S, 1], and the depth [B, M, 1], which is infinite where a ray meets nothing.

    An interval has the mean colour and depth of its ends, so each end has half its weight.
    """
    weights = ray_weights(densities, depths)
    shares = (F.pad(weights, (0, 0, 1, 0)) + F.pad(weights, (0, 0, 0, 1))) / 2
    total = weights.sum(dim=2)
    # Divided by next to nothing, even a gradient of 0 would be no number.
    seen = total > 100 * torch.finfo(total.dtype).tiny
    depth = (shares * depths).sum(dim=2) / torch.where(seen, total, 1.0)
    return weights, shares, torch.where(seen, depth, float("inf"))


def _scaled(color: Tensor, weights: Tensor, white_back: bool) -> Tensor:
    """Composited colours [B, M, C] to (-1, 1), before white where asked for."""
    back = 1 - weights.sum(dim=2) if white_back else 0.0
    return (color + back) * 2 - 1


def _join(parts: list[VolumeRender], dim: int) -> VolumeRender:
    """Parts one after the other; a field that is None stays None."""
    if len(parts) == 1:
        return parts[0]
    columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(VolumeRender)}
    joined: dict[str, Any] = {
        name: None if values[0] is None else torch.cat(values, dim)
        for name, values in columns.items()
    }
    return VolumeRender(**joined)
