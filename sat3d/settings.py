"""Every constant of training, each with the paper's number where the paper has one.

The paper leaves some to choice; ``PRESETS`` holds sets of them. ``paper`` is the paper's own.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sat3d.errors import InputError, UsageError, unknown_name

if TYPE_CHECKING:
    from sat3d.interfaces import Generator


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LossWeights(_Model):
    """Weights of the loss terms (paper, equation 7). The paper's lambda_attr is both of the first
    two."""

    target: float = Field(3.5, ge=0.0, description="L_ref, equation 1; paper 3.5")
    preserve: float = Field(3.5, ge=0.0, description="L_src, equation 2; paper 3.5")
    background: float = Field(40.0, ge=0.0, description="L_bg, equation 5; paper 40; 0 is off")
    probability: float = Field(0.1, ge=0.0, description="L_prob, equation 6; paper 0.1")


class StopRule(_Model):
    """When to end early, judged on held-out pairs by the loss that is trained on."""

    every: int = Field(0, ge=0, description="steps between looks at the held-out pairs; 0 is never")
    pairs: int = Field(48, ge=1, description="held-out pairs")
    patience: int = Field(3, ge=1, description="looks without improvement before the end")
    tolerance: float = Field(
        0.005, ge=0.0, description="share by which the loss must fall to count as improvement"
    )


class Preselection(_Model):
    """How the matrix gets its head start (paper, section 3.1)."""

    by: Literal["region", "qmm", "pool", "none"] = Field(
        "region",
        description="'region': gradients of each attribute's region, as in the paper; 'qmm': how "
        "much each channel moves the attribute's own measurement; 'pool': how much of a channel's "
        "variance over the pool the attribute's measurement explains; 'none'",
    )
    images: int = Field(256, ge=1, description="images (region) or pairs (qmm) to average over")
    strength: float | None = Field(
        None, ge=0.0, le=20.0, description="d_t for all attributes; by default the pack's"
    )
    evidence: Literal["size", "consistency"] = Field(
        "size", description="qmm: what a channel's share is counted in"
    )
    share: float = Field(
        0.6,
        ge=0.0,
        le=1.0,
        description="qmm, pool: an attribute takes a channel that gives it at least this share",
    )
    consistency: float = Field(
        0.0,
        ge=0.0,
        description="qmm: and whose mean effect is at least this many standard errors from zero",
    )
    explained: float = Field(
        0.05, ge=0.0, le=1.0, description="pool: and whose variance it explains to at least this"
    )


class TrainSettings(_Model):
    """Settings of one training run."""

    steps: int = Field(300_000, ge=1, description="optimiser steps; paper 300000")
    batch: int = Field(1, ge=1, description="pairs a step; paper 1 (3D) or 4 (2D)")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of everything drawn while training")
    targets: int = Field(1, ge=1, description="attributes transferred at once; paper 1")
    intensity: float = Field(1.0, description="delta of the edit while training; paper 1")
    weights: LossWeights = Field(LossWeights(), description="weights of the loss terms")

    lr: float = Field(0.01, gt=0.0, description="learning rate; paper 0.01")
    flat_share: float = Field(
        1.0, ge=0.0, le=1.0, description="share of the steps before the learning rate falls to 0"
    )
    optimiser: Literal["ranger"] = Field("ranger", description="paper: Ranger")
    betas: tuple[float, float] = Field(
        (0.95, 0.999),
        description="Ranger's decay rates; its warm-up takes about 1 / (1 - the second) steps",
    )
    epsilon: float = Field(
        1e-5, gt=0.0, description="added to Ranger's denominator; paper: Ranger's own 1e-5"
    )
    gradient_centralization: bool = Field(True, description="part of Ranger")
    matrix_layout: Literal["channels", "attributes"] = Field(
        "channels",
        description="first axis of the trained tensor. Centralisation does nothing on 'channels'; "
        "on 'attributes' it keeps each attribute's mean over the channels where it started",
    )

    pool_size: int = Field(6000, ge=4, description="pre-sampled codes; paper 6000")
    pool_seed: int = Field(0, ge=0, lt=2**31, description="seed of the pool")
    pool_tries: int = Field(
        20, ge=1, description="give up after this many candidates per pool place"
    )
    truncation: float = Field(1.0, ge=0.0, le=1.0, description="truncation of the pool's codes")
    chunk: int = Field(16, ge=1, description="images drawn at once where no gradient is kept")
    held_out: float = Field(
        0.1, gt=0.0, le=0.5, description="share of the pool that is never trained on"
    )
    min_gap: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="smallest distance of source and reference in the target, 0 to 1; paper none",
    )

    others_start: float = Field(1.0, description="start of 'others' elsewhere; paper 1")
    preselection: Preselection = Field(Preselection(), description="head start of the matrix")
    softness: float = Field(
        1.0, gt=0.0, description="temperature on the measured probabilities inside the losses"
    )
    edit_region: Literal["segment", "reference"] = Field(
        "segment",
        description="alterable region of the edit: segmented each step (paper), or the "
        "reference's own, which is quicker and fits when cameras differ little",
    )
    draft: bool = Field(False, description="train on draft renders: smaller and quicker")
    compare_size: int | None = Field(
        None, ge=8, description="L_bg compares images of at most this height; by default full"
    )

    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the frozen networks' convolutions and matrix products; the matrix, the "
        "losses, probabilities and the march along rays are always float32",
    )
    graphs: bool = Field(
        False,
        description="CUDA: capture the step's drawing, measuring and their gradient once and "
        "replay that; the same numbers without a thousand launches a step",
    )
    checkpointing: bool = Field(
        False,
        description="keep no features for the gradient but draw the images anew, 'chunk' at once: "
        "memory for a chunk at any batch, for a third more work",
    )

    stop: StopRule = Field(StopRule(), description="early end")
    report_every: int = Field(10, ge=1, description="steps between reports of the losses")
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints")
    preview_every: int = Field(500, ge=0, description="steps between previews; 0 is never")


_QUICK_RECIPE = TrainSettings(
    lr=0.2,
    betas=(0.9, 0.99),
    epsilon=1e-8,
    flat_share=0.6,
    min_gap=0.3,
    others_start=1.0,
    draft=True,
    compare_size=128,
    weights=LossWeights(target=3.5, preserve=0.7, background=10.0, probability=0.1),
    preselection=Preselection(by="qmm", images=96, strength=2.5),
    report_every=5,
    checkpoint_every=50,
    preview_every=50,
)


def _with(base: TrainSettings, **changes: Any) -> TrainSettings:
    return TrainSettings.model_validate({**base.model_dump(), **changes})


_HEAD_START = Preselection(by="pool", share=0.5, strength=3.5)
"""The one that was best by measurement on the bundled generator, and costs no render. It misses so
little that what it leaves to 'others' may start there as firmly (``others_start``)."""

_GPU = _with(
    _QUICK_RECIPE,
    steps=600,
    batch=24,
    pool_size=3000,
    chunk=64,
    preselection=_HEAD_START,
    others_start=3.5,
    stop=StopRule(every=50, pairs=144),
    # At the quick recipe's 0.2 channels that hardly matter fall either way by chance.
    lr=0.1,
    precision="bfloat16",
    graphs=True,
    # A report waits for the device.
    report_every=10,
)

PRESETS: dict[str, TrainSettings] = {
    "paper": TrainSettings(),
    "gpu": _GPU,
    # The same masks in 8 GiB. A graph would keep its memory for itself.
    "gpu8": _with(_GPU, chunk=4, graphs=False, checkpointing=True),
    "cpu": _with(
        _QUICK_RECIPE,
        steps=160,
        batch=6,
        pool_size=600,
        preselection=_HEAD_START,
        others_start=3.5,
        stop=StopRule(every=20, pairs=24),
    ),
    "quick": _with(_QUICK_RECIPE, steps=30, batch=4, pool_size=64, min_gap=0.1),
}


def preset(name: str, device: str = "cpu") -> TrainSettings:
    """The settings of a preset; 'auto' is 'cpu' or 'gpu' by the device's type.

    Raises UsageError for an unknown name.
    """
    key = ("cpu" if device == "cpu" else "gpu") if name == "auto" else name
    if key not in PRESETS:
        raise UsageError(unknown_name("preset", name, ["auto", *PRESETS]))
    return PRESETS[key]


def fitting(name: str, generator: "Generator", assignments: Sequence[str] = ()) -> TrainSettings:
    """The settings of a preset for a generator, then the ``assignments`` (see :func:`override`).

    'auto' goes by the device and takes what the weights advise (``train_settings`` in their
    header). Raises UsageError, and InputError for advice that is no list of texts.
    """
    advice = generator.card.info.get("train_settings", []) if name == "auto" else []
    if not isinstance(advice, list) or not all(isinstance(text, str) for text in advice):
        raise InputError(
            f"weights '{generator.card.name}' have train_settings {advice!r:.80} in their header. "
            "Allowed: a list of texts KEY=VALUE. Name a preset to do without."
        )
    return override(preset(name, generator.device.type), [*advice, *assignments])


def override(settings: TrainSettings, assignments: Sequence[str]) -> TrainSettings:
    """Apply ``key=value`` texts with dotted keys, e.g. ``weights.background=0``.

    Values are read as YAML scalars. Raises UsageError naming the key, the value and what is known.
    """
    data = settings.model_dump()
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set '{text}' is not KEY=VALUE. Write e.g. weights.background=10.")
        _assign(data, key.strip(), _scalar(text, value))
    try:
        return TrainSettings.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"setting '{path}' cannot be {first['input']!r}: {first['msg']}. Choose another value."
        ) from None


def _scalar(text: str, value: str) -> Any:
    try:
        # YAML reads 1e-3 as text, so numbers are tried first.
        return float(value) if "e" in value.lower() else yaml.safe_load(value)
    except ValueError:
        return value.strip()
    except yaml.YAMLError:
        raise UsageError(f"--set '{text}': the value is not a plain one. Quote it.") from None


def _assign(data: dict[str, Any], key: str, value: Any) -> None:
    """Set one dotted key in nested plain data, only where a key already is."""
    *parents, last = key.split(".")
    node: Any = data
    prefix = ""
    for name in parents:
        node = node.get(name) if isinstance(node, dict) else None
        prefix += f"{name}."
    if not isinstance(node, dict):
        raise UsageError(unknown_name("setting", key, [row[0] for row in describe()]))
    if last not in node:
        raise UsageError(unknown_name("setting", key, [prefix + known for known in node]))
    node[last] = value


def describe() -> list[tuple[str, str, str]]:
    """(key, paper's default, description) of every setting, dotted keys, for help and docs."""
    return _describe(TrainSettings, "")


def _describe(model: type[BaseModel], prefix: str) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            rows += _describe(inner, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, str(field.default), field.description or ""))
    return rows
