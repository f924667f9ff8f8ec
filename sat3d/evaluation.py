"""Measuring masks with readers that training never saw.

A bank of codes is rendered and read once; pairs that differ in an attribute are drawn from it, and
only their edits are rendered anew. What is counted is said in :func:`evaluate`.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sat3d.artifact import Masks
from sat3d.errors import Sat3dError, UsageError
from sat3d.interfaces import Generator, Reader, Segmenter
from sat3d.mask import edit
from sat3d.progress import SILENT, Phase, Progress
from sat3d.regions import RegionTable, alterable, region_table
from sat3d.weights import fingerprint

# Seeds here begin far from the pool's, so that no training image is measured.
_SEED_SPACE = 1_000_000_007
_KEPT = 0.5


class EvaluateSettings(BaseModel):
    """What is measured, and on how much."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: int = Field(100, ge=1, le=1_000_000)
    """Pairs for each attribute."""
    bank: int = Field(400, ge=2, le=10_000)
    """Generated images from which the pairs are drawn."""
    multi_view_pairs: int = Field(50, ge=0)
    """Results looked at from every yaw; 0 leaves that out."""
    yaws: tuple[float, ...] = (-30.0, -15.0, 15.0, 30.0)
    """Degrees; each is compared with the reading from the front."""
    intensity: float = Field(1.0, ge=-100.0, le=100.0)
    truncation: float = Field(1.0, ge=0.0, le=2.0)
    batch: int = Field(8, ge=1, le=4096)
    seed: int = Field(0, ge=0, le=2**31)


@dataclass(frozen=True)
class _Bank:
    """Codes with their images and readings."""

    styles: Tensor
    """[B, N]."""
    cameras: Tensor | None
    """[B, 25]."""
    images: Tensor
    """[B, 3, H, W] in [-1, 1], on the CPU."""
    values: Mapping[str, Tensor]
    """Attribute -> the read value's number: [B] int64, on the CPU."""


@dataclass
class _Tools:
    generator: Generator
    masks: Masks
    reader: Reader
    segmenter: Segmenter | None
    settings: EvaluateSettings
    phase: Phase
    table: RegionTable | None

    def draw(self, styles: Tensor, camera: Tensor | None) -> Tensor:
        """[B, N], [B, 25] to [B, 3, H, W] in [-1, 1]."""
        image = self.generator.render(styles, camera).image.clamp(-1.0, 1.0)
        self.phase.advance(len(styles))
        return image

    def read(self, images: Tensor) -> dict[str, Tensor]:
        """The most probable value of each attribute: {attribute: [B] int64}, on the CPU."""
        return {k: v.argmax(dim=1).cpu() for k, v in self.reader.read(images).items()}


@torch.no_grad()
def evaluate(
    generator: Generator,
    masks: Masks,
    reader: Reader,
    segmenter: Segmenter | None = None,
    settings: EvaluateSettings | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Measure each attribute over pairs whose readings differ in it. Plain JSON values.

    Every image is seen from the source's camera. Per attribute:

    ``success``     share of results in which the reader sees the reference's value
    ``leakage``     mean share of the other attributes whose value differs from the source's
    ``background``  mean absolute change outside the alterable regions of source and result, 0 to
                    1; None without a segmenter or a region
    ``precision``, ``recall``  of the channels with a mask of 0.5 or more, against the planted
                    ones; only where the generator knows them
    ``multi_view``  share of readings from the side that agree with the one from the front; None
                    for a 2D generator

    ``progress`` counts renders. Raises MismatchError, UsageError, or Sat3dError
    if the bank shows only one value of an attribute.
    """
    settings = settings or EvaluateSettings()
    masks.check(generator)
    names = [name for name in masks.attributes if name in reader.attributes]
    if not names:
        raise UsageError(
            f"reader '{reader.name}' reads none of the masks' attributes "
            f"({', '.join(masks.attributes)}). Choose another with --reader."
        )
    began = time.monotonic()
    table = _table(masks, segmenter, generator.device) if segmenter else None
    with progress.phase("Measuring", _total(generator, settings, len(names))) as phase:
        tools = _Tools(generator, masks, reader, segmenter, settings, phase, table)
        bank = _make_bank(tools)
        pairs = {name: _draw_pairs(bank, name, k, settings) for k, name in enumerate(names)}
        figures = {name: _measure(tools, bank, name, pairs[name]) for name in names}
    return {
        "attributes": figures,
        "mean": _mean(list(figures.values())),
        "pairs": settings.pairs,
        "generator": {"name": generator.name, "weights": generator.card.name},
        "masks": {"fingerprint": fingerprint({"mask.logits": masks.logits})},
        "reader": reader.name,
        "segmenter": segmenter.name if segmenter else None,
        "unmeasured": [name for name in masks.attributes if name not in names],
        "settings": settings.model_dump(mode="json"),
        "seconds": round(time.monotonic() - began, 3),
    }


def _total(generator: Generator, settings: EvaluateSettings, attributes: int) -> int:
    """Renders that the whole measurement takes."""
    seen = min(settings.multi_view_pairs, settings.pairs) if generator.is_3d else 0
    return settings.bank + attributes * (settings.pairs + seen * (1 + len(settings.yaws)))


def _make_bank(tools: _Tools) -> _Bank:
    """Sample, render and read all codes once."""
    settings, generator = tools.settings, tools.generator
    seed = _SEED_SPACE + settings.seed
    z = generator.sample_latents(settings.bank, seed)
    cameras = generator.sample_cameras(settings.bank, seed)
    styles = [
        generator.styles(generator.map(z[part], truncation=settings.truncation))
        for part in _parts(settings.bank, settings.batch)
    ]
    code = torch.cat(styles)
    images, values = [], []
    for part in _parts(settings.bank, settings.batch):
        image = tools.draw(code[part], None if cameras is None else cameras[part])
        images.append(image.cpu())
        values.append(tools.read(image))
    joined = {key: torch.cat([v[key] for v in values]) for key in values[0]}
    return _Bank(code, cameras, torch.cat(images), joined)


def _draw_pairs(bank: _Bank, name: str, row: int, settings: EvaluateSettings) -> Tensor:
    """Numbers [pairs, 2] of sources and references whose readings differ, evenly drawn."""
    values = bank.values[name]
    source = torch.Generator().manual_seed(_SEED_SPACE + settings.seed * 101 + row)
    if len(values.unique()) == 1:
        raise Sat3dError(
            f"all {len(values)} sampled images show one value of '{name}', so no pair differs in "
            "it. Raise --bank or --truncation."
        )
    found = torch.empty(0, 2, dtype=torch.int64)
    while len(found) < settings.pairs:
        drawn = torch.randint(len(values), (4096, 2), generator=source)
        different = values[drawn[:, 0]] != values[drawn[:, 1]]
        found = torch.cat([found, drawn[different]])
    return found[: settings.pairs]


def _measure(tools: _Tools, bank: _Bank, name: str, pairs: Tensor) -> dict[str, float | None]:
    """All figures of one attribute over pairs [P, 2]."""
    others = [x for x in tools.masks.attributes if x != name and x in bank.values]
    hits: list[bool] = []
    leaks: list[float] = []
    changes: list[float] = []
    results = []
    for part in _parts(len(pairs), tools.settings.batch):
        sources, references = pairs[part].unbind(dim=1)
        styles, image = _edit(tools, bank, name, sources, references)
        read = tools.read(image)
        hits += (read[name] == bank.values[name][references]).tolist()
        for i, k in enumerate(sources.tolist()):
            leaks += [float(read[x][i] != bank.values[x][k]) for x in others]
        changes += _background(tools, name, bank.images[sources].to(image.device), image)
        results.append(styles)
    return {
        "success": fmean(hits),
        "leakage": fmean(leaks) if leaks else None,
        "background": fmean(changes) if changes else None,
        **_channels(tools, name),
        "multi_view": _multi_view(tools, name, torch.cat(results)),
    }


def _edit(
    tools: _Tools, bank: _Bank, name: str, sources: Tensor, references: Tensor
) -> tuple[Tensor, Tensor]:
    """(styles [B, N], images [B, 3, H, W]) of the edits of one batch, from the sources' cameras."""
    device = bank.styles.device
    sources, references = sources.to(device), references.to(device)
    mask = tools.masks.mask([name]).to(device)
    layout, intensity = tools.generator.layout, tools.settings.intensity
    styles = edit(bank.styles[sources], bank.styles[references], mask, layout, intensity)
    return styles, tools.draw(styles, None if bank.cameras is None else bank.cameras[sources])


def _background(tools: _Tools, name: str, source: Tensor, image: Tensor) -> list[float]:
    """Mean |result - source| / 2 outside both alterable regions, for each image that has any."""
    row = tools.masks.pack.index(name)
    if tools.segmenter is None or tools.table is None or tools.table.regions[row] is None:
        return []
    both = tools.segmenter.segment(torch.cat([source, image]))
    inside = alterable(both, tools.table)[:, row]
    outside = ~(inside[: len(source)] | inside[len(source) :])
    change = (image - source).abs().mean(dim=1) / 2.0 * outside
    size = outside.sum(dim=(1, 2))
    return [float(c / s) for c, s in zip(change.sum(dim=(1, 2)), size, strict=True) if s > 0]


def _table(masks: Masks, segmenter: Segmenter, device: torch.device) -> RegionTable:
    return region_table(masks.pack, segmenter.labels, segmenter.name, device)


def _channels(tools: _Tools, name: str) -> dict[str, float | None]:
    """Precision and recall of the mask's channels against the planted ones, where known."""
    planted = tools.generator.planted.get(name)
    if planted is None:
        return {}
    chosen = tools.masks.mask([name]).cpu() >= _KEPT
    true = torch.zeros_like(chosen)
    true[planted.cpu()] = True
    both = int((chosen & true).sum())
    return {
        "precision": both / max(1, int(chosen.sum())),
        "recall": both / max(1, int(true.sum())),
    }


def _multi_view(tools: _Tools, name: str, styles: Tensor) -> float | None:
    """Share of readings from the side that agree with the frontal one: results [P, N]."""
    styles = styles[: tools.settings.multi_view_pairs]
    if not tools.generator.is_3d or not len(styles):
        return None
    front = _read_from(tools, name, styles, 0.0)
    agree = [_read_from(tools, name, styles, yaw) == front for yaw in tools.settings.yaws]
    return float(torch.stack(agree).float().mean()) if agree else None


def _read_from(tools: _Tools, name: str, styles: Tensor, yaw: float) -> Tensor:
    """Values [P] int64 read at a yaw in degrees."""
    camera = tools.generator.orbit(math.radians(yaw), 0.0)
    values = []
    for part in _parts(len(styles), tools.settings.batch):
        many = None if camera is None else camera.expand(len(styles[part]), -1)
        values.append(tools.read(tools.draw(styles[part], many))[name])
    return torch.cat(values)


def _mean(figures: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Mean over the attributes that have the figure."""
    keys = list(dict.fromkeys(key for figure in figures for key in figure))
    known = {key: [x for f in figures if (x := f.get(key)) is not None] for key in keys}
    return {key: fmean(values) if values else None for key, values in known.items()}


def _parts(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
