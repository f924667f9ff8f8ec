"""Cameras and the rays they send (EG3D, Chan et al. 2022).

Cameras look along +z of their own frame, x right, y down; the world's y points up.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sat3d.precision import exact


def orbit_camera(
    yaw: Tensor, pitch: Tensor, radius: float, focal: float, pivot: Tensor | None = None
) -> Tensor:
    """Look-at cameras on a sphere around the origin: yaw, pitch [B] in radians to [B, 25].

    0, 0 is in front (on +z); ``focal`` is divided by the image size; ``pivot`` [3] is looked at.
    """
    theta, v = math.pi / 2 + yaw, math.pi / 2 + pitch
    phi = torch.arccos((1 - 2 * v / math.pi).clamp(-1, 1))
    direction = [
        phi.sin() * (math.pi - theta).cos(),
        phi.cos(),
        phi.sin() * (math.pi - theta).sin(),
    ]
    origin = radius * torch.stack(direction, dim=-1)
    target = torch.zeros(3) if pivot is None else pivot
    return camera_label(look_at(origin, target.to(origin)), focal)


def look_at(origin: Tensor, target: Tensor) -> Tensor:
    """Camera-to-world matrices [B, 4, 4] at ``origin`` [B, 3] looking at ``target`` [3]."""
    forward = F.normalize(target - origin, dim=-1)
    up = torch.tensor([0.0, 1.0, 0.0]).to(origin).expand_as(forward)
    right = -F.normalize(torch.cross(up, forward, dim=-1), dim=-1)
    down = F.normalize(torch.cross(forward, right, dim=-1), dim=-1)
    matrix = torch.eye(4).to(origin).repeat(len(origin), 1, 1)
    matrix[:, :3, :3] = torch.stack([right, down, forward], dim=-1)
    matrix[:, :3, 3] = origin
    return matrix


def camera_label(cam2world: Tensor, focal: float) -> Tensor:
    """[B, 4, 4] and a focal length to camera labels [B, 25], principal point in the middle."""
    intrinsics = torch.tensor([focal, 0, 0.5, 0, focal, 0.5, 0, 0, 1]).to(cam2world)
    return torch.cat([cam2world.flatten(1), intrinsics.expand(len(cam2world), -1)], dim=1)


def sample_rays(camera: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Camera labels [B, 25] to ray origins and unit directions, each [B, R*R, 3], row-major.

    Rays pass through the pixel centres (i + 0.5) / R.
    """
    cam2world, k = camera[:, :16].view(-1, 4, 4), camera[:, 16:].view(-1, 3, 3)
    fx, fy, cx, cy, skew = (k[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2), (0, 1)))
    ticks = (torch.arange(resolution, device=camera.device, dtype=camera.dtype) + 0.5) / resolution
    v, u = (t.reshape(1, -1) for t in torch.meshgrid(ticks, ticks, indexing="ij"))
    y = (v - cy) / fy
    x = (u - cx - skew * y) / fx
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    with exact(camera):
        directions = F.normalize(points @ cam2world[:, :3, :3].transpose(1, 2), dim=-1)
    return cam2world[:, None, :3, 3].expand_as(directions), directions


def box_limits(origins: Tensor, directions: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """Where rays [B, M, 3] enter and leave the box [-side/2, side/2]^3: two [B, M, 1].

    Rays that miss get -1 and -2.
    """
    inverse = 1 / directions
    first, second = (-side / 2 - origins) * inverse, (side / 2 - origins) * inverse
    near = torch.minimum(first, second).amax(dim=-1, keepdim=True)
    far = torch.maximum(first, second).amin(dim=-1, keepdim=True)
    miss = near > far
    return near.masked_fill(miss, -1.0), far.masked_fill(miss, -2.0)
