"""The drawing: numbers to pixels, with soft edges, so that it can be differentiated.

No network is in here. A flower is a backdrop, a stem, petals around a point and a centre, painted
one over the other. Shape letters are those of sat3d.interfaces, and V values of a characteristic.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Colour = tuple[float, float, float]

PETAL_COLOURS: Mapping[str, Colour] = {
    "red petals": (0.85, -0.75, -0.65),
    "yellow petals": (0.95, 0.75, -0.7),
    "blue petals": (-0.55, -0.35, 0.9),
    "white petals": (0.92, 0.92, 0.95),
}
PETAL_SHAPES = ("round petals", "pointed petals", "thin petals")
CENTRE_COLOURS: Mapping[str, Colour] = {
    "a brown centre": (-0.35, -0.65, -0.8),
    "an orange centre": (0.9, 0.15, -0.85),
    "a green centre": (-0.35, 0.45, -0.55),
}
CENTRE_SIZES = ("a small centre", "a large centre")
_SKY: tuple[Colour, ...] = (
    (-0.1, 0.35, 0.75),
    (0.75, 0.6, 0.5),
    (-0.6, -0.6, -0.35),
    (0.2, 0.6, 0.2),
)

SIZES: Mapping[str, int] = {
    "backdrop": len(_SKY),
    "stem": 2,
    "place": 4,
    "petal_color": len(PETAL_COLOURS),
    "petal_shape": len(PETAL_SHAPES),
    "centre_color": len(CENTRE_COLOURS),
    "centre_size": len(CENTRE_SIZES),
    "light": 1,
}
"""Numbers that each characteristic takes; standard normal ones give a typical flower."""
LABELS = ("backdrop", "stem", "petals", "centre")
_SURE = 3.0
"""How much the largest of a characteristic's numbers outweighs the others."""


def shares(numbers: Tensor) -> Tensor:
    """[B, V] any real to how much of each value is drawn: [B, V], sums to 1."""
    return (numbers * _SURE).softmax(dim=1)


def draw(numbers: Mapping[str, Tensor], side: int) -> tuple[Tensor, Tensor]:
    """Numbers [B, SIZES[name]] to (image [B, 3, side, side] in [-1, 1], cover [B, 4, side, side]).

    ``cover`` says how much of a pixel each of LABELS shows; it sums to 1.
    """
    place = numbers["place"]
    like = place.new_zeros(())
    axis = ((torch.arange(side) + 0.5) / side * 2 - 1).to(like)
    x = axis[None, None, :] - 0.12 * torch.tanh(place[:, 0])[:, None, None]
    y = axis[None, :, None] + 0.22 - 0.1 * torch.tanh(place[:, 1])[:, None, None]
    distance = (x.square() + y.square() + 1e-6).sqrt()
    turn = 0.35 * torch.tanh(place[:, 2])[:, None, None]
    outline = _outline(torch.atan2(y, x) + turn, shares(numbers["petal_shape"]))
    size = (0.56 * torch.exp(0.12 * torch.tanh(place[:, 3])))[:, None, None]
    large = shares(numbers["centre_size"])[:, 1, None, None]
    petals = _inside(size * outline - distance, side)
    centre = _inside(size * (0.22 + 0.2 * large) - distance, side)
    layers = [
        (_stem(x, y, numbers["stem"], side), _green(numbers["stem"])),
        (petals, _mix(PETAL_COLOURS.values(), numbers["petal_color"])),
        (centre, _mix(CENTRE_COLOURS.values(), numbers["centre_color"])),
    ]
    # Petals are a little darker towards their root, and the backdrop towards the ground.
    shade = 0.3 * (distance / size).clamp(max=1.0) - 0.3
    image = _mix(_SKY, numbers["backdrop"])[:, :, None, None] - 0.2 * (axis + 1)[:, None]
    cover = torch.ones_like(distance)[:, None]
    for k, (mask, colour) in enumerate(layers):
        paint = colour[:, :, None, None] + (shade[:, None] if k == 1 else 0.0)
        image = torch.lerp(image.expand(-1, -1, side, side), paint, mask[:, None])
        cover = torch.cat([cover * (1 - mask[:, None]), mask[:, None]], dim=1)
    light = 0.05 * torch.tanh(numbers["light"])[:, :, None, None]
    return (image + light).clamp(-1.0, 1.0), cover


def _outline(angle: Tensor, share: Tensor) -> Tensor:
    """Radius of the petals' edge [B, H, W] at an angle, blended from the three shapes [B, 3]."""
    wave = (torch.cos(2.5 * angle).square() + 1e-4).sqrt()  # five petals, smooth at the notch
    triangle = 1 - torch.acos(torch.cos(5 * angle) * 0.999) / math.pi
    thin = 0.5 + 0.5 * torch.cos(12 * angle)
    shapes = (0.62 + 0.38 * wave, 0.45 + 0.65 * triangle, 0.5 + 0.55 * thin)
    return torch.stack([w[:, None, None] * s for w, s in zip(share.T, shapes, strict=True)]).sum(0)


def _inside(depth: Tensor, side: int) -> Tensor:
    """Signed depth inside an edge to cover in (0, 1), soft over about one and a half pixels."""
    return torch.sigmoid(depth * side * 1.2)


def _stem(x: Tensor, y: Tensor, numbers: Tensor, side: int) -> Tensor:
    bend = 0.25 * torch.tanh(numbers[:, 0])[:, None, None]
    below = torch.sigmoid(y * side)
    return _inside(0.05 - (x - bend * y * y).abs(), side) * below


def _green(numbers: Tensor) -> Tensor:
    """Colour of the stem: [B, 3]."""
    tone = 0.2 * torch.tanh(numbers[:, 1:2])
    return torch.cat([-0.6 + tone, 0.1 + tone, -0.65 + tone], dim=1)


def _mix(palette: Iterable[Colour], numbers: Tensor) -> Tensor:
    """Blend a palette by numbers [B, V]: [B, 3]."""
    return shares(numbers) @ torch.tensor([*palette]).to(numbers)
