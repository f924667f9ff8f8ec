"""Published checkpoints, written in their structure, become weights that draw the same images."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sat3d_plugins.generators.eg3d import generator as eg3d
from sat3d_plugins.generators.eg3d.networks import EG3DConfig
from sat3d_plugins.generators.eg3d.volume import VolumeOptions
from sat3d_plugins.generators.stylegan2 import generator as stylegan2
from sat3d_plugins.generators.stylegan2.generator import StyleGAN2Config
from sat3d_plugins.segmenters.bisenet import segmenter as bisenet
from sat3d_plugins.segmenters.bisenet.network import BiSeNet

from recipes import snapshots
from sat3d.errors import InputError
from sat3d.importing import import_file
from sat3d.weights import load_weights, save_weights

CPU = torch.device("cpu")


def golden_config(J):
    kw = J["constructor_kwargs"]
    synthesis = kw["synthesis_kwargs"]
    return StyleGAN2Config(
        kw["z_dim"],
        kw["c_dim"],
        kw["w_dim"],
        kw["img_resolution"],
        synthesis["channel_base"],
        synthesis["channel_max"],
        {**kw["mapping_kwargs"], "lr_multiplier": 0.01},
        synthesis.get("conv_clamp"),
    )


def golden_tensors(T):
    return {key[3:]: value for key, value in T.items() if key.startswith("sd.")}


def same(path: Path, expected) -> None:
    """The stored tensors are these, bit for bit."""
    stored = load_file(path)
    assert stored.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(stored[key], value), key


def draws_the_golden_images(path: Path, T, J) -> None:
    generator = stylegan2.load(str(path), CPU)
    tolerance = {key: value.get("tol_abs") for key, value in J["tensors"].items()}

    def close(a, key):
        assert (a - T[key]).abs().max() <= tolerance[key], key

    close(generator.network.mapping(T["in.z"], T.get("in.c")), "out.ws")
    close(generator.network.mapping(T["in.z"], T.get("in.c"), 0.7), "out.ws_psi0.7")
    with torch.no_grad():
        close(generator.render(generator.styles(T["out.ws"])).image, "out.image")
        close(generator.render(generator.styles(T["in.ws_mixed"])).image, "out.image_ws_mixed")


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("name", ["stylegan2_tiny", "stylegan2_tiny_cond"])
def test_stylegan2_draws_the_golden_images_after_the_round_trip(golden, tmp_path, name, protocol):
    T, J = golden(name)
    config = golden_config(J)
    snapshots.write_snapshot(tmp_path / "s.pkl", config, golden_tensors(T), protocol)
    report = import_file(tmp_path / "s.pkl", name, folder=tmp_path)
    same(report.path, golden_tensors(T))
    assert load_weights(report.path)[1]["config"] == config.to_dict()
    assert (report.architecture, report.resolution) == ("stylegan2", 32)
    assert report.style_channels == stylegan2.load(str(report.path), CPU).layout.editable_channels
    draws_the_golden_images(report.path, T, J)


def eg3d_config(J):
    kw, r = J["constructor_kwargs"], J["constructor_kwargs"]["rendering_kwargs"]
    known = VolumeOptions.__dataclass_fields__
    return EG3DConfig(
        z_dim=kw["z_dim"],
        w_dim=kw["w_dim"],
        plane_resolution=J.get("plane_resolution", 256),
        neural_resolution=J["synthesis_call_kwargs"]["neural_rendering_resolution"],
        channel_base=kw["channel_base"],
        channel_max=kw["channel_max"],
        mapping={**kw["mapping_kwargs"], "lr_multiplier": 0.01},
        superresolution=r["superresolution_module"].rpartition("Hybrid")[2],
        sr_clamp=256.0 if kw["sr_num_fp16_res"] else None,
        sr_noise_mode=r["superresolution_noise_mode"],
        sr_antialias=r["sr_antialias"],
        conditioning_scale=0.0 if r["c_gen_conditioning_zero"] else r["c_scale"],
        decoder_lr_multiplier=r["decoder_lr_mul"],
        clamp=kw["conv_clamp"],
        volume=VolumeOptions(**{k: v for k, v in r.items() if k in known}),
    )


def test_eg3d_keeps_its_tensors_and_settings_through_the_round_trip(golden, tmp_path):
    """The configuration is the one whose images test_eg3d_parity compares."""
    T, J = golden("eg3d_small_patched")
    config = eg3d_config(J)
    snapshots.write_snapshot(tmp_path / "s.pkl", config, golden_tensors(T))
    report = import_file(tmp_path / "s.pkl", "small", folder=tmp_path)
    same(report.path, golden_tensors(T))
    generator = eg3d.load(str(report.path), CPU)
    assert generator.network.config == config
    assert generator.cameras == eg3d.CameraRange(pivot=(0.0, 0.0, 0.2))
    assert generator.draft.depth_resolution == config.volume.depth_resolution
    assert report.resolution == 256
    with torch.no_grad():
        ws = generator.network.map(T["in.z"], T["in.c_mapping"])
    assert (ws - T["out.ws"]).abs().max() <= J["tensors"]["out.ws"]["tol_abs"]


def tiny_eg3d(**changes):
    values = {"z_dim": 8, "w_dim": 8, "plane_resolution": 8, "neural_resolution": 16}
    values |= {"channel_base": 64, "channel_max": 8, "superresolution": "2X"}
    return EG3DConfig(**(values | changes))


@pytest.mark.parametrize(
    "config",
    [
        tiny_eg3d(sr_clamp=None, clamp=3.0, conditioning_scale=0.0),
        tiny_eg3d(mapping={"num_layers": 3, "layer_features": 12}, sr_antialias=False),
        tiny_eg3d(volume=VolumeOptions(ray_start="auto", ray_end="auto", white_back=True)),
        tiny_eg3d(volume=VolumeOptions(depth_resolution_importance=0, box_warp=1.6)),
    ],
)
def test_every_eg3d_setting_survives(tmp_path, config):
    tensors = snapshots.random_network(config).state_dict()
    snapshots.write_snapshot(tmp_path / "s.pkl", config, tensors)
    path = import_file(tmp_path / "s.pkl", "small", folder=tmp_path).path
    mapping = {"lr_multiplier": 0.01, **config.mapping}
    expected = dataclasses.replace(config, mapping=mapping)
    assert EG3DConfig.from_dict(load_weights(path)[1]["config"]) == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"clamp_mode": "relu"}, "clamp_mode is 'relu'"),
        ({"depth_resolution": 10**9}, "depth_resolution is 1000000000"),
        ({"box_warp": "1"}, "box_warp is '1'"),
        ({"avg_camera_pivot": [0, 0]}, "avg_camera_pivot is a list"),
    ],
)
def test_eg3d_settings_that_mean_something_else_are_refused(tmp_path, monkeypatch, change, reason):
    usual = snapshots.rendering_kwargs
    monkeypatch.setattr(snapshots, "rendering_kwargs", lambda config: usual(config) | change)
    config = tiny_eg3d()
    tensors = snapshots.random_network(config).state_dict()
    snapshots.write_snapshot(tmp_path / "s.pkl", config, tensors)
    with pytest.raises(InputError, match=reason):
        import_file(tmp_path / "s.pkl", "small", folder=tmp_path)


def test_corrected_plane_axes_are_refused_not_ignored(tmp_path):
    config = tiny_eg3d()
    path = tmp_path / "s.pkl"
    snapshots.write_snapshot(path, config, snapshots.random_network(config).state_dict())
    last = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]).numpy().tobytes()
    other = torch.tensor([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]]).numpy().tobytes()
    data = path.read_bytes()
    assert data.count(last) == 2
    path.write_bytes(data.replace(last, other))
    with pytest.raises(InputError, match="planes lie along other axes"):
        import_file(path, "small", folder=tmp_path)


def test_a_filter_other_than_the_built_in_one_is_refused(golden, tmp_path):
    T, J = golden("stylegan2_tiny")
    tensors = golden_tensors(T)
    tensors["synthesis.b8.resample_filter"] = torch.ones(4, 4) / 16
    snapshots.write_snapshot(tmp_path / "s.pkl", golden_config(J), tensors)
    with pytest.raises(InputError, match="binomial"):
        import_file(tmp_path / "s.pkl", "small", folder=tmp_path)


@pytest.mark.parametrize("cuts", range(4))
def test_truncated_and_damaged_snapshots_are_refused_or_harmless(golden, tmp_path, cuts):
    T, J = golden("stylegan2_tiny")
    path = tmp_path / "s.pkl"
    snapshots.write_snapshot(path, golden_config(J), golden_tensors(T))
    data = path.read_bytes()
    draws = torch.Generator().manual_seed(cuts)
    for length in torch.randint(0, len(data), (8,), generator=draws).tolist():
        path.write_bytes(data[:length])
        with pytest.raises(InputError) as caught:
            import_file(path, "cut", folder=tmp_path / "store")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_plain_stylegan2_state_dict_is_recognised_by_its_shapes(golden, tmp_path, suffix):
    T, _ = golden("stylegan2_tiny_cond")
    path = tmp_path / f"plain{suffix}"
    if suffix == ".pt":
        torch.save(golden_tensors(T), path)
    else:
        from safetensors.torch import save_file

        save_file(golden_tensors(T), path)
    report = import_file(path, "cond", folder=tmp_path)
    same(report.path, golden_tensors(T))
    assert "conv_clamp" in report.notes[0]
    config = StyleGAN2Config.from_dict(load_weights(report.path)[1]["config"])
    assert (config.z_dim, config.c_dim, config.w_dim, config.resolution) == (32, 4, 32, 32)


def test_a_whole_module_saved_by_torch_is_read_as_a_snapshot(golden, tmp_path):
    """As PTI saves its tuned generators."""
    T, J = golden("stylegan2_tiny")
    with snapshots.published_names():
        torch.save(
            snapshots.stylegan2_record(golden_config(J), golden_tensors(T)), tmp_path / "g.pt"
        )
    report = import_file(tmp_path / "g.pt", "pti", folder=tmp_path)
    draws_the_golden_images(report.path, T, J)


def test_the_bundled_weights_survive_an_import(tmp_path):
    for module, file in ((eg3d, eg3d.EMBEDDED), (bisenet, bisenet.BUNDLED)):
        report = import_file(file, module.__name__.split(".")[-2], folder=tmp_path)
        loaded, original = module.load(str(report.path), CPU), module.load(str(file), CPU)
        assert loaded.card.fingerprint == original.card.fingerprint
        assert report.licence == "Apache-2.0"


@pytest.mark.parametrize("changes", [{"plane_resolution": 2**30}, {"mapping": {"num_layers": 99}}])
def test_weights_whose_header_claims_a_gigantic_eg3d_are_refused(tmp_path, changes):
    config = {**tiny_eg3d().to_dict(), **changes}
    header = {"architecture": "eg3d", "kind": "generator", "config": config}
    save_weights(tmp_path / "a.safetensors", {"a": torch.zeros(1)}, header)
    with pytest.raises(InputError, match="allowed"):
        import_file(tmp_path / "a.safetensors", "b", folder=tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
def test_the_face_parsing_checkpoint_is_read(tmp_path, legacy, parallel):
    torch.manual_seed(0)
    network = BiSeNet(19, 8).eval()
    prefix = "module." if parallel else ""
    state = {prefix + key: value for key, value in network.state_dict().items()}
    torch.save(state, tmp_path / "79999_iter.pth", _use_new_zipfile_serialization=not legacy)
    report = import_file(tmp_path / "79999_iter.pth", folder=tmp_path)
    assert (report.kind, report.architecture, report.resolution) == ("segmenter", "bisenet", 512)
    assert report.licence == "unknown"
    same(report.path, network.state_dict())
    assert bisenet.load(str(report.path), CPU).size == 512


def test_face_parsing_with_other_labels_is_refused(tmp_path):
    torch.save(BiSeNet(11, 4).state_dict(), tmp_path / "a.pth")
    with pytest.raises(InputError, match="it has 11 labels"):
        import_file(tmp_path / "a.pth", folder=tmp_path)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("stylegan2_tiny", "stylegan2_tiny_torch1.7.1_proto4_sourcefree"),
        ("stylegan2_tiny_cond", "stylegan2_tiny_cond_torch1.7.1_proto3_sourcefree"),
        ("eg3d_tiny", "eg3d_tiny_torch1.11_proto4_cudaaxes_sourcefree"),
    ],
)
def test_checkpoints_of_the_published_classes_are_read_bit_for_bit(
    large_golden, tmp_path, name, file
):
    T, J = large_golden(name)
    path = Path(os.environ["SAT3D_PARITY"]) / "pickles" / f"{file}.pkl"
    report = import_file(path, name, folder=tmp_path)
    same(report.path, golden_tensors(T))
    if name != "eg3d_tiny":
        draws_the_golden_images(report.path, T, J)
        return
    generator = eg3d.load(str(report.path), CPU)
    # The value reached in training; the golden images were drawn at a lower one.
    drawn_at = eg3d_config(J).neural_resolution
    assert generator.network.config == dataclasses.replace(eg3d_config(J), neural_resolution=128)
    network, options = generator.network, generator.network.config.volume
    from sat3d_plugins.generators.eg3d import networks, rays, volume

    with torch.no_grad():
        planes = network.planes(generator.styles(T["out.ws"]))
        origins, directions = rays.sample_rays(T["in.c"], drawn_at)
        drawn = volume.render_rays(
            planes, network.decoder, origins, directions, options, T["in.depths_coarse"],
            T["in.depths_fine"], fine_are_depths=True,
        )  # fmt: skip
        feature = networks.feature_image(drawn, drawn_at)
        image = network.superresolve(feature, generator.styles(T["out.ws"]))
    for key, value in (("out.image_raw", feature[:, :3]), ("out.image", image)):
        assert (value - T[key]).abs().max() <= J["tensors"][key]["tol_abs"], key
