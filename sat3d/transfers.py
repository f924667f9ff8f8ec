"""The edit in use: attributes of references carried over to a source (paper, section 3.1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from sat3d.artifact import Masks
from sat3d.errors import MismatchError, UsageError
from sat3d.interfaces import Generator
from sat3d.latents import Latent
from sat3d.mask import edit

MAX_INTENSITY = 100.0
MAX_SWEEP = 64


@dataclass(frozen=True)
class Edit:
    """Take these attributes, all at once, from one reference."""

    reference: Latent
    attributes: tuple[str, ...]


def transfer(
    generator: Generator,
    masks: Masks,
    source: Latent,
    edits: Sequence[Edit],
    intensity: float = 1.0,
) -> Latent:
    """Apply the edits to the source, one after the other.

    ``s_edit = s_src + intensity * mask * (s_ref - s_src)`` on the editable channels, where the
    mask is the sum of the attributes' rows. The camera stays the source's. Nothing is changed in
    place. Raises MismatchError for masks of another generator, PackError for an unknown attribute.
    """
    masks.check(generator)
    styles = source.styles
    for step in edits:
        _check_code(step.reference, generator)
        mask = masks.mask(step.attributes).to(styles.device)
        styles = edit(styles, step.reference.styles, mask, generator.layout, intensity)
    words = [f"{' + '.join(x.attributes)} of {x.reference.origin}" for x in edits]
    origin = " with ".join([source.origin, *words])
    return Latent(styles, None, source.camera, origin, {"intensity": intensity})


def _check_code(latent: Latent, generator: Generator) -> None:
    if latent.styles.shape[-1] != generator.layout.channels:
        raise MismatchError(
            f"reference '{latent.origin}' has {latent.styles.shape[-1]} style channels, generator "
            f"'{generator.name}' {generator.layout.channels}. Take both from one generator."
        )


def parse_attributes(texts: Sequence[str], reference: str | None) -> list[tuple[str, list[str]]]:
    """Group ``A`` and ``A=R`` as typed into [(reference, [attributes])], in order of appearance.

    A plain ``A`` takes ``reference``; neighbours with one reference make one edit.
    Raises UsageError for a missing or an unused reference.
    """
    pairs = []
    for text in texts:
        name, equals, own = (part.strip() for part in text.partition("="))
        if not name or (equals and not own):
            raise UsageError(f"--attribute '{text}' is neither NAME nor NAME=REFERENCE.")
        if not own and reference is None:
            raise UsageError(
                f"attribute '{name}' has no reference. Add --reference R or write {name}=R."
            )
        pairs.append((own or str(reference), name))
    if not pairs:
        raise UsageError("nothing to transfer. Add --attribute NAME, once for each attribute.")
    if reference is not None and all("=" in text for text in texts):
        raise UsageError(
            f"--reference '{reference}' is not used: every --attribute names its own. Drop one."
        )
    return [(key, [name for _, name in group]) for key, group in groupby(pairs, lambda x: x[0])]


def parse_sweep(text: str) -> list[float]:
    """Intensities of ``a:b:n``: n numbers from a to b, both included. Raises UsageError."""
    parts = text.split(":")
    try:
        first, last, count = float(parts[0]), float(parts[1]), int(parts[2])
        valid = len(parts) == 3 and 2 <= count <= MAX_SWEEP
    except (ValueError, IndexError):
        valid = False
    if not valid:
        raise UsageError(
            f"--sweep '{text}' is not FROM:TO:COUNT with a count of 2 to {MAX_SWEEP}. "
            "Write e.g. 0:2:5."
        )
    first, last = check_intensity(first), check_intensity(last)
    return [first + (last - first) * k / (count - 1) for k in range(count)]


def canonical(masks: Masks, groups: Sequence[tuple[str, list[str]]]) -> list[tuple[str, ...]]:
    """The attributes of each group by the pack's own names.

    Raises PackError for an unknown one, UsageError for one that is asked for twice.
    """
    rows = [[masks.pack.index(name) for name in names] for _, names in groups]
    flat = [masks.attributes[row] for group in rows for row in group]
    for name in flat:
        if flat.count(name) > 1:
            raise UsageError(f"attribute '{name}' is asked for twice. Ask once.")
    return [tuple(masks.attributes[row] for row in group) for group in rows]


def check_intensity(value: float) -> float:
    """The intensity; raises UsageError unless it is a finite number of sensible size."""
    if not math.isfinite(value) or abs(value) > MAX_INTENSITY:
        raise UsageError(
            f"intensity {value:g} is outside -{MAX_INTENSITY:g} to {MAX_INTENSITY:g}. "
            "Useful values are 1.0 to 2.25."
        )
    return value


def view_angles(views: int, widest: float = 25.0) -> list[float]:
    """Yaw angles in degrees, evenly from -widest to widest; [0.0] for one view."""
    if views == 1:
        return [0.0]
    return [-widest + 2 * widest * k / (views - 1) for k in range(views)]


@torch.no_grad()
def draw(generator: Generator, latent: Latent, yaw: float | None = None) -> Tensor:
    """Image [3, H, W] in [-1, 1] from the latent's camera, or from ``yaw`` degrees."""
    camera = latent.camera if yaw is None else generator.orbit(math.radians(yaw), 0.0)
    return generator.render(latent.styles, camera).image[0].clamp(-1.0, 1.0)
