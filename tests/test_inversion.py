"""Images back to latents."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from sat3d.inversion import InvertSettings, image_loss, invert, psnr, turn_camera
from sat3d.latents import Latent, from_seed
from sat3d.testing import ToyGenerator
from sat3d.transfers import draw

QUICK = InvertSettings(pool=32, starts=2, draft_steps=60, steps=60)


@pytest.fixture
def generator() -> ToyGenerator:
    return ToyGenerator(is_3d=True)


@pytest.fixture
def hidden(generator: ToyGenerator) -> Latent:
    """A latent seen from a little to the side, which the search is not told."""
    return dataclasses.replace(from_seed(generator, 77), camera=generator.orbit(0.2, 0.05))


@pytest.fixture
def target(generator: ToyGenerator, hidden: Latent) -> Tensor:
    return draw(generator, hidden)[None]


def test_psnr_of_a_constant_difference_is_the_textbook_value() -> None:
    # 0.2 in [-1, 1] is 0.1 in [0, 1]: 10 log10(1 / 0.01) = 20 dB.
    image = torch.zeros(1, 3, 8, 8)
    assert psnr(image + 0.2, image) == pytest.approx(20.0, abs=1e-4)
    assert psnr(image + 5.0, image + 1.0) == 100.0  # clamped alike, and bounded


def test_the_loss_of_a_constant_difference_is_the_hand_computed_value() -> None:
    # Each level: 0.5 squared plus a tenth of 0.5. Four levels from 64 pixels to 8, three from 32.
    image = torch.zeros(2, 3, 64, 64)
    loss = image_loss(image + 0.5, image[:1])
    torch.testing.assert_close(loss, torch.full((2,), 4 * (0.25 + 0.05)))
    draft = image_loss(image[:, :, ::2, ::2] + 0.5, image[:1])
    torch.testing.assert_close(draft, torch.full((2,), 3 * (0.25 + 0.05)))


def test_no_turn_leaves_the_camera(generator: ToyGenerator) -> None:
    camera = generator.orbit(0.3, -0.1)
    assert camera is not None
    torch.testing.assert_close(turn_camera(camera, torch.zeros(1, 6)), camera)


def test_turning_about_the_vertical_is_an_orbit(generator: ToyGenerator) -> None:
    turn = torch.zeros(1, 6)
    turn[0, 1] = -0.25  # y is down
    front, side = generator.orbit(0.0, 0.0), generator.orbit(0.25, 0.0)
    assert front is not None and side is not None
    torch.testing.assert_close(turn_camera(front, turn), side, atol=1e-6, rtol=0)


def test_a_turned_pose_stays_rigid_and_a_shift_follows_its_axes(generator: ToyGenerator) -> None:
    camera = generator.orbit(0.3, -0.1)
    assert camera is not None
    moved = turn_camera(camera, torch.tensor([[0.1, -0.2, 0.3, 0.0, 0.0, 0.5]]))
    pose, old = moved[:, :16].reshape(4, 4), camera[:, :16].reshape(4, 4)
    torch.testing.assert_close(pose[:3, :3] @ pose[:3, :3].T, torch.eye(3), atol=1e-6, rtol=0)
    # Forward is towards the origin, from 2.7 away.
    torch.testing.assert_close(pose[:3, 3].norm(), old[:3, 3].norm() - 0.5)
    torch.testing.assert_close(moved[:, 16:], camera[:, 16:])


def test_the_camera_turn_has_the_right_gradient(generator: ToyGenerator) -> None:
    camera = generator.orbit(0.3, -0.1)
    assert camera is not None
    turn = torch.tensor([[0.1, -0.2, 0.3, 0.0, 0.1, 0.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: turn_camera(camera.double(), t), turn)


@pytest.mark.parametrize("space", ["w", "w+", "s"])
def test_a_generated_image_is_found_again(
    generator: ToyGenerator, target: Tensor, space: str
) -> None:
    found = invert(generator, target, QUICK.model_copy(update={"space": space}))
    assert found.psnr >= 35.0  # what it takes to look the same; 22 is called good
    assert found.warnings == ()
    assert found.psnr == pytest.approx(psnr(found.image, target), abs=1e-4)
    torch.testing.assert_close(draw(generator, found.latent)[None], found.image)


def test_the_camera_is_found_too(generator: ToyGenerator, target: Tensor, hidden: Latent) -> None:
    found = invert(generator, target, QUICK)
    assert found.latent.camera is not None and hidden.camera is not None
    # The toy shows only the camera's sideways place; 0.05 of 2.7 is one degree.
    torch.testing.assert_close(found.latent.camera[0, 3], hidden.camera[0, 3], atol=0.05, rtol=0)


def test_without_a_camera_rate_the_camera_is_one_of_the_starts(
    generator: ToyGenerator, target: Tensor
) -> None:
    fixed = QUICK.model_copy(update={"camera_rate": 0.0, "draft_steps": 5, "steps": 5})
    cameras = generator.sample_cameras(fixed.pool, fixed.seed + 1)
    found = invert(generator, target, fixed).latent.camera
    assert found is not None
    assert min(float((found - c).abs().max()) for c in cameras) < 1e-6


def test_w_is_kept_only_where_it_gives_the_styles(generator: ToyGenerator, target: Tensor) -> None:
    few = QUICK.model_copy(update={"draft_steps": 3, "steps": 3})
    latent = invert(generator, target, few).latent
    assert latent.w is not None
    torch.testing.assert_close(generator.styles(latent.w), latent.styles)
    assert invert(generator, target, few.model_copy(update={"space": "s"})).latent.w is None


def test_the_same_seed_finds_the_same_latent(generator: ToyGenerator, target: Tensor) -> None:
    few = QUICK.model_copy(update={"draft_steps": 5, "steps": 5})
    first, again = (invert(generator, target, few).latent for _ in range(2))
    assert torch.equal(first.styles, again.styles)
    assert first.camera is not None and again.camera is not None
    assert torch.equal(first.camera, again.camera)


def test_an_image_that_the_generator_cannot_draw_is_warned_about(generator: ToyGenerator) -> None:
    noise = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = invert(generator, noise, QUICK.model_copy(update={"draft_steps": 5, "steps": 5}))
    assert found.psnr < 22.0
    assert "poor inversion" in found.warnings[0] and "--steps" in found.warnings[0]


def test_the_time_limit_ends_the_search_and_says_so(
    generator: ToyGenerator, target: Tensor
) -> None:
    found = invert(generator, target, QUICK.model_copy(update={"max_seconds": 1e-6}))
    assert any("time limit after 1 of 120 steps" in text for text in found.warnings)
    assert math.isfinite(found.psnr)


def test_a_good_guess_of_the_generator_is_where_the_search_starts(
    generator: ToyGenerator, target: Tensor, hidden: Latent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "encode", lambda _: (hidden.w, hidden.camera))
    found = invert(generator, target, QUICK.model_copy(update={"draft_steps": 0, "steps": 0}))
    assert found.psnr > 60.0


def test_the_search_leaves_the_guess_of_the_generator_as_it_was(
    generator: ToyGenerator, target: Tensor, hidden: Latent
) -> None:
    before = target.clone()
    invert(generator, target, QUICK.model_copy(update={"draft_steps": 1, "steps": 1}))
    assert torch.equal(before, target)
