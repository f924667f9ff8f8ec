"""Trying a pack: what the measurement reads for each group of phrases, and whether that teaches.

Training learns from differences between readings. A group whose phrases are all equally probable,
or one of which is certain whatever the image shows, gives it none.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sat3d.descriptors import DescriptorPack
from sat3d.interfaces import Generator
from sat3d.picture import Panel, Tile, sheet
from sat3d.pool import Measure, shrink

FLAT = 0.05
"""A group is flat if its likeliest phrase leads by less, as a share of the way from chance to 1."""
SURE = 0.97
"""A group is sure of itself if its likeliest phrase has more, on average over the images."""
ALIKE = 0.03
"""Images read alike if their readings differ by less from the mean reading (total variation)."""
FEWEST = 8
"""Images that it takes to say something about a whole domain."""
_KEPT_SIDE = 256


@dataclass(frozen=True)
class GroupTrial:
    """Readings of one group over all images."""

    attribute: str
    group: str
    phrases: tuple[str, ...]
    probabilities: Tensor
    """[B, phrases] float32 on the CPU; rows sum to 1."""

    @property
    def first(self) -> Tensor:
        """How many images read as each phrase: [phrases] int64."""
        return torch.bincount(self.probabilities.argmax(dim=1), minlength=len(self.phrases))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the group cannot teach much: what was seen and what to do about it."""
        count, chance = len(self.probabilities), 1 / len(self.phrases)
        top = float(self.probabilities.amax(dim=1).mean())
        mean = self.probabilities.mean(dim=0)
        spread = float((self.probabilities - mean).abs().sum(dim=1).mean() / 2)
        found = []
        if (top - chance) / (1 - chance) < FLAT:
            found.append(
                f"too flat: the likeliest phrase has {top:.2f} on average, chance is {chance:.2f}. "
                "Use words that the text-image model knows and that differ more"
            )
        if top > SURE:
            found.append(
                f"too sure: the likeliest phrase has {top:.3f} on average, which leaves no "
                "gradient. Use words that are closer, or another text-image model"
            )
        if count >= FEWEST and spread < ALIKE:
            found.append(
                f"tells no images apart: readings differ by {spread:.3f} on average. Describe what "
                "differs between images of the domain"
            )
        elif count >= FEWEST and int(self.first.max()) == count:
            only = self.phrases[int(self.first.argmax())]
            found.append(
                f"all {count} images read as '{only}'. Add the phrase that is missing, or a quota"
            )
        return tuple(found)

    def plain(self) -> dict[str, Any]:
        """All of it as JSON values."""
        low, high = self.probabilities.aminmax(dim=0)
        columns = (self.probabilities.mean(dim=0), low, high, self.first)
        rows = zip(self.phrases, *(column.tolist() for column in columns), strict=True)
        keys = ("phrase", "mean", "lowest", "highest", "first")
        return {
            "attribute": self.attribute,
            "group": self.group,
            "phrases": [dict(zip(keys, row, strict=True)) for row in rows],
            "readings": self.probabilities.tolist(),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Trial:
    """A pack tried on images."""

    groups: tuple[GroupTrial, ...]
    images: Tensor
    """[B, 3, h, h] in [-1, 1] on the CPU, at most 256 pixels high."""


def draws(generator: Generator, count: int, seed: int = 0, size: int = 8) -> Iterator[Tensor]:
    """``count`` images of a generator as training would draw them: [b, 3, H, W], b at most size."""
    z, cameras = generator.sample_latents(count, seed), generator.sample_cameras(count, seed)
    for rows in torch.arange(count, device=z.device).split(size):
        some = None if cameras is None else cameras[rows]
        with torch.no_grad():
            yield generator.render(generator.styles(generator.map(z[rows], some)), some).image


@torch.no_grad()
def try_pack(pack: DescriptorPack, qmm: Measure, images: Iterable[Tensor]) -> Trial:
    """Measure images, given in batches [b, 3, H, W] in [-1, 1] of one or of several sizes."""
    seen, readings = [], []
    for image in images:
        readings.append(qmm.probabilities(qmm.encode_image(image)).float().cpu())
        seen += [x.clamp(-1, 1).cpu() for x in shrink(image, _KEPT_SIDE)]
    side = min(x.shape[-1] for x in seen)
    groups = [(a, g) for a in pack.attributes for g in a.groups]
    pieces = torch.cat(readings).split([len(g.phrases) for _, g in groups], dim=1)
    made = [
        GroupTrial(a.name, g.name, g.phrases, piece)
        for (a, g), piece in zip(groups, pieces, strict=True)
    ]
    return Trial(tuple(made), torch.cat([shrink(x[None], side) for x in seen]))


def draw_trial(trial: Trial, title: str) -> Image.Image:
    """For each group a row: beside one another the images that read most as each phrase."""
    panels = []
    for group in trial.groups:
        best = group.probabilities.argmax(dim=0).tolist()
        tiles = [
            Tile(
                trial.images[place],
                f"{phrase}\n{float(group.probabilities[place, k]):.2f}, "
                f"first in {int(group.first[k])} of {len(trial.images)}",
            )
            for k, (phrase, place) in enumerate(zip(group.phrases, best, strict=True))
        ]
        text = f"{group.attribute}: {group.group}"
        warned = "".join(f" - {warning.partition(':')[0]}" for warning in group.warnings)
        panels.append(Panel([tiles], text + warned))
    return sheet(panels, title, "the image that reads most as each phrase", side=200)
