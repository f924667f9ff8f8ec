"""The coat of a cat: colours, patterns, eyes, and the scene."""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from recipes import renderer as r
from recipes.renderer import Factors, Vec
from recipes.worlds.cats.shape import (
    EYE_R,
    EYE_X,
    EYE_Y,
    FACTORS,
    Cat,
    cat_of,
    distance_at,
    ear_frame,
    head_frame,
    parts_at,
)
from recipes.worlds.world import (
    Reading,
    by_part,
    front_light,
    linear,
    rgb,
    soft_backdrop,
    tint,
)

LABELS = ("background", "fur", "eye", "nose", "ear", "collar")
_FUR, _EYE, _NOSE, _EAR, _COLLAR = range(1, 6)
# Of each color: the ground, its marks, and the pale parts around the mouth.
_GROUND = ((0.27, 0.26, 0.28), (0.60, 0.62, 0.65), (0.55, 0.37, 0.24), (0.95, 0.60, 0.27),
           (0.95, 0.93, 0.90))  # fmt: skip
_MARKS = ((0.09, 0.08, 0.10), (0.27, 0.28, 0.31), (0.25, 0.14, 0.09), (0.70, 0.27, 0.08),
          (0.52, 0.47, 0.44))  # fmt: skip
_PALE = ((0.42, 0.40, 0.42), (0.86, 0.86, 0.87), (0.82, 0.68, 0.53), (1.0, 0.88, 0.70),
         (1.0, 0.99, 0.97))  # fmt: skip
_WHITE, _INK = (0.95, 0.95, 0.93), (0.02, 0.016, 0.016)


class Coat(NamedTuple):
    """Linear RGB [B, 1, 3], shares of each pattern and its scale [B, 1]."""

    ground: Tensor
    marks: Tensor
    pale: Tensor
    iris: Tensor
    collar: Tensor
    stripes: Tensor
    spots: Tensor
    points: Tensor
    pitch: Tensor
    pupil: Tensor


def coat_of(read: Reading) -> Coat:
    """Colours and pattern of a batch of cats."""
    vary, pattern = read.vary, partial(read.choose, "fur_pattern")
    light = 1 + 0.10 * vary("fur_color", 0).unsqueeze(-1)
    warm = 1 + vary("fur_color", 1).unsqueeze(-1) * light.new_tensor([0.03, 0.0, -0.05])
    ground, marks, pale = (
        linear(read.colour("fur_color", x) * light * warm) for x in (_GROUND, _MARKS, _PALE)
    )
    return Coat(
        # Cats with points are pale elsewhere.
        ground=ground + (pale - ground) * pattern(0.0, 0.0, 0.0, 0.5).unsqueeze(-1),
        marks=marks,
        pale=pale,
        iris=linear(rgb(0.27 + 0.22 * vary("eyes", 0), 0.72, 0.80)),
        collar=linear(rgb(0.5 + 0.5 * vary("collar", 0), 0.78, 0.78 + 0.12 * vary("collar", 1))),
        stripes=pattern(0.0, 1.0, 0.0, 0.0),
        spots=pattern(0.0, 0.0, 1.0, 0.0),
        points=pattern(0.0, 0.0, 0.0, 1.0),
        pitch=1 + 0.12 * vary("fur_pattern", 0),
        pupil=0.30 + 0.12 * vary("eyes", 1),
    )


def _wave(x: Tensor, share: float) -> Tensor:
    """Soft stripes along the phase `x`; about `share` of it is 1."""
    return ((torch.sin(x) + 2 * share - 1) * 2.2 + 0.5).clamp(0, 1)


def _pattern(coat: Coat, p: Vec, q: Vec) -> Tensor:
    """How much a place is of the colour of the marks: [B, N] in [0, 1]."""
    x, y, z = q
    side, k = x.abs(), coat.pitch
    brow = _wave(150 * k * x + 1.6, 0.5) * r.soft_below(-y, -0.055, 0.03)
    cheek = _wave(115 * k * (y + 0.35 * side), 0.42) * r.soft_below(-side, -0.105, 0.03)
    below = r.soft_below(p[1], -0.16, 0.04)
    back = r.soft_below(z, 0.0, 0.04)
    body = _wave(85 * k * (p[1] - 0.4 * p[0].abs()), 0.45)
    tabby = torch.maximum(
        torch.maximum(brow, cheek * (1 - below)), torch.maximum(below, back) * body
    )
    grid = torch.sin(62 * k * x + 0.9) * torch.sin(62 * k * y + 0.4) * torch.sin(62 * k * z + 0.6)
    far = (1 - r.soft_below(r.length(x, y + 0.06), 0.075, 0.03) * (z > 0)).clamp(0, 1)
    spots = ((grid.abs() - 0.30) * 5).clamp(0, 1) * far
    mask = torch.exp(-(r.length(x / 1.0, (y + 0.055) / 0.95) / 0.085).pow(4)) * (z > 0.02)
    tips = r.soft_below(-y, -0.135, 0.05)
    return coat.stripes * tabby + coat.spots * spots + coat.points * torch.maximum(mask, tips)


def _paint_fur(coat: Coat, p: Vec, q: Vec) -> Tensor:
    x, y, z = q
    shade = 1 + 0.05 * torch.sin(140 * x + 60 * y) * torch.sin(110 * y - 50 * z)
    pads = torch.exp(-(r.length(x / 1.25, y + 0.095) / 0.058).pow(4)) * (z > 0.05)
    bib = torch.exp(-(r.length(p[0], 0.7 * (p[1] + 0.27)) / 0.085).pow(4)) * (p[2] > 0)
    ground = r.mix(coat.ground, coat.pale, 0.75 * torch.maximum(pads, 0.8 * bib))
    colour = r.mix(ground, coat.marks, _pattern(coat, p, q)) * shade.unsqueeze(-1)
    below = y + 0.078 + 0.010 * torch.cos(95 * x.clamp(-0.034, 0.034))
    smile = torch.maximum((below + 0.014).abs() - 0.0022, x.abs() - 0.036)
    line = torch.maximum(x.abs() - 0.0022, (y + 0.076).abs() - 0.016)
    mouth = r.soft_below(torch.minimum(smile, line), 0.0, 0.003) * (z > 0.1)
    dots = torch.sin(330 * (y + 0.012)) * torch.sin(290 * x.abs() - 0.6)
    dots = ((dots - 0.75) * 5).clamp(0, 1) * pads * (x.abs() > 0.02) * (y > -0.10)
    dark = 0.28 * coat.marks + 0.006
    return r.mix(r.mix(colour, dark, 0.5 * dots), dark, 0.9 * mouth)


def _paint_eyes(c: Cat, coat: Coat, p: Vec, q: Vec) -> tuple[Tensor, Tensor]:
    """Colours [B, N, 3] of the eyeballs and the rims around them, and where they are open."""
    u = (q[0].abs() - EYE_X) / EYE_R
    v = (q[1] - EYE_Y) / EYE_R - 0.20 * u
    opening = torch.maximum(v - 0.68 - c.lid + 0.62 * u.square(), -v - 0.60 + 0.52 * u.square())
    ball = coat.iris * (0.80 - 0.45 * v).clamp(0.4, 1.3).unsqueeze(-1)
    ball = r.mix(0.35 * coat.iris, ball, r.soft_below(r.length(u, v), 0.72, 0.14))
    slit = r.length(u / coat.pupil, v / 0.52)
    ball = r.mix(ball, tint(u, _INK), r.soft_below(slit, 1.0, 0.22))
    glint = r.length(u * q[0].sign() + 0.24, v - 0.34)
    ball = r.mix(ball, tint(u, (1.0, 1.0, 1.0)), r.soft_below(glint, 0.15, 0.07))
    rim = r.mix(ball, tint(u, _INK), r.soft_below(-opening, 0.09, 0.10))
    fur = _paint_fur(coat, p, q)
    return r.mix(rim, fur, r.soft_below(-opening, -0.10, 0.08)), opening < 0


def _paint_ears(c: Cat, coat: Coat, p: Vec, q: Vec) -> Tensor:
    x, y, z = (v / c.ear_size for v in ear_frame(c, q))
    taper = 0.066 * (1 - y / 0.165)
    inside = r.soft_below(r.length(x, 1.25 * (z - 0.034)), 0.88 * taper, 0.008) * (y > 0)
    pink = r.mix(
        tint(x, (0.80, 0.42, 0.38)), coat.ground, 0.25 + 0.9 * (c.no_long < 1) * (y < 0.05)
    )
    points = r.mix(pink, coat.marks, 0.7 * coat.points.expand_as(x))
    return r.mix(_paint_fur(coat, p, q), points, inside)


def _surface(c: Cat, coat: Coat, p: Vec) -> r.Surface:
    """Paint at surface points [B, N]."""
    q = head_frame(c, p)
    part = torch.stack(parts_at(c, p)).argmin(0)
    eyes, is_open = _paint_eyes(c, coat, p, q)
    full = partial(torch.full_like, part)
    pink = r.mix(tint(p[0], (0.74, 0.31, 0.30)), coat.marks, coat.points.expand_as(p[0]) * 0.8)
    looks = (
        (_paint_fur(coat, p, q), full(_FUR)),
        (_paint_ears(c, coat, p, q), full(_EAR)),
        (eyes, torch.where(is_open, _EYE, _FUR)),
        (pink, full(_NOSE)),
        (coat.collar, full(_COLLAR)),
        (tint(p[0], (0.86, 0.62, 0.16)), full(_COLLAR)),
    )
    return by_part(part, looks, (0.015, 0.0, 0.16, 0.12, 0.08, 0.35))


@cache
def _kernels(
    compiled: bool,
) -> tuple[Callable[[Cat, Vec], Tensor], Callable[[Cat, Coat, Vec], r.Surface]]:
    """The distance and the surface function, fused by `torch.compile` if asked."""
    if not compiled:
        return distance_at, _surface
    return torch.compile(distance_at, dynamic=False), torch.compile(_surface, dynamic=False)


def scene_of(factors: Factors, compiled: bool = False) -> r.Scene:
    """The scenes of a batch."""
    distance, surface = _kernels(compiled)
    read = Reading(FACTORS, factors)
    cat = cat_of(read)
    return r.Scene(
        distance=partial(distance, cat),
        surface=partial(surface, cat, coat_of(read)),
        light=front_light(read),
        backdrop=soft_backdrop(read),
    )
