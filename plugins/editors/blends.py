"""Editors that move channels of the source towards the reference, by a mask for each attribute."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sat3d.artifact import Masks, load_masks
from sat3d.editors import typed_options
from sat3d.errors import UsageError
from sat3d.interfaces import Bench, Codes, Editor, StyleLayout
from sat3d.mask import edit
from sat3d.pool import Pool
from sat3d.preselect import region_scores
from sat3d.regions import region_table
from sat3d.settings import PRESETS

RANGE = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5)


class Blend(Editor):
    """``s_src + intensity * mask * (s_ref - s_src)``; subclasses fill ``masks`` in ``fit``."""

    layout: StyleLayout
    masks: Mapping[str, Tensor]
    """Attribute -> [n] in [0, 1]."""

    def edit(self, source: Codes, reference: Codes, attribute: str, intensity: float) -> Tensor:
        """See the interface."""
        mask = self.masks[attribute].to(source.styles.device)
        return edit(source.styles, reference.styles, mask, self.layout, intensity)


class MasksEditor(Blend):
    """The paper's method: a learned matrix. ``file`` names masks other than the bench's own.

    ``hard`` above 0 makes the mask 1 where it is at least that, and else 0.
    """

    name = "masks"
    intensities = RANGE

    def __init__(self, options: Mapping[str, str]) -> None:
        self._options = typed_options(self.name, options, file="", hard=0.0)

    def fit(self, bench: Bench) -> Mapping[str, Any]:
        """Take the masks; nothing is learned here."""
        masks = self._masks(bench)
        masks.check(bench.generator)
        self.layout, hard = bench.generator.layout, self._options["hard"]
        soft = {name: masks.mask([name]) for name in masks.attributes}
        self.masks = {name: (x >= hard).to(x) if hard > 0 else x for name, x in soft.items()}
        lacking = [name for name in bench.pack.names if name not in self.masks]
        if lacking:
            raise UsageError(f"the masks have no attribute '{lacking[0]}'. Give other masks.")
        return {"channels": {name: int((x >= 0.5).sum()) for name, x in self.masks.items()}}

    def _masks(self, bench: Bench) -> Masks:
        if self._options["file"]:
            return load_masks(Path(self._options["file"]))
        if bench.masks is None:
            raise UsageError("method 'masks' needs masks. Write masks:file=PATH.")
        return bench.masks


class RegionEditor(Blend):
    """Swap the channels that draw the attribute's region.

    In the spirit of StyleFusion (Kafri et al. 2021) and SemanticStyleGAN (Shi et al. 2022), where
    a region of the image owns a part of the code: an attribute gets the channels pre-selected for
    its region by the gradients of the paper's section 3.1, as many as the pack says, or ``share``
    of all, or else as many as if each attribute and the rest had equally many.
    """

    name = "region"
    intensities = RANGE

    def __init__(self, options: Mapping[str, str]) -> None:
        self._options = typed_options(self.name, options, share=0.0, images=64)

    def fit(self, bench: Bench) -> Mapping[str, Any]:
        """Score the channels by the gradients of the regions."""
        segmenter, generator, pack = bench.segmenter, bench.generator, bench.pack
        if segmenter is None:
            raise UsageError("method 'region' needs a segmenter. Add --segmenter.")
        table = region_table(pack, segmenter.labels, segmenter.name, generator.device)
        settings = PRESETS["paper"].model_copy(update={"batch": bench.batch, "draft": True})
        images = min(self._options["images"], len(bench.pool))
        part = settings.preselection.model_copy(update={"images": images})
        settings = settings.model_copy(update={"preselection": part})
        with torch.enable_grad():
            scores = region_scores(
                generator, segmenter, table, _pool(bench.pool), settings, bench.progress
            )
        self.layout, self.masks = generator.layout, {}
        for score, attribute in zip(scores, pack.attributes, strict=True):
            share = self._options["share"] or attribute.preselect.share or 1 / (len(scores) + 1)
            mask = torch.zeros_like(score)
            mask[score.topk(round(share * len(score))).indices] = 1.0
            self.masks[attribute.name] = mask
        return {
            "channels": {name: int(mask.sum()) for name, mask in self.masks.items()},
            "images": images,
        }


def _pool(codes: Codes) -> Pool:
    """A training pool of which only codes and cameras are known; the scores need no more."""
    empty = torch.empty(len(codes), 0)
    return Pool(codes.styles, codes.cameras, empty, empty, None, None, empty)


class SwapEditor(Blend):
    """Control: all editable channels become the reference's."""

    name = "swap"
    intensities = (1.0,)

    def __init__(self, options: Mapping[str, str]) -> None:
        typed_options(self.name, options)

    def fit(self, bench: Bench) -> Mapping[str, Any]:
        """Nothing to learn."""
        self.layout = bench.generator.layout
        ones = torch.ones(self.layout.editable_channels)
        self.masks = dict.fromkeys(bench.pack.names, ones)
        return {}


class NoEditor(Editor):
    """Control: the source as it is."""

    name = "none"
    intensities = (0.0,)

    def __init__(self, options: Mapping[str, str]) -> None:
        typed_options(self.name, options)

    def fit(self, bench: Bench) -> Mapping[str, Any]:
        """Nothing to learn."""
        return {}

    def edit(self, source: Codes, reference: Codes, attribute: str, intensity: float) -> Tensor:
        """The source's own styles."""
        return source.styles
