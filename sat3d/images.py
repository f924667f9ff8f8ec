"""Reading and writing pictures. What comes from outside is hostile until read."""

import io
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sat3d.errors import InputError
from sat3d.files import read_limited, write_atomically
from sat3d.precision import low_dtype

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours
MAX_BYTES = 64 << 20
MAX_PIXELS = 50_000_000
MIN_SIDE = 16
# A closed list: some of Pillow's readers start other programs (EPS) or are little tested.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")


def read_image(path: Path | str) -> Tensor:
    """A picture file as [1, 3, S, S] float32 RGB in [-1, 1], S its shorter side (centre crop).

    Grey, palette, 16-bit and CMYK pictures become RGB, transparency is laid on white, and the
    camera's rotation (EXIF) is applied. Raises InputError for anything that is not a whole picture.
    """
    path = Path(path)
    data = _read_bytes(path)
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a picture that unfolds to hundreds of megabytes, and of
            # damaged metadata, which must cost nobody the picture.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = _decode(data, path)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(_too_large(path)) from None
    except Exception as error:  # Pillow's readers raise any type on damaged data
        raise InputError(_unreadable(path, error)) from None
    # A copy: torch wants memory that it may write to.
    pixels = torch.from_numpy(np.array(_square(picture), dtype=np.float32))
    return pixels.permute(2, 0, 1).unsqueeze(0).contiguous() / 127.5 - 1


def _read_bytes(path: Path) -> bytes:
    data = read_limited(path, "picture", MAX_BYTES, "Save a smaller picture.")
    if not data:
        raise InputError(f"'{path}' is empty. Give a picture file.")
    return data


def _decode(data: bytes, path: Path) -> Image.Image:
    """The upright picture in mode RGB. Raises InputError for its size, anything for damage."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise InputError(_too_large(path))
        if min(width, height) < MIN_SIDE:
            raise InputError(
                f"'{path}' has {width}x{height} pixels; at least {MIN_SIDE}x{MIN_SIDE} are needed."
            )
        picture.load()
        return _to_rgb(_upright(picture))


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # damaged EXIF costs the rotation, not the picture
        return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip, not scale
        values = np.asarray(picture).astype(np.float64) / 257
        picture = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    if picture.mode == "F":
        raise ValueError("it holds floating-point values; save it with 8 bits a channel")
    if picture.has_transparency_data:
        top = picture.convert("RGBA")
        white = Image.new("RGBA", top.size, "white")
        return Image.alpha_composite(white, top).convert("RGB")
    return picture.convert("RGB")


def _square(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _too_large(path: Path) -> str:
    return f"'{path}' has more than {MAX_PIXELS // 10**6} million pixels. Save a smaller picture."


def _unreadable(path: Path, error: Exception) -> str:
    known = ", ".join(FORMATS)
    if isinstance(error, UnidentifiedImageError):
        return f"'{path}' is not a picture that can be read. Known formats: {known}."
    line = " ".join(str(error).split()) or type(error).__name__
    return f"'{path}' is a damaged or unsupported picture: {line}. Save it again as PNG."


def fit(image: Tensor, resolution: int) -> Tensor:
    """Resize square [B, 3, H, W] in [-1, 1] to [B, 3, resolution, resolution], antialiased.

    The result is in [-1, 1]; differentiable.
    """
    if image.shape[-2:] == (resolution, resolution):
        return image
    size = (resolution, resolution)
    resized = F.interpolate(image, size, mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(-1, 1)  # bicubic weights overshoot at edges


def imagenet_input(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Image [B, 3, H, W] in [-1, 1] as networks for ImageNet's colours see it: [B, 3, *size]."""
    if image.shape[2:] != size:
        image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
    image = (image * 0.5 + 0.5 - _colour(image, _MEAN)) / _colour(image, _STD)
    if low_dtype(image) is not None:  # as tensor cores read it
        image = image.contiguous(memory_format=torch.channels_last)
    return image


def _colour(image: Tensor, values: tuple[float, ...]) -> Tensor:
    """[3, 1, 1] on the image's device, made there: no step of training is to wait for a copy."""
    return torch.stack([image.new_full((1, 1), value) for value in values])


def to_pil(image: Tensor) -> Image.Image:
    """One picture [3, H, W] in [-1, 1] (clamped) as 8-bit RGB."""
    if image.dim() != 3 or image.shape[0] != 3:
        raise ValueError(f"a picture is [3, H, W], not {list(image.shape)}")
    levels = (image.detach().float().clamp(-1, 1) + 1) * 127.5
    return Image.fromarray(levels.round().byte().permute(1, 2, 0).cpu().numpy())


def write_png(path: Path | str, image: Tensor | Image.Image) -> None:
    """Write [3, H, W] in [-1, 1], or a finished picture, as PNG: whole or not at all.

    Raises Sat3dError with the system's reason.
    """
    picture = to_pil(image) if isinstance(image, Tensor) else image
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    write_atomically(Path(path), buffer.getvalue())
