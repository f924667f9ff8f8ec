"""The code of a world's factors: a block of z, of w and of every layer's style channels for each.

The generator stays an ordinary EG3D with an ordinary state dict. What is planted are zeros: mapping
and affine layers are block-diagonal, so that a style channel depends on one factor alone and the
true channel-to-attribute map is known.
"""

import torch
from torch import Tensor

from recipes.renderer import Factors
from recipes.worlds import World
from sat3d.interfaces import StyleLayout

CLASS_SCALE, VARIATION_SCALE = 8.0, 4.0
"""Size of a value's entry in w and of its variations: few entries of w are in use, and only with
large ones do freshly initialised affine layers give styles that differ from picture to picture."""


def factors_from_z(world: World, z: Tensor) -> Factors:
    """Read factors off z [B, Z]: the first entry of a block picks the value, the next vary it.

    Entries are normal, so their distribution function is uniform; values take shares of it as
    in their priors. z is first normalised as the mapping network does.
    """
    count = len(world.factors)
    z = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
    uniform = torch.special.ndtr(z[:, : world.block * count].view(len(z), -1, world.block))
    width = max(factor.continuous for factor in world.factors)
    classes = torch.zeros(len(z), count, dtype=torch.int64, device=z.device)
    variations = torch.zeros(len(z), count, width, device=z.device)
    for k, factor in enumerate(world.factors):
        if factor.values:
            edges = torch.tensor(factor.prior).cumsum(0)[:-1].to(z)
            classes[:, k] = torch.bucketize(uniform[:, k, 0].contiguous(), edges)
        variations[:, k, : factor.continuous] = uniform[:, k, 1 : 1 + factor.continuous] * 2 - 1
    return Factors(classes, variations)


def factors_to_w(world: World, factors: Factors) -> Tensor:
    """The w code [B, W] of factors: per block the value's one-hot, then its variations."""
    w = factors.variations.new_zeros(len(factors), world.dim)
    for k, factor in enumerate(world.factors):
        start = k * world.block
        if factor.values:
            rows = torch.arange(len(w), device=w.device)
            w[rows, start + factors.classes[:, k]] = CLASS_SCALE
        first = start + len(factor.values)
        last = first + factor.continuous
        w[:, first:last] = VARIATION_SCALE * factors.variations[:, k, : factor.continuous]
    return w


def channel_owners(world: World, channels: int) -> Tensor:
    """Which factor owns each of a layer's style channels: [channels] int64, by world.shares."""
    shares = torch.tensor([world.shares[factor.name] for factor in world.factors])
    edges = (shares.cumsum(0) / shares.sum() * channels).round().long()
    return torch.bucketize(torch.arange(channels), edges, right=True)


def block_mask(rows: Tensor, columns: Tensor) -> Tensor:
    """1 where row and column belong to the same factor: [len(rows), len(columns)] float32."""
    return (rows[:, None] == columns[None]).float()


def block_owners(world: World, width: int, total: int) -> Tensor:
    """Owner of each of ``total`` dimensions in blocks of ``width``; -1 beyond the factors."""
    owner = torch.arange(total) // width
    return torch.where(owner < len(world.factors), owner, -torch.ones_like(owner))


def planted_channels(world: World, layout: StyleLayout) -> dict[str, Tensor]:
    """Factor name -> its channels among the editable ones, int64 in [0, n)."""
    owners = [
        channel_owners(world, layer.channels)
        for layer in layout.layers
        if layer.kind == "conv" and layer.part == "backbone"
    ]
    owner = torch.cat(owners)
    return {f.name: (owner == k).nonzero().squeeze(1) for k, f in enumerate(world.factors)}
