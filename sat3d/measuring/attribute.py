"""All figures of one attribute over its pairs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from sat3d.artifact import Masks
from sat3d.interfaces import Codes, Generator
from sat3d.mask import edit as move
from sat3d.measuring import figures as per_pair
from sat3d.measuring.outside import (
    Distance,
    background,
    distance_outside,
    outside_of,
    preservation,
)
from sat3d.measuring.quality import kid
from sat3d.measuring.settings import EvaluateSettings
from sat3d.measuring.studio import Bank, Edit, Edited, Look, Studio, edits, join_looks
from sat3d.measuring.views import look_around

_KEPT = 0.5


@dataclass(frozen=True)
class Example:
    """One pair and its result, for the report; images [3, H, W] in [-1, 1] on the CPU."""

    source: Tensor
    reference: Tensor
    result: Tensor


@dataclass(frozen=True)
class Work:
    """What measuring one attribute needs."""

    studio: Studio
    bank: Bank
    masks: Masks
    settings: EvaluateSettings
    lpips: Distance | None
    examples: int

    def edit(self, name: str, intensity: float) -> Edit:
        """The edit by the mask of one attribute."""
        layout = self.studio.generator.layout
        mask = self.masks.mask([name]).to(self.studio.generator.device)

        def run(source: Codes, reference: Codes) -> Tensor:
            return move(source.styles, reference.styles, mask, layout, intensity)

        return run

    def others(self, name: str) -> list[str]:
        """The other attributes that are read."""
        return [x for x in self.masks.attributes if x != name and x in self.bank.look.values]


@dataclass(frozen=True)
class Found:
    """What was measured of one attribute."""

    scores: dict[str, list[float]]
    """Figure -> values, one for each pair that has it."""
    single: dict[str, float | None]
    """Figures that are no means over pairs."""
    leaks_to: dict[str, float]
    curve: list[dict[str, float | None]]
    examples: list[Example]


def measure_attribute(work: Work, name: str, pairs: Tensor, notes: list[str]) -> Found:
    """All figures of one attribute over pairs [P, 2]; ``notes`` collects what was impossible."""
    settings, bank = work.settings, work.bank
    others = work.others(name)
    scores: dict[str, list[float]] = {"success": [], "leakage": [], "background": []}
    leaks, looks, styles = [], [], []
    examples: list[Example] = []
    for edited in edits(work.studio, bank, name, pairs, work.edit(name, settings.intensity)):
        leak = per_pair.leaks(edited, bank, others)
        leaks.append(leak)
        scores["success"] += per_pair.successes(edited, bank)
        scores["leakage"] += leak.mean(dim=1).tolist() if others else []
        _score_outside(work, edited, scores)
        if "detail" in settings.measure:
            scores.setdefault("detail", []).extend(per_pair.details(edited, bank))
        if "identity" in settings.measure:
            scores.setdefault("identity", []).extend(per_pair.identities(edited, bank))
        examples += _examples(edited, bank, work.examples - len(examples))
        styles.append(edited.styles)
        looks.append(edited.look)
    _score_views(work, name, torch.cat(styles), scores)
    single = _channels(work, name)
    if "kid" in settings.measure:
        before, after = (_features(x) for x in (bank.look, join_looks(looks)))
        single["kid"], note = kid(before, after, settings.seed)
        notes.append(note)
    shares = torch.cat(leaks).mean(dim=0).tolist()
    curve = _curve(work, name, pairs, scores) if "curves" in settings.measure else []
    return Found(scores, single, dict(zip(others, shares, strict=True)), curve, examples)


def _score_outside(work: Work, edited: Edited, scores: dict[str, list[float]]) -> None:
    """Background, preservation and LPIPS of the images that have an outside."""
    row = work.masks.pack.index(edited.name)
    outside = outside_of(work.studio, work.bank, edited, row)
    wanted: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"background": background}
    if "preservation" in work.settings.measure:
        wanted["preservation"] = preservation
        scores.setdefault("preservation", [])
    if (lpips := work.lpips) is not None:
        wanted["lpips"] = lambda *images: distance_outside(lpips, *images)
    if outside is None:
        return
    source = work.bank.images[edited.sources].to(edited.image.device)
    some = outside.flatten(1).any(dim=1)
    for key, figure in wanted.items():
        values = figure(source[some], edited.image[some], outside[some])
        scores.setdefault(key, []).extend(values.double().cpu().tolist())


def _score_views(work: Work, name: str, styles: Tensor, scores: dict[str, list[float]]) -> None:
    """Multi-view figures of the first results [P, N]."""
    settings = work.settings
    colours = "reprojection" in settings.measure
    scores["multi_view"] = []
    if colours:
        scores["reprojection"] = []
    if count_views(work.studio.generator, settings, len(styles)):
        some = styles[: settings.multi_view_pairs]
        views = look_around(work.studio, some, settings.yaws, colours)
        scores["multi_view"] = views.agreement[name]
        if colours:
            scores["reprojection"] = views.reprojection


def unedited(work: Work, names: Sequence[str]) -> dict[str, Any]:
    """What the generator itself reaches: the same figures of images that nobody edited."""
    settings = work.settings
    found: dict[str, Any] = {}
    if "reprojection" in settings.measure and count_views(work.studio.generator, settings, 1):
        styles = work.bank.codes.styles[: settings.multi_view_pairs]
        views = look_around(work.studio, styles, settings.yaws, colours=True)
        found["reprojection"] = fmean(views.reprojection) if views.reprojection else None
        found["multi_view"] = {name: fmean(views.agreement[name]) for name in names}
    if "kid" in settings.measure:
        features = _features(work.bank.look)
        found["kid"] = kid(features[::2], features[1::2], settings.seed)[0]
    return found


def _features(look: Look) -> Tensor:
    assert look.features is not None, "KID asks for embeddings"
    return look.features


def _curve(
    work: Work, name: str, pairs: Tensor, scores: Mapping[str, Sequence[float]]
) -> list[dict[str, float | None]]:
    """Success and leakage of the first pairs at every intensity of the curve."""
    settings, bank, others = work.settings, work.bank, work.others(name)
    some = pairs[: settings.curve_pairs]
    points: list[dict[str, float | None]] = []
    for intensity in settings.curve:
        hits, leaks = scores["success"][: len(some)], scores["leakage"][: len(some)]
        if intensity == 0.0:  # the source itself, which differs from the reference
            hits, leaks = [0.0], [0.0] if others else []
        elif intensity != settings.intensity:  # that one is measured already
            hits, leaks = [], []
            edit = work.edit(name, intensity)
            for edited in edits(work.studio, bank, name, some, edit, closely=False):
                hits += per_pair.successes(edited, bank)
                leaks += per_pair.mean_leaks(edited, bank, others)
        points.append(
            {"intensity": intensity, "success": fmean(hits), "leakage": fmean_or_none(leaks)}
        )
    return points


def _examples(edited: Edited, bank: Bank, wanted: int) -> list[Example]:
    count = max(0, min(wanted, len(edited.sources)))
    return [
        Example(
            bank.images[edited.sources[k]],
            bank.images[edited.references[k]],
            edited.image[k].cpu(),
        )
        for k in range(count)
    ]


def _channels(work: Work, name: str) -> dict[str, float | None]:
    """Precision and recall of the mask's channels against the planted ones, where known."""
    planted = work.studio.generator.planted.get(name)
    if planted is None:
        return {}
    chosen = work.masks.mask([name]).cpu() >= _KEPT
    true = torch.zeros_like(chosen)
    true[planted.cpu()] = True
    both = int((chosen & true).sum())
    return {
        "precision": both / max(1, int(chosen.sum())),
        "recall": both / max(1, int(true.sum())),
    }


def count_views(generator: Generator, settings: EvaluateSettings, most: int) -> int:
    """Renders that looking around takes."""
    if not generator.is_3d or not settings.yaws:
        return 0
    return min(settings.multi_view_pairs, most) * (1 + len(settings.yaws))


def fmean_or_none(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return fmean(values) if values else None
