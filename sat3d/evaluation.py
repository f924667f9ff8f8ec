"""Measuring masks with readers that training never saw.

A bank of codes is rendered, read and segmented once; pairs that differ in an attribute are drawn
from it, and only their edits are rendered anew. What is counted is said in :func:`evaluate`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sat3d.artifact import Masks
from sat3d.interfaces import Generator, Reader, Segmenter
from sat3d.measuring.attribute import (
    Example,
    Found,
    Work,
    count_views,
    fmean_or_none,
    measure_attribute,
    unedited,
)
from sat3d.measuring.intervals import intervals
from sat3d.measuring.outside import Distance, load_lpips
from sat3d.measuring.settings import MEASURES as MEASURES
from sat3d.measuring.settings import EvaluateSettings as EvaluateSettings
from sat3d.measuring.settings import parse_measures as parse_measures
from sat3d.measuring.studio import Studio, draw_pairs, make_bank, measured
from sat3d.parallel import gathered_objects, join, share
from sat3d.progress import SILENT, Phase, Progress
from sat3d.regions import region_table
from sat3d.weights import fingerprint


@dataclass(frozen=True)
class Evaluation:
    """The figures as plain JSON values, and pictures."""

    figures: dict[str, Any]
    examples: Mapping[str, Sequence[Example]]


def evaluate(
    generator: Generator,
    masks: Masks,
    reader: Reader,
    segmenter: Segmenter | None = None,
    settings: EvaluateSettings | None = None,
    progress: Progress = SILENT,
    identity: Reader | None = None,
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

    and those of ``settings.measure``: see docs/evaluation.md. ``identity`` is a reader whose
    embedding tells who is shown; None takes ``reader``'s. All but ``seconds`` is the same for the
    same seed on the same machine. ``progress`` counts renders. Raises MismatchError, UsageError,
    or Sat3dError if the bank shows only one value of an attribute.
    """
    return evaluate_all(generator, masks, reader, segmenter, settings, progress, identity).figures


@torch.no_grad()
def evaluate_all(
    generator: Generator,
    masks: Masks,
    reader: Reader,
    segmenter: Segmenter | None = None,
    settings: EvaluateSettings | None = None,
    progress: Progress = SILENT,
    identity: Reader | None = None,
    examples: int = 0,
) -> Evaluation:
    """As :func:`evaluate`, with the pictures of the first ``examples`` pairs of each attribute.

    Started by ``torchrun``, the processes share the bank and the attributes; each gets all figures.
    """
    settings = settings or EvaluateSettings()
    masks.check(generator)
    names = measured(masks.attributes, reader)
    join(generator.device)
    began = time.monotonic()
    lpips, *notes = _lpips(settings, segmenter, generator.device)
    with progress.phase("Measuring", _total(generator, settings, len(names))) as phase:
        studio = _studio(generator, masks, reader, segmenter, settings, phase, identity)
        bank = make_bank(studio, settings.bank, settings.seed, settings.truncation)
        work = Work(studio, bank, masks, settings, lpips, examples)
        pairs = {
            name: draw_pairs(bank, name, k, settings.pairs, settings.seed)
            for k, name in enumerate(names)
        }
        own = [(name, measure_attribute(work, name, pairs[name], notes)) for name in share(names)]
        known = dict(gathered_objects(own))
        found = {name: known[name] for name in names}
        notes = gathered_objects(notes)
        plain = unedited(work, names)
    figures = _figures(found)
    report = {
        "attributes": figures,
        "mean": _mean(list(figures.values())),
        "intervals": intervals(
            {name: x.scores for name, x in found.items()},
            settings.seed,
            settings.confidence,
            settings.resamples,
        ),
        "leaks_to": {name: x.leaks_to for name, x in found.items()},
        "curves": {name: x.curve for name, x in found.items() if x.curve},
        "unedited": plain,
        "notes": list(dict.fromkeys(filter(None, notes))),
        "pairs": settings.pairs,
        "generator": {"name": generator.name, "weights": generator.card.name},
        "masks": {"fingerprint": fingerprint({"mask.logits": masks.logits})},
        "reader": reader.name,
        "identity": (identity or reader).name,
        "segmenter": segmenter.name if segmenter else None,
        "unmeasured": [name for name in masks.attributes if name not in names],
        "settings": settings.model_dump(mode="json"),
        "seconds": round(time.monotonic() - began, 3),
    }
    return Evaluation(report, {name: x.examples for name, x in found.items()})


def _studio(
    generator: Generator,
    masks: Masks,
    reader: Reader,
    segmenter: Segmenter | None,
    settings: EvaluateSettings,
    phase: Phase,
    identity: Reader | None,
) -> Studio:
    table = None
    if segmenter is not None:
        table = region_table(masks.pack, segmenter.labels, segmenter.name, generator.device)
    embed = any(name in settings.measure for name in ("detail", "identity", "kid"))
    return Studio(
        generator, reader, segmenter, table, phase, settings.batch, embed,
        identity if "identity" in settings.measure else None,
    )  # fmt: skip


def _lpips(
    settings: EvaluateSettings, segmenter: Segmenter | None, device: torch.device
) -> tuple[Distance | None, str]:
    """LPIPS if it is wanted and there, and else the reason."""
    if "preservation" not in settings.measure:
        return None, ""
    return load_lpips(device) if segmenter else (None, "no segmenter: nothing is 'outside'.")


def _total(generator: Generator, settings: EvaluateSettings, attributes: int) -> int:
    """Renders that the whole measurement takes."""
    views = count_views(generator, settings, settings.pairs)
    each = settings.pairs + views
    if "curves" in settings.measure:
        new = [x for x in settings.curve if x not in (0.0, settings.intensity)]
        each += min(settings.curve_pairs, settings.pairs) * len(new)
    plain = 0
    if "reprojection" in settings.measure:
        plain = count_views(generator, settings, settings.bank)
    return settings.bank + attributes * each + plain


_ORDER = ("success", "leakage", "background", "precision", "recall", "multi_view")


def _figures(found: Mapping[str, Found]) -> dict[str, dict[str, float | None]]:
    """Means over the pairs beside the figures that are none, the core figures first."""
    figures = {}
    for name, one in found.items():
        values = {key: fmean_or_none(x) for key, x in one.scores.items()} | one.single
        known = [key for key in _ORDER if key in values]
        figures[name] = {key: values[key] for key in dict.fromkeys([*known, *values])}
    return figures


def _mean(figures: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Mean over the attributes that have the figure."""
    keys = list(dict.fromkeys(key for figure in figures for key in figure))
    known = {key: [x for f in figures if (x := f.get(key)) is not None] for key in keys}
    return {key: fmean_or_none(values) for key, values in known.items()}
