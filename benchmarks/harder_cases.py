"""The cases that are hard by their nature, each measured over pairs of one bank of images."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from sat3d.artifact import Masks
from sat3d.descriptors import Attribute, DescriptorPack
from sat3d.errors import Sat3dError
from sat3d.interfaces import Codes, Generator, Reader
from sat3d.inversion import GOOD_PSNR, Inversion, InvertSettings, invert
from sat3d.mask import edit
from sat3d.measuring.intervals import interval
from sat3d.measuring.studio import (
    SEED_SPACE,
    Bank,
    Studio,
    edits,
    join_looks,
    make_bank,
    measured,
    parts,
)
from sat3d.progress import SILENT, Progress

POSES = ("code", "front", "turned")
"""What is known of the reference: its code, its frontal picture, its picture from the side."""
Scores = dict[str, dict[str, list[float]]]
"""Pose -> figure -> values, one for each pair."""
_DRAWN = 4096
_NO_LIMIT = 1e9
_STREAMS = 3
"""Kinds of pairs, each of which has random numbers of its own."""


@dataclass(frozen=True)
class Plan:
    """How much is measured, and how."""

    pairs: int = 100
    """For each attribute, and for each two at once."""
    bank: int = 300
    inverted: int = 24
    """References whose pictures are inverted; 0 leaves them out."""
    yaw: float = 30.0
    """Degrees to either side."""
    intensity: float = 1.0
    batch: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What the reader sees in P edits: attribute -> [P] bool."""

    hit: Mapping[str, Tensor]
    """It reads as the reference's."""
    kept: Mapping[str, Tensor]
    """It reads as the source's."""

    def leakage(self, targets: Sequence[str]) -> list[float]:
        """Share of the attributes but these that changed, for each edit; [] if there are none."""
        rest = [~kept for name, kept in self.kept.items() if name not in targets]
        return torch.stack(rest).double().mean(dim=0).tolist() if rest else []


@dataclass(frozen=True)
class Ground:
    """What all cases stand on."""

    studio: Studio
    masks: Masks
    names: Sequence[str]
    """The masks' attributes that are read."""
    bank: Bank
    plan: Plan
    progress: Progress = field(default=SILENT)

    @contextmanager
    def watched(self, description: str, edits: int) -> Iterator["Ground"]:
        """A ``with`` block in which so many edits are drawn."""
        with self.progress.phase(description, edits) as phase:
            yield replace(self, studio=replace(self.studio, phase=phase))

    def random(self, stream: int, names: Sequence[str]) -> torch.Generator:
        """Random numbers of one kind of pairs and one or two attributes."""
        number = self.plan.seed * _STREAMS + stream
        for row in ([self.masks.attributes.index(name) for name in names] + [0])[:2]:
            number = number * 64 + row
        return torch.Generator().manual_seed(SEED_SPACE + number)

    def pairs(self, names: Sequence[str], stream: int, references: int) -> Tensor:
        """Places [P, 2] of sources, and of references among the first ones, that differ in these.

        Raises Sat3dError if the bank shows only one value of an attribute.
        """
        random = self.random(stream, names)
        values = torch.stack([self.bank.look.values[name] for name in names])
        for name, shown in zip(names, values, strict=True):
            # Where each of two attributes differs somewhere, some pair differs in both.
            if len(shown.unique()) == 1:
                raise Sat3dError(
                    f"all {len(self.bank)} sampled images show one value of '{name}', so no pair "
                    "differs in it. Raise --bank."
                )
        found: list[Tensor] = []
        while sum(map(len, found)) < self.plan.pairs:
            source = torch.randint(len(self.bank), (_DRAWN,), generator=random)
            reference = torch.randint(references, (_DRAWN,), generator=random)
            differ = (values[:, source] != values[:, reference]).all(dim=0)
            found.append(torch.stack([source, reference], dim=1)[differ])
        return torch.cat(found)[: self.plan.pairs]

    @torch.no_grad()
    def outcome(self, pairs: Tensor, targets: Sequence[str], bank: Bank | None = None) -> Outcome:
        """Edit the targets, all at once, in pairs [P, 2] of the bank, draw and read."""
        bank = bank or self.bank
        generator = self.studio.generator
        mask = self.masks.mask(targets).to(generator.device)

        def move(source: Codes, reference: Codes) -> Tensor:
            layout, intensity = generator.layout, self.plan.intensity
            return edit(source.styles, reference.styles, mask, layout, intensity)

        made = edits(self.studio, bank, targets[0], pairs, move, closely=False)
        seen = join_looks([one.look for one in made]).values
        sources, references = pairs.unbind(dim=1)
        known = bank.look.values
        return Outcome(
            {name: seen[name] == known[name][references] for name in self.names},
            {name: seen[name] == known[name][sources] for name in self.names},
        )

    def mean(self, *samples: Tensor | Sequence[float]) -> dict[str, Any] | None:
        """Mean of the samples' means with its interval; None of nothing."""
        lists = [x.tolist() if isinstance(x, Tensor) else list(x) for x in samples]
        lists = [[float(x) for x in some] for some in lists if len(some)]
        if not lists:
            return None
        around = interval(lists, self.plan.seed)
        value = fmean(fmean(some) for some in lists)
        return {"mean": value, "interval": None if around is None else list(around)}


@torch.no_grad()
def prepare(
    generator: Generator, masks: Masks, reader: Reader, plan: Plan, progress: Progress = SILENT
) -> Ground:
    """Draw and read the bank. Raises MismatchError, UsageError."""
    masks.check(generator)
    names = measured(masks.attributes, reader)
    with progress.phase("Drawing the bank", plan.bank) as phase:
        studio = Studio(generator, reader, None, None, phase, plan.batch)
        bank = make_bank(studio, plan.bank, plan.seed, truncation=1.0)
    return Ground(studio, masks, names, bank, plan, progress)


def sharing(pack: DescriptorPack, names: Sequence[str]) -> list[tuple[str, str]]:
    """Every two of these attributes whose alterable regions have a label in common."""

    def share(one: Attribute, two: Attribute) -> bool:
        if one.region is None or two.region is None:  # all of the image
            return True
        return not set(one.region.labels).isdisjoint(two.region.labels)

    known = [attribute for attribute in pack.attributes if attribute.name in names]
    return [(one.name, two.name) for one, two in combinations(known, 2) if share(one, two)]


def together(ground: Ground, two: tuple[str, str]) -> dict[str, Any]:
    """Both attributes of a reference that differs in both, and each of them alone."""
    pairs = ground.pairs(two, 0, len(ground.bank))
    with ground.watched(" + ".join(two), 3 * len(pairs)) as busy:
        both, *single = (busy.outcome(pairs, names) for names in (two, two[:1], two[1:]))
    alone = {}
    for name, other, found in zip(two, two[::-1], single, strict=True):
        alone[name] = {
            "success": ground.mean(found.hit[name]),
            "moved": ground.mean(~found.kept[other]),
            "leakage": ground.mean(found.leakage(two)),
        }
    return {
        "both": {
            "success": ground.mean(both.hit[two[0]] & both.hit[two[1]]),
            "each": {name: ground.mean(both.hit[name]) for name in two},
            "leakage": ground.mean(both.leakage(two)),
        },
        "alone": alone,
    }


def rare(ground: Ground) -> dict[str, Any]:
    """Success by the reference's value, the same number of pairs for each that the bank shows."""
    attributes: dict[str, Any] = {}
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name in ground.names:
        shown = ground.bank.look.values[name]
        titles = ground.studio.reader.attributes[name]
        pairs = _each_value(ground, name, len(titles))
        hits = torch.zeros(0)
        if len(pairs):
            with ground.watched(f"Values of {name}", len(pairs)) as busy:
                hits = busy.outcome(pairs, [name]).hit[name]
        attributes[name] = rows = []
        for value, title in enumerate(titles):
            own = hits[shown[pairs[:, 1]] == value]
            share = float((shown == value).double().mean())
            is_rare = share < 0.5 / len(titles)
            if len(own):
                groups[is_rare].append(own)
            rows.append({
                "value": title, "share": share, "rare": is_rare, "pairs": len(own),
                "success": ground.mean(own),
            })  # fmt: skip
    return {
        "attributes": attributes,
        "rare": ground.mean(*groups[True]),
        "others": ground.mean(*groups[False]),
    }


def _each_value(ground: Ground, name: str, values: int) -> Tensor:
    """Places [P, 2]: for each value shown, references that have it and sources that do not."""
    shown = ground.bank.look.values[name]
    random = ground.random(1, [name])
    found = [torch.zeros(0, 2, dtype=torch.int64)]
    for value in shown.unique().tolist():
        sides = [(shown != value).nonzero()[:, 0], (shown == value).nonzero()[:, 0]]
        if len(sides[0]) == 0:  # everybody has it
            continue
        count = math.ceil(ground.plan.pairs / values)
        drawn = [x[torch.randint(len(x), (count,), generator=random)] for x in sides]
        found.append(torch.stack(drawn, dim=1))
    return torch.cat(found)


def poses(ground: Ground) -> dict[str, Any]:
    """The same pairs with the reference's code, and with what its pictures are inverted to."""
    count = min(ground.plan.inverted, len(ground.bank))
    found = {pose: _inverted(ground, count, pose) for pose in POSES[1:]}
    bank = _joined(ground.bank, list(found.values()))
    scores = {name: _by_pose(ground, bank, name, count) for name in ground.names}
    return {
        "references": count,
        "inversions": {pose: _quality(ground, some) for pose, some in found.items()},
        "attributes": {
            name: {
                pose: {key: ground.mean(x) for key, x in figures.items()}
                for pose, figures in of_pose.items()
            }
            for name, of_pose in scores.items()
        },
        "mean": {pose: _over(ground, list(scores.values()), pose) for pose in POSES},
        "difference": {
            f"{pose} less {before}": _over(ground, list(scores.values()), pose, before)
            for before, pose in pairwise(POSES)
        },
    }


def _by_pose(ground: Ground, bank: Bank, name: str, count: int) -> Scores:
    """One attribute's figures of every pair; ``bank`` is :func:`_joined`'s."""
    pairs = ground.pairs([name], 2, count)
    # Where the references' codes, and those of their pictures, begin in the bank.
    starts = 0, len(ground.bank), len(ground.bank) + count
    found: Scores = {}
    with ground.watched(f"Poses, {name}", len(POSES) * len(pairs)) as busy:
        for pose, start in zip(POSES, starts, strict=True):
            outcome = busy.outcome(pairs + torch.tensor([0, start]), [name], bank)
            success = outcome.hit[name].double().tolist()
            found[pose] = {"success": success, "leakage": outcome.leakage([name])}
    return found


def _over(
    ground: Ground,
    scores: Sequence[Scores],
    pose: str,
    less: str | None = None,
) -> dict[str, Any]:
    """Means over the attributes; ``less``: of what is more than with that, pair by pair."""

    def of(one: Scores, key: str) -> list[float]:
        values = one[pose][key]
        return (
            values if less is None else [x - y for x, y in zip(values, one[less][key], strict=True)]
        )

    return {key: ground.mean(*(of(one, key) for one in scores)) for key in ("success", "leakage")}


def _inverted(ground: Ground, count: int, pose: str) -> list[Inversion]:
    """Draw the first codes of the bank in a pose and find them again, as for an image file."""
    # The time limit would make the figures depend on the machine's load.
    settings = InvertSettings(max_seconds=_NO_LIMIT)
    pictures = _pictures(ground, count, ground.plan.yaw if pose == POSES[2] else 0.0)
    found = []
    for k in range(count):
        origin = f"{pose} {k + 1}/{count}"
        one = pictures[k : k + 1]
        found.append(invert(ground.studio.generator, one, settings, ground.progress, origin))
    return found


@torch.no_grad()
def _pictures(ground: Ground, count: int, yaw: float) -> Tensor:
    """The first codes [count, 3, H, W] at a yaw in degrees, every other one from the other side."""
    studio = replace(ground.studio, phase=SILENT)
    turns = [math.radians(yaw if k % 2 == 0 else -yaw) for k in range(count)]
    found = [studio.generator.orbit(turn, 0.0) for turn in turns]
    cameras = torch.cat([camera for camera in found if camera is not None])
    styles = ground.bank.codes.styles
    drawn = [studio.draw(styles[x], cameras[x]).image for x in parts(count, studio.batch)]
    return torch.cat(drawn)


def _joined(bank: Bank, found: Sequence[Sequence[Inversion]]) -> Bank:
    """The bank and after it its first codes as they were found again, known by their true looks."""
    latents = [one.latent for some in found for one in some]
    cameras = [one.camera for one in latents if one.camera is not None]
    assert bank.codes.cameras is not None, "only a 3D generator has poses"
    codes = Codes(
        torch.cat([bank.codes.styles, *(one.styles for one in latents)]),
        None,
        torch.cat([bank.codes.cameras, *cameras]),
    )
    images = torch.cat([bank.images, *(one.target.cpu() for some in found for one in some)])
    looks = [bank.look, *(bank.look[: len(some)] for some in found)]
    return Bank(codes, images, join_looks(looks))


def _quality(ground: Ground, found: Sequence[Inversion]) -> dict[str, Any]:
    poor = sum(one.psnr < GOOD_PSNR for one in found)
    return {"psnr": ground.mean([one.psnr for one in found]), "poor": poor}
