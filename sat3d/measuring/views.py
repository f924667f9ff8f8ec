"""Whether a result is the same from every side: readings, and colours moved between the views."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sat3d.interfaces import Render
from sat3d.measuring.studio import Studio, parts

_SEEN = 0.01
"""A point counts as seen from the side if the depth there is its distance, to this share."""


@dataclass(frozen=True)
class Views:
    """Consistency of P results over the yaws."""

    agreement: dict[str, list[float]]
    """Attribute -> share of the side views whose reading is the frontal one's, for each result."""
    reprojection: list[float]
    """Mean colour difference of front and sides, 0 to 1, for each result; empty if not asked."""


def look_around(
    studio: Studio, styles: Tensor, yaws: Sequence[float], colours: bool = False
) -> Views:
    """Draw [P, N] from the front and from ``yaws`` in degrees; ``colours`` also moves colours."""
    names = list(studio.reader.attributes)
    agreement: dict[str, list[float]] = {name: [] for name in names}
    moved: list[float] = []
    for part in parts(len(styles), studio.batch):
        code = styles[part]
        front, camera = _draw(studio, code, 0.0)
        seen = studio.look(front.image, closely=False).values
        same = {name: torch.zeros(len(code), dtype=torch.float64) for name in names}
        errors = []
        for yaw in yaws:
            side, other = _draw(studio, code, yaw)
            values = studio.look(side.image, closely=False).values
            for name in names:
                same[name] += (values[name] == seen[name]).double()
            if colours:
                errors.append(moved_colours(front, side, camera, other))
        for name in names:
            agreement[name] += (same[name] / len(yaws)).tolist()
        if errors:
            moved += torch.stack(errors).nanmean(dim=0).double().cpu().tolist()
    return Views(agreement, [x for x in moved if not math.isnan(x)])


def _draw(studio: Studio, styles: Tensor, yaw: float) -> tuple[Render, Tensor]:
    """The render at a yaw in degrees and its cameras [B, 25]."""
    camera = studio.generator.orbit(math.radians(yaw), 0.0)
    assert camera is not None, "only a 3D generator has sides"
    cameras = camera.expand(len(styles), -1)
    return studio.draw(styles, cameras), cameras


def moved_colours(front: Render, side: Render, camera: Tensor, other: Tensor) -> Tensor:
    """Mean |colour in front - colour at the same point from the side| / 2: [B]; NaN if unseen.

    Every pixel of the front's depth map is placed in space, and looked up from the side; points
    that something else hides from there are left out. Cameras are [B, 25].
    """
    assert front.depth is not None
    assert side.depth is not None, "3D renders have depth"
    size = (front.depth.shape[-2], front.depth.shape[-1])
    points = _points(front.depth, camera)
    place, distance, ahead = _project(points, other)
    grid = (place * 2 - 1).view(len(points), *size, 2)
    first, second = (F.adaptive_avg_pool2d(x.image, size) for x in (front, side))
    colour = F.grid_sample(second, grid, padding_mode="border", align_corners=False)
    depth = F.grid_sample(side.depth, grid, padding_mode="border", align_corners=False)
    inside = ((place > 0) & (place < 1)).all(dim=-1) & ahead
    seen = inside & ((depth.flatten(1) - distance).abs() <= _SEEN * distance)
    difference = (first - colour).abs().mean(dim=1).flatten(1) / 2.0
    return (difference * seen).sum(dim=1) / seen.sum(dim=1)


def _points(depth: Tensor, camera: Tensor) -> Tensor:
    """Distances along the rays [B, 1, h, w] to points in space [B, h*w, 3]."""
    pose, k = camera[:, :16].view(-1, 4, 4), camera[:, 16:].view(-1, 3, 3)
    height, width = depth.shape[-2:]
    v = ((torch.arange(height).to(depth) + 0.5) / height).view(-1, 1).expand(height, width)
    u = ((torch.arange(width).to(depth) + 0.5) / width).expand(height, width)
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).view(1, -1, 3)
    rays = pixels @ torch.linalg.inv(k).transpose(1, 2)
    directions = F.normalize(rays, dim=-1) @ pose[:, :3, :3].transpose(1, 2)
    return pose[:, None, :3, 3] + directions * depth.flatten(1)[..., None]


def _project(points: Tensor, camera: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points [B, M, 3] to image places [B, M, 2] in 0 to 1, distances [B, M], in front [B, M]."""
    pose, k = camera[:, :16].view(-1, 4, 4), camera[:, 16:].view(-1, 3, 3)
    local = (points - pose[:, None, :3, 3]) @ pose[:, :3, :3]
    depth = local[..., 2:]
    flat = (local @ k.transpose(1, 2))[..., :2] / depth.clamp(min=1e-6)
    return flat, local.norm(dim=-1), depth[..., 0] > 0
