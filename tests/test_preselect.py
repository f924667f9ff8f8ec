import pytest
import torch

from sat3d.pool import build_pool
from sat3d.preselect import (
    Effects,
    _effects,
    explained_variance,
    measured_effects,
    region_scores,
    start_from_effects,
    start_from_pool,
    start_from_regions,
    start_matrix,
)
from sat3d.settings import PRESETS, override
from sat3d.testing import STRIPES, ToyGenerator, ToyMeasure, ToySegmenter, toy_pack

PACK = toy_pack()
GENERATOR = ToyGenerator()
SETTINGS = override(PRESETS["quick"], ["pool_size=48", "preselection.images=24"])


@pytest.fixture(scope="module")
def pool():
    return build_pool(GENERATOR, PACK, ToyMeasure(PACK), ToySegmenter(), SETTINGS)


def test_region_gradients_single_out_the_planted_channels(pool):
    scores = region_scores(GENERATOR, ToySegmenter(), pool.table, pool, SETTINGS)
    # Frame channels touch no region: their column stays 0 and cannot sum to 1.
    planted = torch.cat(list(GENERATOR.planted.values()))
    torch.testing.assert_close(scores[:, planted].sum(0), torch.ones(len(planted)))
    for row, name in enumerate(STRIPES):
        assert (scores[:, GENERATOR.planted[name]].argmax(0) == row).all()


def test_region_gradients_equal_a_plain_computation(pool):
    settings = override(SETTINGS, ["preselection.images=1"])
    scores = region_scores(GENERATOR, ToySegmenter(), pool.table, pool, settings)
    styles = pool.styles[:1].clone().requires_grad_()
    image = GENERATOR.render(styles, draft=True).image
    rows = []
    for k in range(3):
        mask = ToySegmenter().segment(image).argmax(1) == k + 1
        (gradient,) = torch.autograd.grad(
            (image * mask[:, None]).sum() / mask.sum(), styles, retain_graph=True
        )
        rows.append(gradient[0, GENERATOR.layout.editable].abs())
    plain = torch.stack(rows)
    known = plain.sum(0) > 0
    torch.testing.assert_close(scores[:, known], (plain / plain.sum(0))[:, known])


def test_effects_single_out_the_planted_channels(pool):
    source = torch.Generator().manual_seed(0)
    effects = measured_effects(GENERATOR, ToyMeasure(PACK), pool, SETTINGS, source)
    start = start_from_effects(effects, PACK, SETTINGS)
    owner = torch.full((start.shape[1],), len(STRIPES))
    for row, name in enumerate(STRIPES):
        owner[GENERATOR.planted[name]] = row
    assert torch.equal(start.argmax(0), owner)


def test_effects_of_all_channels_sum_to_the_gap_that_they_close(pool):
    """Integrated gradients are complete; the way is sampled, so the mean is near 1, not equal."""
    settings = override(SETTINGS, ["preselection.images=256", "min_gap=0.3"])
    source = torch.Generator().manual_seed(1)
    qmm = ToyMeasure(PACK, crosstalk=0.0)
    first, second = torch.randint(48, (2, 256), generator=source)
    share = torch.rand(256, 1, generator=source)
    for _, effect, valid in _effects(GENERATOR, qmm, pool, settings, first, second, share):
        total = effect[:, GENERATOR.layout.editable].sum(1)[valid.bool()].mean()
        # Standard error over some 100 pairs is about 0.06; toRGB shading adds a little.
        assert total.item() == pytest.approx(1.0, abs=0.25)


def test_a_channel_wanted_twice_goes_to_the_larger_score():
    scores = torch.tensor([[0.9, 0.2, 0.6, 0.0], [0.1, 0.8, 0.4, 0.0], [0.0, 0.0, 0.0, 0.0]])
    pack = toy_pack(
        attributes=[
            {**a.model_dump(), "preselect": {"share": share, "strength": 1.8 + k}}
            for k, (a, share) in enumerate(zip(PACK.attributes, (0.5, 0.75, 0.0), strict=True))
        ]
    )
    settings = override(PRESETS["paper"], [])
    wanted = [[1.8, 0, 1.8, 0], [0, 2.8, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    found = start_from_regions(scores, pack, settings)
    torch.testing.assert_close(found, torch.tensor(wanted))


def test_weak_or_inconsistent_effects_leave_a_channel_to_others():
    size = torch.tensor([[8.0, 1.0, 8.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    steady = torch.tensor([[9.0, 9.0, 0.5]]).expand(3, -1)
    settings = override(SETTINGS, ["preselection.consistency=2", "preselection.strength=3"])
    start = start_from_effects(Effects(size, steady), PACK, settings)
    rest = settings.others_start
    wanted = [[0.0, 0, 0], [0, 0, 0], [0, 0, 0], [rest, rest, rest]]
    # Relative to its row's sum, attribute 0 has 8/17 on channel 0; the others have 1/3 each.
    torch.testing.assert_close(start, torch.tensor(wanted))
    settings = override(settings, ["preselection.share=0.4"])
    start = start_from_effects(Effects(size, steady), PACK, settings)
    assert start[0].tolist() == [3, 0, 0]
    assert start[3, 0] == 0 and start[3, 2] == rest, "channel 2 is not consistent"


def test_consistency_as_evidence_ignores_large_effects_that_go_either_way():
    size = torch.tensor([[1.0, 9.0, 9.0], [1.0, 9.0, 1.0], [1.0, 9.0, 1.0]])
    steady = torch.tensor([[5.0, 0.3, -4.0], [0.5, 0.2, 3.0], [0.0, -0.1, 2.5]])
    settings = override(
        SETTINGS,
        [
            "preselection.evidence=consistency",
            "preselection.consistency=2",
            "preselection.share=0.5",
            "preselection.strength=3",
        ],
    )
    start = start_from_effects(Effects(size, steady), PACK, settings)
    rest = settings.others_start
    # Channel 0: 5 of 5.5; channel 1: nothing is consistent; channel 2: away from attribute 0's
    # references, and 3 of 5.5 on attribute 1.
    wanted = [[3.0, 0, 0], [0, 0, 3], [0, 0, 0], [0, rest, 0]]
    torch.testing.assert_close(start, torch.tensor(wanted))


def test_explained_variance_is_the_adjusted_coefficient_of_determination():
    source = torch.Generator().manual_seed(0)
    readings = torch.rand(40, 3, generator=source)
    styles = torch.randn(40, 5, generator=source)
    styles[:, 0] = 2 * readings[:, 0] - readings[:, 1] + 7
    owner = torch.tensor([0, 0, 1])
    found, noise = explained_variance(styles, readings, owner)
    plain = torch.empty(2, 5, dtype=torch.float64)
    for a, columns in enumerate(([0, 1], [2])):
        design = torch.cat([torch.ones(40, 1), readings[:, columns]], 1).double()
        fit = torch.linalg.lstsq(design, styles.double()).solution
        left = (styles.double() - design @ fit).square().sum(0)
        total = (styles.double() - styles.double().mean(0)).square().sum(0)
        plain[a] = 1 - (left / (40 - 1 - len(columns))) / (total / (40 - 1))
    torch.testing.assert_close(found, plain)
    assert found[0, 0] == pytest.approx(1.0)
    assert noise.flatten().tolist() == pytest.approx([(2 * 2) ** 0.5 / 37, 2**0.5 / 38])


def test_unrelated_channels_explain_as_little_as_the_noise_says():
    source = torch.Generator().manual_seed(1)
    styles = torch.randn(200, 4000, generator=source)
    found, noise = explained_variance(
        styles, torch.rand(200, 3, generator=source), torch.zeros(3, dtype=torch.int64)
    )
    # 4000 independent channels: the mean is within 1/30 of a deviation, the deviation within 5 %.
    assert abs(found.mean()) < 0.1 * noise.item()
    assert found.std().item() == pytest.approx(noise.item(), rel=0.05)


def test_the_pool_alone_singles_out_the_planted_channels():
    # Each stripe follows many independent channels, so that one explains little of its variance.
    measure = ToyMeasure(PACK)
    settings = override(
        SETTINGS,
        ["pool_size=600", "preselection.share=0.5", "preselection.explained=0.02"],
    )
    pool = build_pool(GENERATOR, PACK, measure, None, settings)
    editable = GENERATOR.layout.editable
    start = start_from_pool(pool, measure.attribute_of_phrase, PACK, settings, editable)
    owner = torch.full((start.shape[1],), len(STRIPES))
    for row, name in enumerate(STRIPES):
        owner[GENERATOR.planted[name]] = row
    assert torch.equal(start.argmax(0), owner)


def test_a_channel_that_hardly_follows_the_readings_is_left_to_others(pool):
    settings = override(SETTINGS, ["preselection.by=pool", "preselection.explained=1"])
    owner = ToyMeasure(PACK).attribute_of_phrase
    start = start_from_pool(pool, owner, PACK, settings, GENERATOR.layout.editable)
    assert (start.argmax(0) == len(STRIPES)).all()


@pytest.mark.parametrize("how", ["preselection.by=none", "preselection.by=region"])
def test_without_scores_all_start_as_others(pool, how):
    settings = override(PRESETS["paper"], [how])
    source = torch.Generator()
    start = start_matrix(GENERATOR, PACK, ToyMeasure(PACK), None, pool, settings, source)
    assert start[:3].eq(0).all() and start[3].eq(1).all() and start.shape == (4, 64)
