"""The avatars from about the front: their camera is one more factor, as a 2D generator needs."""

from dataclasses import replace

from torch import Tensor

from recipes.renderer import Factor, Factors
from recipes.worlds.avatars import WORLD as AVATARS
from recipes.worlds.world import Cameras, Reading

FACTORS = (*AVATARS.factors, Factor("pose", continuous=2))
CAMERAS = Cameras(yaw=0.3, pitch=0.12)


def camera_of(factors: Factors) -> Tensor:
    """The camera [B, 25] of an assignment."""
    yaw, pitch = (Reading(FACTORS, factors).vary("pose", k)[:, 0] for k in range(2))
    return CAMERAS.at(CAMERAS.yaw * yaw, CAMERAS.pitch * pitch)


WORLD = replace(
    AVATARS,
    name="avatars2d",
    title="sat3d avatars 2D 128",
    factors=FACTORS,
    shares={},  # nothing is planted
    cameras=CAMERAS,
    camera_of=camera_of,
    hidden=32,
    channel_base=4096,
    channel_max=128,
)
