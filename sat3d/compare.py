"""Methods of editing side by side: the same generator, the same pairs, the same readers.

Each method is tried at its own range of intensities on one part of the pairs; the best one for an
attribute, by success less leakage, is measured on the other part.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sat3d.artifact import Masks
from sat3d.editors import draw_pool, values_of
from sat3d.errors import UsageError
from sat3d.interfaces import Bench, Codes, Editor, Generator, Reader, Segmenter
from sat3d.measuring import figures as per_pair
from sat3d.measuring.attribute import Example, fmean_or_none
from sat3d.measuring.intervals import interval
from sat3d.measuring.studio import (
    Bank,
    Edit,
    Studio,
    draw_pairs,
    edits,
    make_bank,
    measured,
    parts,
)
from sat3d.measuring.views import look_around
from sat3d.pool import Measure
from sat3d.progress import SILENT, Phase, Progress, Silent

FIGURES = ("success", "leakage", "margin", "detail", "identity", "consistency")
_MANY, _FEW = 10_000, 400


class CompareSettings(BaseModel):
    """What is compared, and on how much."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: int = Field(40, ge=1, le=1_000_000)
    """Pairs for each attribute that the figures are from."""
    tune_pairs: int = Field(12, ge=1, le=1_000_000)
    """Other pairs, on which each method's best intensity is found."""
    bank: int = Field(200, ge=2, le=10_000)
    """Generated images from which the pairs are drawn."""
    multi_view_pairs: int = Field(5, ge=0)
    """Results looked at from every yaw, for consistency; 0 leaves that out."""
    yaws: tuple[float, ...] = (-30.0, -15.0, 15.0, 30.0)
    pool: int | None = Field(None, ge=4, le=1_000_000)
    """Images that the methods learn from; None: 10000 (InterFaceGAN's number) on a GPU, 400 on
    a CPU."""
    truncation: float = Field(1.0, ge=0.0, le=2.0)
    batch: int = Field(8, ge=1, le=4096)
    seed: int = Field(0, ge=0, le=2**31)
    confidence: float = Field(0.95, gt=0.0, lt=1.0)
    resamples: int = Field(999, ge=99, le=100_000)


@dataclass(frozen=True)
class Comparison:
    """The figures as plain JSON values, and pictures: {method: {attribute: first example}}."""

    figures: dict[str, Any]
    examples: Mapping[str, Mapping[str, Example]]


@dataclass
class _Result:
    """One method and attribute."""

    curve: list[dict[str, float | None]] = field(default_factory=list)
    intensity: float = 0.0
    scores: dict[str, list[float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    example: Example | None = None


@dataclass(frozen=True)
class _Work:
    """What every method is measured with."""

    studio: Studio
    bank: Bank
    names: Sequence[str]
    pairs: Mapping[str, Tensor]
    """Attribute -> [tune_pairs + pairs, 2]."""
    settings: CompareSettings

    def others(self, name: str) -> list[str]:
        """The other attributes."""
        return [x for x in self.names if x != name]


@torch.no_grad()
def compare(
    generator: Generator,
    masks: Masks,
    editors: Mapping[str, Editor],
    reader: Reader,
    measure: Measure | None = None,
    segmenter: Segmenter | None = None,
    settings: CompareSettings | None = None,
    progress: Progress = SILENT,
    identity: Reader | None = None,
) -> Comparison:
    """Fit every editor and measure it on the pairs that all share; see docs/evaluation.md.

    ``editors`` are by the names to report. ``measure`` is the text-image model that methods learn
    from; the reader is kept from them. The first method is compared with each other one, pair by
    pair. A method that cannot work here is skipped and the reason told. All but ``timings`` is the
    same for the same seed on the same machine. Raises MismatchError, UsageError, Sat3dError.
    """
    settings = settings or CompareSettings()
    masks.check(generator)
    names = measured(masks.attributes, reader)
    began = time.monotonic()
    sizes = {a.name: [len(g.phrases) for g in a.groups] for a in masks.pack.attributes}
    count = settings.pool or (_MANY if generator.device.type == "cuda" else _FEW)
    pool = draw_pool(
        generator, measure, sizes, count,
        seed=settings.seed, batch=settings.batch, truncation=settings.truncation, progress=progress,
    )  # fmt: skip
    bench = Bench(
        generator, masks.pack, pool, progress, measure, segmenter, masks, settings.seed,
        settings.batch,
    )  # fmt: skip
    facts, skipped, fit_seconds = _fit(editors, bench)
    ready = {method: editors[method] for method in facts}
    if not ready:
        raise UsageError(f"no method can be compared: {'; '.join(skipped.values())}")
    studio = Studio(
        generator, reader, None, None, Silent(), settings.batch, embed=True, identity=identity
    )
    total = _total(studio, names, list(ready.values()), settings)
    with progress.phase("Comparing", total) as phase:
        work = _work(studio, names, measure, sizes, settings, phase)
        results = {
            method: {name: _measure(work, editor, name) for name in names}
            for method, editor in ready.items()
        }
    figures = {
        "methods": {
            method: {"fit": facts[method], **_told(results[method], settings)} for method in ready
        },
        "skipped": skipped,
        "against": _against(results, settings),
        "pairs": settings.pairs,
        "generator": {"name": generator.name, "weights": generator.card.name},
        "reader": reader.name,
        "identity": (identity or reader).name,
        "segmenter": segmenter.name if segmenter else None,
        "text_image": None if measure is None else dict(measure.identity),
        "settings": {**settings.model_dump(mode="json"), "pool": count},
        "timings": {
            "seconds": round(time.monotonic() - began, 3),
            "seconds_to_fit": fit_seconds,
            "seconds_per_edit": {
                method: fmean(x for one in found.values() for x in one.seconds)
                for method, found in results.items()
            },
        },
    }
    examples = {
        method: {name: one.example for name, one in found.items() if one.example is not None}
        for method, found in results.items()
    }
    return Comparison(figures, examples)


def _fit(
    editors: Mapping[str, Editor], bench: Bench
) -> tuple[dict[str, Any], dict[str, str], dict[str, float]]:
    """(facts, reasons of those that cannot work here, seconds) by method."""
    facts: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for method, editor in editors.items():
        began = time.monotonic()
        try:
            facts[method] = dict(editor.fit(bench))
        except UsageError as error:
            skipped[method] = str(error)
            continue
        seconds[method] = round(time.monotonic() - began, 3)
    return facts, skipped, seconds


def _total(
    studio: Studio, names: Sequence[str], editors: Sequence[Editor], settings: CompareSettings
) -> int:
    """Renders that the comparison takes, without learning."""
    views = min(settings.multi_view_pairs, settings.pairs) * (1 + len(settings.yaws))
    views = views if studio.generator.is_3d and settings.yaws else 0
    tuned = sum(len(x.intensities) for x in editors if len(x.intensities) > 1)
    each = tuned * settings.tune_pairs + len(editors) * (settings.pairs + views)
    return settings.bank + len(names) * each


def _work(
    studio: Studio,
    names: Sequence[str],
    measure: Measure | None,
    sizes: Mapping[str, Sequence[int]],
    settings: CompareSettings,
    phase: Phase,
) -> _Work:
    """Draw the bank, let the text-image model see it, and draw the pairs."""
    studio = Studio(
        studio.generator, studio.reader, None, None, phase, settings.batch, True, studio.identity
    )
    bank = make_bank(studio, settings.bank, settings.seed, settings.truncation)
    if measure is not None:
        bank = _with_values(bank, measure, sizes, settings.batch)
    count = settings.tune_pairs + settings.pairs
    pairs = {name: draw_pairs(bank, name, k, count, settings.seed) for k, name in enumerate(names)}
    return _Work(studio, bank, names, pairs, settings)


def _with_values(
    bank: Bank, measure: Measure, sizes: Mapping[str, Sequence[int]], batch: int
) -> Bank:
    """The bank with what the text-image model sees of its images."""
    device = bank.codes.styles.device
    seen = [
        values_of(measure, sizes, bank.images[part].to(device)) for part in parts(len(bank), batch)
    ]
    values = {
        name: tuple(torch.cat(x) for x in zip(*(one[name] for one in seen), strict=True))
        for name in sizes
    }
    codes = Codes(bank.codes.styles, bank.codes.w, bank.codes.cameras, values)
    return Bank(codes, bank.images, bank.look)


def _measure(work: _Work, editor: Editor, name: str) -> _Result:
    """Find the best intensity on the first pairs, then measure it on the others."""
    result, settings = _Result(), work.settings
    pairs = work.pairs[name]
    tune, rest = pairs[: settings.tune_pairs], pairs[settings.tune_pairs :]
    strengths = editor.intensities
    if len(strengths) > 1:
        result.curve = [_point(work, editor, name, x, tune) for x in strengths]
        result.intensity = _best(result.curve)
    else:
        result.intensity = strengths[0]
    _measure_at(work, _edit(editor, name, result.intensity), name, rest, result)
    return result


def _best(curve: Sequence[Mapping[str, float | None]]) -> float:
    """The intensity of the greatest margin; of several, the middle one by size.

    On few pairs many are equal, and the gentlest and the strongest of them are next to worse ones.
    """
    most = max(point["margin"] or 0.0 for point in curve)
    equal = [p["intensity"] or 0.0 for p in curve if (p["margin"] or 0.0) > most - 1e-9]
    return sorted(equal, key=abs)[(len(equal) - 1) // 2]


def _edit(editor: Editor, name: str, intensity: float) -> Edit:
    def run(source: Codes, reference: Codes) -> Tensor:
        return editor.edit(source, reference, name, intensity)

    return run


def _point(
    work: _Work, editor: Editor, name: str, intensity: float, pairs: Tensor
) -> dict[str, float | None]:
    """Success, leakage and their difference at one intensity."""
    hits: list[float] = []
    leaks: list[float] = []
    edit = _edit(editor, name, intensity)
    for edited in edits(work.studio, work.bank, name, pairs, edit, closely=False):
        hits += per_pair.successes(edited, work.bank)
        leaks += per_pair.mean_leaks(edited, work.bank, work.others(name))
    success, leakage = fmean(hits), fmean_or_none(leaks)
    return {
        "intensity": intensity,
        "success": success,
        "leakage": leakage,
        "margin": success - (leakage or 0.0),
    }


def _measure_at(work: _Work, edit: Edit, name: str, pairs: Tensor, result: _Result) -> None:
    """All figures at one intensity."""
    bank, scores, styles = work.bank, result.scores, []
    for key in FIGURES:
        scores[key] = []
    began = time.monotonic()
    for edited in edits(work.studio, bank, name, pairs, edit):
        _wait(edited.image)
        result.seconds += [(time.monotonic() - began) / len(edited.sources)] * len(edited.sources)
        hits = per_pair.successes(edited, bank)
        leaks = per_pair.mean_leaks(edited, bank, work.others(name))
        scores["success"] += hits
        scores["leakage"] += leaks
        scores["margin"] += [h - x for h, x in zip(hits, leaks or [0.0] * len(hits), strict=True)]
        scores["detail"] += per_pair.details(edited, bank)
        scores["identity"] += per_pair.identities(edited, bank)
        if result.example is None:
            source, reference = edited.sources[0], edited.references[0]
            result.example = Example(
                bank.images[source], bank.images[reference], edited.image[0].cpu()
            )
        styles.append(edited.styles)
        began = time.monotonic()
    some = torch.cat(styles)[: work.settings.multi_view_pairs]
    if work.studio.generator.is_3d and work.settings.yaws and len(some):
        views = look_around(work.studio, some, work.settings.yaws)
        scores["consistency"] = views.agreement[name]


def _wait(image: Tensor) -> None:
    """Let a GPU finish, so that the clock tells the truth."""
    if image.is_cuda:
        torch.cuda.synchronize(image.device)


def _told(found: Mapping[str, _Result], settings: CompareSettings) -> dict[str, Any]:
    """One method's part of the report."""
    attributes: dict[str, dict[str, Any]] = {}
    for name, one in found.items():
        attributes[name] = {
            "intensity": one.intensity,
            **{key: fmean_or_none(values) for key, values in one.scores.items()},
            "interval": _interval([one.scores["margin"]], settings),
            "range": one.curve,
        }
    mean: dict[str, Any] = {}
    for key in FIGURES:
        known = [x for figures in attributes.values() if (x := figures[key]) is not None]
        mean[key] = fmean_or_none(known)
    mean["interval"] = _interval([one.scores["margin"] for one in found.values()], settings)
    return {"attributes": attributes, "mean": mean}


def _against(
    results: Mapping[str, Mapping[str, _Result]], settings: CompareSettings
) -> dict[str, Any]:
    """The first method's margin less each other one's, pair by pair, with intervals."""
    first, *others = results
    told: dict[str, Any] = {}
    for other in others:
        gaps = {
            name: [
                a - b
                for a, b in zip(
                    results[first][name].scores["margin"],
                    results[other][name].scores["margin"],
                    strict=True,
                )
            ]
            for name in results[first]
        }
        rows = {name: _gap([values], settings) for name, values in gaps.items()}
        told[other] = {"attributes": rows, "mean": _gap(list(gaps.values()), settings)}
    return told


def _gap(samples: Sequence[Sequence[float]], settings: CompareSettings) -> dict[str, Any]:
    return {
        "difference": fmean(fmean(x) for x in samples),
        "interval": _interval(samples, settings),
    }


def _interval(samples: Sequence[Sequence[float]], settings: CompareSettings) -> list[float] | None:
    found = interval(samples, settings.seed, settings.confidence, settings.resamples)
    return None if found is None else list(found)
