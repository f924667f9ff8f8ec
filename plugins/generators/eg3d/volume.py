"""Volume rendering of tri-planes: sampling, decoding, ray marching (EG3D, Chan et al. 2022).

Everything is a function of its arguments. Shapes: M rays, S samples on a ray, C plane channels.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..stylegan2.layers import FullyConnected
from .rays import box_limits


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
        the first so many colours are computed.
        """
        rows = 1 + (self.outputs if channels is None else channels)
        hidden, last = self.net[1](self.net[0](features)), self.net[2]
        assert isinstance(last, FullyConnected)
        weight, bias = last.weight[:rows] * last.weight_gain, last.bias[:rows] * last.bias_gain
        x = F.linear(hidden, weight, bias)
        return x[..., 1:].sigmoid() * 1.002 - 0.001, x[..., :1]


def project(points: Tensor) -> Tensor:
    """Points [B, P, 3] to plane coordinates [B, 3, P, 2]: (x, y), (x, z), (z, x).

    The third plane is (z, x), not (y, z): the published weights were trained so.
    """
    x, y, z = points.unbind(dim=-1)
    pairs = ((x, y), (x, z), (z, x))
    return torch.stack([torch.stack(pair, dim=-1) for pair in pairs], dim=1)


def sample_planes(planes: Tensor, points: Tensor, box_warp: float) -> Tensor:
    """Bilinear plane features: planes [B, 3, C, H, W], points [B, P, 3] to [B, 3, P, C].

    Zero outside the box of side ``box_warp``.
    """
    batch, count, channels = planes.shape[:3]
    grid = project(points * (2 / box_warp)).flatten(0, 1)[:, None]
    flat = planes.flatten(0, 1)
    out = F.grid_sample(flat, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return out.view(batch, count, channels, -1).transpose(2, 3)


def query(
    planes: Tensor,
    decoder: Decoder,
    points: Tensor,
    box_warp: float,
    channels: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Colour [B, P, 32 or ``channels``] and density parameter [B, P, 1] at points [B, P, 3]."""
    return decoder(sample_planes(planes, points, box_warp).mean(dim=1), channels)


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
    passed = torch.cumprod(1 - alpha + 1e-10, dim=2)
    passed = torch.cat([torch.ones_like(passed[:, :, :1]), passed[:, :, :-1]], dim=2)
    return alpha * passed


def march(
    colors: Tensor, densities: Tensor, depths: Tensor, white_back: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Composite sorted samples [B, M, S, *] to (features [B, M, C] in (-1, 1), depth, weights).

    Works on the midpoints of neighbouring samples, so weights are [B, M, S-1, 1]. Depth [B, M, 1]
    is normalised by the weight sum and clamped to the sample depths of the whole batch.
    """
    weights = ray_weights(densities, depths)
    color = (colors[:, :, 1:] + colors[:, :, :-1]) / 2
    middle = (depths[:, :, 1:] + depths[:, :, :-1]) / 2
    total = weights.sum(dim=2)
    depth = ((weights * middle).sum(dim=2) / total).nan_to_num(float("inf"))
    depth = depth.clamp(depths.min(), depths.max())
    feature = (weights * color).sum(dim=2)
    if white_back:
        feature = feature + 1 - total
    return feature * 2 - 1, depth, weights


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
        near, far = torch.tensor(options.ray_start), torch.tensor(options.ray_end)
        return near.to(origins), far.to(origins)
    near, far = box_limits(origins, directions, options.box_warp)
    hit = far > near
    if hit.any():
        # As published: rays that miss get the LARGEST NEAR of the hits as their far limit.
        lowest, largest = near[hit].min(), near[hit].max()
        near, far = torch.where(hit, near, lowest), torch.where(hit, far, largest)
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
    renders only the first so many features.
    """

    def decode(depths: Tensor) -> tuple[Tensor, Tensor]:
        batch, rays, count = depths.shape[:3]
        points = (origins[:, :, None] + depths * directions[:, :, None]).flatten(1, 2)
        color, density = query(planes, decoder, points, options.box_warp, channels)
        return color.view(batch, rays, count, -1), density.view(batch, rays, count, 1)

    colors, densities = decode(coarse_depths)
    if fine is None:
        feature, depth, weights = march(colors, densities, coarse_depths, options.white_back)
        return VolumeRender(feature, depth, weights, coarse_depths, None)
    coarse_weights = None
    if not fine_are_depths:
        with torch.no_grad():
            coarse_weights = ray_weights(densities, coarse_depths)
        fine = importance_depths(coarse_depths, coarse_weights, fine)
    more = decode(fine)
    depths, order = torch.cat([coarse_depths, fine], dim=2).sort(dim=2)
    colors = torch.cat([colors, more[0]], dim=2)
    colors = colors.gather(2, order.expand(-1, -1, -1, colors.shape[-1]))
    densities = torch.cat([densities, more[1]], dim=2).gather(2, order)
    feature, depth, weights = march(colors, densities, depths, options.white_back)
    return VolumeRender(feature, depth, weights, coarse_depths, fine, coarse_weights)
