"""The training step of the paper as its text reads: the reference that everything is held against.

One pair at a time, float32, and nothing kept: source and reference are rendered and measured again
in every step, and the source segmented. What the engine computes otherwise must come out the same.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.subjects import Subject
from sat3d import losses
from sat3d.interfaces import Segmenter
from sat3d.mask import edit
from sat3d.regions import RegionTable, alterable, region_table
from sat3d.settings import LossWeights


@dataclass(frozen=True)
class PlainPair:
    """Codes of one source and one reference."""

    source: Tensor
    """[1, N]."""
    reference: Tensor
    """[1, N]."""
    source_camera: Tensor | None
    """[1, 25]; the edit is seen from here, too."""
    reference_camera: Tensor | None
    chosen: Tensor
    """[1, A] bool: the attributes to transfer."""


def plain_parts(subject: Subject, logits: Tensor, pair: PlainPair) -> dict[str, Tensor]:
    """The loss terms of one pair for the matrix [A+1, n] (paper, equations 1 to 6)."""
    generator, pack, qmm, segmenter = subject.parts
    targets = pair.chosen[0].nonzero().squeeze(1).tolist()
    mask = logits.softmax(dim=0)[targets].sum(dim=0)
    code = edit(pair.source, pair.reference, mask, generator.layout)
    with torch.no_grad():
        source = generator.render(pair.source, pair.source_camera).image
        reference = generator.render(pair.reference, pair.reference_camera).image
        one, two = qmm.measure(source), qmm.measure(reference)
    edited = generator.render(code, pair.source_camera).image
    now = qmm.measure(edited)
    owner = qmm.attribute_of_phrase
    table = region_table(pack, segmenter.labels, segmenter.name, generator.device)
    regions = [_region(segmenter, table, image, targets) for image in (edited, source)]
    return {
        "target": losses.target_loss(now, two, pair.chosen, owner),
        "preserve": losses.preserve_loss(now, one, pair.chosen, owner),
        "background": losses.background_loss(edited, source, *regions),
        "probability": losses.probability_loss(logits),
    }


@torch.no_grad()
def _region(segmenter: Segmenter, table: RegionTable, image: Tensor, targets: list[int]) -> Tensor:
    """Where the targets may alter [1, 3, H, W]: [1, H, W] bool."""
    return alterable(segmenter.segment(image), table)[:, targets].any(dim=1)


class PlainLoop:
    """The paper's loop: pre-sampled codes, one random pair and one random attribute a step."""

    def __init__(self, subject: Subject, codes: int = 64, seed: int = 0) -> None:
        from sat3d.engine import make_optimiser
        from sat3d.settings import TrainSettings

        self.subject, generator = subject, subject.generator
        self._source = torch.Generator().manual_seed(seed)
        self._cameras = generator.sample_cameras(codes, seed)
        with torch.no_grad():
            w = generator.map(generator.sample_latents(codes, seed), self._cameras)
            self._styles = generator.styles(w)
        rows, columns = len(subject.pack.attributes) + 1, generator.layout.editable_channels
        settings = TrainSettings()
        # [n, A+1], as the paper preset lays it out.
        start = torch.zeros(columns, rows, device=generator.device)
        start[:, -1] = settings.others_start
        self.matrix = start.requires_grad_()
        self._optimiser = make_optimiser(self.matrix, settings)

    def draw(self) -> PlainPair:
        """A random pair and target."""
        places = torch.randint(len(self._styles), (2,), generator=self._source).tolist()
        attributes = len(self.subject.pack.attributes)
        target = int(torch.randint(attributes, (1,), generator=self._source))
        chosen = torch.zeros(1, attributes, dtype=torch.bool, device=self._styles.device)
        chosen[0, target] = True
        codes = [self._styles[k : k + 1] for k in places]
        views = [None if self._cameras is None else self._cameras[k : k + 1] for k in places]
        return PlainPair(codes[0], codes[1], views[0], views[1], chosen)

    def step(self) -> Tensor:
        """One optimiser step; the loss, a scalar on the device."""
        parts = plain_parts(self.subject, self.matrix.T, self.draw())
        total = losses.total_loss(parts, LossWeights())
        self._optimiser.zero_grad(set_to_none=True)
        total.backward()
        self._optimiser.step()
        return total.detach()
