"""Methods of editing by name, and the bench they learn from."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sat3d.errors import PluginError, Sat3dError, UsageError, unknown_name
from sat3d.interfaces import Codes, Editor, Generator
from sat3d.pool import Measure
from sat3d.progress import SILENT, Progress
from sat3d.registry import Catalogue, discover

# Neither the training pool's seeds nor those of the images that are measured.
_SEED_SPACE = 2_000_000_011


def parse_method(text: str) -> tuple[str, dict[str, str]]:
    """``name:key=value,key=value`` to (name, options). Raises UsageError."""
    name, _, rest = text.strip().partition(":")
    options: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in rest.split(","))):
        key, equals, value = (x.strip() for x in part.partition("="))
        if not key or not equals or key in options:
            raise UsageError(f"method '{text}': '{part}' is not one KEY=VALUE. Write NAME:KEY=1.")
        options[key] = value
    if not name:
        raise UsageError(f"method '{text}' has no name. Write NAME or NAME:KEY=VALUE.")
    return name, options


def load_editor(text: str, catalogue: Catalogue | None = None) -> Editor:
    """The editor of ``name:key=value,...``; it has learned nothing yet.

    Raises UsageError for an unknown name or option, PluginError for a plugin that fails.
    """
    name, options = parse_method(text)
    offer = (catalogue or discover()).editor(name)
    who = f"plugin '{offer.plugin}' ({offer.source})"
    try:
        editor = offer.spec.load(options)
    except Sat3dError:
        raise
    except Exception as error:  # a plugin may raise anything
        raise PluginError(f"{who} cannot load editor '{name}': {error}") from error
    if not isinstance(editor, Editor):
        raise PluginError(f"{who} loads '{name}' as a {type(editor).__name__}, not a sat3d.Editor")
    return editor


def typed_options(method: str, options: Mapping[str, str], **defaults: Any) -> dict[str, Any]:
    """The defaults with the options in their place, each of its default's type (int, float, str).

    Raises UsageError for a key without default and a value of another type.
    """
    known = dict(defaults)
    for key, text in options.items():
        if key not in defaults:
            raise UsageError(f"method '{method}': {unknown_name('option', key, defaults)}")
        kind = type(defaults[key])
        try:
            known[key] = kind(text)
        except ValueError:
            raise UsageError(
                f"method '{method}': option {key}={text} is no {kind.__name__}; "
                f"the default is {defaults[key]}."
            ) from None
    return known


def values_of(measure: Measure, sizes: Mapping[str, Sequence[int]], image: Tensor) -> Any:
    """What the text-image model sees of [B, 3, H, W]: {attribute: one [B, V] for each group}.

    ``sizes`` says how many phrases each group has, in the pack's order.
    """
    found = measure.probabilities(measure.encode_image(image))
    pieces = iter(found.split([size for groups in sizes.values() for size in groups], dim=1))
    return {name: tuple(next(pieces) for _ in groups) for name, groups in sizes.items()}


@torch.no_grad()
def draw_pool(
    generator: Generator,
    measure: Measure | None,
    sizes: Mapping[str, Sequence[int]],
    count: int,
    *,
    seed: int = 0,
    batch: int = 8,
    truncation: float = 1.0,
    progress: Progress = SILENT,
) -> Codes:
    """Images for the editors to learn from, as codes with what the text-image model sees of them.

    Drawn as drafts, each with a camera that also conditions its w. Without a model nothing is
    drawn, and the values stay empty.
    """
    z = generator.sample_latents(count, _SEED_SPACE + seed)
    cameras = generator.sample_cameras(count, _SEED_SPACE + seed)
    w, styles = [], []
    values: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in sizes}
    with progress.phase("Drawing images to learn from", count) as phase:
        for rows in torch.arange(count).split(batch):
            camera = None if cameras is None else cameras[rows]
            w.append(generator.map(z[rows], camera, truncation))
            styles.append(generator.styles(w[-1]))
            if measure is not None:
                image = generator.render(styles[-1], camera, draft=True).image
                for name, found in values_of(measure, sizes, image).items():
                    values[name].append(found)
            phase.advance(len(rows))
    joined = {
        name: tuple(torch.cat(group) for group in zip(*found, strict=True))
        for name, found in values.items()
        if found
    }
    return Codes(torch.cat(styles), torch.cat(w), cameras, joined)
