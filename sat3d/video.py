"""Turntable videos: one style code seen from a camera that sways from side to side."""

import importlib
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sat3d.errors import Sat3dError, UsageError
from sat3d.files import refuse_existing
from sat3d.images import to_pil
from sat3d.interfaces import Generator

ENDINGS = (".mp4", ".gif")


def check_ending(path: Path) -> None:
    """Raise UsageError for a kind of video that cannot be written."""
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"video '{path}' must end in one of: {' '.join(ENDINGS)}.")


def check_turns(generator: Generator) -> None:
    """Raise UsageError for a generator without cameras."""
    if not generator.is_3d:
        raise UsageError(f"generator '{generator.name}' is 2D: there is nothing to turn.")


def turntable(
    generator: Generator, styles: Tensor, frames: int = 60, widest: float = 25.0
) -> Iterator[Tensor]:
    """Frames [3, H, W] in [-1, 1] of styles [B, N] side by side ([3, H, B*W]), a seamless loop.

    The yaw follows a sine of ``widest`` degrees, so that the turn eases at both ends.
    """
    for k in range(frames):
        phase = 2.0 * math.pi * k / frames
        camera = generator.orbit(math.radians(widest) * math.sin(phase), 0.0)
        camera = camera.expand(len(styles), -1) if camera is not None else None
        with torch.no_grad():
            images = generator.render(styles, camera).image.clamp(-1.0, 1.0)
        yield torch.cat(list(images), dim=-1)


def write_video(
    path: Path,
    frames: Iterator[Tensor],
    fps: int = 24,
    overwrite: bool = False,
) -> None:
    """Write frames [3, H, W] in [-1, 1] as .mp4 or .gif; the ending decides.

    Written beside the target and renamed when whole. Raises UsageError for another ending or an
    existing file, Sat3dError if the encoder is missing or fails.
    """
    check_ending(path)
    refuse_existing(path, overwrite)
    iio = _imageio()
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        part = scratch / f"turn{path.suffix.lower()}"
        with iio.get_writer(part, **_options(path, fps)) as writer:
            for frame in frames:
                writer.append_data(_pixels(frame))
        part.replace(path)
    except (OSError, RuntimeError, ImportError, ValueError) as error:
        raise Sat3dError(f"cannot write video '{path}': {_first_line(error)}. {_REMEDY}") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


_REMEDY = "Free space, install 'imageio[ffmpeg]', or ask for a .gif."


def _imageio() -> Any:
    try:
        return importlib.import_module("imageio.v2")
    except ImportError as error:
        raise Sat3dError(f"videos need imageio: {error}. Install 'imageio[ffmpeg]'.") from None


def _options(path: Path, fps: int) -> dict[str, Any]:
    if path.suffix.lower() == ".gif":
        return {"mode": "I", "duration": 1000.0 / fps, "loop": 0}
    return {"fps": fps, "codec": "libx264", "quality": 8, "macro_block_size": 2}


def _pixels(frame: Tensor) -> Any:
    """[H, W, 3] uint8 array of even size, twice as large if small: players blur small videos."""
    import numpy as np
    from PIL import Image

    picture = to_pil(frame)
    scale = 2 if picture.height < 256 else 1
    width, height = (side * scale - side * scale % 2 for side in picture.size)
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
