"""EG3D's parts and the whole generator against golden vectors; tolerances are the vectors' own."""

import math

import pytest
import torch
from sat3d_plugins.generators.eg3d import networks, rays, volume
from sat3d_plugins.generators.eg3d.networks import EG3DConfig, TriplaneGenerator
from sat3d_plugins.generators.eg3d.superresolution import SuperResolution
from sat3d_plugins.generators.eg3d.volume import VolumeOptions
from sat3d_plugins.generators.stylegan2 import networks as stylegan2


def close(a, b, tolerance, what=""):
    difference = (a - b).abs().max().item()
    assert difference <= tolerance, f"{what}: {difference} > {tolerance}"


def near(a, b, what, scale=1e-5):
    """The blocks' rule: max|a-b| <= scale * (1 + max|b|)."""
    close(a, b, scale * (1 + b.abs().max().item()), what)


def test_cameras_and_rays_equal_the_golden_vectors(golden):
    T, _ = golden("eg3d_blocks")
    yaw, pitch = T["camera.yaw_pitch"].unbind(1)
    for which, radius in (("a", 2.7), ("b", 1.7)):
        label = rays.orbit_camera(yaw, pitch, radius, 4.2647, T[f"camera.pivot_{which}"])
        near(label[:, :16].view(-1, 4, 4), T[f"camera.cam2world_{which}"], "camera")
    label = torch.cat([T["rays.cam2world"].flatten(1), T["rays.intrinsics"].flatten(1)], dim=1)
    for resolution in (8, 5):
        origins, directions = rays.sample_rays(label, resolution)
        near(origins, T[f"rays.origins_res{resolution}"], "origins")
        near(directions, T[f"rays.directions_res{resolution}"], "directions")


def test_plane_sampling_and_its_gradients_equal_the_golden_vectors(golden):
    T, _ = golden("eg3d_blocks")
    near(volume.project(T["planes.points"]), T["planes.projected"], "projected")
    points = T["planes.points"].requires_grad_()
    for k in range(3):
        # The mean over the planes, of which only one is not zero.
        features = torch.zeros_like(T["planes.features"])
        features[:, k] = T["planes.features"][:, k]
        features.requires_grad_()
        sampled = 3 * volume.mean_features(features, points, 1.0)
        near(sampled, T["planes.sampled_warp1"][:, k], "warp 1")
        wide = 3 * volume.mean_features(features, points, 1.6)
        near(wide, T["planes.sampled_warp1.6"][:, k], "warp 1.6")
        (sampled * T["planes.cotangent"][:, k]).sum().backward()
        near(features.grad[:, k], T["planes.grad_features"][:, k], "features", 1e-4)
    near(points.grad, T["planes.grad_points"], "points", 1e-4)


@pytest.mark.parametrize("back", ["black", "white"])
def test_ray_marching_and_its_gradients_equal_the_golden_vectors(golden, back):
    T, _ = golden("eg3d_blocks")
    colors, densities = T["march.colors"].requires_grad_(), T["march.densities"].requires_grad_()
    weights, shares, depth = volume.composite(densities, T["march.depths"])
    total = weights.sum(dim=2)
    near(shares.sum(dim=2), total, "shares")
    rgb = (shares * colors).sum(dim=2)
    rgb = (rgb + 1 - total if back == "white" else rgb) * 2 - 1
    near(rgb, T[f"march.rgb_{back}"], "rgb")
    near(weights, T[f"march.weights_{back}"], "weights")
    assert depth[0, 0].isinf(), "an empty ray has no depth; the whole batch's range gives it one"
    depth = depth.clamp(T["march.depths"].min(), T["march.depths"].max())
    thin = weights.sum(dim=2) < 1e-2
    wanted = T[f"march.depth_{back}"]
    near(depth[~thin], wanted[~thin], "depth")
    near(depth[thin], wanted[thin], "depth of nearly empty rays", 1e-2)
    (rgb * T[f"march.cotangent_{back}"]).sum().backward()
    near(colors.grad, T[f"march.grad_colors_{back}"], "colors", 1e-4)
    near(densities.grad, T[f"march.grad_densities_{back}"], "densities", 1e-4)


def test_depth_samplers_and_box_limits_equal_the_golden_vectors(golden):
    T, _ = golden("eg3d_blocks")
    u = T["stratified.u"]
    depths = volume.stratified_depths
    near(depths(2.25, 3.3, u, False), T["stratified.linear_2.25_3.3"], "linear")
    near(depths(0.1, 2.6, u, True), T["stratified.disparity_0.1_2.6"], "disparity")
    limits = T["stratified.near"][..., None], T["stratified.far"][..., None]
    near(depths(*limits, u, False), T["stratified.per_ray"], "per ray")
    fine = volume.importance_depths(
        T["importance.depths"], T["importance.weights"], T["importance.u"]
    )
    near(fine, T["importance.samples"], "importance")
    bins, weights = T["importance.pdf_bins"], T["importance.pdf_weights"]
    near(
        volume.inverse_cdf(bins, weights, T["importance.pdf_u"]), T["importance.pdf_samples"], "pdf"
    )
    even = torch.linspace(0, 1, 7).expand(14, -1)
    near(volume.inverse_cdf(bins, weights, even), T["importance.pdf_samples_det"], "even pdf")
    for side in (1, 1.6):
        first, last = rays.box_limits(T["box.origins"], T["box.directions"], side)
        near(first, T[f"box.near_warp{side}"], "near")
        near(last, T[f"box.far_warp{side}"], "far")


@pytest.mark.parametrize("k", [0, 1])
def test_decoder_and_its_gradients_equal_the_golden_vectors(golden, k):
    T, J = golden("eg3d_blocks")
    prefix = f"decoder{k}."
    decoder = volume.Decoder(lr_multiplier=J["decoder_lr_mul"][k])
    decoder.load_state_dict(
        {n.removeprefix(prefix + "sd."): v for n, v in T.items() if n.startswith(prefix + "sd.")}
    )
    features = T[prefix + "features"].requires_grad_()
    rgb, sigma = decoder(features.mean(dim=1))
    near(rgb, T[prefix + "rgb"], "rgb")
    near(sigma, T[prefix + "sigma"], "sigma")
    loss = (rgb * T[prefix + "cotangent_rgb"]).sum()
    (loss + (sigma * T[prefix + "cotangent_sigma"]).sum()).backward()
    near(features.grad, T[prefix + "grad_features"], "features", 1e-4)


@pytest.mark.parametrize("mode", ["linear", "white", "disparity", "auto", "coarse_only"])
def test_the_whole_renderer_equals_the_golden_vectors(golden, mode):
    T, J = golden("eg3d_blocks")
    known = VolumeOptions.__dataclass_fields__
    options = VolumeOptions(**{k: v for k, v in J["render_options"][mode].items() if k in known})
    decoder = volume.Decoder()
    prefix = "render.decoder.sd."
    decoder.load_state_dict(
        {n.removeprefix(prefix): v for n, v in T.items() if n.startswith(prefix)}
    )
    origins, directions = T["render.origins"], T["render.directions"]
    limits = volume.ray_limits(origins, directions, options)
    depths = volume.stratified_depths(
        *limits, T["render.u_coarse"], options.disparity_space_sampling
    )
    fine = T["render.u_fine"] if options.depth_resolution_importance else None
    out = volume.render_rays(
        T["render.planes"], decoder, origins, directions, options, depths, fine
    )
    key = f"render.{mode}."
    near(out.coarse_depths, T[key + "depths_coarse"], "coarse depths", 1e-4)
    if fine is not None:
        near(out.fine_depths, T[key + "depths_fine"], "fine depths", 1e-4)
    near(out.feature, T[key + "rgb"], "rgb", 1e-4)
    total = out.weights.sum(dim=2)
    near(total, T[key + "weight_total"], "weight total", 1e-4)
    solid = total > 1e-2
    near(out.depth[solid], T[key + "depth"][solid], "depth", 1e-4)
    near(out.depth, T[key + "depth"], "depth of nearly empty rays", 1e-2)


def test_superresolution_modules_equal_the_golden_vectors(golden, recipe_normal, recipe_weights):
    T, J = golden("eg3d_superresolution_recipe")
    seed = J["recipe_seed"]
    ws = recipe_normal("in.ws", seed, (1, 14, 512))
    for case in J["cases"]:
        module = SuperResolution(
            case["module"].removeprefix("SuperresolutionHybrid"),
            512,
            case["sr_antialias"],
            256.0 if case["sr_num_fp16_res"] else None,
        )
        shapes = {k: tuple(v.shape) for k, v in module.state_dict().items()}
        assert shapes == {k: tuple(v) for k, v in case["state_dict_shapes"].items()}
        module.load_state_dict({k: recipe_weights(k, seed, s) for k, s in shapes.items()})
        r = case["input_resolution"]
        features = recipe_normal("in.features", seed, (1, 32, r, r)).clamp(-1, 1)
        rows = [13] * len(stylegan2.modulated(module))
        styles = stylegan2.affine_styles(module, ws, rows, "")
        with torch.no_grad():
            image = module(features[:, :3], features, styles, case["noise_mode"])
        assert list(image.shape) == case["output_shape"]
        p, h = case["prefix"], image.shape[-1] // 2
        strided = image[..., 3::8, 5::8] if h > 128 else image[..., 1::4, 2::4]
        tolerance = 2e-4 * image.abs().max().item()
        close(strided, T[p + "image_strided"], tolerance, case["module"])
        crop = image[..., h - 16 : h + 16, h - 16 : h + 16]
        close(crop, T[p + "image_crop"], tolerance, case["module"])
        close(image[..., :8, -8:], T[p + "image_corner"], tolerance, case["module"])


def config_of(J):
    kw, r = J["constructor_kwargs"], J["constructor_kwargs"]["rendering_kwargs"]
    known = VolumeOptions.__dataclass_fields__
    return EG3DConfig(
        z_dim=kw["z_dim"],
        w_dim=kw["w_dim"],
        plane_resolution=J.get("plane_resolution", 256),
        neural_resolution=J["synthesis_call_kwargs"]["neural_rendering_resolution"],
        channel_base=kw["channel_base"],
        channel_max=kw["channel_max"],
        mapping=kw["mapping_kwargs"],
        superresolution=r["superresolution_module"].rpartition("Hybrid")[2],
        sr_clamp=256.0 if kw["sr_num_fp16_res"] else None,
        sr_noise_mode=r["superresolution_noise_mode"],
        sr_antialias=r["sr_antialias"],
        conditioning_scale=0.0 if r["c_gen_conditioning_zero"] else r["c_scale"],
        decoder_lr_multiplier=r["decoder_lr_mul"],
        clamp=kw["conv_clamp"],
        volume=VolumeOptions(**{k: v for k, v in r.items() if k in known}),
    )


def build(J, T, dtype=torch.float32):
    G = TriplaneGenerator(config_of(J))
    G.load_state_dict({k[3:]: v for k, v in T.items() if k.startswith("sd.")})
    return G.to(dtype)


def draw(G, styles, T, depths=True, fine_depths="in.depths_fine"):
    """Volume and feature image with the golden depths fed (or, without, the golden draws)."""
    options, R = G.config.volume, G.config.neural_resolution
    camera = T["in.c"].to(styles)
    planes = G.planes(styles)
    origins, directions = rays.sample_rays(camera, R)
    if depths:
        coarse, fine = T["in.depths_coarse"].to(styles), T[fine_depths].to(styles)
        out = volume.render_rays(
            planes, G.decoder, origins, directions, options, coarse, fine, fine_are_depths=True
        )
    else:
        out = G.volume(planes, camera, R, options, T["in.u_coarse"], T["in.u_fine"])
    return planes, out, networks.feature_image(out, R)


SETS = [("eg3d_small_patched", False), ("eg3d_small_patched", True), ("eg3d_tiny", True)]


@pytest.fixture(params=SETS, ids=["small", "small-large", "tiny-large"])
def whole(request, golden):
    """(tensors, json) of a whole generator; the large sets only where they are."""
    name, large = request.param
    load = request.getfixturevalue("large_golden") if large else golden
    return load(name)


def test_whole_generator_equals_the_golden_vectors(whole):
    T, J = whole
    G = build(J, T)
    tol = {k: v.get("tol_abs") for k, v in J["tensors"].items()}
    close(G.map(T["in.z"], T["in.c_mapping"]), T["out.ws"], tol["out.ws"], "ws")
    key = "out.ws_psi0.7_cutoff7"
    close(G.map(T["in.z"], T["in.c_mapping"], 0.7, 7), T[key], tol[key], key)
    styles = G.styles(T["out.ws"])
    pieces = G.layout.split(styles)
    names = [k for k in sorted(T) if k.startswith("style.")]
    assert [k.split(".", 2)[2] for k in names] == list(pieces)
    for k, piece in zip(names, pieces.values(), strict=True):
        close(piece, T[k], tol[k], k)
    with torch.no_grad():
        planes, out, feature = draw(G, styles, T)
        image = G.superresolve(feature, styles)
        _, again, recomputed = draw(G, styles, T, depths=False)
    results = {
        "mid.planes": planes,
        "mid.planes_strided": planes[..., 3::8, 5::8],
        "mid.weights": out.weights,
        "mid.feature_image": feature,
        "out.image_raw": feature[:, :3],
        "out.image_depth": out.depth.transpose(1, 2).unflatten(2, feature.shape[-2:]),
        "out.image": image,
    }
    for k, value in results.items():
        if k in T:
            close(value, T[k], tol[k], k)
    # Depths recomputed from the draws: ten times more, as the vectors' note allows.
    close(again.coarse_weights, T["mid.coarse_weights"], 10 * tol["mid.coarse_weights"], "coarse")
    close(recomputed, T["mid.feature_image"], 10 * tol["mid.feature_image"], "from draws")
    sigma_rgb = volume.query(planes, G.decoder, T["in.query_points"], G.config.volume.box_warp)
    close(sigma_rgb[0], T["out.query_rgb"], tol["out.query_rgb"], "query rgb")
    close(sigma_rgb[1], T["out.query_sigma"], tol["out.query_sigma"], "query sigma")


def test_editing_in_style_space_equals_the_golden_vectors(whole):
    T, J = whole
    G = build(J, T)
    pieces = G.layout.split(G.styles(T["out.ws"]))
    styles = G.layout.join({n: s + T.get(f"in.style_offset.{n}", 0.0) for n, s in pieces.items()})
    with torch.no_grad():
        _, _, feature = draw(G, styles, T, fine_depths="in.edit_depths_fine")
        image = G.superresolve(feature, styles)
    for key, value in (
        ("out.image_raw_style_offset", feature[:, :3]),
        ("out.image_style_offset_strided", image[..., 1::4, 2::4]),
    ):
        close(value, T[key], J["tensors"][key]["tol_abs"], key)


def test_gradients_in_double_precision_equal_the_golden_vectors(whole):
    T, J = whole
    G = build(J, T, torch.float64)
    styles = G.styles(G.map(T["in.z"].double(), T["in.c_mapping"].double()))
    _, _, feature = draw(G, styles, T)
    image = G.superresolve(feature, styles)
    compare = {"out.image_raw": feature[:, :3], "out.image_strided": image[..., 1::4, 2::4]}
    kinds = [("gradraw_style", feature[:, :3], "in.cotangent_raw")]
    if "in.cotangent" in T:
        kinds.append(("grad_style", image, "in.cotangent"))
    for kind, result, cotangent in kinds:
        (gradient,) = torch.autograd.grad(
            (result * T[cotangent].double()).sum(), styles, retain_graph=True
        )
        for k, (name, piece) in enumerate(G.layout.split(gradient).items()):
            compare[f"{kind}.{k:02d}.{name}"] = piece
    checked = 0
    for key, value in compare.items():
        if f"f64.{key}" in T:
            wanted = T[f"f64.{key}"]
            # 1e-9 relative in double precision, as the vectors' authors state.
            close(value, wanted, 1e-9 * wanted.abs().max().item(), key)
            checked += 1
    assert checked > 10


@pytest.mark.parity
def test_full_size_generator_equals_the_golden_vectors(large_golden, recipe_normal, recipe_weights):
    T, J = large_golden("eg3d_ffhq512_recipe")
    G = TriplaneGenerator(config_of(J))
    seed = J["recipe_seed"]
    G.load_state_dict({k: recipe_weights(k, seed, v.shape) for k, v in G.state_dict().items()})
    assert G.layout.channels == J["style_totals"]["all"]
    assert G.layout.editable_channels == J["style_totals"]["backbone_conv"]
    ws = G.map(T["in.z"], T["in.c_mapping"])
    close(ws, T["out.ws"], 1e-4 * T["out.ws"].abs().max(), "ws")
    styles = G.styles(ws).detach().requires_grad_()
    planes, _, feature = draw(G, styles, T)
    image = G.superresolve(feature, styles)
    h = 256
    for key, value in (
        ("mid.planes_strided", planes[..., 7::16, 9::16]),
        ("mid.feature_image_strided", feature[..., ::2, ::2]),
        ("out.image_raw", feature[:, :3]),
        ("out.image_strided", image[..., 3::8, 5::8]),
        ("out.image_crop", image[..., h - 24 : h + 24, h - 24 : h + 24]),
    ):
        close(value, T[key], 1e-3 * T[key].abs().max().item(), key)
    (image * recipe_normal("in.cotangent", seed, image.shape)).sum().backward()
    checked = 0
    for k, (name, piece) in enumerate(G.layout.split(styles.grad).items()):
        key = f"grad_style.{k:02d}.{name}"
        if key in T:
            close(piece, T[key], 1e-2 * T[key].abs().max().item(), key)
            checked += 1
    assert checked > 0


def test_zero_yaw_looks_from_the_front():
    camera = rays.orbit_camera(torch.zeros(1), torch.zeros(1), 2.7, 4.2647)
    assert torch.allclose(camera[0, [3, 7, 11]], torch.tensor([0.0, 0.0, 2.7]), atol=1e-5)
    assert math.isclose(camera[0, 16].item(), 4.2647, rel_tol=1e-6)
