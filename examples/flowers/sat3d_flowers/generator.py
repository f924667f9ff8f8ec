"""Flowers as sat3d sees a generator: z to w to a style code to an image.

Nothing here is StyleGAN's: no modulated convolution, no noise, no toRGB. What sat3d needs is that
an image is a differentiable function of a flat code whose channels can be exchanged one by one.
Each part of the drawing is a layer. A layer's channels are random linear combinations of the
numbers of one characteristic, and the drawing takes the numbers back out of them by least squares.
Hence the right answer is known: :attr:`FlowerGenerator.planted`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sat3d import Generator, InputError, Render, StyleLayer, StyleLayout, WeightsCard
from sat3d.weights import load_weights, make_card

from .drawing import SIZES, draw

DEFAULT = Path(__file__).parent / "weights" / "flowers.safetensors"
LATENT = 32
CHANNELS: Mapping[str, Mapping[str, int]] = {
    "backdrop": {"backdrop": 24},
    "stem": {"stem": 12},
    "place": {"place": 20},
    "petals": {"petal_color": 24, "petal_shape": 20},
    "centre": {"centre_color": 18, "centre_size": 12},
    "light": {"light": 4},
}
"""Layer -> characteristic -> channels."""
ATTRIBUTES = {
    "petal_color": ("petal_color",),
    "petal_shape": ("petal_shape",),
    "centre": ("centre_color", "centre_size"),
}


class FlowerGenerator(Generator):
    """Draws flowers from a style code of 134 channels, 130 of them editable."""

    name = "flowers"
    resolution = 64
    latent_dim = LATENT
    is_3d = False
    # 'conv' in the 'backbone' means: may be edited. The light of the whole picture may not.
    layout = StyleLayout(
        tuple(
            StyleLayer(name, sum(own.values()), "torgb" if name == "light" else "conv", "backbone")
            for name, own in CHANNELS.items()
        )
    )

    def __init__(self, tensors: Mapping[str, Tensor], card: WeightsCard) -> None:
        self.card = card
        self._turn = tensors["turn"]
        """[Z, Z] orthonormal: z to w."""
        self._affine = tensors["affine"]
        """[N, Z]: w to styles."""
        self._paint = tensors["paint"]
        """[numbers, N]: styles to the drawing's numbers."""
        self._owner = tensors["owner"].long()
        """[N]: the characteristic that a channel belongs to, by its place in SIZES."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._turn.device

    @property
    def planted(self) -> Mapping[str, Tensor]:
        """Channels of each attribute of the pack, int64 in [0, n)."""
        owner = self._owner.cpu()[self.layout.editable]
        names = list(SIZES)
        return {
            attribute: torch.isin(owner, torch.tensor([names.index(x) for x in own])).nonzero()[
                :, 0
            ]
            for attribute, own in ATTRIBUTES.items()
        }

    def to(self, device: torch.device) -> "FlowerGenerator":
        """Move to a device; returns self."""
        for name in ("_turn", "_affine", "_paint", "_owner"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def sample_cameras(self, count: int, seed: int) -> None:
        """A drawing has no camera."""
        return

    def orbit(self, yaw: float, pitch: float) -> None:
        """A drawing has no camera."""
        return

    def map(self, z: Tensor, camera: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """z [B, Z] to w [B, L, W]: one row for each layer, all alike; the mean w is 0."""
        w = truncation * z @ self._turn.T
        return w[:, None].expand(-1, len(CHANNELS), -1)

    def styles(self, w: Tensor) -> Tensor:
        """w [B, L, W] to the style code [B, N]."""
        blocks = self._affine.split([layer.channels for layer in self.layout.layers])
        pieces = [row @ block.T for row, block in zip(w.unbind(1), blocks, strict=True)]
        return torch.cat(pieces, dim=1)

    def numbers(self, styles: Tensor) -> dict[str, Tensor]:
        """What is drawn for styles [B, N]: {characteristic: [B, V]}."""
        pieces = (styles @ self._paint.T).split(list(SIZES.values()), dim=1)
        return dict(zip(SIZES, pieces, strict=True))

    def render(
        self,
        styles: Tensor,
        camera: Tensor | None = None,
        *,
        seed: int | None = None,
        draft: bool = False,
    ) -> Render:
        """Draw [B, N] as [B, 3, 64, 64], or [B, 3, 32, 32] as a draft."""
        side = self.resolution // 2 if draft else self.resolution
        return Render(draw(self.numbers(styles), side)[0])


def make_weights(seed: int) -> dict[str, Tensor]:
    """The generator's tensors: random, and such that the drawing gets standard normal numbers."""
    source = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(LATENT, LATENT, generator=source))[0]
    basis = torch.linalg.qr(torch.randn(LATENT, LATENT, generator=source))[0]
    ways = dict(zip(SIZES, basis[: sum(SIZES.values())].split(list(SIZES.values())), strict=True))
    affine, owner = [], []
    for own in CHANNELS.values():
        rows = [torch.randn(n, SIZES[x], generator=source) @ ways[x] for x, n in own.items()]
        names = [torch.full((n,), list(SIZES).index(x)) for x, n in own.items()]
        # Shuffled inside the layer: nothing may rely on neighbours belonging together.
        order = torch.randperm(sum(own.values()), generator=source)
        affine.append(torch.cat(rows)[order])
        owner.append(torch.cat(names)[order])
    matrix, belongs = torch.cat(affine), torch.cat(owner)
    paint = []
    for k, way in enumerate(ways.values()):
        mine = (matrix * (belongs == k)[:, None]) @ way.T
        paint.append(torch.linalg.pinv(mine))
    return {"turn": turn, "affine": matrix, "paint": torch.cat(paint), "owner": belongs}


def load(weights: str | None, device: torch.device) -> FlowerGenerator:
    """The bundled weights, or those of a file. Raises InputError for a file of something else."""
    path = Path(weights) if weights else DEFAULT
    tensors, header = load_weights(path)
    _check(path, tensors, header)
    card = make_card(path.stem, path, tensors, header)
    return FlowerGenerator(tensors, card).to(device)


def _check(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    numbers, channels = sum(SIZES.values()), FlowerGenerator.layout.channels
    shapes = {
        "turn": (LATENT, LATENT),
        "affine": (channels, LATENT),
        "paint": (numbers, channels),
        "owner": (channels,),
    }
    fits = {name: tuple(value.shape) for name, value in tensors.items()} == shapes
    if header.get("architecture") != "flowers" or not fits:
        raise InputError(
            f"'{path}' holds no weights of generator 'flowers'. Leave --weights out, or make some "
            "with train_parts.py."
        )
