"""Global directions of StyleCLIP (Patashnik et al. 2021) with the text-image model at hand."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sat3d.editors import typed_options
from sat3d.errors import UsageError
from sat3d.interfaces import Bench, Codes, Editor, StyleLayout
from sat3d.pool import Measure

_PUSH = 5.0  # standard deviations either way (paper, section 6)
_MANY, _FEW = 100, 2


class StyleCLIPEditor(Editor):
    """Channels that move the image's embedding as the text moves, all at once.

    The text goes from the phrase that the source shows to the one that the reference shows, in
    the pack's own template. ``beta`` is the least relevance of a channel (paper: 0.08 to 0.3),
    ``images`` how many the relevance is averaged over (paper 100; by default that on a GPU, and
    2 on a CPU, where each image takes two renders a channel). The intensity is the paper's alpha.
    """

    name = "styleclip"
    intensities = (1.0, 2.0, 3.0, 4.1, 6.0, 8.0, 10.0)

    def __init__(self, options: Mapping[str, str]) -> None:
        self._options = typed_options(self.name, options, beta=0.15, images=0)
        self._layout: StyleLayout

    def fit(self, bench: Bench) -> Mapping[str, Any]:
        """Measure the relevance of every editable channel."""
        phrases = getattr(bench.measure, "phrases", None)
        if bench.measure is None or phrases is None:
            raise UsageError("method 'styleclip' needs a text-image model. Add --clip.")
        generator, pool = bench.generator, bench.pool
        self._layout = generator.layout
        index = self._layout.editable.to(pool.styles.device)
        self._spread = pool.styles[:, index].std(dim=0)
        images = self._options["images"] or (_MANY if generator.device.type == "cuda" else _FEW)
        images = min(images, len(pool))
        self.relevance = _relevance(bench, bench.measure, index, images)
        groups = iter(
            phrases.split([len(g.phrases) for a in bench.pack.attributes for g in a.groups])
        )
        self._phrases: dict[str, tuple[Tensor, ...]] = {
            a.name: tuple(next(groups) for _ in a.groups) for a in bench.pack.attributes
        }
        return {"images": images, "beta": self._options["beta"]}

    def edit(self, source: Codes, reference: Codes, attribute: str, intensity: float) -> Tensor:
        """``alpha`` times the relevant channels' spread."""
        step = torch.zeros_like(self._spread).expand(len(source), -1)
        sets = (source.values[attribute], reference.values[attribute], self._phrases[attribute])
        for one, two, phrases in zip(*sets, strict=True):
            step = step + self._step(phrases[two.argmax(dim=1)] - phrases[one.argmax(dim=1)])
        styles = source.styles.clone()
        styles[:, self._layout.editable.to(styles.device)] += intensity * step
        return styles

    def _step(self, text: Tensor) -> Tensor:
        """Text directions [B, E] to channel steps [B, n]; none where the text stays the same."""
        relevance = F.normalize(text, dim=1) @ self.relevance.T
        kept = relevance * (relevance.abs() >= self._options["beta"])
        largest = kept.abs().amax(dim=1, keepdim=True)
        return kept / largest.clamp(min=1e-9) * self._spread


def _relevance(bench: Bench, measure: Measure, index: Tensor, images: int) -> Tensor:
    """Unit direction in which each channel moves the embedding: [n, E].

    Each of the channels ``index`` [n] is set to its mean plus and minus five standard deviations
    in ``images`` images; the differences are averaged (paper, section 6.2).
    """
    pool = bench.pool
    mean, spread = pool.styles.mean(dim=0), pool.styles.std(dim=0)
    total: list[Tensor] = []
    with bench.progress.phase("Moving channels", images * len(index)) as phase:
        for channels in index.split(bench.batch):
            change: Tensor | None = None
            for k in range(images):
                code = pool.styles[k].repeat(len(channels), 1)
                camera = None if pool.cameras is None else pool.cameras[k : k + 1]
                ends = []
                for sign in (1.0, -1.0):
                    moved = code.clone()
                    rows = torch.arange(len(channels), device=code.device)
                    moved[rows, channels] = (mean + sign * _PUSH * spread)[channels]
                    many = None if camera is None else camera.expand(len(channels), -1)
                    image = bench.generator.render(moved, many, draft=True).image
                    ends.append(F.normalize(measure.encode_image(image), dim=1))
                difference = ends[0] - ends[1]
                change = difference if change is None else change + difference
                phase.advance(len(channels))
            assert change is not None
            total.append(change)
    return F.normalize(torch.cat(total), dim=1)
