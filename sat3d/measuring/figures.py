"""Figures of one edit each, from readings alone: a list over pairs becomes a mean later."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sat3d.measuring.studio import Bank, Edited

LEAST_DETAIL = -1.0
"""A single pair that goes far the wrong way must not outweigh all others."""


def successes(edited: Edited, bank: Bank) -> list[float]:
    """1 where the reader sees the reference's value in the result."""
    wanted = bank.look.values[edited.name][edited.references]
    return (edited.look.values[edited.name] == wanted).double().tolist()


def leaks(edited: Edited, bank: Bank, others: Sequence[str]) -> Tensor:
    """1 where another attribute's value differs from the source's: [b, others] float64."""
    before = bank.look[edited.sources].values
    after = edited.look.values
    found = [(after[name] != before[name]).double() for name in others]
    return torch.stack(found, dim=1) if found else torch.zeros(len(edited.sources), 0).double()


def details(edited: Edited, bank: Bank) -> list[float]:
    """How far the reading went from the source's to the reference's; 0 not at all, 1 all the way.

    ``1 - |result - reference| / |source - reference|`` on the reader's embedding of the
    attribute, which tells apart what has the same value; at least LEAST_DETAIL.
    """
    known = bank.look.details[edited.name]
    source, reference = known[edited.sources].double(), known[edited.references].double()
    result = edited.look.details[edited.name].double()
    way = (source - reference).norm(dim=1).clamp(min=1e-9)
    left = (result - reference).norm(dim=1)
    found: list[float] = (1.0 - left / way).clamp(min=LEAST_DETAIL).tolist()
    return found


def identities(edited: Edited, bank: Bank) -> list[float]:
    """Cosine of the result's and the source's embedding, both less the bank's mean; -1 to 1.

    Images of different heads are then near 0 on average, whatever the embedding.
    """
    known, result = bank.look.identity, edited.look.identity
    if known is None or result is None:
        return []
    centre = known.double().mean(dim=0)
    source = known[edited.sources].double() - centre
    return F.cosine_similarity(result.double() - centre, source, dim=1).tolist()


def mean_leaks(edited: Edited, bank: Bank, others: Sequence[str]) -> list[float]:
    """Share of the other attributes that changed, for each pair; empty if there is no other."""
    if not others:
        return []
    found: list[float] = leaks(edited, bank, others).mean(dim=1).tolist()
    return found
