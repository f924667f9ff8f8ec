"""Trying packs: what is counted, and who gets which warning."""

import torch

from sat3d.testing import STRIPES, ToyGenerator, ToyMeasure, toy_pack
from sat3d.trial import FEWEST, GroupTrial, draw_trial, draws, try_pack


def group(rows: list[list[float]]) -> GroupTrial:
    phrases = tuple("abcd"[: len(rows[0])])
    return GroupTrial("thing", "kind", phrases, torch.tensor(rows))


def kinds(trial: GroupTrial) -> list[str]:
    """What the warnings are about, in a word or two."""
    return [" ".join(warning.split()[:2]).rstrip(":") for warning in trial.warnings]


def test_a_good_pack_gets_no_warning():
    pack, generator = toy_pack(), ToyGenerator()
    trial = try_pack(pack, ToyMeasure(pack, sharpness=3.0), draws(generator, 32))
    assert [g.attribute for g in trial.groups] == list(STRIPES)
    assert [g.warnings for g in trial.groups] == [()] * 3
    assert trial.images.shape == (32, 3, 16, 16)
    for g in trial.groups:
        assert int(g.first.sum()) == 32
        torch.testing.assert_close(g.probabilities.sum(dim=1), torch.ones(32))


def test_a_measurement_without_an_opinion_is_too_flat():
    pack = toy_pack()
    trial = try_pack(pack, ToyMeasure(pack, sharpness=0.01), draws(ToyGenerator(), 16))
    for g in trial.groups:
        assert kinds(g) == ["too flat", "tells no"]


def test_a_measurement_that_is_always_certain_is_too_sure():
    pack = toy_pack()
    trial = try_pack(pack, ToyMeasure(pack, sharpness=1e4), draws(ToyGenerator(), 16))
    assert all("too sure" in kinds(g) for g in trial.groups)


def test_images_that_read_alike_are_noticed_only_with_enough_of_them():
    assert kinds(group([[0.7, 0.3]] * FEWEST)) == ["tells no"]
    assert kinds(group([[0.7, 0.3]] * (FEWEST - 1))) == []


def test_a_phrase_that_always_wins_is_named():
    rows = [[0.6 + 0.02 * k, 0.4 - 0.02 * k] for k in range(-4, 4)]
    assert group(rows).warnings[0].startswith("all 8 images read as 'a'")


def test_the_bounds_lie_between_the_presets_of_good_and_bad():
    # Two phrases: halfway between chance and FLAT, and a little beyond.
    assert kinds(group([[0.52, 0.48], [0.48, 0.52]])) == ["too flat"]
    assert kinds(group([[0.53, 0.47], [0.47, 0.53]])) == []
    assert kinds(group([[0.98, 0.02], [0.02, 0.98]])) == ["too sure"]
    assert kinds(group([[0.96, 0.04], [0.04, 0.96]])) == []


def test_plain_figures_are_those_of_the_readings():
    found = group([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]).plain()
    first = found["phrases"][0]
    assert first["phrase"] == "a"
    assert first["first"] == 2
    values = torch.tensor([first["mean"], first["lowest"], first["highest"]])
    torch.testing.assert_close(values, torch.tensor([0.6, 0.2, 0.9]))  # float32
    assert len(found["readings"]) == 3


def test_pictures_of_several_sizes_are_read_and_drawn_together():
    pack = toy_pack()
    source = torch.Generator().manual_seed(0)
    images = [torch.rand(1, 3, side, side, generator=source) * 2 - 1 for side in (16, 40, 300)]
    trial = try_pack(pack, ToyMeasure(pack), images)
    assert trial.images.shape == (3, 3, 16, 16)
    picture = draw_trial(trial, "Stripes")
    assert picture.width > 3 * 200  # three phrases beside one another


def test_draws_are_those_of_the_seed_and_independent_of_the_batch():
    one = torch.cat(list(draws(ToyGenerator(is_3d=True), 5, seed=1, size=2)))
    two = torch.cat(list(draws(ToyGenerator(is_3d=True), 5, seed=1, size=5)))
    torch.testing.assert_close(one, two, atol=1e-6, rtol=0)  # sums in another order
    assert one.shape[0] == 5
