"""What one matrix is worth on given pairs: the edit, its measurements and the loss terms."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sat3d import losses
from sat3d.descriptors import DescriptorPack
from sat3d.frozen import Frozen
from sat3d.interfaces import Generator, Segmenter
from sat3d.mask import edit
from sat3d.parallel import gathered, part
from sat3d.pool import Measure, Pool, shrink
from sat3d.regions import union
from sat3d.settings import TrainSettings

PARTS = ("target", "preserve", "background", "probability")

Pairs = tuple[Tensor, Tensor, Tensor]
"""(source [B], reference [B], selection [B, A] bool), places in the pool, on the CPU."""


@dataclass(frozen=True)
class Setup:
    """All that stays the same during a run."""

    generator: Generator
    pack: DescriptorPack
    qmm: Measure
    segmenter: Segmenter | None
    settings: TrainSettings
    pool: Pool
    owner: Tensor
    """[D] int64: attribute of each phrase."""
    owner_cpu: Tensor
    """The same on the CPU."""
    group: Tensor
    """[D] int64 on the CPU: group of each phrase."""
    member: Tensor
    """[D, G] float32: 1 where a phrase belongs to a group."""
    editable: Tensor
    """[n] int64: places of the editable channels."""
    frozen: Frozen
    """The networks as the settings launch them."""


def make_setup(
    generator: Generator,
    pack: DescriptorPack,
    qmm: Measure,
    segmenter: Segmenter | None,
    settings: TrainSettings,
    pool: Pool,
) -> Setup:
    """Everything the loss needs, on the generator's device."""
    owner = qmm.attribute_of_phrase.to(generator.device)
    sizes = [len(group.phrases) for x in pack.attributes for group in x.groups]
    group = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    member = F.one_hot(group, len(sizes)).float().to(owner.device)
    known = (generator, pack, qmm, segmenter, settings, pool)
    editable = generator.layout.editable.to(generator.device)
    frozen = Frozen(generator, qmm, segmenter, pool.table, settings)
    return Setup(*known, owner, owner.cpu(), group, member, editable, frozen)


def measure_edit(
    setup: Setup, logits: Tensor, pairs: Pairs
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Edit the pairs with the matrix [A+1, n]: loss parts by name, probabilities [B, D], images.

    Source and edit are drawn without random depth samples, so that L_bg does not measure noise.
    Probabilities and images may be overwritten by the next call.
    """
    settings, pool = setup.settings, setup.pool
    first, second, chosen = _sent(pairs, logits.device)
    mask = F.pad(chosen.to(logits.dtype), (0, 1)) @ logits.softmax(dim=0)
    codes, layout = (pool.styles[first], pool.styles[second]), setup.generator.layout
    code = edit(*codes, mask, layout, settings.intensity, setup.editable)
    image, found = setup.frozen.see(code, pool.cameras_of(first))
    now, one, two = (
        losses.soften(x, setup.member, settings.softness)
        for x in (found, pool.probabilities[first], pool.probabilities[second])
    )
    parts = {
        "target": losses.target_loss(now, two, chosen, setup.owner),
        "preserve": losses.preserve_loss(now, one, chosen, setup.owner),
        "background": _background(setup, image, first, second, chosen),
        "probability": losses.probability_loss(logits),
    }
    return parts, found, image


def _sent(pairs: Pairs, device: torch.device) -> Pairs:
    """The pairs on the device. Only from pinned memory does the host not wait for the way there,
    and one tensor goes faster than three."""
    if device.type != "cuda":
        first, second, chosen = (x.to(device) for x in pairs)
        return first, second, chosen
    places = torch.stack(pairs[:2], dim=1)
    packed = torch.cat([places, pairs[2].long()], dim=1).pin_memory()
    moved = packed.to(device, non_blocking=True)
    return moved[:, 0], moved[:, 1], moved[:, 2:].bool()


def _background(
    setup: Setup, image: Tensor, first: Tensor, second: Tensor, chosen: Tensor
) -> Tensor:
    """L_bg of the edits [B]; 0 without a segmenter or with weight 0."""
    pool, settings = setup.pool, setup.settings
    if pool.regions is None or pool.table is None or settings.weights.background == 0:
        return image.new_zeros(len(image))
    source_region = union(pool.regions[first], chosen)
    if settings.edit_region == "reference":
        edit_region = union(pool.regions[second], chosen)
    else:
        edit_region = (setup.frozen.outline(image) & chosen[:, :, None, None]).any(dim=1)
    small = shrink(image, settings.compare_size)
    return losses.background_loss(small, pool.images[first].float(), edit_region, source_region)


@torch.no_grad()
def judge(setup: Setup, logits: Tensor, pairs: Pairs) -> dict[str, float]:
    """Held-out figures of a matrix [A+1, n]: 'loss', 'success' and 'leakage'.

    By the measurement's first choices: success is the share of target attributes that read as in
    the reference, leakage the share of other attributes that no longer read as in the source.
    """
    pieces: list[dict[str, Tensor]] = []
    own = torch.arange(len(pairs[0]))[part(len(pairs[0]))]
    size = min(setup.settings.batch, setup.settings.chunk)
    for rows in own.split(size) if len(own) else ():
        first, second, chosen = (x[rows] for x in pairs)
        parts, found, _ = measure_edit(setup, logits, (first, second, chosen))
        best = _first_choices(setup, found.cpu())
        one, two = (_first_choices(setup, setup.pool.readings[x]) for x in (first, second))
        agree = {"reached": _agree(setup, best, two), "kept": _agree(setup, best, one)}
        agree = {k: v.byte().to(logits.device) for k, v in agree.items()}
        pieces.append({k: v.expand(len(rows)) for k, v in parts.items()} | agree)
    mine = {k: torch.cat([x[k] for x in pieces]) for k in (pieces[0] if pieces else ())}
    joined = gathered(mine, logits.device)
    reached, kept = (joined.pop(k).bool().cpu() for k in ("reached", "kept"))
    target, other = pairs[2], ~pairs[2]
    return {
        "loss": float(losses.total_loss(joined, setup.settings.weights)),
        "success": float(reached[target].float().mean()),
        "leakage": float((~kept)[other].float().sum() / max(int(other.sum()), 1)),
    }


def _first_choices(setup: Setup, readings: Tensor) -> Tensor:
    """Most probable phrase of each group, from [B, D]: [B, groups] int64."""
    groups = range(setup.member.shape[1])
    columns = [readings[:, setup.group == g].argmax(dim=1) for g in groups]
    return torch.stack(columns, dim=1)


def _agree(setup: Setup, one: Tensor, two: Tensor) -> Tensor:
    """Whether all groups of an attribute agree, from [B, groups] twice: [B, A] bool."""
    group_owner = [a for a, x in enumerate(setup.pack.attributes) for _ in x.groups]
    owner = torch.tensor(group_owner)
    columns = [(one == two)[:, owner == a].all(dim=1) for a in range(len(setup.pack.attributes))]
    return torch.stack(columns, dim=1)


@torch.no_grad()
def preview(setup: Setup, logits: Tensor, pairs: Pairs) -> Tensor:
    """Source, reference and edit side by side, one row per pair: [3, rows*h, 3*w] in [-1, 1]."""
    pool = setup.pool
    _, _, image = measure_edit(setup, logits, pairs)
    edited = shrink(image, setup.settings.compare_size)
    first, second = (x.to(edited.device) for x in pairs[:2])
    rows = [pool.images[first].float(), pool.images[second].float(), edited]
    return torch.cat(list(torch.cat(rows, dim=3)), dim=1)
