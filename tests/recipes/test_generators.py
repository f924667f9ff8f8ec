"""The generators' recipes: a few steps each on noise, for tiny networks of every world."""

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from sat3d_plugins.generators.eg3d.generator import load as load_eg3d
from sat3d_plugins.generators.stylegan2.generator import load as load_stylegan2

from recipes import fitting, generator, generator2d, mapping, worlds
from recipes.data import Renders
from recipes.renderer import Rendered
from recipes.worlds import World
from sat3d.weights import load_weights

CPU = torch.device("cpu")


@cache
def tiny(name: str) -> World:
    return replace(REAL(name), hidden=16, channel_base=256, channel_max=16)


REAL = worlds.load


def noise(world: World, count: int, seed: int, *_: object) -> Renders:
    source = torch.Generator().manual_seed(seed)
    factors = world.sample_factors(count, source)
    return Renders(
        world,
        torch.randint(256, (count, 3, 128, 128), dtype=torch.uint8, generator=source),
        torch.randint(len(world.labels), (count, 128, 128), dtype=torch.uint8, generator=source),
        torch.zeros(count, 128, 128, dtype=torch.float16),
        factors,
        world.cameras_for(factors, source),
    )


def grey(self: World, factors: object, cameras: torch.Tensor, *_: object) -> Rendered:
    image = torch.zeros(len(cameras), 3, 128, 128)
    return Rendered(image, image[:, 0].byte(), image[:, :1])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a recipe's main for a tiny world and returns the path of its weights."""
    monkeypatch.setattr(worlds, "load", tiny)
    monkeypatch.setattr(fitting, "renders", noise)
    monkeypatch.setattr(World, "render", grey)

    def main(module: object, world: str, *more: object) -> Path:
        out = tmp_path / f"{world}-{module.__name__.split('.')[-1]}.safetensors"  # type: ignore[attr-defined]
        words = ["x", "--world", world, "--out", out, "--device", "cpu", *more]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        module.main()  # type: ignore[attr-defined]
        return out

    return main


def trained_mapping(run, monkeypatch: pytest.MonkeyPatch, world: str) -> Path:
    measure = mapping.measure
    monkeypatch.setattr(mapping, "measure", lambda w, m, seed: measure(w, m, seed, 100))
    return run(mapping, world, "--steps", "3", "--batch", "16")


@pytest.mark.parametrize("world", ["cats", "cars"])
def test_eg3d_learns_a_world(
    world: str, run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = trained_mapping(run, monkeypatch, world)
    monkeypatch.setattr(generator, "GUIDED_UNTIL", 0.4)  # both ways of sampling
    words = ("--mapping", made, "--work", tmp_path / "work", "--steps", 2, "--batch", 1)
    out = run(generator, world, *words, "--count", 4, "--measure", 1, "--seed", 3)
    loaded, header = load_eg3d(str(out), CPU), load_weights(out)[1]
    assert header["style_space"] == "planted"
    assert header["seed"] == 3
    assert header["training"]["trained_steps"] == 2
    assert header["training"]["skipped_steps"] == 0
    assert header["figures"].keys() == {"mapping_right", "variation_rms", "psnr"}
    assert header["goes_with"]["descriptors"] == tiny(world).pack
    assert set(loaded.planted) == {factor.name for factor in tiny(world).factors}
    assert loaded.network.config.volume.white_back == (world == "cars")
    cameras = loaded.sample_cameras(2, seed=0)
    assert cameras[0, 16].item() == pytest.approx(tiny(world).cameras.focal)
    assert loaded.cameras.pitch_centre == tiny(world).cameras.pitch_centre
    with torch.no_grad():
        w = loaded.map(torch.randn(1, loaded.latent_dim), cameras[:1])
        image = loaded.render(loaded.styles(w), cameras[:1], draft=True).image
    assert image.isfinite().all()
    if world != "cars":
        return
    # Started from itself, it goes on.
    words = (*words[:3], tmp_path / "again", *words[4:])
    again = run(generator, world, *words, "--count", 4, "--measure", 1, "--start", out)
    assert load_weights(again)[0].keys() == load_weights(out)[0].keys()


def test_the_loss_has_a_gradient_where_rays_meet_nothing() -> None:
    world = tiny("cars")
    network = generator.new_network(world, generator.config_of(world), 0)
    with torch.no_grad():
        network.decoder.net[2].bias[0] = -1e4  # no density anywhere
    data = noise(world, 2, 0)
    w = generator.codes.factors_to_w(world, data.factors)
    loss = generator.Loss(network, compiled=False)
    for progress in (0.0, 0.99):
        network.zero_grad()
        loss(generator.sample_batch(data, w, 1), progress, 0).backward()
        grads = [p.grad for p in network.parameters() if p.grad is not None]
        assert grads
        assert all(grad.isfinite().all() for grad in grads)


def test_stylegan2_learns_the_flat_avatars(
    run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = trained_mapping(run, monkeypatch, "avatars2d")
    words = ("--mapping", made, "--work", tmp_path / "work", "--steps", 3, "--batch", 2)
    out = run(generator2d, "avatars2d", *words, "--count", 4, "--measure", 2)
    loaded, (tensors, header) = load_stylegan2(str(out), CPU), load_weights(out)
    assert header["style_space"] == "learned"
    assert header["goes_with"]["segmenter"] == "bisenet"
    assert loaded.resolution == 128
    z = torch.randn(2, loaded.latent_dim)
    image = loaded.render(loaded.styles(loaded.map(z))).image
    assert image.shape == (2, 3, 128, 128)
    assert image.isfinite().all()
    # Nothing is planted: an affine layer looks at all of w.
    weight = tensors["synthesis.b32.conv0.affine.weight"]
    assert (weight != 0).float().mean() > 0.99
    assert not any("planted" in key for key in tensors)
    assert (tensors["mapping.w_avg"] != 0).any()


def test_the_flat_generators_mapping_finds_the_factors_before_it_mixes(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = tiny("avatars2d")
    made = trained_mapping(run, monkeypatch, "avatars2d")
    blocks, _ = generator2d.read_blocks(world, made)
    network = generator2d.new_network(world, blocks, 0)
    first = mapping.new_mapping(world, rows=1)
    mapping.load(first, made)
    z = torch.randn(5, world.dim)
    code = mapping.run(first, z)
    torch.testing.assert_close(
        generator2d.mixed(network, code), network.mapping(z)[:, 0], atol=1e-4, rtol=1e-4
    )
