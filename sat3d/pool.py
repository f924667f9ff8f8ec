"""The training pool: generated images with everything that depends on them alone, made once."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sat3d.descriptors import DescriptorPack, Exclude, Quota, Rule
from sat3d.errors import UsageError
from sat3d.frozen import Frozen
from sat3d.interfaces import Generator, Segmenter
from sat3d.parallel import gathered, rank, world
from sat3d.progress import SILENT, Phase, Progress
from sat3d.regions import RegionTable, pack_masks, region_table
from sat3d.settings import TrainSettings

_BLOCK = 32
_SEED_STRIDE = 1_000_003
_CANDIDATES = 8


class Measure(Protocol):
    """What the engine asks of a quantitative measurement module (:class:`sat3d.qmm.QMM`)."""

    @property
    def attribute_of_phrase(self) -> Tensor:
        """[D] int64."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What goes into the masks' header."""

    def encode_image(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] to [B, E]."""

    def probabilities(self, embedding: Tensor) -> Tensor:
        """[B, E] to [B, D], a softmax inside each group of phrases."""

    def rule_probability(self, embedding: Tensor, rule: Rule) -> Tensor:
        """[B, E] to [B]: probability of the rule's phrase among its phrases."""


@dataclass(frozen=True)
class Pool:
    """P images, in random order; all tensors on the generator's device but ``readings``."""

    styles: Tensor
    """[P, N] float32."""
    cameras: Tensor | None
    """[P, 25] float32, None for a 2D generator."""
    images: Tensor
    """[P, 3, h, w] float16, as L_bg compares them."""
    probabilities: Tensor
    """[P, D] float32."""
    regions: Tensor | None
    """[P, ceil(A/8), h, w] uint8, packed (:func:`sat3d.regions.pack_masks`); None without a
    segmenter."""
    table: RegionTable | None
    readings: Tensor
    """[P, D] float32 on the CPU: the probabilities again, for drawing pairs."""

    def __len__(self) -> int:
        return len(self.styles)

    def cameras_of(self, index: Tensor) -> Tensor | None:
        """Cameras [B, 25] of these places."""
        return None if self.cameras is None else self.cameras[index]


def shrink(image: Tensor, size: int | None) -> Tensor:
    """Average [B, 3, H, W] down to at most ``size`` rows; the aspect stays."""
    if size is None or image.shape[-2] <= size:
        return image
    return F.adaptive_avg_pool2d(image, (size, round(image.shape[-1] * size / image.shape[-2])))


@torch.no_grad()
def build_pool(
    generator: Generator,
    pack: DescriptorPack,
    qmm: Measure,
    segmenter: Segmenter | None,
    settings: TrainSettings,
    progress: Progress = SILENT,
) -> Pool:
    """Draw, filter and measure the pool (paper, section 4). Deterministic in the settings.

    Candidates are taken in order until the pool is full; one that an exclusion names is left out,
    and so is one that would make a quota unreachable. Raises UsageError if too few are left.
    """
    table = None
    if segmenter is not None:
        table = region_table(pack, segmenter.labels, segmenter.name, generator.device)
    frozen = Frozen(generator, qmm, segmenter, table, settings)
    with progress.phase("Drawing the pool", settings.pool_size) as phase:
        kept = _fill(generator, pack, qmm, frozen, table, settings, phase)
    return _assemble(_of_all(kept, generator.device), table, settings)


def _fill(
    generator: Generator,
    pack: DescriptorPack,
    qmm: Measure,
    frozen: Frozen,
    table: RegionTable | None,
    settings: TrainSettings,
    phase: Phase,
) -> list[dict[str, Tensor]]:
    """Pieces of the pool by field name, until every place is taken; 'order' says which ones.

    Several processes draw neighbouring chunks at the same time, and all decide alike.
    """
    gate = _Gate(pack, settings.pool_size, settings.pool_size * settings.pool_tries)
    kept: list[dict[str, Tensor]] = []
    candidates, seen = _candidates(generator, settings), 0
    while gate.kept < settings.pool_size:
        turn = [next(candidates) for _ in range(world())]
        z, cameras = turn[rank()]
        styles = generator.styles(generator.map(z, cameras, settings.truncation))
        image, embedding = frozen.sight(styles, cameras)
        verdicts = gathered({"": gate.verdicts(embedding, qmm)}, image.device)[""]
        chosen = gate.admit(verdicts.cpu())
        before = sum(len(z) for z, _ in turn[: rank()])
        keep = chosen[(chosen >= before) & (chosen < before + len(z))].to(image.device) - before
        if len(keep):
            piece = {"styles": styles[keep], "probabilities": qmm.probabilities(embedding[keep])}
            piece["order"] = seen + before + keep
            piece["images"] = shrink(image[keep], settings.compare_size).half()
            if cameras is not None:
                piece["cameras"] = cameras[keep]
            if table is not None:
                # A graph is of one shape, so there the images turned away are segmented, too.
                whole = settings.graphs and image.is_cuda
                masks = frozen.outline(image)[keep] if whole else frozen.outline(image[keep])
                piece["regions"] = pack_masks(masks)
            kept.append(piece)
        phase.advance(len(chosen))
        seen += len(verdicts)
    return kept


def _of_all(kept: list[dict[str, Tensor]], device: torch.device) -> list[dict[str, Tensor]]:
    """The pieces of all processes in order of the candidates."""
    if world() == 1:
        return kept
    names = list(kept[0]) if kept else []
    own = {name: torch.cat([piece.pop(name) for piece in kept]) for name in names}
    joined = gathered(own, device)
    order = joined["order"].argsort()
    return [{key: values[order] for key, values in joined.items()}]


def _candidates(
    generator: Generator, settings: TrainSettings
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The endless row of candidates: z [k, Z], cameras [k, 25] or None; k is at most chunk.

    Drawn in blocks of a fixed size, so that the row does not depend on the chunk.
    """
    for block in count():
        seed = settings.pool_seed * _SEED_STRIDE + block
        z = generator.sample_latents(_BLOCK, seed)
        cameras = generator.sample_cameras(_BLOCK, seed)
        for rows in torch.arange(_BLOCK, device=z.device).split(settings.chunk):
            yield z[rows], None if cameras is None else cameras[rows]


class _Gate:
    """Decides candidate by candidate who gets a place."""

    def __init__(self, pack: DescriptorPack, places: int, limit: int) -> None:
        self.places, self.limit = places, limit
        self.exclude: tuple[Exclude, ...] = pack.pool.exclude
        self.quotas: tuple[Quota, ...] = pack.pool.quotas
        self.name = pack.name
        self.kept = self.seen = 0
        self.turned_away = [0] * len(self.exclude)
        self.on_side = [0] * len(self.quotas)
        self.off_side = [0] * len(self.quotas)
        self.off_limit = [places - math.ceil(q.share * places) for q in self.quotas]

    def verdicts(self, embedding: Tensor, qmm: Measure) -> Tensor:
        """What the rules say of candidates [B, E], 1 is yes: [B, 1 + exclusions + quotas] uint8.

        The first column says nothing; a pack without rules would leave nothing to exchange.
        """
        found = [embedding[:, 0].isnan()]
        found += [qmm.rule_probability(embedding, r) >= r.above for r in self.exclude]
        found += [_on_side(embedding, q, qmm) for q in self.quotas]
        return torch.stack(found, dim=1).byte()

    def admit(self, verdicts: Tensor) -> Tensor:
        """Indices [k] int64 of the candidates that are taken, from verdicts [B, rules] (CPU).

        Raises UsageError when the limit of candidates is passed.
        """
        flags: list[list[bool]] = verdicts.bool().tolist()
        sides = 1 + len(self.exclude)
        chosen = [k for k, x in enumerate(flags) if self._take(x[1:sides], x[sides:])]
        if self.kept < self.places and self.seen >= self.limit:
            raise UsageError(self._complaint())
        return torch.tensor(chosen, dtype=torch.int64)

    def _take(self, excluded: list[bool], sides: list[bool]) -> bool:
        if self.kept == self.places:
            return False
        self.seen += 1
        self.turned_away = [n + x for n, x in zip(self.turned_away, excluded, strict=True)]
        if any(excluded):
            return False
        full = [n >= most for n, most in zip(self.off_side, self.off_limit, strict=True)]
        if any(f and not side for f, side in zip(full, sides, strict=True)):
            return False
        self.kept += 1
        self.on_side = [n + side for n, side in zip(self.on_side, sides, strict=True)]
        self.off_side = [n + (not side) for n, side in zip(self.off_side, sides, strict=True)]
        return True

    def _complaint(self) -> str:
        """Why the pool did not fill, and what to change."""
        share = [n / max(self.seen, 1) for n in self.turned_away]
        words = [f"'{r.name}' excluded {x:.0%}" for r, x in zip(self.exclude, share, strict=True)]
        words += [
            f"quota '{q.name}' asks for {q.share:.0%} and {n} were found"
            for q, n in zip(self.quotas, self.on_side, strict=True)
        ]
        return (
            f"only {self.kept} of {self.places} pool places were filled from {self.seen} images: "
            f"{'; '.join(words)}. Ease the rules of pack '{self.name}', or raise pool_tries."
        )


def _on_side(embedding: Tensor, quota: Quota, qmm: Measure) -> Tensor:
    """Whether the quota's phrase is the most probable of its phrases: [B] bool."""
    rules = [quota.model_copy(update={"phrase": phrase}) for phrase in quota.phrases]
    found = torch.stack([qmm.rule_probability(embedding, rule) for rule in rules])
    return found.argmax(dim=0) == quota.phrases.index(quota.phrase)


def _assemble(
    kept: list[dict[str, Tensor]], table: RegionTable | None, settings: TrainSettings
) -> Pool:
    """Join the pieces and shuffle them: a quota fills the end of the pool with one side."""
    source = torch.Generator().manual_seed(settings.pool_seed)
    order = torch.randperm(settings.pool_size, generator=source)
    for piece in kept:
        del piece["order"]
    joined: dict[str, Tensor] = {}
    for key in list(kept[0]):
        # Popping frees each piece, so that only one field is in memory twice.
        values = torch.cat([piece.pop(key) for piece in kept])
        joined[key] = values[order.to(values.device)]
    return Pool(
        styles=joined["styles"],
        cameras=joined.get("cameras"),
        images=joined["images"],
        probabilities=joined["probabilities"],
        regions=joined.get("regions"),
        table=table,
        readings=joined["probabilities"].cpu(),
    )


def split(places: int, held_out: float) -> tuple[Tensor, Tensor]:
    """Places of the pool to train on and to hold out, at least two each: two int64 tensors."""
    held = min(max(2, round(places * held_out)), places - 2)
    return torch.arange(places - held), torch.arange(places - held, places)


def draw_pairs(
    readings: Tensor,
    owner: Tensor,
    places: Tensor,
    pairs: int,
    targets: int,
    min_gap: float,
    source: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw (source [B], reference [B], selection [B, A] bool), all on the CPU.

    Pairs come from ``places`` [k] of the pool. Attributes take turns as first target. Of eight
    candidate references the first that differs from the source by ``min_gap`` in the first target
    is taken, or else the one that differs most: steps on equal pairs teach nothing.
    """
    attributes = int(owner.max()) + 1
    turns = [torch.randperm(attributes, generator=source) for _ in range(-(-pairs // attributes))]
    first = torch.cat(turns)[:pairs]
    shape = (pairs, _CANDIDATES + 1)
    drawn = places[torch.randint(len(places), shape, generator=source)]
    rank = torch.rand(pairs, attributes, generator=source).scatter_(1, first[:, None], 2.0)
    top = rank.topk(min(targets, attributes), dim=1).indices
    selection = torch.zeros(pairs, attributes, dtype=torch.bool).scatter_(1, top, True)
    start, candidates = drawn[:, 0], drawn[:, 1:]
    gap = gaps(readings[start][:, None], readings[candidates], owner)
    gap = gap.gather(2, first[:, None, None].expand(-1, _CANDIDATES, 1)).squeeze(2)
    # Above the bar the order of drawing decides, below it the gap.
    order = 2.0 + torch.arange(_CANDIDATES, 0, -1).to(gap.dtype)
    score = torch.where(gap >= min_gap, order.expand_as(gap), gap)
    best = score.argmax(dim=1)
    return start, candidates.gather(1, best[:, None]).squeeze(1), selection


def gaps(one: Tensor, other: Tensor, owner: Tensor) -> Tensor:
    """Distance per attribute of two readings [..., D]: [..., A] in [0, 1], the mean over groups.

    1 means that no phrase shares any probability.
    """
    attributes = int(owner.max()) + 1
    member = F.one_hot(owner, attributes).to(one.dtype)
    # Each group's probabilities sum to 1, so the sum over an attribute counts its groups.
    return ((one - other).abs() @ member) / (2 * (one @ member))
