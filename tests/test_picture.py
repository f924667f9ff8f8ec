"""Labelled pictures."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sat3d.picture import GAP, MARGIN, Panel, Tile, sheet

SIDE = 200


def plain(*colour: float) -> Tensor:
    return torch.tensor(colour)[:, None, None].expand(3, 16, 16)


RED = plain(1.0, -1.0, -1.0)
BLUE = plain(-1.0, -1.0, 1.0)


def middle(canvas: Image.Image, column: int, top: int = MARGIN, side: int = SIDE) -> object:
    x = MARGIN + column * (side + GAP) + side // 2
    return canvas.getpixel((x, top + side // 2))


def test_tiles_stand_side_by_side_on_white() -> None:
    canvas = sheet([Panel([[Tile(RED), Tile(BLUE)]])], side=SIDE)
    assert canvas.size == (2 * MARGIN + 2 * SIDE + GAP, 2 * MARGIN + SIDE)
    assert middle(canvas, 0) == (255, 0, 0)
    assert middle(canvas, 1) == (0, 0, 255)
    # Margin, the gap between tiles, and a rounded corner.
    for place in ((0, 0), (MARGIN + SIDE + GAP // 2, MARGIN + 9), (MARGIN, MARGIN)):
        assert canvas.getpixel(place) == (255, 255, 255)


def test_an_empty_cell_stays_white() -> None:
    canvas = sheet([Panel([[None, Tile(RED)]])], side=SIDE)
    assert middle(canvas, 0) == (255, 255, 255)
    assert middle(canvas, 1) == (255, 0, 0)


def test_small_images_are_enlarged_by_whole_numbers() -> None:
    canvas = sheet([Panel([[Tile(RED)]])])
    assert canvas.width == 2 * MARGIN + 16 * 13  # the first multiple of 16 that reaches 200
    big = sheet([Panel([[Tile(RED.repeat(1, 32, 32))]])])
    assert big.width == 2 * MARGIN + 512


@pytest.mark.parametrize("where", ["title", "note", "caption", "row", "column", "panel"])
def test_every_text_leaves_ink(where: str) -> None:
    def draw(text: str) -> Image.Image:
        texts = dict.fromkeys(("title", "note", "caption", "row", "column", "panel"), "")
        texts[where] = text
        panel = Panel(
            [[Tile(plain(1, 1, 1), texts["caption"])]],
            texts["panel"],
            [texts["row"]],
            [texts["column"]],
        )
        return sheet([panel], texts["title"], texts["note"], side=SIDE)

    assert np.asarray(draw("")).min() == 255
    assert np.asarray(draw("Beard")).min() < 120


def test_a_caption_has_as_many_lines_as_it_says() -> None:
    one = sheet([Panel([[Tile(RED, "a")]])], side=SIDE)
    two = sheet([Panel([[Tile(RED, "a\nb")]])], side=SIDE)
    assert two.height > one.height
    assert two.width == one.width


def test_a_long_caption_is_cut_where_its_tile_ends() -> None:
    canvas = sheet([Panel([[Tile(plain(1, 1, 1), "W" * 400)]])], side=SIDE)
    assert canvas.width == 2 * MARGIN + SIDE
    pixels = np.asarray(canvas)
    assert pixels[:, :MARGIN].min() == 255
    assert pixels[:, -MARGIN:].min() == 255


def test_a_filling_panel_grows_to_the_widest_but_at_most_twice() -> None:
    wide = Panel([[Tile(BLUE)] * 5])
    filled = sheet([Panel([[Tile(RED)] * 3], fill=True), wide], side=SIDE)
    assert filled.width == 2 * MARGIN + 5 * SIDE + 4 * GAP
    # Three tiles and two gaps in the room of five tiles and four gaps.
    grown = (5 * SIDE + 5 * GAP) // 3 - GAP
    assert middle(filled, 2, side=grown) == (255, 0, 0)
    assert filled.height == 2 * MARGIN + grown + 2 * GAP + SIDE
    twice = sheet([Panel([[Tile(RED)]], fill=True), wide], side=SIDE)
    assert twice.height == 2 * MARGIN + 2 * SIDE + 2 * GAP + SIDE


def test_the_same_sheet_is_drawn_the_same() -> None:
    panel = Panel([[Tile(RED, "one"), Tile(BLUE, "two")]], "Panel", ["row"], ["a", "b"])
    first, again = (np.asarray(sheet([panel], "Title", "note")) for _ in range(2))
    assert np.array_equal(first, again)


def test_images_beyond_the_range_are_clamped() -> None:
    canvas = sheet([Panel([[Tile(plain(9.0, -9.0, -9.0))]])], side=SIDE)
    assert middle(canvas, 0) == (255, 0, 0)
