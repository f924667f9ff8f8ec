"""The mask matrix and the edit it performs (paper, section 3.1). Nothing else is learned."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sat3d.interfaces import StyleLayout


def probabilities(logits: Tensor) -> Tensor:
    """Control probability of each row for each channel: softmax over rows, [A+1, n] in [0, 1]."""
    return logits.softmax(dim=0)


def channel_mask(logits: Tensor, targets: Sequence[int]) -> Tensor:
    """Sum of the target rows' probabilities: [n] in [0, 1]."""
    return probabilities(logits)[list(targets)].sum(dim=0)


def edit(
    source: Tensor,
    reference: Tensor,
    mask: Tensor,
    layout: StyleLayout,
    intensity: float = 1.0,
    editable: Tensor | None = None,
) -> Tensor:
    """Move the editable channels of the source towards the reference.

    ``s_edit = s_src + intensity * mask * (s_ref - s_src)``; the paper prints this without
    ``s_src +``. Source and reference are [B, N], mask is [n] or [B, n]; the result is [B, N],
    differentiable in all three. toRGB and super-resolution channels stay the source's own.
    ``editable`` is the layout's, where it is on the device already.
    """
    index = layout.editable.to(source.device) if editable is None else editable
    step = torch.zeros_like(source)
    step[:, index] = intensity * mask * (reference - source)[:, index]
    return source + step
