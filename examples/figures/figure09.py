"""Figure 9: masks trained with and without the background loss.

    python -m examples.figures.figure09 --out figures

Below each result is how much changed outside the region that the attribute may alter.
"""

import sys

import torch
from torch import Tensor

import sat3d
from examples.figures.common import SOFT, Figure, Grid, Shot, Work
from examples.figures.pairs import Bank, make_bank, ours
from sat3d.errors import UsageError
from sat3d.measuring.outside import background
from sat3d.regions import alterable, region_table

ROWS = ["source", "reference", "with L_bg", "change, with", "without L_bg", "change, without"]
GAIN = 5
REGION = 0.88
"""Brightness of the alterable region in the pictures of changes."""


def draw(work: Work) -> list[Grid]:
    """Columns are attributes; rows the two trainings and what each changed."""
    domain = work.domain
    if domain.segmenter is None:
        raise UsageError(f"domain '{domain.text}' has no segmenter, so it knows no background.")
    both = [work.masks(domain, *SOFT), work.masks(domain, *SOFT, "weights.background=0")]
    bank = make_bank(work, domain)
    used: set[int] = set()
    columns = []
    for name in domain.titles:
        source, reference = bank.pair(name, used)
        shots = [bank.shot(source, name), bank.shot(reference, name)]
        for masks in both:
            shots += with_change(bank, masks, name, source, reference)
        columns.append(shots)
    rows = list(zip(*columns, strict=True))
    return [Grid(rows, ROWS, list(domain.titles.values()), domain=domain.text)]


def with_change(
    bank: Bank, masks: sat3d.Masks, name: str, source: int, reference: int
) -> list[Shot]:
    """The result, and a picture of what changed outside: white nothing, red a fifth or more."""
    found, _ = ours(bank, masks, [name], source, reference)
    outside = beyond(bank, name, bank.images[source], found.image)
    change = (found.image - bank.images[source]).abs().mean(dim=0) / 2
    pale = 1 - (change * GAIN).clamp(max=1)
    colour = torch.stack([torch.ones_like(pale), pale, pale])
    picture = torch.where(outside, colour, torch.tensor(REGION)) * 2 - 1
    mean = float(background(bank.images[source][None], found.image[None], outside[None]))
    made_of = {key: found.data[key] for key in ("attribute", "source", "reference", "intensity")}
    return [found, Shot(picture, f"{mean:.4f}", {**made_of, "background": mean})]


def beyond(bank: Bank, name: str, *images: Tensor) -> Tensor:
    """Pixels [H, W] in neither image's alterable region."""
    pack, segmenter = bank.domain.pack, bank.domain.segmenter
    assert segmenter is not None
    table = region_table(pack, segmenter.labels, segmenter.name, segmenter.device)
    regions = alterable(segmenter.segment(torch.stack(images).to(segmenter.device)), table)
    return ~regions[:, pack.index(name)].any(dim=0).cpu()


FIGURE = Figure(
    9,
    "What the background loss keeps",
    draw,
    ("eg3d+faces",),
    note=f"Change outside the alterable region (grey): white is none, red {1 / GAIN:g} or more; "
    "below it the mean. Words: what a reader sees that took no part in training.",
)

if __name__ == "__main__":
    sys.exit(FIGURE.run())
