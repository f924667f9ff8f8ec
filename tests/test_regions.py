import pytest
import torch

from sat3d.descriptors import Region
from sat3d.errors import PackError
from sat3d.regions import (
    RegionTable,
    alterable,
    cut_half,
    grow,
    pack_masks,
    region_table,
    union,
)
from sat3d.testing import ToySegmenter, toy_pack


def _box(top, bottom, left, right, size=8):
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, top:bottom, left:right] = True
    return mask


def test_the_lower_half_is_that_of_the_masks_own_box():
    mask = _box(2, 6, 1, 5)
    assert torch.equal(cut_half(mask, "lower"), _box(4, 6, 1, 5))
    assert torch.equal(cut_half(mask, "upper"), _box(2, 4, 1, 5))
    assert torch.equal(cut_half(mask, "none"), mask)


def test_halves_partition_the_mask_and_an_empty_one_stays_empty():
    mask = torch.rand(5, 9, 9, generator=torch.Generator().manual_seed(0)) > 0.8
    lower, upper = cut_half(mask, "lower"), cut_half(mask, "upper")
    assert torch.equal(lower | upper, mask) and not (lower & upper).any()
    empty = torch.zeros(1, 8, 8, dtype=torch.bool)
    assert not cut_half(empty, "lower").any()


def test_growing_reaches_the_share_of_the_height_on_every_side():
    # 0.25 of 8 rows is 2 pixels.
    assert torch.equal(grow(_box(3, 5, 3, 5), 0.25), _box(1, 7, 1, 7))
    assert torch.equal(grow(_box(0, 1, 0, 1), 0.25), _box(0, 3, 0, 3))
    assert torch.equal(grow(_box(3, 5, 3, 5), 0.0), _box(3, 5, 3, 5))


def test_regions_take_the_most_probable_label():
    labels = torch.tensor([[[0, 1], [2, 1]]])
    probabilities = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1) * 0.5 + 0.1
    table = RegionTable(
        torch.tensor([[False, True, False], [True, False, True], [False, False, False]]),
        (Region(labels=("a",)), Region(labels=("b",)), None),
    )
    found = alterable(probabilities, table)
    assert found[0, 0].tolist() == [[False, True], [False, True]]
    assert found[0, 1].tolist() == [[True, False], [True, False]]
    assert found[0, 2].all(), "no region means that all may be altered"


def test_regions_are_shrunk_on_demand():
    segmenter, pack = ToySegmenter(), toy_pack()
    table = region_table(pack, segmenter.labels, "toy", torch.device("cpu"))
    found = segmenter.segment(torch.zeros(2, 3, 32, 32))
    assert alterable(found, table).shape == (2, 3, 32, 32)
    assert alterable(found, table, 8).shape == (2, 3, 8, 8)
    assert torch.equal(
        alterable(found, table, 8), alterable(segmenter.segment(torch.zeros(2, 3, 8, 8)), table)
    )


def test_a_label_the_segmenter_lacks_is_named():
    with pytest.raises(PackError, match="unknown label 'bottom'"):
        region_table(toy_pack(), ("frame", "top", "middle"), "toy", torch.device("cpu"))


@pytest.mark.parametrize("attributes", [1, 8, 11])
def test_packed_masks_give_the_union_of_the_selected(attributes):
    source = torch.Generator().manual_seed(attributes)
    masks = torch.rand(3, attributes, 5, 4, generator=source) > 0.7
    selection = torch.rand(3, attributes, generator=source) > 0.5
    packed = pack_masks(masks)
    assert packed.shape == (3, -(-attributes // 8), 5, 4) and packed.dtype == torch.uint8
    wanted = (masks & selection[:, :, None, None]).any(1)
    assert torch.equal(union(packed, selection), wanted)
