"""Cars on white, seen from all around as in ShapeNet: color and shape.

The front looks towards +z, the wheels stand on y = GROUND. Lengths are world units; everything
lies within 0.5 of the origin. Parts mirrored in x are modelled once, on |x|.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from recipes import renderer as r
from recipes.renderer import Factor, Factors, Vec
from recipes.worlds.world import (
    Cameras,
    Reading,
    World,
    ask,
    by_part,
    linear,
    rgb,
    tint,
    uniform,
)

FACTORS: tuple[Factor, ...] = (
    uniform("color", ("red", "yellow", "green", "blue", "white", "black"), 2),
    uniform("shape", ("sedan", "SUV", "pickup truck", "sports car", "van"), 3),
    Factor("wheels", continuous=3),
    Factor("windows", continuous=2),
    Factor("trim", continuous=2),
    Factor("light", continuous=2),
)
LABELS = ("background", "body", "window", "wheel", "lamp", "trim")
_BODY, _WINDOW, _WHEEL, _LAMP, _TRIM = range(1, 6)
_COLORS = ((0.82, 0.10, 0.09), (0.97, 0.80, 0.10), (0.16, 0.60, 0.25), (0.13, 0.32, 0.80),
           (0.93, 0.93, 0.92), (0.13, 0.13, 0.14))  # fmt: skip
GROUND = -0.17


class Car(NamedTuple):
    """Measures, each [B, 1]: a body below the belt and a cabin above, cut out by planes."""

    long: Tensor
    wide: Tensor
    low: Tensor
    belt: Tensor
    hood: Tensor
    tail: Tensor
    roof: Tensor
    front: Tensor
    front_slope: Tensor
    back: Tensor
    back_slope: Tensor
    side_slope: Tensor
    round: Tensor
    pillar: Tensor
    radius: Tensor
    axle_front: Tensor
    axle_back: Tensor
    no_bed: Tensor
    no_rails: Tensor
    no_wing: Tensor
    no_bar: Tensor


class Paint(NamedTuple):
    """Linear RGB colours, each [B, 1, 3], and the number of spokes' phase [B, 1]."""

    body: Tensor
    glass: Tensor
    rim: Tensor
    trim: Tensor
    spokes: Tensor


def car_of(read: Reading) -> Car:
    """Measures of a batch of cars; the columns are sedan, SUV, pickup, sports car, van."""
    pick, vary = partial(read.choose, "shape"), read.vary
    long = pick(0.400, 0.375, 0.415, 0.395, 0.395) + 0.012 * vary("shape", 0)
    radius = pick(0.062, 0.074, 0.077, 0.060, 0.064) * (1 + 0.05 * vary("wheels", 0))
    high = 0.010 * vary("shape", 1)
    return Car(
        long=long,
        wide=pick(0.160, 0.168, 0.168, 0.172, 0.164) + 0.006 * vary("shape", 2),
        low=GROUND + pick(0.040, 0.062, 0.074, 0.026, 0.042),
        belt=pick(0.000, 0.026, 0.028, -0.022, 0.010) + 0.5 * high,
        hood=pick(-0.006, 0.020, 0.028, -0.016, -0.002) + 0.5 * high,
        tail=pick(-0.004, 0.024, 0.050, -0.012, 0.010) + 0.5 * high,
        roof=pick(0.100, 0.142, 0.144, 0.054, 0.200) + high,
        front=pick(0.165, 0.170, 0.185, 0.120, 0.330),
        front_slope=pick(1.25, 0.75, 0.70, 1.75, 0.55),
        back=pick(-0.275, -0.360, -0.050, -0.285, -0.385),
        back_slope=pick(0.95, 0.14, 0.10, 1.75, 0.05),
        side_slope=pick(0.30, 0.20, 0.18, 0.42, 0.09),
        round=pick(0.045, 0.035, 0.030, 0.060, 0.035),
        pillar=pick(-0.055, -0.060, 0.080, -0.9, 0.130),
        radius=radius,
        axle_front=long - pick(0.140, 0.125, 0.125, 0.130, 0.120),
        axle_back=-long + pick(0.145, 0.130, 0.150, 0.125, 0.130),
        no_bed=pick(9.0, 9.0, 0.0, 9.0, 9.0),
        no_rails=pick(9.0, 0.0, 9.0, 9.0, 9.0),
        no_wing=pick(9.0, 9.0, 9.0, 0.0, 9.0),
        no_bar=pick(9.0, 9.0, 0.0, 9.0, 9.0),
    )


def paint_of(read: Reading) -> Paint:
    """Colours of a batch of cars."""
    vary = read.vary
    body = read.colour("color", _COLORS) * (1 + 0.08 * vary("color", 0).unsqueeze(-1))
    body = body * (1 + vary("color", 1).unsqueeze(-1) * body.new_tensor([0.03, -0.02, -0.04]))
    grey = 0.62 + 0.24 * vary("wheels", 1)
    return Paint(
        body=linear(body),
        glass=linear(rgb(0.55 + 0.06 * vary("windows", 0), 0.30, 0.30 + 0.12 * vary("windows", 1))),
        rim=linear(rgb(0.0 * grey, 0.0, grey)),
        trim=linear(rgb(0.0 * grey, 0.0, 0.26 + 0.12 * vary("trim", 0))),
        spokes=(5.5 + 1.5 * vary("wheels", 2)),
    )


# ---------------------------------------------------------------- shape


def cabin_planes(c: Car, p: Vec) -> tuple[Tensor, ...]:
    """Distances [B, N] to windscreen, rear window, sides and roof; the cabin is inside of all."""
    x, y, z = p[0].abs(), p[1] - c.belt, p[2]
    lean = [(1 + slope.square()).rsqrt() for slope in (c.front_slope, c.back_slope, c.side_slope)]
    crown = y - (c.roof - c.belt) + 0.35 * (z - 0.5 * (c.front + c.back)).square()
    return (
        (z - c.front + c.front_slope * y) * lean[0],
        (c.back - z + c.back_slope * y) * lean[1],
        (x - 0.94 * c.wide + c.side_slope * y) * lean[2],
        crown,
    )


def _cabin(c: Car, p: Vec) -> Tensor:
    front, back, side, roof = cabin_planes(c, p)
    cabin = r.smooth_intersection(front, back, 0.03)
    cabin = r.smooth_intersection(r.smooth_intersection(cabin, side, 0.03), roof, 0.03)
    return r.smooth_intersection(cabin, c.belt - 0.03 - p[1], 0.02)


def _hull(c: Car, p: Vec) -> Tensor:
    """The body below the belt: a rounded box whose top falls to the hood, and to the tail."""
    x, y, z = p[0], p[1], p[2]
    bow = c.wide - 0.10 * (z / c.long).square().square() * c.wide
    middle, half = 0.5 * (c.belt + c.low), 0.5 * (c.belt - c.low)
    box = r.rounded_box((x * c.wide / bow, y - middle, z), (c.wide, half + 0.02, c.long), c.round)
    share = ((z - c.front + 0.05) / 0.10).clamp(0, 1)
    rear = ((c.back + 0.04 - z) / 0.10).clamp(0, 1)
    top = c.belt + (c.hood - c.belt) * share + (c.tail - c.belt) * rear
    top = top - 0.35 * ((z - c.front).clamp_min(0)).square()
    hull = r.smooth_intersection(box, (y - top) * 0.9, 0.025)
    bed = r.rounded_box(
        (x, y - c.tail - 0.02, z - 0.5 * (c.back - c.long) - 0.002),
        (0.80 * c.wide, 0.066, 0.5 * (c.back + c.long) - 0.020), 0.01,
    )  # fmt: skip
    return r.smooth_subtraction(hull, bed + c.no_bed, 0.01)


def wheel_frame(c: Car, p: Vec) -> Vec:
    """Coordinates of the nearest wheel: outwards along its axle, and two across."""
    middle = 0.5 * (c.axle_front + c.axle_back)
    z = torch.where(p[2] > middle, p[2] - c.axle_front, p[2] - c.axle_back)
    return p[0].abs() - c.wide + 0.034, p[1] - GROUND - c.radius, z


def _wheels(c: Car, p: Vec) -> Tensor:
    x, y, z = wheel_frame(c, p)
    return r.rounded_box((x, r.length(y, z)), (torch.full_like(c.radius, 0.034), c.radius), 0.012)


def _body(c: Car, p: Vec) -> Tensor:
    x, y, z = wheel_frame(c, p)
    body = r.smooth_union(_hull(c, p), _cabin(c, p), 0.015)
    arch = torch.maximum(r.length(y, z) - c.radius - 0.014, -x - 0.055)
    body = r.smooth_subtraction(body, arch, 0.008)
    rail = r.capsule(
        (p[0].abs(), p[1], p[2]), (0.72 * c.wide, c.roof - 0.002, 0.10),
        (0.72 * c.wide, c.roof - 0.002, -0.28), torch.full_like(p[0], 0.008),
    )  # fmt: skip
    wing = r.rounded_box(
        r.shift(p, (0.0, c.belt + 0.062, -c.long + 0.040)),
        (0.92 * c.wide, torch.full_like(c.wide, 0.007), torch.full_like(c.wide, 0.032)), 0.006,
    )  # fmt: skip
    post = r.rounded_box(
        (p[0].abs() - 0.6 * c.wide, p[1] - c.belt - 0.03, p[2] + c.long - 0.040),
        (0.008, 0.034, 0.016), 0.004,
    )  # fmt: skip
    more = torch.minimum(rail + c.no_rails, torch.minimum(wing, post) + c.no_wing)
    return torch.minimum(body, more)


def _lights_bar(c: Car, p: Vec) -> Tensor:
    """Four round lamps on the roof of a pickup truck."""
    x = p[0].abs()
    x = torch.minimum((x - 0.03).abs(), (x - 0.09).abs())
    lamp = r.sphere((x, p[1] - c.roof - 0.014, p[2] - 0.095), 0.022)
    return lamp + c.no_bar


def _bumpers(c: Car, p: Vec) -> Tensor:
    """Bars along both ends and both sides, just outside the hull."""
    bow = c.wide - 0.10 * (p[2] / c.long).square().square() * c.wide
    q = (p[0] * c.wide / bow, p[1] - c.low - 0.014, p[2])
    return r.rounded_box(q, (c.wide + 0.003, 0.016, c.long + 0.008), 0.014)


def parts_at(c: Car, p: Vec) -> tuple[Tensor, ...]:
    """Distances [B, N] to body, wheels, bumpers and roof lamps."""
    x, y, z = wheel_frame(c, p)
    arch = torch.maximum(r.length(y, z) - c.radius - 0.014, -x - 0.055)
    bumpers = r.smooth_subtraction(_bumpers(c, p), arch, 0.008)
    return _body(c, p), _wheels(c, p), bumpers, _lights_bar(c, p)


def distance_at(c: Car, p: Vec) -> Tensor:
    """Distance [B, N] to the nearest part."""
    return 0.9 * r.union(parts_at(c, p))


# ---------------------------------------------------------------- paint


def _glass_at(c: Car, p: Vec) -> Tensor:
    """Where the cabin is glazed, [B, N] in [0, 1]: away from its edges, pillars and roof."""
    planes = torch.stack(cabin_planes(c, p))
    # The second largest of four, in operations that a compiler fuses with the rest.
    large, small = torch.maximum(planes[:2], planes[2:]), torch.minimum(planes[:2], planes[2:])
    inset = torch.maximum(large.amin(0), small.amax(0)) + 0.013
    below = c.belt + 0.012 - p[1]
    post = 0.009 - (p[2] - c.pillar).abs()
    on_side = planes.argmax(0) == 2
    edge = torch.maximum(torch.maximum(inset, below), torch.where(on_side, post, below))
    return r.soft_below(edge, 0.0, 0.006) * (planes.argmax(0) != 3)


def _lamps_at(c: Car, p: Vec) -> tuple[Tensor, Tensor]:
    """Where head lamps and tail lamps are, [B, N] in [0, 1]."""
    x, y = p[0].abs(), p[1]
    head = r.ellipsoid((x - 0.72 * c.wide, y - c.hood + 0.036), (0.040, 0.021))
    high = torch.where(c.tail > c.belt - 0.02, c.tail, c.belt)
    tail = r.rounded_box((x - 0.80 * c.wide, y - high + 0.040), (0.030, 0.019), 0.008)
    front, back = p[2] > c.long - 0.055, p[2] < -c.long + 0.040
    return r.soft_below(head, 0.0, 0.006) * front, r.soft_below(tail, 0.0, 0.006) * back


def _paint_body(c: Car, paint: Paint, p: Vec) -> tuple[Tensor, Tensor, Tensor]:
    """Colours [B, N, 3], labels [B, N] and gloss [B, N]."""
    glass = _glass_at(c, p)
    sky = (0.55 + 3.5 * (p[1] - c.belt)).clamp(0.4, 1.3).unsqueeze(-1)
    colour = r.mix(paint.body, paint.glass * sky, glass)
    grille = r.rounded_box((p[0], p[1] - c.hood + 0.048), (0.42 * c.wide, 0.020), 0.010)
    grille = r.soft_below(grille, 0.0, 0.006) * (p[2] > c.long - 0.03)
    colour = r.mix(colour, tint(p[0], (0.02, 0.02, 0.022)), grille)
    seam = torch.minimum((p[2] - c.pillar).abs(), (p[2] - c.front + 0.05).abs()) - 0.0025
    seam = r.soft_below(seam, 0.0, 0.003) * (p[1] < c.belt) * (p[0].abs() > 0.9 * c.wide)
    colour = r.mix(colour, 0.35 * paint.body, 0.7 * seam)
    head, tail = _lamps_at(c, p)
    colour = r.mix(colour, tint(p[0], (0.98, 0.95, 0.80)), head)
    colour = r.mix(colour, tint(p[0], (0.62, 0.02, 0.02)), tail)
    label = torch.where(glass > 0.5, _WINDOW, _BODY)
    label = torch.where(head + tail > 0.5, _LAMP, label)
    return colour, label, 0.22 + 0.2 * glass


def _paint_wheels(c: Car, paint: Paint, p: Vec) -> Tensor:
    x, y, z = wheel_frame(c, p)
    across = r.length(y, z) / c.radius
    rim = r.soft_below(across, 0.66, 0.06) * (x > 0)
    spokes = (torch.cos(torch.atan2(y, z) * 5 + paint.spokes) * 2 + 0.9).clamp(0, 1)
    spokes = torch.maximum(spokes, torch.maximum(r.soft_below(across, 0.20, 0.08),
                                                 r.soft_below(-across, -0.56, 0.06)))  # fmt: skip
    metal = r.mix(tint(p[0], (0.03, 0.03, 0.032)), paint.rim, spokes)
    return r.mix(tint(p[0], (0.018, 0.018, 0.02)), metal, rim)


def _surface(c: Car, paint: Paint, p: Vec) -> r.Surface:
    """Paint at surface points [B, N]."""
    part = torch.stack(parts_at(c, p)).argmin(0)
    body, label, gloss = _paint_body(c, paint, p)
    full = partial(torch.full_like, part)
    looks = (
        (body, label),
        (_paint_wheels(c, paint, p), full(_WHEEL)),
        (paint.trim, full(_TRIM)),
        (tint(p[0], (0.98, 0.93, 0.70)), full(_LAMP)),
    )
    surface = by_part(part, looks, (0.0, 0.05, 0.06, 0.3))
    gloss = torch.where(part == 0, gloss, surface.gloss)
    return r.Surface(surface.albedo, surface.label, gloss)


@cache
def _kernels(
    compiled: bool,
) -> tuple[Callable[[Car, Vec], Tensor], Callable[[Car, Paint, Vec], r.Surface]]:
    """The distance and the surface function, fused by `torch.compile` if asked."""
    if not compiled:
        return distance_at, _surface
    return torch.compile(distance_at, dynamic=False), torch.compile(_surface, dynamic=False)


def _light(read: Reading) -> r.Light:
    """A lamp high above, somewhat to one side."""
    x, z = 0.5 * read.vary("light", 0), torch.full_like(read.vary("light", 0), 0.35)
    return r.Light(r.normalize((x, torch.ones_like(x), z)), 0.78 + 0.10 * read.vary("light", 1))


def scene_of(factors: Factors, compiled: bool = False) -> r.Scene:
    """The scenes of a batch."""
    distance, surface = _kernels(compiled)
    read = Reading(FACTORS, factors)
    car = car_of(read)
    white = torch.ones_like(read.vary("light", 0)).unsqueeze(-1).expand(-1, 1, 3)
    return r.Scene(
        distance=partial(distance, car),
        surface=partial(surface, car, paint_of(read)),
        light=_light(read),
        backdrop=(white, white),
        near=1.1,
        backdrop_radius=0.55,
        viewer=(0.0, 0.8, 0.6),
    )


# ---------------------------------------------------------------- words

QUESTIONS = (
    ask(
        "color",
        ("a red car", "a red vehicle", "an automobile painted red", "a crimson car"),
        ("a yellow car", "a yellow vehicle", "an automobile painted yellow", "a golden car"),
        ("a green car", "a green vehicle", "an automobile painted green", "a dark green car"),
        ("a blue car", "a blue vehicle", "an automobile painted blue", "a navy car"),
        ("a white car", "a white vehicle", "an automobile painted white", "a pale car"),
        ("a black car", "a black vehicle", "an automobile painted black", "a dark black car"),
    ),
    ask(
        "shape",
        ("a sedan", "a saloon", "a four-door sedan", "a family sedan"),
        ("an SUV", "an off-road vehicle", "a sport utility vehicle", "a tall station wagon"),
        ("a pickup truck", "a pickup", "a truck with an open bed", "a small truck"),
        ("a sports car", "a race car", "a low sports coupe", "a supercar"),
        ("a van", "a minivan", "a delivery van", "a boxy bus"),
    ),
)

WORLD = World(
    name="cars",
    title="sat3d cars 128",
    factors=FACTORS,
    shares={
        "color": 1.5, "shape": 4.0, "wheels": 1.0, "windows": 0.8, "trim": 0.6, "light": 1.0,
    },
    attributes=("color", "shape"),
    scene_of=scene_of,
    labels=LABELS,
    details=("wheel", "lamp"),
    segments=(),
    questions=QUESTIONS,
    templates=(
        "a photo of {}", "{}", "a render of {}", "a picture of {}", "{} on white",
        "a 3D model of {}", "a toy of {}",
    ),
    joint=", which is ",
    pack="cars",
    goes_with={
        "clip": "sat3d-worlds", "segmenter": "none", "descriptors": "cars", "reader": "cars",
    },
    # Always from above, as cars are seen: from 4 to 26 degrees.
    cameras=Cameras(yaw=3.14159, pitch=0.3, pitch_centre=-0.4, radius=1.7, focal=1.7074),
    # Bounds and box as published for ShapeNet; fewer samples.
    volume={
        "depth_resolution": 32, "depth_resolution_importance": 32, "ray_start": 0.1,
        "ray_end": 2.6, "box_warp": 1.6, "white_back": True,
    },
    draft={"resolution": 32, "depth_resolution": 24, "depth_resolution_importance": 16},
    dim=128,
    channel_base=4096,
    channel_max=128,
)  # fmt: skip
