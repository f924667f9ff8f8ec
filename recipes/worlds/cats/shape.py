"""What a cat is drawn from, its measures, and its parts as signed distances.

The head looks towards +z and is turned by the factor `pose` on a body that is not. Lengths are
world units; everything lies within [-0.5, 0.5]^3. Parts mirrored in x are modelled once, on |x|.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from recipes import renderer as r
from recipes.renderer import Factor, Vec
from recipes.worlds.world import Reading, uniform

FACTORS: tuple[Factor, ...] = (
    uniform("fur_color", ("black fur", "gray fur", "brown fur", "orange fur", "white fur"), 2),
    uniform("fur_pattern", ("solid", "tabby stripes", "spots", "dark points"), 2),
    uniform("fur_length", ("short fur", "medium-length fur", "long fluffy fur"), 2),
    Factor("eyes", continuous=3),
    Factor("ears", continuous=3),
    Factor("head_shape", continuous=3),
    Factor("pose", continuous=3),
    Factor("collar", ("no collar", "collar"), 2, (0.6, 0.4)),
    Factor("backdrop", continuous=3),
    Factor("light", continuous=2),
)
EYE_X, EYE_Y, EYE_Z, EYE_R = 0.073, 0.014, 0.113, 0.050


class Cat(NamedTuple):
    """Measures, each [B, 1]; what a cat lacks is moved away by its `no_` offset."""

    wide: Tensor
    cheek: Tensor
    muzzle: Tensor
    ear_x: Tensor
    ear_size: Tensor
    ear_turn: Tensor
    lid: Tensor
    turn: tuple[Tensor, Tensor]
    nod: tuple[Tensor, Tensor]
    roll: tuple[Tensor, Tensor]
    fluff: Tensor
    ruff: Tensor
    no_medium: Tensor
    no_long: Tensor
    collar: Tensor
    no_collar: Tensor


def cat_of(read: Reading) -> Cat:
    """Measures of a batch of cats."""
    vary, pick = read.vary, partial(read.choose, "fur_length")
    angles = (0.16 * vary("pose", 0), 0.12 * vary("pose", 1), 0.12 * vary("pose", 2))
    turn, nod, roll = ((angle.cos(), angle.sin()) for angle in angles)
    return Cat(
        wide=0.176 + 0.008 * vary("head_shape", 0) + pick(0.0, 0.006, 0.010),
        cheek=0.092 + 0.008 * vary("head_shape", 1) + pick(0.0, 0.006, 0.012),
        muzzle=1 + 0.10 * vary("head_shape", 2),
        ear_x=0.112 + 0.008 * vary("ears", 0),
        ear_size=1 + 0.10 * vary("ears", 1),
        ear_turn=0.22 + 0.14 * vary("ears", 2),
        lid=0.10 * vary("eyes", 2),
        turn=turn,
        nod=nod,
        roll=roll,
        fluff=pick(0.0, 0.0015, 0.0034) * (1 + 0.2 * vary("fur_length", 1)),
        ruff=1 + 0.14 * vary("fur_length", 0),
        no_medium=pick(9.0, 0.0, 9.0),
        no_long=pick(9.0, 9.0, 0.0),
        collar=pick(0.142, 0.142, 0.118),
        no_collar=read.choose("collar", 9.0, 0.0),
    )


# ---------------------------------------------------------------- shape


def head_frame(c: Cat, p: Vec) -> Vec:
    """Points in the frame of the head, which turns about the nape."""
    x, y, z = r.shift(p, (0.0, -0.10, -0.05))
    x, y = c.roll[0] * x + c.roll[1] * y, c.roll[0] * y - c.roll[1] * x
    y, z = c.nod[0] * y + c.nod[1] * z, c.nod[0] * z - c.nod[1] * y
    x, z = c.turn[0] * x - c.turn[1] * z, c.turn[0] * z + c.turn[1] * x
    return x, y - 0.095, z - 0.05


def _tuft(p: Vec, base: tuple[float, float, float], tip: tuple[Tensor, ...], wide: float) -> Tensor:
    """A lock from `base` to a pointed `tip`."""
    axis = tuple(b - a for a, b in zip(base, tip, strict=True))
    q = r.shift(p, base)
    norm = axis[0].square() + axis[1].square() + axis[2].square()
    along = ((q[0] * axis[0] + q[1] * axis[1] + q[2] * axis[2]) / norm).clamp(0, 1)
    gap = r.length(q[0] - axis[0] * along, q[1] - axis[1] * along, q[2] - axis[2] * along)
    return 0.8 * (gap - wide * (1 - 0.97 * along))


def ear_frame(c: Cat, q: Vec) -> Vec:
    """Coordinates of the ear on either side: across, along from its base, towards the front."""
    x, y, z = r.shift((q[0].abs(), q[1], q[2]), (c.ear_x, 0.085, 0.010))
    lean, turn = c.ear_turn, 0.35
    x, y = x - lean * y, y + lean * x
    return x - turn * z, y, z + turn * x


def _ears(c: Cat, q: Vec) -> Tensor:
    x, y, z = (v / c.ear_size for v in ear_frame(c, q))
    taper = 0.066 * (1 - y / 0.165)
    outer = 0.72 * (r.length(x, 1.25 * z) - taper)
    outer = r.smooth_intersection(outer, -y - 0.05, 0.01)
    hollow = 0.72 * (r.length(x, 1.25 * (z - 0.034)) - 0.86 * taper)
    hollow = r.smooth_intersection(hollow, 0.004 - y, 0.02)
    return r.smooth_subtraction(outer, hollow, 0.012) * c.ear_size


def _ruffs(c: Cat, q: Vec) -> Tensor:
    """Tufts on the cheeks."""
    m = (q[0].abs(), q[1], q[2])
    tips = [((0.225, -0.055, 0.0), 0.052), ((0.235, -0.105, 0.0), 0.058),
            ((0.185, -0.160, 0.01), 0.058)]  # fmt: skip
    long = [
        _tuft(m, (0.115, -0.045, 0.03), tuple(x * c.ruff for x in tip), wide) for tip, wide in tips
    ]
    medium = _tuft(m, (0.11, -0.05, 0.03), tuple(x * c.ruff for x in (0.195, -0.098, 0.01)), 0.058)
    return torch.minimum(
        r.smooth_union(r.smooth_union(long[0], long[1], 0.02), long[2], 0.02) + c.no_long,
        medium + c.no_medium,
    )


def _fluff(c: Cat, p: Vec) -> Tensor:
    """Waves on the surface of longer fur, which run down and outwards."""
    x, y, z = p
    return c.fluff * (torch.sin(120 * x + 40 * y) * torch.sin(42 * y - 25 * z) + torch.sin(105 * z))


def _skull(c: Cat, q: Vec) -> Tensor:
    m = (q[0].abs(), q[1], q[2])
    skull = r.ellipsoid(r.shift(q, (0.0, 0.012, -0.005)), (c.wide, 0.146, 0.142))
    cheek = r.ellipsoid(r.shift(m, (0.078, -0.062, 0.050)), (c.cheek, 0.070, 0.084))
    skull = r.smooth_union(skull, cheek, 0.05)
    bridge = r.capsule(q, (0.0, 0.06, 0.118), (0.0, -0.042, 0.150), torch.full_like(q[0], 0.028))
    skull = r.smooth_union(skull, bridge, 0.035)
    pads = (0.044 * c.muzzle, 0.034 * c.muzzle, 0.040)
    pad = r.ellipsoid(r.shift(m, (0.033, -0.080, 0.140)), pads)
    chin = r.ellipsoid(r.shift(q, (0.0, -0.122, 0.112)), (0.042, 0.030, 0.040))
    return r.smooth_union(r.smooth_union(skull, chin, 0.025), pad, 0.018)


def _body(c: Cat, p: Vec) -> Tensor:
    neck = r.capsule(p, (0.0, -0.08, -0.05), (0.0, -0.36, -0.045), torch.full_like(p[0], 0.112))
    trunk = r.ellipsoid(r.shift(p, (0.0, -0.385, -0.06)), (0.200, 0.150, 0.135))
    body = r.smooth_union(neck, trunk, 0.08)
    bib = r.ellipsoid(r.shift(p, (0.0, -0.265, 0.035)), (0.145 * c.ruff, 0.115, 0.088))
    small = r.ellipsoid(r.shift(p, (0.0, -0.250, 0.025)), (0.118 * c.ruff, 0.085, 0.075))
    bib = torch.minimum(bib + c.no_long, small + c.no_medium)
    return r.smooth_union(body, bib, 0.04)


def _collar(c: Cat, p: Vec) -> tuple[Tensor, Tensor]:
    """Distances to the band and to its bell."""
    y = p[1] + 0.205 + 0.25 * p[2]
    ring = r.length(p[0], p[2] + 0.038) - c.collar
    band = r.length((y.abs() - 0.012).clamp_min(0), ring) - 0.012
    bell = r.sphere(r.shift(p, (0.0, -0.262, 0.112)), 0.026)
    return 0.9 * band + c.no_collar, bell + c.no_collar


def parts_at(c: Cat, p: Vec) -> tuple[Tensor, ...]:
    """Distances [B, N] to fur, ears, eyes, nose, collar and bell."""
    q = head_frame(c, p)
    m = (q[0].abs(), q[1], q[2])
    fluff = _fluff(c, q)
    face = r.soft_below(r.length(q[0], q[1] + 0.03), 0.13, 0.06) * (q[2] > 0)
    fur = r.smooth_union(_skull(c, q) + fluff * (1 - face), _ruffs(c, q), 0.03)
    fur = r.smooth_union(fur, _body(c, p) + fluff, 0.03)
    nose = r.ellipsoid(r.shift(q, (0.0, -0.052, 0.172)), (0.021, 0.0145, 0.012))
    eye = r.sphere(r.shift(m, (EYE_X, EYE_Y, EYE_Z)), EYE_R)
    return fur, _ears(c, q), eye, nose, *_collar(c, p)


def distance_at(c: Cat, p: Vec) -> Tensor:
    """Distance [B, N] to the nearest part."""
    fur, ears, *others = parts_at(c, p)
    return 0.9 * r.union([r.smooth_union(fur, ears, 0.02), *others])
