"""The bundled text-image models: small dual encoders of cartoon worlds, all of one shape."""

from pathlib import Path
from typing import TYPE_CHECKING

from sat3d.hookspecs import hookimpl
from sat3d.specs import ClipSpec

if TYPE_CHECKING:
    from collections.abc import Callable

_HERE = Path(__file__).parent
AVATARS = ClipSpec(
    "sat3d-avatars",
    "bundled text-image model of cartoon avatars",
    _HERE / "sat3d-avatars.json",
    _HERE / "weights" / "sat3d-avatars.safetensors",
)
WORLDS = ClipSpec(
    "sat3d-worlds",
    "bundled text-image model of cartoon cats and cars",
    AVATARS.config,
    _HERE / "weights" / "sat3d-worlds.safetensors",
)


@hookimpl
def register_clip_models(register: "Callable[[ClipSpec], None]") -> None:
    """Offer ``sat3d-avatars``, and ``sat3d-worlds`` where its weights are there."""
    register(AVATARS)
    if WORLDS.weights.is_file():
        register(WORLDS)
