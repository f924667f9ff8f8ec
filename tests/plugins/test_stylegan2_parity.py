"""StyleGAN2 layers and networks against golden vectors; tolerances are those of the vectors."""

import pytest
import torch
from sat3d_plugins.generators.stylegan2 import layers, networks


def close(a, b, tolerance):
    difference = (a - b).abs().max().item()
    assert difference <= tolerance, f"{difference} > {tolerance}"


def test_basic_operations_equal_the_golden_vectors(golden):
    T, _ = golden("stylegan2_ops")
    kernel = layers.low_pass_filter()
    fc = layers.FullyConnected(9, 11)
    fc.load_state_dict({"weight": T["fc_linear.weight"], "bias": T["fc_linear.bias"]})
    fc_lrelu = layers.FullyConnected(9, 11, "lrelu", 0.01)
    fc_lrelu.load_state_dict({"weight": T["fc_lrelu.weight"], "bias": T["fc_lrelu.bias"]})
    x, w, s = T["modconv.x"], T["modconv.weight"], T["modconv.styles"]
    act = layers.bias_act
    results = {
        "filter": kernel,
        "norm.y": layers.normalize_second_moment(T["norm.x"]),
        "upsample.y": layers.upsample(T["upsample.x"]),
        "act.lrelu": act(T["act.x"], T["act.b"]),
        "act.lrelu_gain0.5_clamp1.5": act(T["act.x"], T["act.b"], "lrelu", 0.5, 1.5),
        "act.linear_clamp2": act(T["act.x"], T["act.b"], "linear", 1.0, 2.0),
        "fc_linear.y": fc(T["fc_linear.x"]),
        "fc_lrelu.y": fc_lrelu(T["fc_lrelu.x"]),
        "modconv.plain": layers.modulated_conv(x, w, s) + T["modconv.noise"],
        "modconv.no_demodulation": layers.modulated_conv(x, w, s, demodulate=False),
        "modconv.up": layers.modulated_conv(x, w, s, kernel) + T["modconv.noise_up"],
        "modconv.torgb": layers.modulated_conv(x, T["modconv.weight_1x1"], s, demodulate=False),
    }
    for name, result in results.items():
        close(result, T[name], 1e-5 * (1 + T[name].abs().max().item()))


def build(J, T, dtype=torch.float32):
    kw, synthesis = J["constructor_kwargs"], J["constructor_kwargs"]["synthesis_kwargs"]
    network = networks.Generator(
        kw["z_dim"],
        kw["c_dim"],
        kw["w_dim"],
        kw["img_resolution"],
        kw["img_channels"],
        kw["mapping_kwargs"],
        synthesis["channel_base"],
        synthesis["channel_max"],
        synthesis.get("conv_clamp"),
    )
    network.load_state_dict({k[3:]: v for k, v in T.items() if k.startswith("sd.")})
    return network.to(dtype)


def affine(network, ws):
    return networks.affine_styles(network.synthesis, ws, network.synthesis.style_rows(), "")


@pytest.mark.parametrize("name", ["stylegan2_tiny", "stylegan2_tiny_cond"])
def test_generator_equals_the_golden_vectors(golden, name):
    T, J = golden(name)
    G = build(J, T)
    tolerance = {k: v.get("tol_abs") for k, v in J["tensors"].items()}
    c = T.get("in.c")
    close(G.mapping(T["in.z"], c), T["out.ws"], tolerance["out.ws"])
    close(G.mapping(T["in.z"], c, 0.7), T["out.ws_psi0.7"], tolerance["out.ws_psi0.7"])
    key = "out.ws_psi0.5_cutoff3"
    close(G.mapping(T["in.z"], c, 0.5, 3), T[key], tolerance[key])

    styles = affine(G, T["out.ws"])
    expected = [k for k in sorted(T) if k.startswith("style.")]
    assert [f"synthesis.{n}" for n in styles] == [k.split(".", 2)[2] for k in expected]
    for (_, style), k in zip(styles.items(), expected, strict=True):
        close(style, T[k], tolerance[k])
    close(G.synthesis(styles), T["out.image"], tolerance["out.image"])
    close(G.synthesis(styles, "none"), T["out.image_noise_none"], tolerance["out.image_noise_none"])
    mixed = affine(G, T["in.ws_mixed"])
    close(G.synthesis(mixed), T["out.image_ws_mixed"], tolerance["out.image_ws_mixed"])
    moved = {n: s + T.get(f"in.style_offset.synthesis.{n}", 0.0) for n, s in styles.items()}
    key = "out.image_style_offset"
    close(G.synthesis(moved), T[key], tolerance[key])


@pytest.mark.parametrize("name", ["stylegan2_tiny", "stylegan2_tiny_cond"])
def test_gradients_in_double_precision_equal_the_golden_vectors(golden, name):
    T, J = golden(name)
    G = build(J, T, torch.float64)
    c = T["in.c"].double() if "in.c" in T else None
    ws = G.mapping(T["in.z"].double(), c)
    ws.retain_grad()
    styles = affine(G, ws)
    for style in styles.values():
        style.retain_grad()
    image = G.synthesis(styles)
    (image * T["in.cotangent"].double()).sum().backward()
    compare = {"out.image": image, "grad.ws": ws.grad}
    for k, (n, style) in enumerate(styles.items()):
        compare[f"grad_style.{k:02d}.synthesis.{n}"] = style.grad
    for key in (k for k in T if k.startswith("f64.grad_param.")):
        compare[key[4:]] = G.get_parameter(key.removeprefix("f64.grad_param.")).grad
    for key, value in compare.items():
        wanted = T[f"f64.{key}"]
        # Double precision leaves 1e-9 of the largest value, as the vectors' authors state.
        close(value, wanted, 1e-9 * wanted.abs().max().item())


@pytest.mark.parity
def test_full_size_generator_equals_the_golden_vectors(large_golden, recipe_normal, recipe_weights):
    T, J = large_golden("stylegan2_ffhq1024_recipe")
    G = networks.Generator(512, 0, 512, 1024, 3, {"num_layers": 8}, clamp=256.0)
    seed = J["recipe_seed"]
    G.load_state_dict({k: recipe_weights(k, seed, v.shape) for k, v in G.state_dict().items()})
    ws = G.mapping(T["in.z"])
    close(ws, T["out.ws"], 1e-4 * T["out.ws"].abs().max())
    close(G.mapping(T["in.z"], None, 0.7), T["out.ws_psi0.7"], 1e-4 * T["out.ws"].abs().max())
    styles = {n: s.detach().requires_grad_() for n, s in affine(G, ws).items()}
    image = G.synthesis(styles)
    h = 512
    close(image[..., 3::8, 5::8], T["out.image_strided"], 5e-4 * image.abs().max())
    crop = image[..., h - 24 : h + 24, h - 24 : h + 24]
    close(crop, T["out.image_crop"], 5e-4 * image.abs().max())
    (image * recipe_normal("in.cotangent", seed, image.shape)).sum().backward()
    for k, (n, style) in enumerate(styles.items()):
        key = f"grad_style.{k:02d}.synthesis.{n}"
        if key in T:
            close(style.grad, T[key], 1e-2 * T[key].abs().max())
