"""What ``sat3d evaluate`` measures, and on how much."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from sat3d.errors import UsageError, unknown_name

Measure = Literal["detail", "identity", "preservation", "reprojection", "kid", "curves"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
"""What can be measured beside the core figures."""


class EvaluateSettings(BaseModel):
    """What is measured, and on how much."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: int = Field(100, ge=1, le=1_000_000)
    """Pairs for each attribute."""
    bank: int = Field(400, ge=2, le=10_000)
    """Generated images from which the pairs are drawn."""
    multi_view_pairs: int = Field(50, ge=0)
    """Results looked at from every yaw; 0 leaves that out."""
    yaws: tuple[float, ...] = (-30.0, -15.0, 15.0, 30.0)
    """Degrees; each is compared with the reading from the front."""
    intensity: float = Field(1.0, ge=-100.0, le=100.0)
    truncation: float = Field(1.0, ge=0.0, le=2.0)
    batch: int = Field(8, ge=1, le=4096)
    seed: int = Field(0, ge=0, le=2**31)
    measure: tuple[Measure, ...] = ()
    """Beside the core figures."""
    curve_pairs: int = Field(40, ge=1)
    """Pairs for each attribute in the intensity curves."""
    curve: tuple[float, ...] = tuple(0.25 * k for k in range(11))
    """Intensities of the curves."""
    confidence: float = Field(0.95, gt=0.0, lt=1.0)
    """Of the bootstrap intervals."""
    resamples: int = Field(999, ge=99, le=100_000)


def parse_measures(text: str) -> tuple[Measure, ...]:
    """``all``, ``core`` or names joined by commas, in the order of MEASURES. Raises UsageError."""
    names = {name.strip() for name in text.split(",") if name.strip()} - {"core"}
    if "all" in names:
        return MEASURES
    for name in sorted(names - set(MEASURES)):
        raise UsageError(f"--measure: {unknown_name('figure', name, ['all', 'core', *MEASURES])}")
    return tuple(name for name in MEASURES if name in names)
