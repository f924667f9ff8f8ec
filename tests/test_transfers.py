"""The edit in use, and how its request is typed."""

import pytest
import torch

from sat3d.artifact import Masks
from sat3d.errors import MismatchError, PackError, UsageError
from sat3d.interfaces import WeightsCard
from sat3d.latents import Latent, from_seed
from sat3d.testing import ToyGenerator, toy_masks
from sat3d.transfers import (
    Edit,
    canonical,
    check_intensity,
    draw,
    parse_attributes,
    parse_sweep,
    transfer,
    view_angles,
)


@pytest.fixture
def generator() -> ToyGenerator:
    return ToyGenerator(is_3d=True)


@pytest.fixture
def masks(generator: ToyGenerator) -> Masks:
    """So sure of themselves that the mask is 0 or 1 in float32."""
    return toy_masks(generator, 200.0)


@pytest.fixture
def latents(generator: ToyGenerator) -> list[Latent]:
    return [from_seed(generator, seed) for seed in (3, 8, 4)]


def channels(generator: ToyGenerator, attribute: str) -> torch.Tensor:
    return generator.layout.editable[generator.planted[attribute]]


def test_the_attributes_channels_come_from_the_reference_and_all_others_stay(
    generator: ToyGenerator, masks: Masks, latents: list[Latent]
) -> None:
    source, reference, _ = latents
    before = source.styles.clone()
    result = transfer(generator, masks, source, [Edit(reference, ("top",))])
    own = torch.zeros(generator.layout.channels, dtype=torch.bool)
    own[channels(generator, "top")] = True
    # Adding and subtracting the source costs the last bit of float32.
    torch.testing.assert_close(result.styles[:, own], reference.styles[:, own])
    assert torch.equal(result.styles[:, ~own], source.styles[:, ~own])
    assert torch.equal(source.styles, before)
    assert result.w is None
    assert result.origin == "seed:3 with top of seed:8"


def test_several_attributes_at_once_are_the_sum_of_their_masks(
    generator: ToyGenerator, masks: Masks, latents: list[Latent]
) -> None:
    source, reference, _ = latents
    both = transfer(generator, masks, source, [Edit(reference, ("top", "middle"))])
    index = torch.cat([channels(generator, "top"), channels(generator, "middle")])
    torch.testing.assert_close(both.styles[:, index], reference.styles[:, index])


def test_edits_from_several_references_follow_one_another(
    generator: ToyGenerator, latents: list[Latent]
) -> None:
    masks = toy_masks(generator, 2.0)
    source, first, second = latents
    edits = [Edit(first, ("top",)), Edit(second, ("middle",))]
    at_once = transfer(generator, masks, source, edits, 1.5)
    halfway = transfer(generator, masks, source, edits[:1], 1.5)
    stepwise = transfer(generator, masks, halfway, edits[1:], 1.5)
    assert torch.equal(at_once.styles, stepwise.styles)


def test_intensity_scales_the_step(
    generator: ToyGenerator, masks: Masks, latents: list[Latent]
) -> None:
    source, reference, _ = latents
    edits = [Edit(reference, ("top",))]
    none, full, double = (transfer(generator, masks, source, edits, x).styles for x in (0, 1, 2))
    assert torch.equal(none, source.styles)
    torch.testing.assert_close(double - source.styles, 2 * (full - source.styles))


def test_masks_of_other_weights_are_refused(
    generator: ToyGenerator, masks: Masks, latents: list[Latent]
) -> None:
    generator.card = WeightsCard("other", "0" * 64)
    with pytest.raises(MismatchError, match="made for weights"):
        transfer(generator, masks, latents[0], [Edit(latents[1], ("top",))])


def test_a_reference_of_another_layout_is_refused(
    generator: ToyGenerator, masks: Masks, latents: list[Latent]
) -> None:
    alien = Latent(torch.zeros(1, 3), origin="alien")
    with pytest.raises(MismatchError, match="reference 'alien' has 3 style channels"):
        transfer(generator, masks, latents[0], [Edit(alien, ("top",))])


def test_the_result_is_drawn_from_its_camera_or_a_given_angle(
    generator: ToyGenerator, latents: list[Latent]
) -> None:
    image = draw(generator, latents[0])
    assert image.shape == (3, generator.resolution, generator.resolution)
    assert float(image.abs().max()) <= 1.0
    torch.testing.assert_close(draw(generator, latents[0], 0.0), image)
    assert not torch.allclose(draw(generator, latents[0], 20.0), image)


def test_plain_attributes_share_the_reference_and_others_bring_their_own() -> None:
    assert parse_attributes(["a", "b"], "seed:1") == [("seed:1", ["a", "b"])]
    assert parse_attributes(["a=x.png", "b=seed:8"], None) == [("x.png", ["a"]), ("seed:8", ["b"])]
    assert parse_attributes(["a", "b=x.png", "c"], "seed:1") == [
        ("seed:1", ["a"]),
        ("x.png", ["b"]),
        ("seed:1", ["c"]),
    ]
    assert parse_attributes(["a=dir/x=1.png"], None) == [("dir/x=1.png", ["a"])]


@pytest.mark.parametrize(
    ("texts", "reference", "message"),
    [
        ([], "seed:1", "nothing to transfer"),
        (["a"], None, "no reference"),
        (["a="], None, "neither NAME nor"),
        (["=x.png"], None, "neither NAME nor"),
        (["a=x.png"], "seed:1", "not used"),
    ],
)
def test_a_request_that_does_not_add_up_is_refused(
    texts: list[str], reference: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        parse_attributes(texts, reference)


def test_attributes_are_known_by_title_and_may_be_asked_for_once(masks: Masks) -> None:
    assert canonical(masks, [("r", ["Top stripe"]), ("q", ["middle"])]) == [("top",), ("middle",)]
    with pytest.raises(UsageError, match="'top' is asked for twice"):
        canonical(masks, [("r", ["Top stripe"]), ("q", ["top"])])
    with pytest.raises(PackError, match="Did you mean 'top'"):
        canonical(masks, [("r", ["topp"])])


def test_a_sweep_includes_both_ends() -> None:
    assert parse_sweep("0:2:5") == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert parse_sweep("1:-1:3") == [1.0, 0.0, -1.0]


@pytest.mark.parametrize(
    "text", ["", "1", "0:2", "0:2:1", "0:2:65", "a:2:3", "0:2:3:4", "0:2:2.5", "0:nan:3", "0:1e9:3"]
)
def test_a_sweep_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_sweep(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 101.0, -1e9])
def test_an_intensity_out_of_reach_is_refused(value: float) -> None:
    with pytest.raises(UsageError, match="outside -100 to 100"):
        check_intensity(value)


def test_views_are_spread_evenly_around_the_front() -> None:
    assert view_angles(5) == [-25.0, -12.5, 0.0, 12.5, 25.0]
    assert view_angles(1) == [0.0]
