"""Labelled pictures: tiles on white under small grey captions, laid out in panels.

A sheet is a title and panels one below the other; a panel is a grid of tiles with an optional
label for every row and column. Images come in as [3, H, W] float32 in [-1, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sat3d.images import to_pil

WHITE = (255, 255, 255)
INK = (32, 33, 36)
GREY = (110, 114, 120)
HAIRLINE = (226, 228, 232)
MARGIN = 40
GAP = 14
CAPTION = 17
TITLE = 26
_SMOOTH = 4

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Tile:
    """One image and what is written under it (one line, or several by newline)."""

    image: Tensor
    """[3, H, W] float32 in [-1, 1]."""
    caption: str = ""


@dataclass(frozen=True)
class Panel:
    """A grid of tiles; None leaves a cell empty."""

    rows: Sequence[Sequence[Tile | None]]
    title: str = ""
    row_labels: Sequence[str] = ()
    column_labels: Sequence[str] = ()
    fill: bool = False
    """Enlarge the tiles, at most twice, to the width of the widest panel."""


def sheet(panels: Sequence[Panel], title: str = "", note: str = "", side: int = 0) -> Image.Image:
    """Draw the panels one below the other on white; ``side`` is the tiles' size in pixels.

    Without ``side`` small images are enlarged: twice, or more up to 256.
    """
    side = side or _tile_side(panels)
    widest = max((_panel_width(panel, side) for panel in panels), default=0)
    drawn = [_draw_panel(panel, _filled(panel, side, widest)) for panel in panels]
    heading = _draw_text(title, TITLE, INK) if title else None
    footer = _draw_text(note, CAPTION - 2, GREY) if note else None
    blocks = [b for b in (heading, *drawn, footer) if b is not None]
    width = max(block.width for block in blocks) + 2 * MARGIN
    height = sum(block.height for block in blocks) + MARGIN * 2 + (len(blocks) - 1) * 2 * GAP
    canvas = Image.new("RGB", (width, height), WHITE)
    top = MARGIN
    for block in blocks:
        canvas.paste(block, (MARGIN, top))
        top += block.height + 2 * GAP
    return canvas


def _tile_side(panels: Sequence[Panel]) -> int:
    """Side of all tiles: the largest image's, enlarged if small, reduced if the sheet is huge."""
    cells = [tile for panel in panels for row in panel.rows for tile in row if tile]
    size = max((tile.image.shape[-1] for tile in cells), default=128)
    columns = max((_columns(panel) for panel in panels), default=1)
    enlarged = size * max(1, -(-200 // size))
    return max(96, min(enlarged, 512, 6000 // max(1, columns)))


def _columns(panel: Panel) -> int:
    return max((len(row) for row in panel.rows), default=0)


def _panel_width(panel: Panel, side: int) -> int:
    return _label_width(panel.row_labels) + _columns(panel) * (side + GAP) - GAP


def _filled(panel: Panel, side: int, width: int) -> int:
    """Side of this panel's tiles when the sheet is ``width`` wide."""
    if not panel.fill or not _columns(panel):
        return side
    room = (width + GAP - _label_width(panel.row_labels)) // _columns(panel) - GAP
    return max(side, min(room, 2 * side))


def _draw_panel(panel: Panel, side: int) -> Image.Image:
    """One grid with its labels."""
    left = _label_width(panel.row_labels)
    title = _draw_text(panel.title, CAPTION + 2, INK) if panel.title else None
    head = _line_height(CAPTION) + GAP // 2 if any(panel.column_labels) else 0
    above = head + (title.height + GAP if title else 0)
    heights = [side + _caption_height(row, side) for row in panel.rows]
    height = above + sum(heights) + GAP * max(0, len(heights) - 1)
    width = max(_panel_width(panel, side), title.width if title else 0)
    canvas = Image.new("RGB", (width, height), WHITE)
    if title:
        canvas.paste(title, (0, 0))
    for column, text in enumerate(panel.column_labels):
        x = left + column * (side + GAP) + side // 2
        _write(canvas, (x, above - head), _shorten(text, side), "ma")
    top = above
    for k, row in enumerate(panel.rows):
        if k < len(panel.row_labels):
            _write(canvas, (0, top + side // 2), panel.row_labels[k], "lm")
        for column, tile in enumerate(row):
            if tile is not None:
                _place(canvas, tile, (left + column * (side + GAP), top), side)
        top += heights[k] + GAP
    return canvas


def _place(canvas: Image.Image, tile: Tile, corner: tuple[int, int], side: int) -> None:
    """Paste one tile with rounded corners and write its caption, centred."""
    picture = to_pil(tile.image)
    if picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    canvas.paste(picture, corner, _rounded(side))
    line = _line_height(CAPTION)
    for k, text in enumerate(_lines(tile.caption)):
        x, y = corner[0] + side // 2, corner[1] + side + 8 + k * line
        colour = INK if k == 0 else GREY
        _write(canvas, (x, y), _shorten(text, side), "ma", colour)


def _rounded(side: int, radius: int = 10) -> Image.Image:
    """Mask of a square with rounded corners, drawn large and reduced for smooth edges."""
    large = Image.new("L", (side * _SMOOTH, side * _SMOOTH), 0)
    box = (0, 0, side * _SMOOTH - 1, side * _SMOOTH - 1)
    ImageDraw.Draw(large).rounded_rectangle(box, radius * _SMOOTH, fill=255)
    return large.resize((side, side), Image.Resampling.LANCZOS)


def _lines(text: str) -> list[str]:
    return text.split("\n") if text else []


def _caption_height(row: Sequence[Tile | None], side: int) -> int:
    most = max((len(_lines(tile.caption)) for tile in row if tile), default=0)
    return most * _line_height(CAPTION) + 8 if most else 0


def _label_width(labels: Sequence[str]) -> int:
    widths = [_font(CAPTION).getlength(text) for text in labels]
    return int(max(widths)) + 2 * GAP if any(labels) else 0


def _font(size: int) -> Font:
    """Pillow's own scalable font, so that pictures look the same everywhere."""
    return ImageFont.load_default(size=size)


def _line_height(size: int) -> int:
    return int(size * 1.35)


def _draw_text(text: str, size: int, colour: tuple[int, int, int]) -> Image.Image:
    """Text on a white strip of its own size."""
    width = int(_font(size).getlength(text)) + 2
    strip = Image.new("RGB", (width, _line_height(size)), WHITE)
    ImageDraw.Draw(strip).text((0, 0), text, fill=colour, font=_font(size))
    return strip


def _write(
    canvas: Image.Image,
    place: tuple[int, int],
    text: str,
    anchor: str,
    colour: tuple[int, int, int] = GREY,
) -> None:
    pen = ImageDraw.Draw(canvas)
    pen.text(place, text, fill=colour, font=_font(CAPTION), anchor=anchor)


def _shorten(text: str, width: int) -> str:
    """The text cut with an ellipsis where it is wider than ``width`` pixels."""
    font = _font(CAPTION)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
