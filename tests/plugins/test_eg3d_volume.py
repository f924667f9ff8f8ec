"""The volume renderer's shortcuts against the plain computation they stand for."""

import pytest
import torch
import torch.nn.functional as F
from sat3d_plugins.generators.eg3d import networks, volume
from sat3d_plugins.generators.eg3d.networks import EG3DConfig, TriplaneGenerator
from sat3d_plugins.generators.eg3d.rays import orbit_camera
from sat3d_plugins.generators.eg3d.volume import VolumeOptions

SOURCE = 5


@pytest.fixture(scope="module")
def generator() -> TriplaneGenerator:
    torch.manual_seed(SOURCE)
    config = EG3DConfig(
        z_dim=8,
        w_dim=8,
        plane_resolution=16,
        neural_resolution=8,
        channel_base=256,
        channel_max=16,
        superresolution="2X",
        sr_clamp=None,
        volume=VolumeOptions(depth_resolution=6, depth_resolution_importance=5),
    )
    return TriplaneGenerator(config).double().requires_grad_(False)


@pytest.fixture
def styles(generator: TriplaneGenerator) -> torch.Tensor:
    w = torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return generator.styles(w.expand(-1, generator.backbone.synthesis.num_ws, -1))


def cameras() -> torch.Tensor:
    yaw = torch.tensor([-0.4, 0.0, 0.5])
    return orbit_camera(yaw, 0.5 * yaw, 2.7, 4.2647).double()


def draw(generator: TriplaneGenerator, styles: torch.Tensor):
    options, size = generator.config.volume, generator.config.neural_resolution
    coarse, fine = networks.uniform_draws(options, size, 3, styles)
    planes = generator.planes(styles)
    out = generator.volume(planes, cameras(), size, options, coarse, fine)
    return out, generator.superresolve(networks.feature_image(out, size), styles)


def plain_features(planes: torch.Tensor, points: torch.Tensor, side: float) -> torch.Tensor:
    grid = volume.project(points * (2 / side)).flatten(0, 1)[:, None]
    out = F.grid_sample(planes.flatten(0, 1), grid, align_corners=False)
    return out.view(*planes.shape[:3], -1).mean(dim=1).transpose(1, 2)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(7, 7), (4, 9), (1, 1)])
def test_rows_of_a_table_are_the_librarys_bilinear_samples(
    size: tuple[int, int], channels_last: bool
) -> None:
    source = torch.Generator().manual_seed(SOURCE)
    planes = torch.randn(2, 3 * 5, *size, generator=source, dtype=torch.float64)
    if channels_last:
        planes = planes.contiguous(memory_format=torch.channels_last)
    planes = planes.unflatten(1, (3, 5)).requires_grad_()
    # A third of the points lie outside the box, some far away.
    points = torch.randn(2, 300, 3, generator=source, dtype=torch.float64)
    points[:, 0], points[:, 1], points[:, 2] = 0.75, -0.75, 1e12
    points.requires_grad_()
    found = volume.mean_features(planes, points, 1.5)
    wanted = plain_features(planes, points, 1.5)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-12)
    cotangent = torch.randn(found.shape, generator=source, dtype=torch.float64)
    for x in (planes, points):
        slopes = [
            torch.autograd.grad(y, x, cotangent, retain_graph=True)[0] for y in (found, wanted)
        ]
        assert torch.allclose(*slopes, rtol=0, atol=1e-10)


def test_pieces_without_gradients_draw_what_is_drawn_at_once_with_them(
    generator: TriplaneGenerator, styles: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, image = draw(generator, styles.clone().requires_grad_())
    monkeypatch.setattr(volume, "PIECE", 50)  # 8 of 64 rays
    with torch.no_grad():
        pieces, same = draw(generator, styles)
    assert torch.allclose(same, image, rtol=0, atol=1e-10)
    for name in ("feature", "depth", "weights", "coarse_depths", "fine_depths", "coarse_weights"):
        a, b = getattr(pieces, name), getattr(whole, name)
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=0, atol=1e-10), name


def test_images_drawn_together_are_the_images_drawn_alone(
    generator: TriplaneGenerator, styles: torch.Tensor
) -> None:
    camera, size, options = cameras(), 8, generator.config.volume
    coarse, fine = networks.uniform_draws(options, size, None, styles)
    with torch.no_grad():
        planes = generator.planes(styles)
        together = generator.volume(planes, camera, size, options, coarse, fine).feature
        for k in range(3):
            one = slice(k, k + 1)
            alone = generator.volume(planes[one], camera[one], size, options, coarse, fine).feature
            assert torch.allclose(together[one], alone, rtol=0, atol=1e-12)
        assert torch.allclose(planes[2:], generator.planes(styles[2:]), rtol=0, atol=1e-10)


def test_gradients_of_styles_are_the_slopes_of_the_image(
    generator: TriplaneGenerator, styles: torch.Tensor
) -> None:
    source = torch.Generator().manual_seed(SOURCE)
    cotangent = torch.randn(3, 3, 128, 128, generator=source, dtype=torch.float64)
    ways = torch.randn(4, *styles.shape, generator=source, dtype=torch.float64)
    options, size = generator.config.volume, generator.config.neural_resolution
    depths = draw(generator, styles)[0]

    def loss(styles: torch.Tensor) -> torch.Tensor:
        # Fixed depths: no gradient flows through where the samples lie.
        origins, directions = networks.sample_rays(cameras(), size)
        out = volume.render_rays(
            generator.planes(styles),
            generator.decoder,
            origins,
            directions,
            options,
            depths.coarse_depths,
            depths.fine_depths,
            fine_are_depths=True,
        )
        image = generator.superresolve(networks.feature_image(out, size), styles)
        return (image * cotangent).sum()

    leaf = styles.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    for way in ways:
        step = 1e-8
        with torch.no_grad():
            slope = (loss(styles + step * way) - loss(styles - step * way)) / (2 * step)
        # So short a step crosses few kinks of leaky ReLUs; rounding leaves five digits.
        assert torch.isclose((gradient * way).sum(), slope, rtol=1e-4)


def test_densities_that_are_not_numbers_do_not_stop_the_lookup(
    generator: TriplaneGenerator,
) -> None:
    points = torch.full((1, 2, 3), float("nan"), dtype=torch.float64)
    planes = torch.ones(1, 3, 32, 4, 4, dtype=torch.float64)
    assert volume.mean_features(planes, points, 1.0).isnan().all()


def test_rays_that_miss_the_box_get_the_published_limits() -> None:
    options = VolumeOptions(ray_start="auto", ray_end="auto", box_warp=1.0)
    origins = torch.tensor([[[0.0, 0, 2], [0.1, 0, 3], [5, 5, 5]]])
    directions = torch.tensor([[[0.0, 0, -1], [0, 0, -1], [0, 0, -1]]])
    near, far = volume.ray_limits(origins, directions, options)
    # The third misses: the nearest near, and as far the largest near.
    assert torch.allclose(near.flatten(), torch.tensor([1.5, 2.5, 1.5]))
    assert torch.allclose(far.flatten(), torch.tensor([2.5, 3.5, 2.5]))
    near, far = volume.ray_limits(origins[:, 2:], directions[:, 2:], options)
    assert (near.item(), far.item()) == (-1, -2), "none hits: nothing to go by"


def test_draws_without_a_seed_are_the_centres_of_the_strata() -> None:
    options = VolumeOptions(depth_resolution=4, depth_resolution_importance=3)
    coarse, fine = networks.uniform_draws(options, 8, None, torch.zeros(1, dtype=torch.float64))
    assert coarse.shape == (1, 1, 4, 1)
    assert coarse.dtype == fine.dtype == torch.float64
    assert (coarse == 0.5).all()
    assert torch.allclose(fine, torch.tensor([[1.0, 3.0, 5.0]]).double() / 6)


def test_running_products_have_the_librarys_values_and_gradients() -> None:
    source = torch.Generator().manual_seed(0)
    factors = torch.rand(2, 5, 7, 1, generator=source) + 1e-10
    factors[0, 0, 2] = 1e-10  # nothing passes here
    found, wanted = (x.clone().requires_grad_() for x in (factors, factors))
    cotangent = torch.randn(factors.shape, generator=source)
    for x, products in ((found, volume.Products.apply(found)), (wanted, wanted.cumprod(2))):
        products.backward(cotangent)
        assert torch.equal(products, factors.cumprod(2))
        assert x.grad is not None
    assert torch.equal(found.grad, wanted.grad)


def test_rays_that_meet_nothing_have_no_depth_and_still_gradients():
    """Compilers hand a gradient of zeros to results that nobody uses."""
    densities = torch.full((1, 2, 4, 1), -500.0)
    densities[0, 1] = 3.0
    densities.requires_grad_()
    depths = torch.linspace(1, 2, 4)[None, None, :, None].expand(1, 2, 4, 1)
    weights, _, depth = volume.composite(densities, depths)
    assert weights[0, 0].sum() == 0
    assert depth[0, 0].isinf().all()
    assert 1 < depth[0, 1].item() < 2
    slopes = torch.ones_like(weights), torch.zeros_like(depth)
    grad = torch.autograd.grad((weights, depth), densities, slopes)[0]
    assert grad.isfinite().all()
