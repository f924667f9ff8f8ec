"""The factors of an avatar with their priors, and the measures and colours drawn from them."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from recipes.renderer import Factor, Factors
from recipes.worlds.world import Reading, linear, rgb, uniform

FACTORS: tuple[Factor, ...] = (
    uniform("hairstyle", ("buzz cut", "short hair", "bob cut", "long hair", "curly hair"), 3),
    uniform("hair_color", ("black hair", "brown hair", "blond hair", "red hair", "white hair"), 2),
    uniform("eye_region", ("round eyes", "narrow eyes", "closed eyes", "angry brows"), 3),
    uniform("expression", ("neutral", "smile", "surprise", "sad"), 2),
    uniform("beard", ("no beard", "moustache", "goatee", "full beard"), 2),
    Factor("eyeglasses", ("no glasses", "round glasses", "square glasses"), 2, (0.5, 0.25, 0.25)),
    Factor("hat", ("no hat", "beanie"), 2, (0.85, 0.15)),
    Factor("skin", continuous=2),
    Factor("head_shape", continuous=3),
    Factor("nose", continuous=2),
    Factor("backdrop", continuous=3),
    Factor("clothes", continuous=3),
    Factor("light", continuous=2),
)
_HAIR_COLORS = (
    (0.10, 0.09, 0.11),
    (0.38, 0.22, 0.13),
    (0.95, 0.77, 0.38),
    (0.80, 0.30, 0.11),
    (0.93, 0.93, 0.95),
)
_SKIN_COLORS = ((1.0, 0.86, 0.76), (0.93, 0.70, 0.54), (0.66, 0.43, 0.29), (0.40, 0.25, 0.18))


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


def _measure_eyes(read: Reading) -> Eyes:
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


def _measure_mouth(read: Reading) -> Mouth:
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


def _measure_hair(read: Reading) -> Hair:
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


def avatar_of(factors: Factors) -> Avatar:
    """Measures of a batch of avatars."""
    read = Reading(FACTORS, factors)
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


def paint_of(factors: Factors) -> Paint:
    """Colours of a batch of avatars."""
    read = Reading(FACTORS, factors)
    new = factors.variations.new_tensor
    tone = (read.vary("skin", 0) + 1) * 1.5
    steps = (tone.unsqueeze(-1) - torch.arange(4).to(tone)).abs()
    skin = ((1 - steps).clamp_min(0).unsqueeze(-1) * new(_SKIN_COLORS)).sum(-2)
    skin = skin * (1 + read.vary("skin", 1).unsqueeze(-1) * new([0.02, 0.0, -0.05]))
    hair = read.colour("hair_color", _HAIR_COLORS)
    hair = hair * (1 + 0.12 * read.vary("hair_color", 0).unsqueeze(-1))
    hair = hair * (1 + read.vary("hair_color", 1).unsqueeze(-1) * new([0.02, -0.02, -0.04]))
    dark = (read.vary("beard", 1).unsqueeze(-1) + 1) / 2
    beard = (1 - dark) * new([0.47, 0.26, 0.14]) + dark * new([0.14, 0.09, 0.075])
    colours = Paint(
        skin=skin,
        hair=hair,
        beard=beard,
        iris=rgb(0.33 + 0.3 * read.vary("eye_region", 0), 0.75, 0.62),
        frame=rgb(read.vary("eyeglasses", 0) / 2, 0.75, 0.42),
        cloth=rgb(read.vary("clothes", 0) / 2, 0.62, 0.72 + 0.18 * read.vary("clothes", 1)),
        hat=rgb(read.vary("hat", 0) / 2, 0.70, 0.75 + 0.15 * read.vary("hat", 1)),
    )
    return Paint(*(linear(colour) for colour in colours))
