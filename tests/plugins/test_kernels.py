"""The Triton kernels against the plain words that they stand in for.

Without a GPU Triton's interpreter runs them, line by line, on the CPU.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from sat3d_plugins.generators.eg3d import volume
from sat3d_plugins.generators.stylegan2 import fused, layers
from torch import Tensor

pytest.importorskip("triton", reason="Triton comes with PyTorch on Linux only")

from sat3d_plugins.generators.eg3d import kernels as lookups
from sat3d_plugins.generators.stylegan2 import kernels

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = [(2, 5, 7, 6), (1, 130, 3, 3), (1, 40, 25, 23)]
"""Less than a tile, more channels than a tile, and several parts of an image."""
BFLOAT16 = 2**-7 if DEVICE.type == "cpu" else 2**-8
"""One rounding of a float32 sum, relative to it. Triton's interpreter cuts off instead."""


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def short(*shape: int, seed: int = 0) -> Tensor:
    x = draw(*shape, seed=seed).bfloat16()
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def gradients(found: Tensor, inputs: Sequence[Tensor], cotangent: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(found, inputs, cotangent.to(found.dtype))


def compare(work: Any, plain: Any, inputs: Sequence[Tensor], rounding: Sequence[float]) -> None:
    """Values and gradients against ``plain`` in float64, each as near as its rounding."""
    known = [x.detach().clone().requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    found, wanted = work(*known), plain(*exact)
    cotangent = draw(*wanted.shape, seed=9).bfloat16()
    told = [found, *gradients(found, known, cotangent)]
    true = [wanted, *gradients(wanted, exact, cotangent)]
    for one, two, near in zip(told, true, rounding, strict=True):
        assert one.shape == two.shape
        assert torch.allclose(one.double(), two, rtol=near, atol=1e-5 * two.abs().max().item())


@pytest.mark.parametrize("shape", SHAPES)
def test_a_scale_for_each_image_and_channel(shape: tuple[int, ...]) -> None:
    inputs = short(*shape), draw(*shape[:2], seed=1)
    compare(
        kernels.Activate.apply,
        lambda x, scale: x * scale[:, :, None, None],
        inputs,
        (BFLOAT16, BFLOAT16, 1e-4),
    )


@pytest.mark.parametrize("limit", [None, 0.7])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_layers_activation(shape: tuple[int, ...], noisy: bool, limit: float | None) -> None:
    bias, noise = draw(shape[1], seed=2), draw(*shape[2:], seed=3) if noisy else None

    def plain(x: Tensor, scale: Tensor) -> Tensor:
        y = x * scale[:, :, None, None] + bias.double()[:, None, None]
        y = y if noise is None else y + noise.double()
        y = torch.nn.functional.leaky_relu(y, layers.SLOPE)
        return y if limit is None else y.clamp(-limit, limit)

    def work(x: Tensor, scale: Tensor) -> Tensor:
        return kernels.Activate.apply(x, scale, bias, noise, layers.SLOPE, limit)

    compare(work, plain, (short(*shape), draw(*shape[:2], seed=1)), (BFLOAT16, BFLOAT16, 1e-4))


@pytest.mark.parametrize("size", [(3, 3), (5, 9), (35, 19)])
def test_the_low_pass_filter(size: tuple[int, int]) -> None:
    kernel = layers.low_pass_filter().double().to(DEVICE)
    inputs = [short(1, 70, *size)]
    compare(
        kernels.LowPass.apply, lambda y: layers.low_pass(y, kernel), inputs, (BFLOAT16, BFLOAT16)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_an_image_up_sampled_and_added(shape: tuple[int, ...]) -> None:
    batch, channels, height, width = shape
    bias = draw(channels, seed=2)
    inputs = draw(*shape), short(batch, channels, 2 * height, 2 * width, seed=1)
    compare(
        lambda image, added: kernels.Enlarge.apply(image, added, bias),
        lambda image, added: layers.upsample(image, added + bias.double()[:, None, None]),
        inputs,
        (1e-5, 1e-5, BFLOAT16),
    )


@pytest.mark.parametrize("channels", [6, 32])
def test_the_lookup_in_planes(channels: int) -> None:
    """Some points are outside the box, one exactly on its border, one is not a number."""
    planes = draw(2, 3 * channels, 9, 7).contiguous(memory_format=torch.channels_last)
    points = draw(2, 77, 3, seed=1) * 0.4
    points[0, 0], points[0, 1, 0] = 0.55, 30.0
    compare(
        lambda p: lookups.LookUp.apply(p.unflatten(1, (3, channels)), points, 1.1),
        lambda p: volume.mean_features(p.unflatten(1, (3, channels)), points.double(), 1.1),
        [planes],
        (1e-4, 1e-4),
    )
    points[0, 0, 0] = float("nan")
    found = lookups.LookUp.apply(planes.unflatten(1, (3, channels)), points, 1.1)
    assert torch.isfinite(found[1]).all()


def test_where_triton_does_not_work_a_warning_says_why_and_the_plain_way_remains(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(kernels.Activate, "apply", fail)
    fused.works.cache_clear()
    assert not fused.works(DEVICE)
    assert not fused.works(DEVICE)
    fused.works.cache_clear()
    assert caplog.text.count("no C compiler") == 1
    assert fused.fused(torch.ones(1, 1, 1, 1, dtype=torch.bfloat16)) is None, "not on a CPU"


@pytest.mark.gpu
@pytest.mark.parametrize("noise_mode", ["none", "const"])
def test_layers_use_them_in_low_precision(
    monkeypatch: pytest.MonkeyPatch, noise_mode: layers.NoiseMode
) -> None:
    torch.manual_seed(0)
    block = layers.SynthesisBlock(48, 32, 16, 32, 96).requires_grad_(False).to(DEVICE)
    for layer in (block.conv0, block.conv1):
        layer.noise_strength.fill_(0.3)
    x, image = short(2, 48, 16, 16), draw(2, 96, 16, 16)
    styles = {f"b.{name}": draw(2, 48 if name == "conv0" else 32) for name in ("conv0", "conv1")}
    styles["b.torgb"] = draw(2, 32, seed=4)
    used: list[bool] = []
    results = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(layers, "fused", lambda x: used.append(True))
        codes = {key: value.clone().requires_grad_() for key, value in styles.items()}
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            found = block(x, image, codes, "b", noise_mode)[1]
        results.append([found.detach(), *torch.autograd.grad(found.square().sum(), codes.values())])
    assert len(used) >= 4
    for one, two in zip(*results, strict=True):
        # Three layers in eight bits, rounded at other places.
        assert (one - two).norm() <= 0.02 * two.norm()
