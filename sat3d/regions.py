"""Alterable regions: from what the segmenter sees to one bool mask per attribute."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sat3d.descriptors import DescriptorPack, Region

WORD = 8
"""Masks packed into one byte."""


@dataclass(frozen=True)
class RegionTable:
    """The pack's regions in terms of one segmenter's labels."""

    member: Tensor
    """[A, K] bool: label belongs to the attribute's region."""
    regions: tuple[Region | None, ...]
    """One per attribute; None means that all of the image may be altered."""


def region_table(
    pack: DescriptorPack, labels: Sequence[str], segmenter: str, device: torch.device
) -> RegionTable:
    """Look the pack's labels up. Raises PackError for a label the segmenter does not have."""
    pack.check_labels(tuple(labels), segmenter)
    regions = tuple(attribute.region for attribute in pack.attributes)
    rows = [[x is not None and label in x.labels for label in labels] for x in regions]
    return RegionTable(torch.tensor(rows, dtype=torch.bool, device=device), regions)


def alterable(probabilities: Tensor, table: RegionTable, size: int | None = None) -> Tensor:
    """Segmenter output [B, K, H, W] to regions [B, A, h, w] bool; no gradient.

    ``size`` bounds the height of the result; labels are then taken from the nearest pixel.
    """
    labels = probabilities.detach().argmax(dim=1)
    if size is not None and labels.shape[-2] > size:
        width = round(labels.shape[-1] * size / labels.shape[-2])
        small = F.interpolate(labels[:, None].float(), (size, width), mode="nearest")
        labels = small[:, 0].long()
    chosen = table.member[:, labels].transpose(0, 1)
    return torch.stack([_shape(chosen[:, a], x) for a, x in enumerate(table.regions)], dim=1)


def _shape(mask: Tensor, region: Region | None) -> Tensor:
    """Cut and grow the pixels [B, H, W] of one attribute."""
    if region is None:
        return torch.ones_like(mask)
    return grow(cut_half(mask, region.cut), region.grow)


def cut_half(mask: Tensor, side: str) -> Tensor:
    """Keep the upper or lower half of the mask's own bounding box: [B, H, W] bool.

    'none' keeps all. The middle row of an odd box counts as lower.
    """
    if side == "none":
        return mask
    height = mask.shape[-2]
    rows = mask.any(dim=-1).int()
    top = rows.argmax(dim=-1)
    bottom = height - rows.flip(-1).argmax(dim=-1)
    middle = (top + bottom).div(2, rounding_mode="floor")
    lower = torch.arange(height, device=mask.device) >= middle[:, None]
    return mask & (lower if side == "lower" else ~lower)[:, :, None]


def grow(mask: Tensor, share: float) -> Tensor:
    """Dilate [B, H, W] bool by a square of ``share`` of the height in every direction."""
    reach = round(share * mask.shape[-2])
    if reach == 0:
        return mask
    # Two one-dimensional maxima equal the square one and cost far less for large reaches.
    wide = F.max_pool2d(mask[:, None].float(), (1, 2 * reach + 1), 1, (0, reach))
    return F.max_pool2d(wide, (2 * reach + 1, 1), 1, (reach, 0))[:, 0] > 0


def pack_masks(masks: Tensor) -> Tensor:
    """[B, A, H, W] bool to bytes of eight masks each: [B, ceil(A/8), H, W] uint8."""
    pieces = masks.to(torch.uint8).split(WORD, dim=1)
    words = [
        sum((piece[:, bit] << bit for bit in range(piece.shape[1])), torch.zeros_like(piece[:, 0]))
        for piece in pieces
    ]
    return torch.stack(words, dim=1)


def union(packed: Tensor, selection: Tensor) -> Tensor:
    """Pixels in any of the selected attributes' regions.

    ``packed`` is :func:`pack_masks`' result, ``selection`` [B, A] bool; the result is
    [B, H, W] bool.
    """
    wanted = pack_masks(selection[:, :, None, None])
    return (packed & wanted).ne(0).any(dim=1)
