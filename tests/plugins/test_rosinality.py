"""The other published StyleGAN2 layout, against a plain implementation of its own forward pass.

The reference below follows the description of that code base (equalised layers, weights modulated
per image, blur with [1, 3, 3, 1], toRGB skips), one image at a time, with nothing of ours in it.
"""

import argparse
import math

import pytest
import torch
import torch.nn.functional as F
from sat3d_plugins.generators.stylegan2 import generator as stylegan2

from sat3d.errors import InputError
from sat3d.importing import import_file
from sat3d.weights import load_weights

CPU = torch.device("cpu")
CHANNELS = {4: 16, 8: 16, 16: 16, 32: 8}
W, LAYERS = 12, 3


def kernel(gain=1.0):
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return gain * torch.outer(taps, taps) / 64


def checkpoint(seed=0):
    """Random weights of a 32x32 generator in that layout."""
    draws = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draws)

    state = {"input.input": normal(1, CHANNELS[4], 4, 4)}
    for k in range(1, LAYERS + 1):
        state[f"style.{k}.weight"] = normal(W, W) / 0.01
        state[f"style.{k}.bias"] = normal(W) * 20

    def modulated(name, inputs, outputs, size):
        state[f"{name}.conv.weight"] = normal(1, outputs, inputs, size, size)
        state[f"{name}.conv.modulation.weight"] = normal(inputs, W)
        state[f"{name}.conv.modulation.bias"] = 1 + 0.3 * normal(inputs)

    def styled(name, inputs, outputs, up=False):
        modulated(name, inputs, outputs, 3)
        if up:
            state[f"{name}.conv.blur.kernel"] = kernel(4)
        state[f"{name}.noise.weight"] = 0.1 + 0.1 * normal(1)
        state[f"{name}.activate.bias"] = 0.2 * normal(outputs)

    def to_rgb(name, inputs, up=True):
        modulated(name, inputs, 3, 1)
        if up:
            state[f"{name}.upsample.kernel"] = kernel(4)
        state[f"{name}.bias"] = 0.2 * normal(1, 3, 1, 1)

    styled("conv1", CHANNELS[4], CHANNELS[4])
    to_rgb("to_rgb1", CHANNELS[4], up=False)
    for k, side in enumerate((8, 16, 32)):
        styled(f"convs.{2 * k}", CHANNELS[side // 2], CHANNELS[side], up=True)
        styled(f"convs.{2 * k + 1}", CHANNELS[side], CHANNELS[side])
        to_rgb(f"to_rgbs.{k}", CHANNELS[side])
    for k, side in enumerate((4, 8, 8, 16, 16, 32, 32)):
        state[f"noises.noise_{k}"] = normal(1, 1, side, side)
    return {"g_ema": state, "latent_avg": normal(W)}


def equal_linear(state, name, x, lr=1.0):
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return F.linear(x, weight * lr / math.sqrt(weight.shape[1]), bias * lr)


def leaky(x):
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def reference_mapping(state, z):
    x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
    for k in range(1, LAYERS + 1):
        x = leaky(equal_linear(state, f"style.{k}", x, 0.01))
    return x


def filtered(x, taps, up, before, after):
    """Zeros between the numbers, zeros around, then convolution with the kernel."""
    channels, height, width = x.shape
    spread = torch.zeros(channels, height, up, width, up)
    spread[:, :, 0, :, 0] = x
    spread = spread.reshape(channels, 1, height * up, width * up)
    framed = F.pad(spread, (before, after, before, after))
    return F.conv2d(framed, taps.flip(0, 1)[None, None])[:, 0]


def reference_conv(state, name, x, w, demodulate=True):
    """One image [I, H, W] and one row of w."""
    weight = state[f"{name}.conv.weight"][0]
    style = equal_linear(state, f"{name}.conv.modulation", w[None])[0]
    weight = weight / math.sqrt(weight[0].numel()) * style[None, :, None, None]
    if demodulate:
        weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)
    if f"{name}.conv.blur.kernel" in state:
        y = F.conv_transpose2d(x[None], weight.transpose(0, 1), stride=2)[0]
        return filtered(y, state[f"{name}.conv.blur.kernel"], 1, 1, 1)
    return F.conv2d(x[None], weight, padding=weight.shape[-1] // 2)[0]


def reference_image(state, ws):
    """One image from its rows of w [L, W]."""
    noises = iter(range(7))

    def styled(name, x, w):
        y = reference_conv(state, name, x, w)
        y = y + state[f"{name}.noise.weight"] * state[f"noises.noise_{next(noises)}"][0]
        return leaky(y + state[f"{name}.activate.bias"][:, None, None])

    def to_rgb(name, x, w, skip=None):
        y = reference_conv(state, name, x, w, demodulate=False) + state[f"{name}.bias"][0]
        if skip is not None:
            y = y + filtered(skip, state[f"{name}.upsample.kernel"], 2, 2, 1)
        return y

    x = styled("conv1", state["input.input"][0], ws[0])
    rgb = to_rgb("to_rgb1", x, ws[1])
    for k in range(3):
        x = styled(f"convs.{2 * k}", x, ws[2 * k + 1])
        x = styled(f"convs.{2 * k + 1}", x, ws[2 * k + 2])
        rgb = to_rgb(f"to_rgbs.{k}", x, ws[2 * k + 3], rgb)
    return rgb


def imported(tmp_path, content, name="net"):
    path = tmp_path / f"{name}.pt"
    torch.save(content, path)
    return import_file(path, name, folder=tmp_path / "store")


@pytest.mark.parametrize("seed", [0, 1])
def test_images_equal_those_of_the_layouts_own_forward_pass(tmp_path, seed):
    content = checkpoint(seed)
    report = imported(tmp_path, content)
    assert (report.architecture, report.resolution, report.notes) == ("stylegan2", 32, ())
    generator = stylegan2.load(str(report.path), CPU)
    draws = torch.Generator().manual_seed(7)
    z = torch.randn(3, W, generator=draws)
    w = reference_mapping(content["g_ema"], z)
    average = content["latent_avg"]
    # Float32 over a few layers.
    assert (generator.map(z)[:, 0] - w).abs().max() < 1e-4
    truncated = average + 0.6 * (w - average)
    assert (generator.map(z, truncation=0.6)[:, 4] - truncated).abs().max() < 1e-4
    # Every row its own w, so that a wrong row shows.
    ws = torch.randn(3, 8, W, generator=draws)
    expected = torch.stack([reference_image(content["g_ema"], rows) for rows in ws])
    with torch.no_grad():
        image = generator.render(generator.styles(ws)).image
    assert expected.std() > 0.1
    assert (image - expected).abs().max() < 1e-4 * max(1.0, expected.abs().max().item())


def test_the_decoder_inside_an_encoder_checkpoint_is_found(tmp_path):
    """As e4e and pSp save it: decoder and encoder together, one mean per row."""
    content = checkpoint()
    state = {f"decoder.{key}": value for key, value in content["g_ema"].items()}
    state["encoder.input_layer.0.weight"] = torch.zeros(4)
    rows = content["latent_avg"].repeat(8, 1)
    whole = {"state_dict": state, "latent_avg": rows, "opts": {"size": 32}}
    assert fingerprint(imported(tmp_path, whole)) == fingerprint(
        imported(tmp_path, content, "other")
    )


def fingerprint(report):
    return stylegan2.load(str(report.path), CPU).card.fingerprint


def test_a_training_checkpoint_with_everything_in_it_is_read(tmp_path):
    content = checkpoint()
    parameters = [torch.nn.Parameter(torch.zeros(3))]
    optimiser = torch.optim.Adam(parameters)
    parameters[0].grad = torch.ones(3)
    optimiser.step()
    extra = {"g": content["g_ema"], "d": {"a": torch.zeros(2)}, "ada_aug_p": 0.1}
    extra |= {"g_optim": optimiser.state_dict(), "args": argparse.Namespace(size=32, lr=0.002)}
    report = imported(tmp_path, content | extra)
    assert fingerprint(report) == fingerprint(imported(tmp_path, content, "other"))


def test_what_an_old_file_lacks_is_made_up_and_said(tmp_path):
    content = checkpoint()
    state = {k: v for k, v in content["g_ema"].items() if not k.startswith("noises")}
    report = imported(tmp_path, {"g_ema": state})
    assert "noise maps" in report.notes[0]
    assert "latent_avg" in report.notes[1]
    tensors, header = load_weights(report.path)
    assert header["notes"] == list(report.notes)
    z = torch.randn(4096, W, generator=torch.Generator().manual_seed(0))
    mean = reference_mapping(state, z).mean(0)
    assert (tensors["mapping.w_avg"] - mean).abs().max() < 1e-4
    assert imported(tmp_path, {"g_ema": state}, "again").sha256
    again = load_weights(tmp_path / "store" / "again.safetensors")[0]
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"convs.1.conv.weight": None}, r"lacks the tensor 'convs\.1\.conv\.weight'"),
        ({"convs.0.conv.blur.kernel": torch.ones(4, 4)}, "does not belong"),
        ({"extra.weight": torch.ones(1)}, r"'extra\.weight' does not belong"),
        ({"input.input": torch.ones(2, 16, 4, 4)}, "'input.input' has shape"),
        ({"noises.noise_3": torch.ones(1, 1, 4, 4)}, "does not fit"),
        ({"convs.0.conv.weight": torch.ones(1, 7, 16, 3, 3)}, "has shape"),
        ({"style.2.weight": torch.ones(W, W + 1)}, "has shape"),
    ],
)
def test_a_file_that_is_not_quite_of_that_layout_is_refused(tmp_path, change, reason):
    content = checkpoint()
    state = {**content["g_ema"], **change}
    content["g_ema"] = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(InputError, match=reason):
        imported(tmp_path, content)


def test_channel_widths_that_no_configuration_gives_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(CHANNELS, 8, 4)
    with pytest.raises(InputError, match="has shape"):
        imported(tmp_path, checkpoint())
