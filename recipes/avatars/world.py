"""Cartoon heads with known attributes: labels, materials, pictures in batches, contact sheet.

factors.py says what an avatar is drawn from, shape.py holds its parts as signed distances.
"""

import argparse
from collections.abc import Callable
from functools import cache, partial

import torch
from PIL import Image
from torch import Tensor

from recipes import renderer as r
from recipes.avatars.factors import (
    FACTORS,
    Avatar,
    Paint,
    avatar_of,
    backdrop_of,
    light_of,
    paint_of,
    sample_cameras,
    sample_factors,
)
from recipes.avatars.shape import (
    EYE_RADII,
    distance_at,
    ears_at,
    eye_frame,
    mouth_at,
    nose_at,
    parts_at,
    skull_at,
    torso_at,
)
from recipes.renderer import Factor, Factors, Rendered, Vec

__all__ = [
    "FACTORS",
    "LABELS",
    "Factor",
    "Factors",
    "Rendered",
    "contact_sheet",
    "render",
    "sample_cameras",
    "sample_factors",
]

# fmt: off
LABELS = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r",
    "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
)
# fmt: on
_ID = {name: index for index, name in enumerate(LABELS)}


# ---------------------------------------------------------------- materials

_WHITE, _INK = (0.93, 0.93, 0.92), (0.045, 0.03, 0.03)
_GLOSS = (0.10, 0.0, 0.05, 0.12, 0.03, 0.15, 0.10, 0.03, 0.04)


def _tint(like: Tensor, rgb: tuple[float, float, float]) -> Tensor:
    """A constant linear colour [1, 1, 3]."""
    return like.new_tensor(rgb).view(1, 1, 3)


def _paint_face(a: Avatar, paint: Paint, p: Vec, mouth: Tensor, v: Tensor) -> Tensor:
    """Skin with blushing cheeks and nose, and the inside of the mouth; [B, N, 3]."""
    x, y, z = p
    blush = torch.exp(-((x.abs() - 0.095) / 0.03).square() - ((y + 0.068) / 0.024).square())
    blush = blush + 0.6 * torch.exp(-20 * (nose_at(a, p) / 0.02).clamp_min(0).square())
    rosy = paint.skin * _tint(x, (1.0, 0.62, 0.58))
    skin = r.mix(paint.skin, rosy, 0.7 * blush * (z > 0))
    deep = _tint(x, (0.16, 0.022, 0.03))
    tongue = r.length(x, (v + a.mouth.h * 0.95) * 1.2) - a.mouth.w * 0.55
    inside = r.mix(deep, _tint(x, (0.72, 0.16, 0.18)), r.soft_below(tongue, 0.0, 0.006))
    teeth = r.soft_below(-v, 0.020, 0.004) * (a.mouth.cut < 0.05)
    inside = r.mix(inside, _tint(x, _WHITE), teeth)
    return r.mix(skin, inside, r.soft_below(mouth, 0.0, 0.004) * (z > 0))


def _paint_eyes(a: Avatar, paint: Paint, p: Vec) -> tuple[Tensor, Tensor]:
    """Colours [B, N, 3] of the eyeballs with their lids, and where they are open [B, N]."""
    local = eye_frame(a, p)
    u, v = local[0] / EYE_RADII[0], local[1] / EYE_RADII[1]
    side = p[0].sign()
    centre = (u + 0.10, v + 0.05)
    ball = _tint(u, _WHITE)
    ring = r.length(*centre)
    iris = paint.iris * (0.75 - 0.5 * centre[1]).clamp(0.4, 1.3).unsqueeze(-1)
    ball = r.mix(ball, 0.25 * paint.iris, r.soft_below(ring, 0.69, 0.06))
    ball = r.mix(ball, iris, r.soft_below(ring, 0.61, 0.06))
    ball = r.mix(ball, _tint(u, _INK), r.soft_below(ring, 0.40, 0.06))
    glint = r.length(u * side + 0.10 * side + 0.2, v - 0.22)
    ball = r.mix(ball, _tint(u, (1.0, 1.0, 1.0)), r.soft_below(glint, 0.20, 0.06))
    lid = v - a.eyes.upper - a.eyes.slant * u - a.eyes.bow * u.square()
    covered = torch.maximum(lid, a.eyes.lower - v)
    colour = r.mix(0.94 * paint.skin, ball, r.soft_below(covered, 0.0, 0.06))
    lash = r.soft_below((lid - 0.04).abs(), 0.075, 0.06)
    return r.mix(colour, _tint(u, _INK), lash), covered < 0


def _sided(name: str, x: Tensor) -> Tensor:
    """Labels of a paired part: left is the image's left."""
    return torch.where(x < 0, _ID[f"l_{name}"], _ID[f"r_{name}"])


def _skin_label(a: Avatar, p: Vec, skull: Tensor, mouth: Tensor) -> Tensor:
    label = torch.where(torso_at(p) < skull, _ID["neck"], _ID["skin"])
    label = torch.where(
        ears_at(a, p) < torch.minimum(skull, torso_at(p)), _sided("ear", p[0]), label
    )
    label = torch.where((nose_at(a, p) < 0.003) & (skull > -0.01), _ID["nose"], label)
    return torch.where((mouth < 0) & (p[2] > 0) & (label == _ID["skin"]), _ID["mouth"], label)


def _surface(a: Avatar, paint: Paint, p: Vec) -> r.Surface:
    """Paint at surface points [B, N]."""
    part = torch.stack(parts_at(a, p)).argmin(0)
    skull = skull_at(a, p)
    mouth, v = mouth_at(a, p)
    eyes, is_open = _paint_eyes(a, paint, p)
    lips = 0.7 * paint.skin * _tint(v, (0.9, 0.42, 0.42)) + _tint(v, (0.165, 0.036, 0.039))
    looks = (
        (_paint_face(a, paint, p, mouth, v), _skin_label(a, p, skull, mouth)),
        (eyes, torch.where(is_open, _sided("eye", p[0]), _ID["skin"])),
        (_tint(v, (0.06, 0.035, 0.028)), _sided("brow", p[0])),
        (lips, torch.where(v > 0.5 * a.mouth.cut.clamp_max(0), _ID["u_lip"], _ID["l_lip"])),
        (paint.beard, torch.full_like(part, _ID["skin"])),
        (paint.frame, torch.full_like(part, _ID["eye_g"])),
        (paint.hair, torch.full_like(part, _ID["hair"])),
        (paint.hat, torch.full_like(part, _ID["hat"])),
        (paint.cloth, torch.full_like(part, _ID["cloth"])),
    )
    albedo, label = looks[0]
    for index, (colour, name) in enumerate(looks[1:], start=1):
        chosen = part == index
        albedo = torch.where(chosen.unsqueeze(-1), colour, albedo)
        label = torch.where(chosen, name, label)
    return r.Surface(albedo, label, v.new_tensor(_GLOSS)[part])


@cache
def _kernels(
    compiled: bool,
) -> tuple[Callable[[Avatar, Vec], Tensor], Callable[[Avatar, Paint, Vec], r.Surface]]:
    """The distance and the surface function, fused by `torch.compile` if asked."""
    if not compiled:
        return distance_at, _surface
    return torch.compile(distance_at, dynamic=False), torch.compile(_surface, dynamic=False)


def _render_chunk(
    factors: Factors, cameras: Tensor, resolution: int, supersample: int, compiled: bool
) -> Rendered:
    distance, surface = _kernels(compiled)
    avatar = avatar_of(factors)
    scene = r.Scene(
        distance=partial(distance, avatar),
        surface=partial(surface, avatar, paint_of(factors)),
        light=light_of(factors),
        backdrop=backdrop_of(factors),
    )
    return r.render_scene(scene, cameras, resolution, supersample)


@torch.no_grad()
def render(
    factors: Factors,
    cameras: Tensor,
    resolution: int = 128,
    supersample: int = 2,
    chunk: int = 16,
    compile: bool = False,  # noqa: A002
) -> Rendered:
    """Render avatars seen by `cameras` [B, 25], `chunk` at a time, on the factors' device.

    The last chunk is filled up with repeats, so that compiled kernels see a single shape.
    """
    n = len(factors)
    chunk = min(chunk, n)
    parts = []
    for start in range(0, n, chunk):
        rows = torch.arange(start, start + chunk, device=cameras.device).clamp_max(n - 1)
        part = _render_chunk(factors[rows], cameras[rows], resolution, supersample, compile)
        parts.append(part)
    return Rendered(*(torch.cat(field)[:n] for field in zip(*parts, strict=True)))


# ---------------------------------------------------------------- contact sheet


def contact_sheet(n: int, seed: int, yaws: tuple[float, ...] = (-0.6, 0.0, 0.6)) -> Tensor:
    """Image [3, H, W] in [-1, 1]: `n` random avatars, each seen from every yaw in a row."""
    factors = sample_factors(n, torch.Generator().manual_seed(seed))
    yaw = torch.tensor(yaws).repeat(n)
    rows = torch.arange(n).repeat_interleave(len(yaws))
    images = render(factors[rows], r.orbit_camera(yaw, torch.zeros_like(yaw)), chunk=4).image
    columns = 4 * len(yaws)
    blank = images.new_ones(-len(images) % columns, *images.shape[1:])
    tiles = torch.cat([images, blank]).unflatten(0, (-1, columns))
    return tiles.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)


def main() -> None:
    """Command line: write a contact sheet."""
    parser = argparse.ArgumentParser(description="Write a contact sheet of random avatars.")
    parser.add_argument("--out", required=True)
    parser.add_argument("--n", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sheet = contact_sheet(options.n, options.seed)
    pixels = ((sheet + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(options.out)


if __name__ == "__main__":
    main()
