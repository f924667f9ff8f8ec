"""Cartoon heads with known attributes, modelled as signed distances and rendered in batches.

The head looks towards +z, its left and right are the image's in the frontal view. Everything
lies within [-0.5, 0.5]^3; the parts mirrored in x are modelled once, on |x|.
"""

import argparse
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from recipes import renderer as r
from recipes.renderer import Factor, Factors, Rendered, Vec

# fmt: off
LABELS = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r",
    "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
)
# fmt: on
_ID = {name: index for index, name in enumerate(LABELS)}


def _uniform(name: str, values: tuple[str, ...], continuous: int) -> Factor:
    return Factor(name, values, continuous, (1 / len(values),) * len(values))


FACTORS: tuple[Factor, ...] = (
    _uniform("hairstyle", ("buzz cut", "short hair", "bob cut", "long hair", "curly hair"), 3),
    _uniform("hair_color", ("black hair", "brown hair", "blond hair", "red hair", "white hair"), 2),
    _uniform("eye_region", ("round eyes", "narrow eyes", "closed eyes", "angry brows"), 3),
    _uniform("expression", ("neutral", "smile", "surprise", "sad"), 2),
    _uniform("beard", ("no beard", "moustache", "goatee", "full beard"), 2),
    Factor("eyeglasses", ("no glasses", "round glasses", "square glasses"), 2, (0.5, 0.25, 0.25)),
    Factor("hat", ("no hat", "beanie"), 2, (0.85, 0.15)),
    Factor("skin", continuous=2),
    Factor("head_shape", continuous=3),
    Factor("nose", continuous=2),
    Factor("backdrop", continuous=3),
    Factor("clothes", continuous=3),
    Factor("light", continuous=2),
)
_COLUMN = {factor.name: column for column, factor in enumerate(FACTORS)}

_HAIR_COLORS = (
    (0.10, 0.09, 0.11),
    (0.38, 0.22, 0.13),
    (0.95, 0.77, 0.38),
    (0.80, 0.30, 0.11),
    (0.93, 0.93, 0.95),
)
_SKIN_COLORS = ((1.0, 0.86, 0.76), (0.93, 0.70, 0.54), (0.66, 0.43, 0.29), (0.40, 0.25, 0.18))


def sample_factors(n: int, generator: torch.Generator) -> Factors:
    """`n` draws from the priors of FACTORS."""
    return r.draw_factors(FACTORS, n, generator)


def sample_cameras(n: int, generator: torch.Generator) -> Tensor:
    """Camera labels [n, 25]: yaw uniform within 0.6 rad of the front, pitch within 0.25 rad."""
    angles = torch.rand(2, n, generator=generator, device=generator.device) * 2 - 1
    return r.orbit_camera(0.6 * angles[0], 0.25 * angles[1])


# ---------------------------------------------------------------- factors to measures


class Head(NamedTuple):
    """Measures of the body, each [B, 1]."""

    rx: Tensor
    ry: Tensor
    jaw: Tensor
    nose: Tensor
    nose_length: Tensor
    neckline: Tensor


class Eyes(NamedTuple):
    """Lids are v = upper + slant u + bow u^2 and v = lower on the eyeball; brows are arcs."""

    upper: Tensor
    slant: Tensor
    bow: Tensor
    lower: Tensor
    brow_y: Tensor
    brow_slope: Tensor
    brow_bow: Tensor
    brow_size: Tensor


class Mouth(NamedTuple):
    """A rounded box (half-sizes w, h at height y), bent by `bend` x^2 and cut off above `cut`."""

    y: Tensor
    w: Tensor
    h: Tensor
    bend: Tensor
    cut: Tensor
    lip: Tensor


class Beard(NamedTuple):
    """Parts absent from a beard are moved away by their `no_` offset."""

    no_moustache: Tensor
    no_goatee: Tensor
    no_full: Tensor
    size: Tensor


class Glasses(NamedTuple):
    """Half-size of a lens and the radius of its corners; `absent` is an offset as in Beard."""

    absent: Tensor
    half: Tensor
    corner: Tensor


class Hair(NamedTuple):
    """A shell around the skull with an opening for the face, and locks, drape and quiff."""

    grow: Tensor
    lift: Tensor
    cut: Tensor
    tilt: Tensor
    opening_w: Tensor
    opening_top: Tensor
    parting: Tensor
    no_curls: Tensor
    grow_extra: Tensor
    no_locks: Tensor
    lock_end: Tensor
    lock_size: Tensor
    no_drape: Tensor
    drape_end: Tensor
    no_quiff: Tensor
    bald_above: Tensor


class Avatar(NamedTuple):
    """All measures of a batch of avatars; `no_hat` is an offset as in Beard."""

    head: Head
    eyes: Eyes
    mouth: Mouth
    beard: Beard
    glasses: Glasses
    hair: Hair
    no_hat: Tensor


class Paint(NamedTuple):
    """Linear RGB colours, each [B, 1, 3]."""

    skin: Tensor
    hair: Tensor
    beard: Tensor
    iris: Tensor
    frame: Tensor
    cloth: Tensor
    hat: Tensor


class _Reader:
    """Reads factors by name; every answer is [B, 1]."""

    def __init__(self, factors: Factors) -> None:
        self.factors = factors

    def choose(self, name: str, *table: float) -> Tensor:
        """The entry of `table` for the value of factor `name`."""
        values = self.factors.variations.new_tensor(table)
        return values[self.factors.classes[:, _COLUMN[name]]].unsqueeze(1)

    def vary(self, name: str, index: int) -> Tensor:
        """Continuous parameter `index` of factor `name`, in [-1, 1]."""
        return self.factors.variations[:, _COLUMN[name], index].unsqueeze(1)


def _measure_eyes(read: _Reader) -> Eyes:
    pick = partial(read.choose, "eye_region")
    return Eyes(
        upper=pick(0.95, 0.28, -0.42, 0.42),
        slant=pick(0.0, -0.05, 0.0, 0.5),
        bow=pick(-0.3, -0.1, 0.55, 0.0),
        lower=pick(-2.0, -0.42, 9.0, -0.8),
        brow_y=pick(0.088, 0.080, 0.082, 0.070) + 0.005 * read.vary("eye_region", 1),
        brow_slope=pick(-0.12, 0.0, -0.15, 0.62),
        brow_bow=pick(5.0, 3.0, 4.0, 1.0),
        brow_size=pick(0.010, 0.010, 0.010, 0.0145) + 0.002 * read.vary("eye_region", 2),
    )


def _measure_mouth(read: _Reader) -> Mouth:
    pick = partial(read.choose, "expression")
    wide, open_ = read.vary("expression", 0), read.vary("expression", 1)
    return Mouth(
        y=pick(-0.112, -0.092, -0.116, -0.105),
        w=pick(0.042, 0.070, 0.031, 0.050) * (1 + 0.12 * wide),
        h=pick(0.006, 0.056, 0.038, 0.0075) * (1 + 0.15 * open_),
        bend=pick(1.0, 3.0, 0.0, -10.0),
        cut=pick(0.1, 0.0, 0.1, 0.1),
        lip=pick(0.009, 0.007, 0.008, 0.008),
    )


def _measure_hair(read: _Reader) -> Hair:
    pick = partial(read.choose, "hairstyle")
    volume, size, parting = (read.vary("hairstyle", i) for i in range(3))
    parting = torch.where(parting < 0, -0.5, 0.5) + 0.5 * parting
    hat = read.choose("hat", 0.0, 1.0)
    return Hair(
        grow=pick(0.009, 0.026, 0.040, 0.028, 0.050)
        + pick(0.002, 0.005, 0.006, 0.006, 0.006) * volume,
        lift=pick(0.0, 0.008, 0.0, 0.0, 0.020),
        cut=pick(0.055, 0.035, -0.13, -0.2, -0.05) - pick(0.005, 0.01, 0.025, 0.0, 0.02) * size,
        tilt=pick(0.6, 0.6, 0.05, 0.0, 0.3),
        opening_w=pick(0.160, 0.160, 0.138, 0.140, 0.150),
        opening_top=pick(0.128, 0.122, 0.114, 0.150, 0.126),
        parting=pick(0.0, 0.03, 0.0, 0.055, 0.0) * parting,
        no_curls=pick(9.0, 9.0, 9.0, 9.0, 0.0),
        grow_extra=0.014 * volume,
        no_locks=pick(9.0, 9.0, 0.0, 0.0, 9.0),
        lock_end=pick(0.0, 0.0, -0.115, -0.235, 0.0) - pick(0.0, 0.0, 0.02, 0.035, 0.0) * size,
        lock_size=pick(0.04, 0.04, 0.052, 0.047, 0.04) + 0.005 * volume,
        no_drape=pick(9.0, 9.0, 0.0, 0.0, 9.0),
        drape_end=pick(0.0, 0.0, -0.16, -0.28, 0.0) - pick(0.0, 0.0, 0.02, 0.03, 0.0) * size,
        no_quiff=pick(9.0, 0.0, 9.0, 9.0, 9.0),
        bald_above=9 * (1 - hat),
    )


def _avatar(factors: Factors) -> Avatar:
    """Measures of a batch of avatars."""
    read = _Reader(factors)
    head = Head(
        rx=0.172 + 0.010 * read.vary("head_shape", 0),
        ry=0.184 + 0.008 * read.vary("head_shape", 1),
        jaw=0.122 + 0.016 * read.vary("head_shape", 2),
        nose=0.026 + 0.005 * read.vary("nose", 0),
        nose_length=0.012 * read.vary("nose", 1),
        neckline=0.02 * read.vary("clothes", 2),
    )
    pick = partial(read.choose, "beard")
    beard = Beard(
        no_moustache=pick(9.0, 0.0, 9.0, 0.0),
        no_goatee=pick(9.0, 9.0, 0.0, 9.0),
        no_full=pick(9.0, 9.0, 9.0, 0.0),
        size=1 + 0.15 * read.vary("beard", 0),
    )
    half = 0.062 + 0.003 * read.vary("eyeglasses", 1)
    glasses = Glasses(
        absent=read.choose("eyeglasses", 9.0, 0.0, 0.0),
        half=half,
        corner=half * read.choose("eyeglasses", 1.0, 1.0, 0.25),
    )
    no_hat = read.choose("hat", 9.0, 0.0)
    return Avatar(
        head, _measure_eyes(read), _measure_mouth(read), beard, glasses, _measure_hair(read), no_hat
    )


def _rgb(hue: Tensor, saturation: Tensor | float, value: Tensor | float) -> Tensor:
    """Display RGB [B, 1, 3] of hue (in turns), saturation and value, each [B, 1]."""
    offsets = hue.new_tensor([0.0, 2 / 3, 1 / 3])
    wave = (((hue.unsqueeze(-1) + offsets) % 1 * 6 - 3).abs() - 1).clamp(0, 1)
    saturation, value = (torch.as_tensor(x).to(hue).expand_as(hue) for x in (saturation, value))
    return value.unsqueeze(-1) * (1 - saturation.unsqueeze(-1) * (1 - wave))


def _paint(factors: Factors) -> Paint:
    """Colours of a batch of avatars."""
    read = _Reader(factors)
    new = factors.variations.new_tensor
    tone = (read.vary("skin", 0) + 1) * 1.5
    steps = (tone.unsqueeze(-1) - torch.arange(4).to(tone)).abs()
    skin = ((1 - steps).clamp_min(0).unsqueeze(-1) * new(_SKIN_COLORS)).sum(-2)
    skin = skin * (1 + read.vary("skin", 1).unsqueeze(-1) * new([0.02, 0.0, -0.05]))
    hair = new(_HAIR_COLORS)[factors.classes[:, _COLUMN["hair_color"]]].unsqueeze(1)
    hair = hair * (1 + 0.12 * read.vary("hair_color", 0).unsqueeze(-1))
    hair = hair * (1 + read.vary("hair_color", 1).unsqueeze(-1) * new([0.02, -0.02, -0.04]))
    dark = (read.vary("beard", 1).unsqueeze(-1) + 1) / 2
    beard = (1 - dark) * new([0.47, 0.26, 0.14]) + dark * new([0.14, 0.09, 0.075])
    colours = Paint(
        skin=skin,
        hair=hair,
        beard=beard,
        iris=_rgb(0.33 + 0.3 * read.vary("eye_region", 0), 0.75, 0.62),
        frame=_rgb(read.vary("eyeglasses", 0) / 2, 0.75, 0.42),
        cloth=_rgb(read.vary("clothes", 0) / 2, 0.62, 0.72 + 0.18 * read.vary("clothes", 1)),
        hat=_rgb(read.vary("hat", 0) / 2, 0.70, 0.75 + 0.15 * read.vary("hat", 1)),
    )
    return Paint(*(colour.clamp(0, 1).pow(r.GAMMA) for colour in colours))


def _backdrop(factors: Factors) -> tuple[Tensor, Tensor]:
    read = _Reader(factors)
    hue, spread, value = (read.vary("backdrop", i) for i in range(3))
    hue = hue / 2
    return _rgb(hue, 0.42, 0.74 + 0.12 * value), _rgb(hue + 0.1 * spread, 0.25, 0.88 + 0.08 * value)


def _light(factors: Factors) -> r.Light:
    read = _Reader(factors)
    x = 0.7 * read.vary("light", 0)
    direction = r.normalize((x, torch.full_like(x, 0.75), torch.full_like(x, 0.9)))
    return r.Light(direction, 0.80 + 0.12 * read.vary("light", 1))


# ---------------------------------------------------------------- parts

HEAD_Y = 0.012
EYE_X, EYE_Y = 0.069, 0.010
EYE_RADII = (0.047, 0.053, 0.034)


def _mirror(p: Vec) -> Vec:
    return p[0].abs(), p[1], p[2]


def _face_z(head: Head, x: float, y: float) -> Tensor:
    """Depth [B, 1] of the face's surface at a height and a distance from the middle."""
    inside = 1 - (x / head.rx).square() - ((y - HEAD_Y) / head.ry).square()
    return 0.172 * inside.sqrt()


def _skull(a: Avatar, p: Vec) -> Tensor:
    """Cranium and jaw, the surface that the face is drawn on."""
    cranium = r.ellipsoid((p[0], p[1] - HEAD_Y, p[2]), (a.head.rx, a.head.ry, 0.172))
    jaw = r.ellipsoid((p[0], p[1] + 0.088, p[2] - 0.032), (a.head.jaw, 0.100, 0.118))
    return r.smooth_union(cranium, jaw, 0.07)


def _nose(a: Avatar, p: Vec) -> Tensor:
    y = -0.046 - a.head.nose_length
    radii = (a.head.nose, a.head.nose * 0.85 + 0.5 * a.head.nose_length.clamp_min(0), 0.034)
    return r.ellipsoid((p[0], p[1] - y, p[2] - _face_z(a.head, 0.0, -0.045)), radii)


def _ears(a: Avatar, p: Vec) -> Tensor:
    q = r.shift(_mirror(p), (a.head.rx + 0.006, -0.006, -0.012))
    return r.ellipsoid(q, (0.024, 0.044, 0.030))


def _torso(p: Vec) -> Tensor:
    neck = r.capsule(p, (0.0, -0.12, -0.025), (0.0, -0.32, -0.035), p[0].new_tensor(0.068))
    trunk = r.ellipsoid((p[0], p[1] + 0.372, p[2] + 0.025), (0.245, 0.112, 0.120))
    return r.smooth_union(neck, trunk, 0.06)


def _skin(a: Avatar, p: Vec, skull: Tensor) -> Tensor:
    face = r.smooth_union(skull, _nose(a, p), 0.016)
    return torch.minimum(r.smooth_union(face, _ears(a, p), 0.015), _torso(p))


def _eye_frame(a: Avatar, p: Vec) -> Vec:
    """Coordinates of the eye on either side, turned outwards with the face."""
    x, y, z = r.shift(_mirror(p), (EYE_X, EYE_Y, _face_z(a.head, EYE_X, EYE_Y) - 0.016))
    return 0.94 * x - 0.34 * z, y, 0.34 * x + 0.94 * z


def _brows(a: Avatar, p: Vec, skull: Tensor) -> Tensor:
    u = p[0].abs() - EYE_X
    v = p[1] - a.eyes.brow_y - a.eyes.brow_slope * u + a.eyes.brow_bow * u.square()
    shape = r.length((u.abs() - 0.034).clamp_min(0), v) - a.eyes.brow_size
    slab = torch.maximum(skull - 0.009, -p[2])
    return r.smooth_intersection(0.8 * shape, slab, 0.008)


def _mouth_shape(a: Avatar, p: Vec) -> tuple[Tensor, Tensor]:
    """Distance to the mouth's outline as seen from the front, and the unbent height in it."""
    v = p[1] - a.mouth.y - a.mouth.bend * p[0].square()
    corner = 0.98 * torch.minimum(a.mouth.w, a.mouth.h)
    outline = r.rounded_box((p[0], v), (a.mouth.w, a.mouth.h), corner)
    return r.smooth_intersection(outline, v - a.mouth.cut, 0.012), v


def _lips(a: Avatar, p: Vec, skull: Tensor, mouth: Tensor) -> Tensor:
    rim = (mouth - a.mouth.lip * 0.5).abs() - a.mouth.lip
    slab = torch.maximum(skull - 0.006, -p[2])
    return r.smooth_intersection(0.75 * rim, slab, 0.008)


def _beard(a: Avatar, p: Vec, skull: Tensor, mouth: Tensor) -> Tensor:
    x, size = p[0].abs(), a.beard.size
    z = _face_z(a.head, 0.03, -0.08)
    near, far = (0.016, -0.078, z + 0.020), (0.066, -0.092, z - 0.002)
    moustache = r.capsule((x, p[1], p[2]), near, far, 0.0165 * size) + a.beard.no_moustache
    chin = r.shift(p, (0.0, -0.186, 0.100))
    goatee = r.ellipsoid(chin, (0.048 * size, 0.044 * size, 0.054)) + a.beard.no_goatee
    edge = p[1] + 0.082 - 2.4 * x.square()
    shell = r.smooth_intersection(skull - 0.018 * size, 0.75 * edge, 0.02)
    bush = r.ellipsoid(r.shift(p, (0.0, -0.165, 0.075)), (0.100 * size, 0.062 * size, 0.082))
    full = r.smooth_union(r.smooth_intersection(shell, 0.01 - p[2], 0.03), bush, 0.03)
    full = r.smooth_subtraction(full, 0.75 * (mouth - 0.014), 0.008) + a.beard.no_full
    return torch.minimum(r.smooth_union(moustache, full, 0.015), goatee)


def _glasses(a: Avatar, p: Vec) -> Tensor:
    x, y, z = _mirror(p)
    front = _face_z(a.head, EYE_X, EYE_Y) + 0.030
    bowed = z - front + 1.1 * (x * x - EYE_X**2)
    outline = r.rounded_box(
        (x - EYE_X, y - EYE_Y), (a.glasses.half, a.glasses.half), a.glasses.corner
    )
    rims = r.length(outline, bowed) - 0.0085
    hinge = (EYE_X + 0.062, EYE_Y + 0.02, front - 0.014)
    temple = r.capsule((x, y, z), hinge, (a.head.rx + 0.008, 0.026, -0.01), 0.0075)
    return torch.minimum(rims, temple) * 0.9 + a.glasses.absent


_CURLS = (
    (0.0, 0.215, 0.045),
    (0.105, 0.195, 0.060),
    (0.175, 0.110, 0.035),
    (0.190, 0.000, -0.020),
    (0.060, 0.225, -0.070),
    (0.160, 0.125, -0.100),
    (0.135, 0.000, -0.130),
)


def _brim(p: Vec) -> Tensor:
    """Height above the plane of the hat's brim, which sinks towards the back."""
    return p[1] - 0.116 - 0.32 * (p[2] - 0.18)


def _curls(h: Hair, p: Vec) -> Tensor:
    """A few big lumps that make the outline of curly hair."""
    q = _mirror(p)
    lumps = [r.sphere(r.shift(q, centre), 0.075 + 0.5 * h.grow_extra) for centre in _CURLS]
    out = lumps[0]
    for lump in lumps[1:]:
        out = r.smooth_union(out, lump, 0.022)
    return out + h.no_curls


def _hair(a: Avatar, p: Vec) -> Tensor:
    h, head = a.hair, a.head
    x, y, z = p
    radii = (head.rx + h.grow, head.ry + h.grow, 0.172 + h.grow)
    shell = r.ellipsoid((x, y - HEAD_Y - h.lift, z + 0.012), radii)
    shell = r.smooth_intersection(shell, h.cut + h.tilt * (z + 0.02) - y, 0.03)
    middle = 0.5 * (h.opening_top - 0.24)
    opening = r.ellipsoid((x - h.parting, y - middle), (h.opening_w, h.opening_top - middle))
    opening = r.smooth_intersection(opening, 0.015 - z, 0.02)
    shell = r.smooth_subtraction(shell, opening, 0.018)
    lock_x = head.rx - 0.006
    lock = r.capsule(
        _mirror(p), (lock_x, 0.04, -0.02), (lock_x + 0.012, h.lock_end, 0.0), h.lock_size
    )
    drape_middle = 0.5 * (0.12 + h.drape_end)
    drape = r.ellipsoid((x, y - drape_middle, z + 0.095), (0.165, 0.12 - drape_middle, 0.09))
    out = r.smooth_union(shell, lock + h.no_locks, 0.03)
    out = r.smooth_union(out, drape + h.no_drape, 0.03)
    quiff = r.ellipsoid(
        r.shift(p, (-1.3 * h.parting, 0.158 + 0.5 * h.grow, 0.075)), (0.128, 0.066, 0.100)
    )
    out = r.smooth_union(out, quiff + h.no_quiff, 0.05)
    out = r.smooth_union(out, r.smooth_subtraction(_curls(h, p), opening, 0.02), 0.02)
    return r.smooth_intersection(out, _brim(p) - h.bald_above, 0.04)


def _hat(a: Avatar, p: Vec) -> Tensor:
    x, y, z = p
    above = _brim(p)
    radii = (a.head.rx + 0.014, a.head.ry - 0.016, 0.188)
    middle = HEAD_Y + 0.066
    crown = r.ellipsoid((x, y - middle, z + 0.008), radii)
    crown = r.smooth_intersection(crown, -above, 0.02)
    ring = r.ellipsoid((x, y - middle, z + 0.008), radii)
    band = r.length(((above - 0.020).abs() - 0.016).clamp_min(0), ring) - 0.015
    pompom = r.sphere(r.shift(p, (0.0, middle + a.head.ry + 0.002, -0.015)), 0.033)
    return torch.minimum(torch.minimum(crown, 0.9 * band), pompom) + a.no_hat


def _cloth(a: Avatar, p: Vec) -> Tensor:
    collar = r.ellipsoid(r.shift(p, (0.0, -0.215 + a.head.neckline, 0.0)), (0.115, 0.07, 0.135))
    shirt = torch.maximum(_torso(p) - 0.010, p[1] + 0.190)
    return r.smooth_subtraction(shirt, collar, 0.012)


def _parts(a: Avatar, p: Vec) -> tuple[Tensor, ...]:
    """Distances [B, N] to skin, eyes, brows, lips, beard, glasses, hair, hat and cloth."""
    skull = _skull(a, p)
    mouth, _ = _mouth_shape(a, p)
    return (
        _skin(a, p, skull),
        r.ellipsoid(_eye_frame(a, p), EYE_RADII),
        _brows(a, p, skull),
        _lips(a, p, skull, mouth),
        _beard(a, p, skull, mouth),
        _glasses(a, p),
        _hair(a, p),
        _hat(a, p),
        _cloth(a, p),
    )


def _distance(a: Avatar, p: Vec) -> Tensor:
    return r.union(_parts(a, p))


# ---------------------------------------------------------------- paint

_WHITE, _INK = (0.93, 0.93, 0.92), (0.045, 0.03, 0.03)
_GLOSS = (0.10, 0.0, 0.05, 0.12, 0.03, 0.15, 0.10, 0.03, 0.04)


def _tint(like: Tensor, rgb: tuple[float, float, float]) -> Tensor:
    """A constant linear colour [1, 1, 3]."""
    return like.new_tensor(rgb).view(1, 1, 3)


def _paint_face(a: Avatar, paint: Paint, p: Vec, mouth: Tensor, v: Tensor) -> Tensor:
    """Skin with blushing cheeks and nose, and the inside of the mouth; [B, N, 3]."""
    x, y, z = p
    blush = torch.exp(-((x.abs() - 0.095) / 0.03).square() - ((y + 0.068) / 0.024).square())
    blush = blush + 0.6 * torch.exp(-20 * (_nose(a, p) / 0.02).clamp_min(0).square())
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
    local = _eye_frame(a, p)
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
    label = torch.where(_torso(p) < skull, _ID["neck"], _ID["skin"])
    label = torch.where(_ears(a, p) < torch.minimum(skull, _torso(p)), _sided("ear", p[0]), label)
    label = torch.where((_nose(a, p) < 0.003) & (skull > -0.01), _ID["nose"], label)
    return torch.where((mouth < 0) & (p[2] > 0) & (label == _ID["skin"]), _ID["mouth"], label)


def _surface(a: Avatar, paint: Paint, p: Vec) -> r.Surface:
    """Paint at surface points [B, N]."""
    part = torch.stack(_parts(a, p)).argmin(0)
    skull = _skull(a, p)
    mouth, v = _mouth_shape(a, p)
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
        return _distance, _surface
    return torch.compile(_distance, dynamic=False), torch.compile(_surface, dynamic=False)


def _render_chunk(
    factors: Factors, cameras: Tensor, resolution: int, supersample: int, compiled: bool
) -> Rendered:
    distance, surface = _kernels(compiled)
    avatar = _avatar(factors)
    scene = r.Scene(
        distance=partial(distance, avatar),
        surface=partial(surface, avatar, _paint(factors)),
        light=_light(factors),
        backdrop=_backdrop(factors),
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
