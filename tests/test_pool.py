import pytest
import torch

from sat3d.errors import UsageError
from sat3d.pool import build_pool, draw_pairs, gaps, shrink, split
from sat3d.regions import union
from sat3d.settings import PRESETS, override
from sat3d.testing import ToyGenerator, ToyMeasure, ToySegmenter, toy_pack

PACK = toy_pack()
SETTINGS = override(PRESETS["quick"], ["pool_size=48"])


def _pool(settings=SETTINGS, pack=PACK, is_3d=True, segmenter=None):
    return build_pool(ToyGenerator(is_3d), pack, ToyMeasure(pack), segmenter, settings)


def test_the_pool_holds_what_its_codes_and_cameras_show():
    settings = override(SETTINGS, ["draft=false"])
    pool = _pool(settings, segmenter=ToySegmenter())
    assert len(pool) == 48 and pool.cameras.shape == (48, 25)
    image = ToyGenerator(True).render(pool.styles, pool.cameras).image
    # Images are kept in half precision: 11 bits.
    torch.testing.assert_close(pool.images.float(), image, atol=1e-3, rtol=0)
    torch.testing.assert_close(pool.probabilities, ToyMeasure(PACK).measure(image))
    assert torch.equal(pool.readings, pool.probabilities)
    top = union(pool.regions, torch.tensor([[True, False, False]]).expand(48, -1))
    assert top[0].sum() == 4 * 12, "a stripe is 12 wide and 4 high"


def test_a_2d_pool_without_a_segmenter_has_neither_cameras_nor_regions():
    pool = _pool(is_3d=False)
    assert pool.cameras is None and pool.regions is None


@pytest.mark.parametrize("chunk", [1, 7, 32])
def test_the_pool_does_not_depend_on_the_chunk(chunk):
    one, two = _pool(), _pool(override(SETTINGS, [f"chunk={chunk}"]))
    # Matrix products of other sizes may differ in the last bits.
    torch.testing.assert_close(one.styles, two.styles, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.cameras, two.cameras, atol=0, rtol=0)


def test_the_pool_follows_its_seed():
    assert torch.equal(_pool().styles, _pool().styles)
    other = _pool(override(SETTINGS, ["pool_seed=1"]))
    assert not torch.isin(other.styles[:, 0], _pool().styles[:, 0]).any()


def test_excluded_images_are_left_out_and_quotas_hold():
    free = toy_pack(pool={})
    rules = PACK.pool
    dark, red = rules.exclude[0], rules.quotas[0]

    def darkness(pool):
        qmm = ToyMeasure(PACK)
        return qmm.rule_probability(qmm.encode_image(pool.images.float()), dark)

    assert (darkness(_pool(pack=free)) >= dark.above).any(), "the rule has work to do"
    # Half precision images move probabilities by about 1e-3.
    assert (darkness(_pool()) < dark.above + 1e-2).all()

    def share(pool):
        return float((pool.readings[:, :3].argmax(1) == 0).float().mean())

    demanding = {"quotas": [{**red.model_dump(), "share": 0.7}]}
    assert share(_pool(pack=free)) < 0.6
    full = _pool(pack=toy_pack(pool=demanding))
    assert share(full) >= 0.7
    # Shuffled: the end, which is held out, is not all of one side.
    assert 0 < share(full) < 1
    assert (full.readings[-16:, :3].argmax(1) != 0).any()


def test_rules_that_no_pool_can_meet_end_with_the_reason():
    dark = PACK.pool.exclude[0].model_dump()
    pack = toy_pack(pool={"exclude": [{**dark, "above": 0.0}]})
    settings = override(SETTINGS, ["pool_tries=2"])
    with pytest.raises(UsageError, match=r"only 0 of 48 .* 'frame' excluded 100%"):
        _pool(settings, pack)
    red = PACK.pool.quotas[0].model_dump()
    clash = {"exclude": [{**red, "above": 0.34}], "quotas": [{**red, "share": 0.9}]}
    del clash["exclude"][0]["share"]
    with pytest.raises(UsageError, match="quota 'top' asks for 90%"):
        _pool(settings, toy_pack(pool=clash))


def test_shrinking_averages_and_keeps_small_images():
    image = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert shrink(image, 2)[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert shrink(image, 4) is image and shrink(image, None) is image


def test_held_out_places_are_never_trained_on():
    train, held = split(100, 0.1)
    assert len(train) == 90 and len(held) == 10 and not torch.isin(train, held).any()
    assert [len(x) for x in split(4, 0.01)] == [2, 2]


def test_gaps_are_one_where_no_probability_is_shared():
    owner = torch.tensor([0, 0, 0, 0, 1, 1])
    one = torch.tensor([1.0, 0.0, 0.5, 0.5, 0.2, 0.8])
    two = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.2, 0.8])
    # Two groups with gaps 1 and 0.5; by hand.
    assert gaps(one, two, owner).tolist() == pytest.approx([0.75, 0.0])


def test_pairs_differ_in_the_target_and_attributes_take_turns():
    pool = _pool()
    owner = ToyMeasure(PACK).attribute_of_phrase
    source = torch.Generator().manual_seed(0)
    places = torch.arange(10, 48)
    first, second, chosen = draw_pairs(pool.readings, owner, places, 60, 1, 0.3, source)
    assert chosen.sum(1).eq(1).all() and chosen.sum(0).tolist() == [20, 20, 20]
    assert torch.isin(torch.cat([first, second]), places).all()
    gap = gaps(pool.readings[first], pool.readings[second], owner)[chosen]
    # Eight candidates nearly always hold one that differs enough.
    assert (gap >= 0.3).float().mean() > 0.95


def test_several_targets_may_be_drawn_at_once():
    pool = _pool()
    owner = ToyMeasure(PACK).attribute_of_phrase
    source = torch.Generator().manual_seed(0)
    *_, chosen = draw_pairs(pool.readings, owner, torch.arange(48), 9, 2, 0.0, source)
    assert chosen.sum(1).eq(2).all()
