"""Pictures from outside: every usual kind is read, everything else is one clear line."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from sat3d import images
from sat3d.errors import InputError, Sat3dError
from sat3d.images import fit, read_image, to_pil, write_png

LEVEL = 2 / 255  # one step of an 8-bit channel in [-1, 1]


def corners(mode: str = "RGB", size: tuple[int, int] = (32, 32)) -> Image.Image:
    """White above, red at the lower left, black at the lower right."""
    picture = Image.new("RGB", size, "white")
    width, height = size
    picture.paste("red", (0, height // 2, width // 2, height))
    picture.paste("black", (width // 2, height // 2, width, height))
    return picture.convert(mode)


def saved(
    tmp_path: Path, picture: Image.Image, name: str = "picture.png", **options: object
) -> Path:
    path = tmp_path / name
    picture.save(path, **options)
    return path


def assert_corners(image: torch.Tensor, tolerance: float = LEVEL / 2) -> None:
    """The picture of ``corners`` in [-1, 1]."""
    side = image.shape[-1]
    assert image.shape == (1, 3, side, side)
    assert image.dtype == torch.float32
    near, far = side // 4, 3 * side // 4
    for (y, x), colour in {
        (near, near): (1, 1, 1),
        (far, near): (1, -1, -1),
        (far, far): (-1, -1, -1),
    }.items():
        expected = torch.tensor(colour, dtype=torch.float32)
        torch.testing.assert_close(image[0, :, y, x], expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_pictures_of_any_colour_mode_read_the_same(tmp_path, mode):
    name = "picture.tiff" if mode == "CMYK" else "picture.png"
    assert_corners(read_image(saved(tmp_path, corners(mode), name)))


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("a.bmp", 0.01), ("a.gif", 0.01), ("a.ppm", 0.01), ("a.webp", 0.1), ("a.jpg", 0.1)],
)
def test_the_usual_formats_are_read(tmp_path, name, tolerance):
    # The last two are lossy: a few levels of ringing and chroma rounding.
    assert_corners(read_image(saved(tmp_path, corners(), name)), tolerance)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_pictures_get_three_equal_channels(tmp_path, mode):
    image = read_image(saved(tmp_path, corners().convert("L").convert(mode)))
    assert torch.equal(image[:, 0], image[:, 1])
    assert torch.equal(image[:, 0], image[:, 2])
    assert image[0, 0, 4, 4] == 1
    assert image[0, 0, -4, -4] == -1


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 32 * 32).round().astype(np.uint16).reshape(32, 32)
    image = read_image(saved(tmp_path, Image.fromarray(ramp)))
    expected = torch.from_numpy(ramp.astype(np.float32)) / 65535 * 2 - 1
    torch.testing.assert_close(image[0, 0], expected, atol=LEVEL / 2 + 1e-5, rtol=0)


def test_transparency_is_laid_on_white(tmp_path):
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    half = Image.new("RGBA", (32, 32), (0, 0, 0, 128))
    assert torch.equal(read_image(saved(tmp_path, clear)), torch.ones(1, 3, 32, 32))
    image = read_image(saved(tmp_path, half))
    torch.testing.assert_close(image, torch.full_like(image, -1 / 255), atol=LEVEL, rtol=0)


def test_transparency_of_a_palette_is_laid_on_white(tmp_path):
    picture = Image.new("P", (32, 32), 0)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    image = read_image(saved(tmp_path, picture, transparency=0))
    assert torch.equal(image, torch.ones(1, 3, 32, 32))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_cameras_rotation_is_applied(tmp_path, orientation):
    # What a camera writes: the upright picture turned by the inverse of what the tag asks for.
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    picture = corners(size=(48, 32))
    turned = picture.transpose(inverse[orientation]) if orientation in inverse else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, turned, "a.png", exif=exif)
    assert_corners(read_image(path))


def test_damaged_exif_costs_the_rotation_and_not_the_picture(tmp_path):
    path = saved(tmp_path, corners(), "a.jpg", quality=95, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    assert_corners(read_image(path), 0.1)  # JPEG is lossy


def test_the_middle_square_is_kept(tmp_path):
    wide = Image.new("RGB", (100, 20), "red")
    wide.paste("white", (40, 0, 60, 20))
    assert torch.equal(read_image(saved(tmp_path, wide)), torch.ones(1, 3, 20, 20))


def _bomb() -> bytes:
    """A PNG of few bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is empty"),
        (b"not a picture at all", "not a picture that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n", "not a picture that can be read"),
        (b"\x89PNG\r\n\x1a\n", "not a picture|damaged"),
        (_png(corners(size=(64, 64)))[:-60], "damaged"),
        (_bomb(), "million pixels"),
        (_png(corners(size=(8000, 7000))), "million pixels"),
        (_png(corners(size=(15, 40))), "at least 16x16"),
    ],
)
def test_what_is_no_whole_picture_is_one_clear_line(tmp_path, data, expected):
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=expected) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("path", ["missing.png", ".", "/dev/zero", "zero\0byte.png"])
def test_what_is_no_file_is_refused(path):
    with pytest.raises(InputError, match=r"No such file|is not a file|null byte"):
        read_image(path)


def test_a_file_beyond_the_size_limit_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="larger than"):
        read_image(saved(tmp_path, corners()))


def test_a_text_chunk_that_unfolds_to_gigabytes_is_refused(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    path = saved(tmp_path, corners(), pnginfo=info)
    with pytest.raises(InputError, match="damaged or unsupported"):
        read_image(path)


def test_every_cut_and_flipped_byte_of_a_picture_is_an_image_or_an_input_error(tmp_path):
    """Damage at many places: nothing but InputError comes out, and most of it is noticed."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    refused = 0
    for suffix in ("PNG", "JPEG", "GIF", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, suffix)
        data = buffer.getvalue()
        for k in range(0, len(data), max(1, len(data) // 60)):
            for damaged in (data[:k], data[:k] + bytes([data[k] ^ 255]) + data[k + 1 :]):
                path.write_bytes(damaged)
                try:
                    image = read_image(path)
                    assert image.isfinite().all()
                except InputError:
                    refused += 1
    assert refused > 200


def test_fit_keeps_the_mean_and_the_range():
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    image[:, :, :, 32:] = image[:, :, :, 32:].sign()  # hard edges, where bicubic overshoots
    small = fit(image, 16)
    assert small.shape == (2, 3, 16, 16)
    assert small.abs().max() <= 1
    # Antialiasing averages all pixels; clamping and borders move the mean a little.
    assert abs(small.mean() - image.mean()) < 0.02
    assert fit(image, 64) is image


def test_fit_does_not_alias():
    """A one-pixel checkerboard becomes grey, where plain resampling would keep black or white."""
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 2.0 - 1
    small = fit(board.expand(1, 3, 64, 64), 16)
    assert small[..., 2:-2, 2:-2].abs().max() < 0.05  # windows at the border are cut short


def test_a_picture_written_is_the_picture_read(tmp_path):
    image = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    write_png(tmp_path / "deep" / "a.png", image)
    again = read_image(tmp_path / "deep" / "a.png")
    torch.testing.assert_close(again[0], image, atol=LEVEL / 2 + 1e-6, rtol=0)
    write_png(tmp_path / "b.png", to_pil(again[0]))
    assert torch.equal(read_image(tmp_path / "b.png"), again)


def test_values_beyond_the_range_are_clamped():
    picture = to_pil(torch.tensor([-3.0, 0.0, 3.0]).view(3, 1, 1).expand(3, 2, 2))
    assert picture.getpixel((0, 0)) == (0, 128, 255)
    with pytest.raises(ValueError, match=r"\[3, H, W\]"):
        to_pil(torch.zeros(1, 3, 4, 4))


def test_a_picture_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Sat3dError, match="cannot write"):
        write_png(tmp_path / "file" / "a.png", torch.zeros(3, 16, 16))
