"""StyleGAN2 as a generator of the core: configuration, labels, noise, float16, what is refused."""

import dataclasses
from pathlib import Path

import pytest
import torch
from sat3d_plugins.generators.stylegan2 import generator as plugin
from sat3d_plugins.generators.stylegan2 import layers
from sat3d_plugins.generators.stylegan2.generator import StyleGAN2Config, StyleGAN2Generator, load
from sat3d_plugins.generators.stylegan2.half import in_range
from sat3d_plugins.generators.stylegan2.layers import (
    low_pass,
    low_pass_filter,
    modulated_conv,
    upsample,
)

from sat3d.errors import InputError, UsageError
from sat3d.precision import shortened
from sat3d.registry import load_generator, load_reader
from sat3d.testing import check_generator
from sat3d.weights import save_weights

CPU = torch.device("cpu")
TINY = StyleGAN2Config(
    z_dim=12,
    w_dim=16,
    resolution=32,
    channel_base=256,
    channel_max=16,
    mapping={"num_layers": 2},
)


def write(path: Path, config: StyleGAN2Config = TINY, **changes: object) -> Path:
    torch.manual_seed(3)
    network = plugin.make_network(config)
    for name, value in network.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.constant_(value, 0.1)
    values = {**config.to_dict(), **changes}
    save_weights(path, network.state_dict(), {"architecture": "stylegan2", "config": values})
    return path


def made(path: Path, **changes: object) -> StyleGAN2Generator:
    return load(str(write(path / "g.safetensors", dataclasses.replace(TINY, **changes))), CPU)


@pytest.mark.parametrize("noise", ["const", "none", "random"])
def test_a_tiny_generator_is_what_the_core_expects(tmp_path, noise):
    # Random weights do not keep to [-1, 1].
    check_generator(made(tmp_path, noise_mode=noise), bound=100.0)


def test_a_conditional_generator_is_what_the_core_expects(tmp_path):
    check_generator(made(tmp_path, c_dim=5, label=2), bound=100.0)


def test_the_editable_channels_are_those_of_the_convolutions(tmp_path):
    generator = made(tmp_path)
    assert [x.name for x in generator.layout.layers[:3]] == [
        "synthesis.b4.conv1",
        "synthesis.b4.torgb",
        "synthesis.b8.conv0",
    ]
    # 4, 8, 16 and 32 pixels have 16, 16, 16 and 8 channels; b4 has one convolution.
    assert generator.layout.editable_channels == 16 + 2 * 16 + 2 * 16 + (16 + 8)
    assert generator.sample_cameras(2, 0) is None
    assert generator.orbit(0.1, 0.1) is None


def test_the_full_size_model_has_the_published_number_of_style_channels():
    with torch.device("meta"):
        network = plugin.make_network(StyleGAN2Config())
    layers = plugin.networks.style_layers(network.synthesis, "", "backbone")
    count = {kind: sum(x.channels for x in layers if x.kind == kind) for kind in ("conv", "torgb")}
    assert count == {"conv": 6048, "torgb": 3040}


def test_configuration_survives_the_header(tmp_path):
    config = dataclasses.replace(TINY, c_dim=3, label=1, num_fp16_res=2, truncation_cutoff=4)
    generator = load(str(write(tmp_path / "g.safetensors", config)), CPU)
    assert generator.config == config
    assert StyleGAN2Config.from_dict(config.to_dict()) == config


def test_the_cutoff_truncates_the_first_rows_only(tmp_path):
    generator = made(tmp_path, truncation_cutoff=3)
    generator.network.mapping.w_avg.fill_(0.7)
    z = generator.sample_latents(2, 1)
    whole, cut = generator.map(z), generator.map(z, truncation=0.5)
    assert torch.equal(cut[:, 3:], whole[:, 3:])
    assert torch.allclose(cut[:, :3], 0.7 + 0.5 * (whole[:, :3] - 0.7))


def test_a_label_can_be_given_and_the_configured_class_is_the_default(tmp_path):
    generator = made(tmp_path, c_dim=4, label=2)
    z = generator.sample_latents(3, 1)
    second = torch.eye(4)[2].expand(3, -1)
    assert torch.equal(generator.map(z), generator.map(z, label=second))
    assert not torch.allclose(generator.map(z), generator.map(z, label=torch.eye(4)[:3]))


def test_random_noise_depends_on_the_seed_alone(tmp_path):
    generator = made(tmp_path, noise_mode="random")
    styles = generator.styles(generator.map(generator.sample_latents(2, 1)))
    state = torch.random.get_rng_state()
    first, other = (generator.render(styles, seed=seed).image for seed in (1, 2))
    assert torch.equal(first, generator.render(styles, seed=1).image)
    assert not torch.allclose(first, other)
    assert torch.equal(torch.random.get_rng_state(), state), "the global state was used"


def test_without_weights_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(plugin, "BUNDLED", tmp_path / "gone.safetensors")
    with pytest.raises(InputError, match="no weights .* bundled yet. Add --weights"):
        load_generator("stylegan2", None, "cpu")


def test_the_bundled_heads_show_what_their_latents_say():
    """By the readers, on latents that training never saw; measured on 256: 100 %."""
    from recipes import codes, worlds

    world = worlds.load("avatars2d")
    generator = load_generator("stylegan2", None, "cpu")
    reader = load_reader("avatars", None, "cpu")
    assert not generator.planted, "the hard case"
    z = torch.randn(24, world.dim, generator=torch.Generator().manual_seed(31337))
    truth = codes.factors_from_z(world, z).classes
    bare = truth[:, world.columns["hat"]] == 0
    with torch.no_grad():
        seen = reader.read(generator.render(generator.styles(generator.map(z))).image)
    for name, values in seen.items():
        right = (values.argmax(dim=1) == truth[:, world.columns[name]])[bare]
        assert right.float().mean() >= 0.95, name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resolution", 48),
        ("resolution", 1 << 20),
        ("resolution", True),
        ("z_dim", 0),
        ("z_dim", 2.5),
        ("c_dim", -1),
        ("channel_max", 10**9),
        ("mapping", {"num_layers": 10**6}),
        ("mapping", {"depth": 2}),
        ("mapping", [2]),
        ("noise_mode", "loud"),
        ("clamp", "256"),
        ("clamp", float("nan")),
        ("label", 1),
        ("unheard_of", 1),
    ],
)
def test_a_header_with_a_wrong_setting_is_refused(tmp_path, key, value):
    with pytest.raises(InputError, match=f"{key}"):
        load(str(write(tmp_path / "g.safetensors", TINY, **{key: value})), CPU)


def test_a_header_that_claims_a_gigantic_network_is_refused_without_building_it(tmp_path):
    claims = {"resolution": 2048, "channel_base": 1 << 17, "channel_max": 2048, "z_dim": 8192}
    path = write(tmp_path / "g.safetensors", TINY, **claims)
    with pytest.raises(InputError, match="lacks|differs in"):
        load(str(path), CPU)


def test_weights_of_another_architecture_are_refused(tmp_path):
    save_weights(tmp_path / "x.safetensors", {"x": torch.zeros(1)}, {"architecture": "other"})
    with pytest.raises(InputError, match="not a stylegan2 generator"):
        load(str(tmp_path / "x.safetensors"), CPU)
    with pytest.raises(UsageError, match="unknown weights 'nowhere'"):
        load("nowhere", CPU)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8)])
def test_up_sampling_and_its_gradients_are_those_of_zero_insertion_and_a_filter(size):
    source = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, *size, generator=source, dtype=torch.float64, requires_grad=True)
    large = (2, 3, 2 * size[0], 2 * size[1])
    added = torch.randn(large, generator=source, dtype=torch.float64, requires_grad=True)
    kernel = (low_pass_filter().double() * 4).expand(3, 1, 4, 4)
    wanted = torch.nn.functional.conv_transpose2d(image, kernel, stride=2, padding=1, groups=3)
    cotangent = torch.randn(large, generator=source, dtype=torch.float64)
    both = upsample(image, added)
    for found, plain in ((upsample(image), wanted), (both, wanted + added)):
        assert torch.allclose(found, plain, rtol=0, atol=1e-12)
        slopes = [
            torch.autograd.grad(y, image, cotangent, retain_graph=True)[0] for y in (found, plain)
        ]
        assert torch.allclose(*slopes, rtol=0, atol=1e-12)
    assert torch.equal(torch.autograd.grad(both, added, cotangent)[0], cotangent)
    with torch.no_grad():
        assert torch.allclose(upsample(image, added), both, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(3, 3), (5, 9), (17, 17)])
def test_sums_of_neighbours_are_the_filter_and_so_are_their_gradients(size):
    source = torch.Generator().manual_seed(0)
    y = torch.randn(2, 3, *size, generator=source, dtype=torch.float64, requires_grad=True)
    found, wanted = layers.sums_of_neighbours(y), low_pass(y, low_pass_filter().double())
    assert torch.allclose(found, wanted, rtol=0, atol=1e-12)
    cotangent = torch.randn(found.shape, generator=source, dtype=torch.float64)
    slopes = [torch.autograd.grad(x, y, cotangent)[0] for x in (found, wanted)]
    assert torch.allclose(*slopes, rtol=0, atol=1e-12)


def plain_modulation(x, weight, style, kernel):
    """As the paper writes it: weights of its own for every image, scaled and demodulated."""
    images = []
    for one, scale in zip(x, style, strict=True):
        own = weight * scale[None, :, None, None]
        own = own / (own.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if kernel is None:
            images.append(torch.nn.functional.conv2d(one[None], own, padding=1))
        else:
            y = torch.nn.functional.conv_transpose2d(one[None], own.transpose(0, 1), stride=2)
            smooth = (kernel * 4).expand(y.shape[1], 1, -1, -1)
            images.append(torch.nn.functional.conv2d(y, smooth, padding=1, groups=y.shape[1]))
    return torch.cat(images)


@pytest.mark.parametrize("up", [False, True])
def test_scaled_activations_are_scaled_weights_in_values_and_gradients(up):
    source = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 5, 3, 3, generator=source)
    x = torch.randn(2, 5, 8, 8, generator=source, requires_grad=True)
    style = (1 + torch.randn(2, 5, generator=source)).requires_grad_()
    kernel = low_pass_filter() if up else None
    found = modulated_conv(x, weight, style, kernel)
    wanted = plain_modulation(x, weight, style, kernel)
    # The same sums of some fifty products, in another order.
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)
    cotangent = torch.randn(found.shape, generator=source)
    for one, two in zip(
        *(torch.autograd.grad(y, (x, style), cotangent) for y in (found, wanted)), strict=True
    ):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu, id="cuda")])
@pytest.mark.parametrize("halves", [0, 2])
def test_bfloat16_stays_close_in_values_and_gradients(tmp_path, device, halves):
    config = dataclasses.replace(TINY, resolution=64, num_fp16_res=halves)
    generator = load(str(write(tmp_path / "g.safetensors", config)), torch.device(device))
    styles = generator.styles(generator.map(generator.sample_latents(2, 1)))
    results = []
    for precision in ("float32", "bfloat16"):
        code = styles.detach().clone().requires_grad_()
        with shortened(torch.device(device), precision):
            image = generator.render(code).image
        assert image.dtype == torch.float32
        image.square().mean().backward()
        results.append((image.detach(), code.grad))
    (image, grad), (image16, grad16) = results
    assert not torch.equal(image, image16), "bfloat16 was not used"
    # Eight bits; ten layers add up some of their rounding.
    assert (image - image16).norm() <= 0.03 * image.norm()
    assert (grad - grad16).norm() <= 0.06 * grad.norm()


def test_scaling_into_the_range_of_half_changes_nothing_after_demodulation():
    source = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 5, 3, 3, generator=source) * 40
    style = torch.randn(2, 5, generator=source) * 30
    x = torch.randn(2, 5, 8, 8, generator=source)
    wanted = modulated_conv(x, weight, style)
    scaled = in_range(weight, style)
    assert all(value.abs().max() <= 1 for value in scaled)
    # Only the 1e-8 under the root weighs differently.
    assert torch.allclose(modulated_conv(x, *scaled), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss_scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu, id="cuda")])
def test_float16_blocks_stay_close_in_values_and_gradients(tmp_path, device, loss_scale):
    config = dataclasses.replace(TINY, resolution=64, channel_base=2048, channel_max=64)
    path = write(tmp_path / "g.safetensors", dataclasses.replace(config, num_fp16_res=3))
    exact = load(str(write(tmp_path / "e.safetensors", config)), torch.device(device))
    half = load(str(path), torch.device(device))
    assert half.network.synthesis.half_from == 16
    half.network.synthesis.half_devices.add(device)  # the CPU can, only slowly
    styles = exact.styles(exact.map(exact.sample_latents(2, 1)))
    results = []
    for generator in (exact, half):
        code = styles.detach().clone().requires_grad_()
        image = generator.render(code).image
        assert image.dtype == torch.float32
        # A mean over all pixels; times 1e-6 each one's share is below float16's smallest number,
        # times 1e4 the sums over pixels are above its largest.
        (image.square().mean() * loss_scale).backward()
        results.append((image.detach(), code.grad))
    (image, grad), (image16, grad16) = results
    assert not torch.equal(image, image16), "float16 was not used"
    # float16 has eleven bits; six layers add up some of their rounding.
    assert (image - image16).norm() <= 5e-3 * image.norm()
    assert (grad - grad16).norm() <= 1e-2 * grad.norm()


def test_float16_blocks_do_not_overflow_on_large_weights_and_styles(tmp_path):
    generator = load(str(write(tmp_path / "g.safetensors", TINY, num_fp16_res=2)), CPU)
    generator.network.synthesis.half_devices.add("cpu")
    exact = load(str(write(tmp_path / "e.safetensors", TINY)), CPU)
    for network in (generator.network, exact.network):
        for name, value in network.named_parameters():
            if "conv" in name and name.endswith("weight"):
                value.mul_(1e4)
    styles = exact.styles(exact.map(exact.sample_latents(2, 1)))
    styles[:, exact.layout.editable] *= 1e3
    image, image16 = (g.render(styles).image for g in (exact, generator))
    assert image16.isfinite().all()
    assert (image - image16).norm() <= 1e-2 * image.norm()
