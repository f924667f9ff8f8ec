"""Each figure against one computed by hand."""

import math

import pytest
import torch
from torch import Tensor

from sat3d.interfaces import Codes, Render
from sat3d.measuring import figures, outside, views
from sat3d.measuring.intervals import interval, intervals
from sat3d.measuring.quality import kid
from sat3d.measuring.studio import Bank, Edited, Look


def make_bank(details: Tensor, identity: Tensor | None = None) -> Bank:
    """Three images whose readings of 'a' are 0, 1, 2 and of 'b' 0, 0, 1."""
    values = {"a": torch.tensor([0, 1, 2]), "b": torch.tensor([0, 0, 1])}
    look = Look(values, {"a": details}, identity=identity)
    return Bank(Codes(torch.zeros(3, 4)), torch.zeros(3, 3, 8, 8), look)


def make_edited(look: Look) -> Edited:
    """Edits of 'a' of image 0 towards 1, and of image 0 towards 2."""
    sources, references = torch.tensor([0, 0]), torch.tensor([1, 2])
    return Edited(
        "a", sources, references, torch.zeros(2, 4), torch.zeros(2, 3, 8, 8), look
    )  # fmt: skip


POINTS = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]])


def test_success_is_the_references_value_and_leakage_any_other_change() -> None:
    bank = make_bank(POINTS)
    edited = make_edited(Look({"a": torch.tensor([1, 1]), "b": torch.tensor([0, 1])}))
    assert figures.successes(edited, bank) == [1.0, 0.0]
    assert figures.leaks(edited, bank, ["b"]).tolist() == [[0.0], [1.0]]
    assert figures.mean_leaks(edited, bank, ["b"]) == [0.0, 1.0]
    assert figures.mean_leaks(edited, bank, []) == []


def test_detail_is_the_share_of_the_way_to_the_reference() -> None:
    bank = make_bank(POINTS)
    where = torch.tensor([[1.5, 0.0], [0.0, -8.0]])
    edited = make_edited(Look({"a": torch.tensor([1, 1])}, {"a": where}))
    # 0.5 of 2 is left; the other went twice its way in the wrong direction: bounded.
    assert figures.details(edited, bank) == pytest.approx([0.75, figures.LEAST_DETAIL])


def test_identity_is_the_cosine_around_the_banks_mean() -> None:
    known = torch.tensor([[3.0, 1.0], [1.0, 3.0], [-1.0, -1.0]])  # mean 1, 1
    bank = make_bank(POINTS, known)
    after = torch.tensor([[5.0, 1.0], [1.0, -6.0]])
    edited = make_edited(Look({"a": torch.tensor([1, 1])}, {"a": POINTS[:2]}, identity=after))
    assert figures.identities(edited, bank) == pytest.approx([1.0, 0.0])
    assert figures.identities(make_edited(Look({"a": torch.tensor([1, 1])})), bank) == []


def test_what_happens_inside_the_region_counts_for_nothing() -> None:
    source = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    inside = torch.zeros(2, 24, 24, dtype=torch.bool)
    inside[:, 8:16, 8:16] = True
    image = torch.where(inside[:, None], -source, source)
    assert outside.background(source, image, ~inside).tolist() == [0.0, 0.0]
    # The windows at the border see only what lies outside.
    found = outside.preservation(source, image, ~inside)
    assert found.tolist() == pytest.approx([1.0, 1.0], abs=1e-9)
    assert outside.preservation(source, image, torch.ones_like(inside)).max() < 0.95


def test_background_is_the_mean_change_of_the_pixels_outside() -> None:
    source = torch.zeros(1, 3, 12, 12)
    image = source.clone()
    image[:, :, :6] = 0.4
    where = torch.zeros(1, 12, 12, dtype=torch.bool)
    where[:, 3:9] = True
    assert outside.background(source, image, where).item() == pytest.approx(0.1)


def test_structural_similarity_is_the_papers_formula() -> None:
    one = torch.full((1, 3, 16, 16), 0.0)
    two = torch.full((1, 3, 16, 16), 0.4)
    # Flat images have no structure: only (2 a b + C1) / (a^2 + b^2 + C1) is left.
    wanted = (2 * 0.5 * 0.7 + 1e-4) / (0.25 + 0.49 + 1e-4)
    assert outside.ssim_map(one, two).mean().item() == pytest.approx(
        wanted, abs=1e-6
    )  # 0.4 is float32
    assert outside.ssim_map(one, one).mean().item() == pytest.approx(1.0)
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert outside.ssim_map(noise, -noise).mean() < 0


def test_structural_similarity_agrees_with_torchmetrics() -> None:
    reference = pytest.importorskip("torchmetrics.functional.image")
    source = torch.Generator().manual_seed(2)
    one = torch.rand(2, 3, 40, 40, generator=source) * 2 - 1
    two = (one + 0.3 * torch.randn(2, 3, 40, 40, generator=source)).clamp(-1, 1)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    luma = [((x * 0.5 + 0.5) * weights).sum(1, keepdim=True) for x in (one, two)]
    _, full = reference.structural_similarity_index_measure(
        luma[1], luma[0], data_range=1.0, return_full_image=True
    )
    inner = (slice(None), slice(8, -8), slice(8, -8))  # the edges are padded differently
    found = outside.ssim_map(one, two)[inner].float()
    assert torch.allclose(found, full[:, 0][inner], atol=1e-4)  # float32 variances


# ---------------------------------------------------------------- views


def camera(yaw: float) -> Tensor:
    """A camera [1, 25] on a circle of radius 2 that looks at the origin; y is down."""
    turn = torch.tensor(
        [
            [math.cos(yaw), 0.0, -math.sin(yaw), 2 * math.sin(yaw)],
            [0.0, 1.0, 0.0, 0.0],
            [math.sin(yaw), 0.0, math.cos(yaw), -2 * math.cos(yaw)],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
    intrinsics = torch.tensor([2.0, 0.0, 0.5, 0.0, 2.0, 0.5, 0.0, 0.0, 1.0])
    return torch.cat([turn.flatten(), intrinsics])[None]


def sphere(where: Tensor, brightness: float = 0.0, side: int = 64) -> Render:
    """A smoothly coloured ball of radius 0.4 before a far wall of distance 3."""
    pose, k = where[:, :16].view(4, 4), where[:, 16:].view(3, 3)
    ticks = (torch.arange(side) + 0.5) / side
    v, u = torch.meshgrid(ticks, ticks, indexing="ij")
    rays = torch.stack([u, v, torch.ones_like(u)], -1) @ torch.linalg.inv(k).T
    rays = torch.nn.functional.normalize(rays, dim=-1) @ pose[:3, :3].T
    origin = pose[:3, 3]
    b = (rays * origin).sum(-1)
    root = b.square() - (origin.square().sum() - 0.4**2)
    hit = root > 0
    depth = torch.where(hit, -b - root.clamp(min=0).sqrt(), torch.tensor(3.0))
    points = origin + rays * depth[..., None]
    colour = torch.where(hit[..., None], points + brightness, torch.full_like(points, -0.9))
    return Render(colour.permute(2, 0, 1)[None], depth[None, None])


def test_the_colours_of_a_still_thing_are_the_same_from_the_side() -> None:
    front, side = camera(0.0), camera(0.4)
    found = views.moved_colours(sphere(front), sphere(side), front, side)
    assert found.item() < 0.01  # pixels are sampled between their centres


def test_a_thing_that_is_brighter_from_the_side_is_found_out() -> None:
    front, side = camera(0.0), camera(0.4)
    ball = (sphere(front).depth < 2.9).double().mean() if sphere(front).depth is not None else 0
    found = views.moved_colours(sphere(front), sphere(side, brightness=0.2), front, side)
    # Brighter by 0.1 of the range, and only the ball's own pixels are seen from both sides.
    assert found.item() == pytest.approx(0.1, abs=0.02)
    assert ball > 0


def test_what_is_hidden_from_the_side_does_not_count() -> None:
    front, side = camera(0.0), camera(0.4)
    wrong = sphere(side)
    assert wrong.depth is not None
    hidden = Render(wrong.image + 1.0, wrong.depth * 0.5)  # something stands before everything
    assert torch.isnan(views.moved_colours(sphere(front), hidden, front, side)).all()


def test_a_point_is_found_where_it_was_put() -> None:
    where = camera(0.3)
    depth = torch.rand(1, 1, 5, 7, generator=torch.Generator().manual_seed(0)) + 1.5
    place, distance, ahead = views._project(views._points(depth, where), where)
    u = ((torch.arange(7) + 0.5) / 7).expand(5, 7).flatten()
    assert torch.allclose(place[0, :, 0], u, atol=1e-5)
    assert torch.allclose(distance[0], depth.flatten(), atol=1e-5)
    assert ahead.all()


# ---------------------------------------------------------------- intervals and KID


def test_the_interval_of_a_share_is_about_the_binomial_one() -> None:
    sample = [1.0] * 160 + [0.0] * 40
    low, high = interval([sample], seed=0) or (0.0, 0.0)
    spread = 1.96 * math.sqrt(0.8 * 0.2 / 200)
    assert low == pytest.approx(0.8 - spread, abs=0.015)  # a bootstrap of 999 draws
    assert high == pytest.approx(0.8 + spread, abs=0.015)
    assert interval([sample], seed=0) == (low, high)


def test_the_mean_over_attributes_is_surer_than_one_attribute() -> None:
    sample = [1.0, 0.0] * 50
    alone = interval([sample], seed=0) or (0.0, 0.0)
    four = interval([sample] * 4, seed=0) or (0.0, 0.0)
    assert four[1] - four[0] == pytest.approx((alone[1] - alone[0]) / 2, rel=0.3)


def test_samples_without_spread_or_of_one_number_have_no_width_or_no_interval() -> None:
    assert interval([[1.0] * 9], seed=0) == (1.0, 1.0)
    assert interval([[1.0] * 9, [0.0] * 3], seed=0) == (0.5, 0.5)
    assert interval([[1.0]], seed=0) is None
    assert interval([], seed=0) is None


def test_intervals_are_told_by_attribute_and_figure() -> None:
    scores = {"a": {"success": [1.0, 0.0] * 8, "leakage": []}, "b": {"success": [1.0] * 4}}
    told = intervals(scores, 0, 0.9, 199)
    assert told["attributes"]["a"]["leakage"] is None
    assert told["attributes"]["b"]["success"] == [1.0, 1.0]
    low, high = told["mean"]["success"]
    assert low <= 0.75 <= high
    assert told["confidence"] == 0.9


def test_kid_is_near_zero_for_one_distribution_and_large_for_two() -> None:
    pytest.importorskip("torchmetrics")
    source = torch.Generator().manual_seed(0)
    real, same = (torch.randn(200, 8, generator=source) for _ in range(2))
    before = torch.random.get_rng_state()
    near, far = kid(real, same, 0)[0], kid(real, same + 1.0, 0)[0]
    assert near is not None
    assert far is not None
    assert abs(near) < 0.1  # of two samples of 200
    assert far > 10 * abs(near)
    assert kid(real, same, 0)[0] == near
    assert torch.equal(torch.random.get_rng_state(), before)  # nobody else's draws change
    assert kid(real[:5], same, 0) == (None, kid(real[:5], same, 0)[1])
    assert "too few" in kid(real[:5], same, 0)[1]


def test_without_its_package_kid_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchmetrics.image.kid", None)
    value, note = kid(torch.zeros(20, 2), torch.zeros(20, 2), 0)
    assert value is None
    assert "sat3d[measure]" in note


# ---------------------------------------------------------------- LPIPS


class _FakeLPIPS(torch.nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        assert options["spatial"] is True

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        assert min(one.shape[-2:]) >= 64
        return (one - two).abs().mean(dim=1, keepdim=True)


def test_lpips_is_used_if_it_and_its_weights_are_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    import sys
    import types
    from pathlib import Path

    monkeypatch.setitem(sys.modules, "lpips", None)
    assert "not installed" in outside.load_lpips(torch.device("cpu"))[1]
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=_FakeLPIPS))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    distance, reason = outside.load_lpips(torch.device("cpu"))
    assert distance is None
    assert outside.LPIPS_WEIGHTS in reason
    file = Path(str(tmp_path)) / "checkpoints" / outside.LPIPS_WEIGHTS
    file.parent.mkdir()
    file.touch()
    distance, reason = outside.load_lpips(torch.device("cpu"))
    assert distance is not None
    assert reason == ""
    one, two = torch.zeros(2, 3, 16, 16), torch.full((2, 3, 16, 16), 0.5)
    where = torch.zeros(2, 16, 16, dtype=torch.bool)
    where[:, :8] = True
    found = outside.distance_outside(distance, one, two, where)
    assert found[0].item() == pytest.approx(0.5, abs=0.05)  # resized back at the border
