"""How far a mean could be off by the luck of the pairs: bootstrap intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_CELLS = 4_000_000


def interval(
    samples: Sequence[Sequence[float]],
    seed: int,
    confidence: float = 0.95,
    resamples: int = 999,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean of the samples' means (scipy.stats.bootstrap).

    The samples are drawn anew each on its own, so one sample gives the interval of its mean. None
    if there is none of two or more numbers.
    """
    from scipy import stats

    arrays = [np.asarray(sample, dtype=np.float64) for sample in samples if len(sample) > 1]
    if not arrays:
        return None

    def mean(*drawn: Any, axis: int) -> Any:
        return sum(x.mean(axis=axis) for x in drawn) / len(drawn)

    if all(np.ptp(x) == 0 for x in arrays):
        same = float(sum(x[0] for x in arrays) / len(arrays))
        return same, same
    found = stats.bootstrap(
        arrays,
        mean,
        n_resamples=resamples,
        batch=max(1, _CELLS // max(map(len, arrays))),
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def intervals(
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    seed: int,
    confidence: float,
    resamples: int,
) -> dict[str, Any]:
    """Intervals of every figure of every attribute and of the means over attributes.

    ``scores`` is {attribute: {figure: values}}; the result {'attributes': {attribute: {figure:
    [low, high] or None}}, 'mean': {figure: ...}, 'confidence', 'resamples'}.
    """

    def of(samples: Sequence[Sequence[float]]) -> list[float] | None:
        found = interval(samples, seed, confidence, resamples)
        return None if found is None else list(found)

    figures = list(dict.fromkeys(key for one in scores.values() for key in one))
    attributes = {
        name: {key: of([values]) for key, values in one.items()} for name, one in scores.items()
    }
    mean = {key: of([one[key] for one in scores.values() if key in one]) for key in figures}
    return {
        "attributes": attributes,
        "mean": mean,
        "confidence": confidence,
        "resamples": resamples,
    }
