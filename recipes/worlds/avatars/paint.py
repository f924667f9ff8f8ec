"""Materials and pixel labels of an avatar, and its scene.

factors.py says what an avatar is drawn from, shape.py holds its parts as signed distances.
"""

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from recipes import renderer as r
from recipes.renderer import Factors, Vec
from recipes.worlds.avatars.factors import FACTORS, Avatar, Paint, avatar_of, paint_of
from recipes.worlds.avatars.shape import (
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
from recipes.worlds.world import Reading, by_part, front_light, soft_backdrop, tint

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


def _paint_face(a: Avatar, paint: Paint, p: Vec, mouth: Tensor, v: Tensor) -> Tensor:
    """Skin with blushing cheeks and nose, and the inside of the mouth; [B, N, 3]."""
    x, y, z = p
    blush = torch.exp(-((x.abs() - 0.095) / 0.03).square() - ((y + 0.068) / 0.024).square())
    blush = blush + 0.6 * torch.exp(-20 * (nose_at(a, p) / 0.02).clamp_min(0).square())
    rosy = paint.skin * tint(x, (1.0, 0.62, 0.58))
    skin = r.mix(paint.skin, rosy, 0.7 * blush * (z > 0))
    deep = tint(x, (0.16, 0.022, 0.03))
    tongue = r.length(x, (v + a.mouth.h * 0.95) * 1.2) - a.mouth.w * 0.55
    inside = r.mix(deep, tint(x, (0.72, 0.16, 0.18)), r.soft_below(tongue, 0.0, 0.006))
    teeth = r.soft_below(-v, 0.020, 0.004) * (a.mouth.cut < 0.05)
    inside = r.mix(inside, tint(x, _WHITE), teeth)
    return r.mix(skin, inside, r.soft_below(mouth, 0.0, 0.004) * (z > 0))


def _paint_eyes(a: Avatar, paint: Paint, p: Vec) -> tuple[Tensor, Tensor]:
    """Colours [B, N, 3] of the eyeballs with their lids, and where they are open [B, N]."""
    local = eye_frame(a, p)
    u, v = local[0] / EYE_RADII[0], local[1] / EYE_RADII[1]
    side = p[0].sign()
    centre = (u + 0.10, v + 0.05)
    ball = tint(u, _WHITE)
    ring = r.length(*centre)
    iris = paint.iris * (0.75 - 0.5 * centre[1]).clamp(0.4, 1.3).unsqueeze(-1)
    ball = r.mix(ball, 0.25 * paint.iris, r.soft_below(ring, 0.69, 0.06))
    ball = r.mix(ball, iris, r.soft_below(ring, 0.61, 0.06))
    ball = r.mix(ball, tint(u, _INK), r.soft_below(ring, 0.40, 0.06))
    glint = r.length(u * side + 0.10 * side + 0.2, v - 0.22)
    ball = r.mix(ball, tint(u, (1.0, 1.0, 1.0)), r.soft_below(glint, 0.20, 0.06))
    lid = v - a.eyes.upper - a.eyes.slant * u - a.eyes.bow * u.square()
    covered = torch.maximum(lid, a.eyes.lower - v)
    colour = r.mix(0.94 * paint.skin, ball, r.soft_below(covered, 0.0, 0.06))
    lash = r.soft_below((lid - 0.04).abs(), 0.075, 0.06)
    return r.mix(colour, tint(u, _INK), lash), covered < 0


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
    lips = 0.7 * paint.skin * tint(v, (0.9, 0.42, 0.42)) + tint(v, (0.165, 0.036, 0.039))
    looks = (
        (_paint_face(a, paint, p, mouth, v), _skin_label(a, p, skull, mouth)),
        (eyes, torch.where(is_open, _sided("eye", p[0]), _ID["skin"])),
        (tint(v, (0.06, 0.035, 0.028)), _sided("brow", p[0])),
        (lips, torch.where(v > 0.5 * a.mouth.cut.clamp_max(0), _ID["u_lip"], _ID["l_lip"])),
        (paint.beard, torch.full_like(part, _ID["skin"])),
        (paint.frame, torch.full_like(part, _ID["eye_g"])),
        (paint.hair, torch.full_like(part, _ID["hair"])),
        (paint.hat, torch.full_like(part, _ID["hat"])),
        (paint.cloth, torch.full_like(part, _ID["cloth"])),
    )
    return by_part(part, looks, _GLOSS)


@cache
def _kernels(
    compiled: bool,
) -> tuple[Callable[[Avatar, Vec], Tensor], Callable[[Avatar, Paint, Vec], r.Surface]]:
    """The distance and the surface function, fused by `torch.compile` if asked."""
    if not compiled:
        return distance_at, _surface
    return torch.compile(distance_at, dynamic=False), torch.compile(_surface, dynamic=False)


def scene_of(factors: Factors, compiled: bool = False) -> r.Scene:
    """The scenes of a batch."""
    distance, surface = _kernels(compiled)
    read, avatar = Reading(FACTORS, factors), avatar_of(factors)
    return r.Scene(
        distance=partial(distance, avatar),
        surface=partial(surface, avatar, paint_of(factors)),
        light=front_light(read),
        backdrop=soft_backdrop(read),
    )
