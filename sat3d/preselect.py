"""The head start of the matrix: which channels seem to belong to which attribute.

Three ways to score channels, all pure functions: gradients of the attributes' regions (paper,
section 3.1), what each channel adds to the change of the attributes' own measurements, and how
much of a channel's variance over the pool an attribute's measurement explains.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sat3d.descriptors import DescriptorPack
from sat3d.interfaces import Generator, Segmenter
from sat3d.parallel import part, summed
from sat3d.pool import Measure, Pool, draw_pairs, gaps, split
from sat3d.progress import SILENT, Progress
from sat3d.regions import RegionTable, alterable
from sat3d.settings import TrainSettings


@dataclass(frozen=True)
class Effects:
    """How each channel moves each attribute's measurement, over many pairs; all [A, n]."""

    size: Tensor
    """Mean absolute effect."""
    consistency: Tensor
    """Mean effect in standard errors, every pair's effects scaled to unit length over the channels;
    near 0 where the channel does something else."""


def region_scores(
    generator: Generator,
    segmenter: Segmenter,
    table: RegionTable,
    pool: Pool,
    settings: TrainSettings,
    progress: Progress = SILENT,
) -> Tensor:
    """Gradient of each attribute's region with respect to each channel: [A, n], columns sum to 1.

    The region's binary mask is the image's gradient; absolute values are divided by the region's
    size, averaged over images and normalised over regions (paper, section 3.1).
    """
    index = generator.layout.editable.to(pool.styles.device)
    total = torch.zeros(len(table.regions), len(index), device=pool.styles.device)
    seen = torch.zeros(len(table.regions), 1, device=pool.styles.device)
    for chunk in _chunks(min(settings.preselection.images, len(pool)), settings.batch, progress):
        rows = chunk[part(len(chunk))].to(pool.styles.device)
        if not len(rows):
            continue  # more processes than images
        styles = pool.styles[rows].requires_grad_()
        image = generator.render(styles, pool.cameras_of(rows), draft=settings.draft).image
        with torch.no_grad():
            masks = alterable(segmenter.segment(image), table)
        for a in range(len(table.regions)):
            mask = masks[:, a, None].to(image.dtype)
            size = mask.sum(dim=(1, 2, 3))
            gradient = torch.autograd.grad(
                image, styles, mask.expand_as(image), retain_graph=a + 1 < len(table.regions)
            )[0]
            total[a] += (gradient[:, index].abs() / size.clamp(min=1)[:, None]).sum(dim=0)
            seen[a] += (size > 0).sum()
    mean = summed(total) / summed(seen).clamp(min=1)
    return mean / mean.sum(dim=0).clamp(min=torch.finfo(mean.dtype).tiny)


def measured_effects(
    generator: Generator,
    qmm: Measure,
    pool: Pool,
    settings: TrainSettings,
    source: torch.Generator,
    progress: Progress = SILENT,
) -> Effects:
    """What each channel adds when a source is moved towards a reference.

    At a random point between the two codes, the gradient of the measurement along the gap that
    separates them, times the channel's own way. Averaged over the way this is the method of
    integrated gradients: over all channels it sums to the change of the measurement. A channel
    that has nothing to do with an attribute pushes either way equally often.
    """
    owner = qmm.attribute_of_phrase
    attributes = int(owner.max()) + 1
    index = generator.layout.editable.to(pool.styles.device)
    sums = torch.zeros(3, attributes, len(index), device=pool.styles.device)
    counts = torch.zeros(attributes, 1, device=pool.styles.device)
    places, _ = split(len(pool), settings.held_out)
    for rows in _chunks(settings.preselection.images, settings.batch, progress):
        first, second, _ = draw_pairs(
            pool.readings, owner.cpu(), places, len(rows), 1, settings.min_gap, source
        )
        share = torch.rand(len(rows), 1, generator=source).to(pool.styles.device)
        own = part(len(rows))
        if own.start == own.stop:
            continue  # more processes than pairs
        for a, effect, valid in _effects(
            generator, qmm, pool, settings, first[own], second[own], share[own]
        ):
            effect = effect[:, index] * valid[:, None]
            # Unit length: a pair with a tiny gap would otherwise drown all others.
            unit = F.normalize(effect, dim=1)
            sums[:, a] += torch.stack([effect.abs(), unit, unit.square()]).sum(dim=1)
            counts[a] += valid.sum()
    sums, counts = summed(sums), summed(counts)
    size, mean, square = sums / counts.clamp(min=1)
    tiny = torch.finfo(size.dtype).tiny
    error = ((square - mean.square()).clamp(min=0) / counts.clamp(min=1)).sqrt()
    return Effects(size, mean / error.clamp(min=tiny))


def _effects(
    generator: Generator,
    qmm: Measure,
    pool: Pool,
    settings: TrainSettings,
    first: Tensor,
    second: Tensor,
    share: Tensor,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each attribute: (row, effect [B, N] of every channel, pair differs in it [B])."""
    owner = qmm.attribute_of_phrase
    one, two = (x.to(pool.styles.device) for x in (first, second))
    way = pool.styles[two] - pool.styles[one]
    editable = torch.zeros_like(way).index_fill_(1, _editable(generator, way), 1.0)
    styles = (pool.styles[one] + share * editable * way).requires_grad_()
    image = generator.render(styles, pool.cameras_of(one), draft=settings.draft).image
    found = qmm.probabilities(qmm.encode_image(image))
    gap = pool.probabilities[two] - pool.probabilities[one]
    differs = gaps(pool.probabilities[two], pool.probabilities[one], owner)
    valid = (differs >= max(settings.min_gap, 0.05)).to(gap.dtype)
    attributes = valid.shape[1]
    for a in range(attributes):
        cotangent = gap * (owner == a)
        # Divided by the gap's square, the effects of all channels sum to the share that closes.
        cotangent = cotangent / cotangent.square().sum(dim=1, keepdim=True).clamp(min=1e-6)
        gradient = torch.autograd.grad(found, styles, cotangent, retain_graph=a + 1 < attributes)
        yield a, gradient[0] * way, valid[:, a]


def _editable(generator: Generator, like: Tensor) -> Tensor:
    return generator.layout.editable.to(like.device)


def explained_variance(styles: Tensor, readings: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Share of each channel's variance that each attribute's measurement explains.

    styles [P, n] and readings [P, D] with ``owner`` [D] int64 to (share [A, n] float64, at most 1
    and about 0 for what is unrelated; its standard deviation [A, 1] where nothing is related).
    Adjusted coefficient of determination of a linear fit. Needs no render, and tells from which
    channels a generator draws an attribute as far as it draws its attributes from different ones;
    in the spirit of the exemplars of StyleSpace (Wu et al. 2021, section 4).
    """
    count = len(styles)
    centred = F.normalize((styles - styles.mean(dim=0)).double(), dim=0)
    rows, noise = [], []
    for a in range(int(owner.max()) + 1):
        known = readings[:, owner == a].double()
        basis, size, _ = torch.linalg.svd(known - known.mean(dim=0), full_matrices=False)
        basis = basis[:, size > 1e-3 * size[0].clamp(min=1e-9)]
        free = max(count - 1 - basis.shape[1], 1)
        left = 1 - (basis.T @ centred).square().sum(dim=0)
        rows.append(1 - left * (count - 1) / free)
        noise.append(math.sqrt(2 * basis.shape[1]) / free)
    return torch.stack(rows), torch.tensor(noise, dtype=torch.float64)[:, None]


def _chunks(count: int, size: int, progress: Progress) -> Iterator[Tensor]:
    """0 to count - 1 in pieces of at most ``size``."""
    with progress.phase("Looking for channels", count) as phase:
        for rows in torch.arange(count).split(size):
            yield rows
            phase.advance(len(rows))


def start_from_regions(scores: Tensor, pack: DescriptorPack, settings: TrainSettings) -> Tensor:
    """Start matrix [A+1, n] from region scores [A, n] (paper, section 3.1).

    Each attribute takes the k_t channels with its largest scores and starts them at d_t; a channel
    taken by several goes to the largest score. All others start as 'others'.
    """
    taken = torch.zeros_like(scores, dtype=torch.bool)
    for a, attribute in enumerate(pack.attributes):
        count = round(attribute.preselect.share * scores.shape[1])
        taken[a, scores[a].topk(count).indices] = True
    return _start(taken, scores, pack, settings)


def start_from_effects(effects: Effects, pack: DescriptorPack, settings: TrainSettings) -> Tensor:
    """Start matrix [A+1, n] from measured effects.

    An attribute takes a channel if at least the set share of the channel's effects is on it, and
    the effect is consistent. The evidence is the effects' size, each attribute's relative to
    their own sum, or their consistency towards the reference: where generator or measurement
    are rough, a channel that draws something else disturbs an attribute's measurement as much as
    its own, but as often one way as the other.
    """
    rule = settings.preselection
    tiny = torch.finfo(effects.size.dtype).tiny
    if rule.evidence == "size":
        evidence = effects.size / effects.size.sum(dim=1, keepdim=True).clamp(min=tiny)
    else:
        evidence = effects.consistency.clamp(min=0)
    share = evidence / evidence.sum(dim=0).clamp(min=tiny)
    taken = (share >= rule.share) & (effects.consistency.abs() >= rule.consistency)
    return _start(taken, share, pack, settings)


def start_from_pool(pool: Pool, owner: Tensor, pack: DescriptorPack, settings: TrainSettings,
                    editable: Tensor) -> Tensor:  # fmt: skip
    """Start matrix [A+1, n] from the pool alone; ``editable`` [n] are the channels' places.

    An attribute takes a channel if its measurement explains enough of the channel's variance, far
    more than chance would, and at least the set share of what all attributes explain.
    """
    rule = settings.preselection
    places = split(len(pool), settings.held_out)[0]
    styles = pool.styles[places.to(pool.styles.device)][:, editable.to(pool.styles.device)].cpu()
    found, noise = explained_variance(styles, pool.readings[places], owner.cpu())
    known = found.clamp(min=0)
    share = known / known.sum(dim=0).clamp(min=torch.finfo(known.dtype).tiny)
    taken = (found >= (4 * noise).clamp(min=rule.explained)) & (share >= rule.share)
    return _start(taken, share, pack, settings).to(pool.styles.device)


def _start(taken: Tensor, scores: Tensor, pack: DescriptorPack, settings: TrainSettings) -> Tensor:
    """Zeros; d_t where an attribute has taken the channel; ``others_start`` where none has."""
    winner = F.one_hot((scores * taken).argmax(dim=0), len(scores)).T.bool()
    taken = taken & winner
    own = settings.preselection.strength
    strength = [own if own is not None else a.preselect.strength for a in pack.attributes]
    start = taken * torch.tensor(strength, dtype=torch.float32, device=scores.device)[:, None]
    others = ~taken.any(dim=0, keepdim=True) * torch.tensor(settings.others_start)
    return torch.cat([start, others.to(start)]).float()


def start_matrix(
    generator: Generator,
    pack: DescriptorPack,
    qmm: Measure,
    segmenter: Segmenter | None,
    pool: Pool,
    settings: TrainSettings,
    source: torch.Generator,
    progress: Progress = SILENT,
) -> Tensor:
    """The start matrix [A+1, n] float32 by the way that the settings choose.

    Without a segmenter the paper's way has no regions, and every channel starts as 'others'.
    """
    by = settings.preselection.by
    if by == "pool":
        owner = qmm.attribute_of_phrase
        return start_from_pool(pool, owner, pack, settings, generator.layout.editable)
    if by == "qmm":
        effects = measured_effects(generator, qmm, pool, settings, source, progress)
        return start_from_effects(effects, pack, settings)
    wanted = any(attribute.preselect.share > 0 for attribute in pack.attributes)
    if by == "region" and wanted and segmenter is not None and pool.table is not None:
        scores = region_scores(generator, segmenter, pool.table, pool, settings, progress)
        return start_from_regions(scores, pack, settings)
    empty = torch.zeros(len(pack.attributes), generator.layout.editable_channels)
    return _start(empty.bool(), empty, pack, settings).to(generator.device)
