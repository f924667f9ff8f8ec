"""One image as a style code: what an edit starts from, takes from and ends as.

A source or reference is written ``seed:N``, the path of a saved latent (``.safetensors``) or the
path of an image file; :func:`resolve` turns any of them into a :class:`Latent`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sat3d.errors import InputError, MismatchError, UsageError
from sat3d.interfaces import Generator
from sat3d.progress import SILENT, Progress
from sat3d.weights import load_weights, save_weights

if TYPE_CHECKING:
    from sat3d.inversion import Inversion, InvertSettings

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
LATENT_ENDING = ".safetensors"
_MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Latent:
    """A style code with the camera it is looked at from."""

    styles: Tensor
    """[1, N] float32."""
    w: Tensor | None = None
    """[1, L, W] float32 if the styles are this w's own; None once they were edited."""
    camera: Tensor | None = None
    """[1, 25] float32; None for a 2D generator."""
    origin: str = ""
    """Where it comes from, in words, e.g. 'seed:8'."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """Anything else worth keeping; plain JSON values."""


@dataclass(frozen=True)
class Source:
    """A parsed ``seed:N``, latent path or image path."""

    text: str
    kind: Literal["seed", "latent", "image"]
    seed: int = 0
    path: Path = Path()

    @property
    def label(self) -> str:
        """Short name for pictures and records: 'seed:8' or the file's name."""
        return self.text if self.kind == "seed" else self.path.name


def parse_source(text: str) -> Source:
    """Understand a source as the user typed it. Raises InputError for anything else."""
    if text.startswith("seed:"):
        return Source(text, "seed", seed=_parse_seed(text))
    path = Path(text).expanduser()
    kind = _kind_of(path)
    if kind is None:
        raise InputError(
            f"'{text}' is no source: allowed are seed:N, a saved latent ({LATENT_ENDING}) or an "
            f"image ({' '.join(IMAGE_ENDINGS)}). Check the spelling or convert the file."
        )
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"'{text}' {what}; one {kind} file is needed. Check the path.")
    return Source(text, kind, path=path)


def _kind_of(path: Path) -> Literal["latent", "image"] | None:
    ending = path.suffix.lower()
    if ending == LATENT_ENDING:
        return "latent"
    return "image" if ending in IMAGE_ENDINGS else None


def _parse_seed(text: str) -> int:
    digits = text.removeprefix("seed:")
    # Plain ASCII digits only: int() would also take '1_0', ' 7' and other scripts' digits.
    if digits.isascii() and digits.isdigit() and len(digits) < 20 and int(digits) <= _MAX_SEED:
        return int(digits)
    raise InputError(
        f"'{text}': after seed: comes a whole number from 0 to {_MAX_SEED}. Write e.g. seed:8."
    )


def from_seed(generator: Generator, seed: int, truncation: float = 1.0) -> Latent:
    """The generated image of a seed, looked at from the front."""
    with torch.no_grad():
        w = generator.map(generator.sample_latents(1, seed), truncation=truncation)
        styles = generator.styles(w)
    info = {"truncation": truncation}
    return Latent(styles, w, generator.orbit(0.0, 0.0), f"seed:{seed}", info)


def resolve(
    source: Source | str,
    generator: Generator,
    *,
    truncation: float = 1.0,
    settings: "InvertSettings | None" = None,
    progress: Progress = SILENT,
    on_inversion: "Callable[[Inversion], None] | None" = None,
) -> Latent:
    """The latent of any source; an image is inverted, and ``on_inversion`` then hears how well.

    Raises InputError or MismatchError.
    """
    source = parse_source(source) if isinstance(source, str) else source
    if source.kind == "seed":
        return from_seed(generator, source.seed, truncation)
    if source.kind == "latent":
        saved = load_latent(source.path, generator)
        # The file's name says more in a caption than a long chain of edits.
        return replace(saved, origin=source.label, info={**saved.info, "made": saved.origin})
    from sat3d.images import read_image
    from sat3d.inversion import InvertSettings, invert

    image = read_image(source.path)
    found = invert(generator, image, settings or InvertSettings(), progress, source.label)
    if on_inversion is not None:
        on_inversion(found)
    return found.latent


def save_latent(path: Path | str, latent: Latent, generator: Generator) -> None:
    """Write a latent as .safetensors; the header says whose it is. Whole or not at all."""
    tensors = {"styles": latent.styles}
    if latent.w is not None:
        tensors["w"] = latent.w
    if latent.camera is not None:
        tensors["camera"] = latent.camera
    header = {
        "kind": "latent",
        "generator": generator.name,
        "weights": generator.card.fingerprint,
        "layout": generator.layout.digest,
        "origin": latent.origin,
        "info": dict(latent.info),
    }
    save_weights(Path(path), tensors, header)


def load_latent(path: Path | str, generator: Generator) -> Latent:
    """Read and check a latent. Raises InputError if damaged, MismatchError if another's."""
    path = Path(path)
    if path.suffix.lower() != LATENT_ENDING:
        raise UsageError(f"'{path}' is no saved latent: its name must end in {LATENT_ENDING}.")
    tensors, header = load_weights(path)
    if header.get("kind") != "latent" or "styles" not in tensors:
        kind = header.get("kind", "unknown")
        raise InputError(f"'{path}' is not a saved latent but of kind '{kind}'. Check the path.")
    _check_owner(path, header, generator)
    _check_tensors(path, tensors, generator)
    tensors = {key: value.to(generator.device) for key, value in tensors.items()}
    info = header.get("info")
    return Latent(
        tensors["styles"],
        tensors.get("w"),
        tensors.get("camera", generator.orbit(0.0, 0.0)),
        str(header.get("origin", path.name)),
        info if isinstance(info, dict) else {},
    )


def _check_owner(path: Path, header: Mapping[str, Any], generator: Generator) -> None:
    """Refuse the latent of another generator, other weights or another layout."""
    expected = {
        "generator": generator.name,
        "layout": generator.layout.digest,
        "weights": generator.card.fingerprint,
    }
    for key, own in expected.items():
        found = str(header.get(key, "unknown"))
        if found != own:
            raise MismatchError(
                f"latent '{path}' was made with {key} '{found[:16]}', loaded is '{own[:16]}'. "
                "Load the generator and weights it was made with, or make the latent anew."
            )


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], generator: Generator) -> None:
    """Refuse shapes, types and values that no latent has: a header can be right by accident."""
    camera = tensors.get("camera")
    shapes = {"styles": (1, generator.layout.channels), "camera": (1, 25)}
    for key, value in tensors.items():
        bad_shape = tuple(value.shape) != shapes.get(key, tuple(value.shape))
        if bad_shape or value.dtype != torch.float32 or not bool(value.isfinite().all()):
            raise InputError(
                f"latent '{path}': tensor '{key}' {tuple(value.shape)} {value.dtype} is not "
                f"{shapes.get(key, 'as written')} of finite numbers. Make the latent anew."
            )
    if camera is not None and not generator.is_3d:
        raise MismatchError(
            f"latent '{path}' has a camera, generator '{generator.name}' is 2D. "
            "Load the generator that it was made with."
        )
