"""The loss terms, one function per equation of the paper (section 3.2).

``selection`` is the target set Omega of each pair: [B, A] bool. ``owner`` tells which attribute a
phrase belongs to: [D] int64. Probabilities are [B, D], a softmax inside each group.
"""

import torch
from torch import Tensor

from sat3d.settings import LossWeights


def target_loss(edit: Tensor, reference: Tensor, selection: Tensor, owner: Tensor) -> Tensor:
    """Equation 1: L1 distance of edit and reference [B, D] over the phrases of the targets: [B]."""
    chosen = selection[:, owner].to(edit.dtype)
    return ((edit - reference).abs() * chosen).sum(dim=1)


def preserve_loss(edit: Tensor, source: Tensor, selection: Tensor, owner: Tensor) -> Tensor:
    """Equation 2: L1 distance of edit and source [B, D] over all other phrases: [B]."""
    return target_loss(edit, source, ~selection, owner)


def background_loss(
    edit: Tensor, source: Tensor, edit_region: Tensor, source_region: Tensor
) -> Tensor:
    """Equations 4 and 5: change outside both alterable regions: [B].

    Images are [B, 3, H, W], regions [B, H, W] bool. As printed, the differences are summed over
    colours and pixels and divided by the number of background pixels. 0 where there are none.
    """
    background = (~(edit_region | source_region)).unsqueeze(1).to(edit.dtype)
    change = ((edit - source).abs() * background).sum(dim=(1, 2, 3))
    return change / background.sum(dim=(1, 2, 3)).clamp(min=1)


def probability_loss(logits: Tensor) -> Tensor:
    """Equation 6: mean over channels of the share that the strongest row lacks: scalar in [0, 1].

    ``logits`` is [A+1, n].
    """
    return (1 - logits.softmax(dim=0).amax(dim=0)).abs().mean()


def total_loss(parts: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """Equation 7: weighted sum of 'target', 'preserve', 'background', 'probability': scalar."""
    terms = [getattr(weights, name) * value.mean() for name, value in parts.items()]
    return torch.stack(terms).sum()


def soften(probabilities: Tensor, member: Tensor, temperature: float) -> Tensor:
    """Probabilities [B, D] as if the scores had been divided by the temperature: [B, D].

    A measurement that is sure of itself gives no gradient; above 1 it is made softer. ``member``
    [D, G] is 1 where a phrase belongs to a group, in the probabilities' dtype.
    """
    if temperature == 1.0:
        return probabilities
    # The floor only keeps log finite: a softmax can underflow to exactly 0.
    powers = (probabilities.clamp(min=1e-30).log() / temperature).exp()
    return powers / (powers @ member @ member.T)
