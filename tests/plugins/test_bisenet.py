"""The face-parsing network against its reference, and the segmenter built on it."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sat3d_plugins.segmenters.bisenet.network import BiSeNet
from sat3d_plugins.segmenters.bisenet.segmenter import BUNDLED, LABELS, load

from sat3d.errors import InputError
from sat3d.precision import shortened
from sat3d.weights import save_weights

CPU = torch.device("cpu")
DATA = Path(__file__).parents[1] / "data"


def recipe_normal(key: str, seed: int, shape: list[int]) -> torch.Tensor:
    rng = np.random.RandomState((zlib.crc32(key.encode()) + 1000003 * seed) % 2**32)
    return torch.from_numpy(np.asarray(rng.standard_normal(size=tuple(shape)), dtype=np.float32))


def recipe_weight(key: str, seed: int, shape: list[int]) -> torch.Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.ones(tuple(shape), dtype=torch.int64)
    n = recipe_normal(key, seed, shape)
    if key.endswith("running_mean"):
        return 0.1 * n
    if key.endswith("running_var"):
        return torch.exp(0.2 * n)
    if len(shape) == 4:
        return n * float(np.sqrt(1.0 / (shape[1] * shape[2] * shape[3])))
    return 1 + 0.1 * n if key.endswith("weight") else 0.1 * n


@pytest.fixture(scope="module")
def facts() -> dict:
    return json.loads((DATA / "bisenet_recipe.json").read_text())


@pytest.fixture(scope="module")
def vectors() -> dict[str, torch.Tensor]:
    return load_file(DATA / "bisenet_recipe.safetensors")


@pytest.fixture(scope="module")
def network(facts: dict) -> BiSeNet:
    seed = facts["recipe_seed"]
    shapes = facts["state_dict_shapes"]
    model = BiSeNet()
    model.load_state_dict({k: recipe_weight(k, seed, s) for k, s in shapes.items()})
    return model.eval()


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    # The vectors' own tolerance: 20 times the rounding error of the float32 reference.
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 2e-4 * wanted.abs().max()


def test_state_dict_has_the_published_names_and_shapes(facts: dict) -> None:
    found = {k: list(v.shape) for k, v in BiSeNet().state_dict().items()}
    assert found == facts["state_dict_shapes"]
    assert sum(p.numel() for p in BiSeNet().parameters()) == facts["parameters"]


@pytest.mark.parametrize("index", range(3))
def test_full_width_network_equals_the_reference(
    index: int, facts: dict, vectors: dict[str, torch.Tensor], network: BiSeNet
) -> None:
    case = facts["cases"][index]
    image = recipe_normal(case["input_name"], facts["recipe_seed"], case["shape"])
    name = case["prefix"]
    with torch.no_grad():
        stride8, stride16, stride32 = network.cp.resnet(image)
        out = network(image)
    close(stride8[:, ::8, ::2, ::2], vectors[name + "resnet8_strided"])
    close(stride16[:, ::8], vectors[name + "resnet16_strided"])
    close(stride32[:, ::16], vectors[name + "resnet32_strided"])
    for key, logits in zip(("out", "out16", "out32"), out, strict=True):
        close(logits[..., 1::6, 2::6], vectors[f"{name}{key}_strided"])
        close(logits[..., :5, -5:], vectors[f"{name}{key}_corner"])
    clear = vectors[name + "top2_gap_below_0.01"] == 0
    wanted = vectors[name + "argmax"]
    assert torch.equal(out.fused.argmax(1)[clear], wanted[clear].long())
    with torch.no_grad():
        assert torch.equal(network.fused(image), out.fused)


# ---------------------------------------------------------------- the segmenter


def write(path: Path, **changes: object) -> Path:
    torch.manual_seed(0)
    state = BiSeNet(19, 4).state_dict()
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    header = {"architecture": "bisenet", "config": {"width": 4, "size": 64, **changes}}
    save_weights(path, tensors, header)
    return path


@pytest.mark.parametrize("size", [(64, 64), (40, 56)])
def test_probabilities_come_at_the_images_size(tmp_path: Path, size: tuple[int, int]) -> None:
    segmenter = load(str(write(tmp_path / "s.safetensors")), CPU)
    found = segmenter.segment(torch.rand(2, 3, *size) * 2 - 1)
    assert found.shape == (2, 19, *size)
    assert torch.allclose(found.sum(1), torch.ones(2, *size), atol=1e-5)


def test_input_is_normalised_as_imagenet_and_the_first_output_is_taken(tmp_path: Path) -> None:
    segmenter = load(str(write(tmp_path / "s.safetensors")), CPU)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    wanted = segmenter._network(((image + 1) / 2 - mean) / std).fused.softmax(1)
    assert torch.allclose(segmenter.segment(image), wanted, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu, id="cuda")])
def test_the_bundled_labels_survive_bfloat16(device: str) -> None:
    segmenter = load(None, torch.device(device))
    # Smooth spots of colour: the labels of pure noise would say nothing.
    source = torch.Generator().manual_seed(0)
    spots = torch.rand(2, 3, 6, 6, generator=source) * 2 - 1
    image = F.interpolate(spots, (64, 64), mode="bicubic").to(device)
    found = segmenter.segment(image)
    with shortened(torch.device(device), "bfloat16"):
        short = segmenter.segment(image)
    assert short.dtype == torch.float32
    assert not torch.equal(found, short), "bfloat16 was not used"
    sums = short.sum(1)
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)
    # Borders between labels may move by a pixel.
    assert (found.argmax(1) == short.argmax(1)).float().mean() >= 0.97


def test_labels_are_in_the_order_of_face_parsing() -> None:
    assert len(set(LABELS)) == 19
    numbers = {"background": 0, "skin": 1, "r_brow": 3, "eye_g": 6, "nose": 10, "mouth": 11}
    numbers |= {"neck": 14, "cloth": 16, "hair": 17, "hat": 18}
    assert {name: LABELS.index(name) for name in numbers} == numbers


def test_width_scales_every_layer() -> None:
    wide, narrow = BiSeNet(19, 64).state_dict(), BiSeNet(19, 16).state_dict()
    assert wide.keys() == narrow.keys()
    for key, value in wide.items():
        if value.ndim == 4:
            scaled = [n if n in (3, 19) else n // 4 for n in value.shape[:2]]
            assert list(narrow[key].shape[:2]) == scaled


@pytest.mark.parametrize("changes", [{"width": 0}, {"width": "x"}, {"size": 10**6}, {"size": None}])
def test_a_header_with_a_wrong_setting_is_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(InputError, match=f"config.{next(iter(changes))}"):
        load(str(write(tmp_path / "s.safetensors", **changes)), CPU)


def test_files_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a .safetensors file"):
        load(str(tmp_path / "79999_iter.pth"), CPU)
    foreign = tmp_path / "foreign.safetensors"
    save_weights(foreign, {"x": torch.zeros(1)}, {"architecture": "eg3d"})
    with pytest.raises(InputError, match="not of 'bisenet'"):
        load(str(foreign), CPU)
    with pytest.raises(InputError, match="differs in"):
        load(str(write(tmp_path / "wide.safetensors", width=8)), CPU)


@pytest.mark.skipif(not BUNDLED.is_file(), reason="the bundled segmenter is not there")
def test_the_bundled_segmenter_labels_renders() -> None:
    from recipes import worlds
    from recipes.renderer import orbit_camera

    world = worlds.load("avatars")
    factors = world.sample_factors(4, torch.Generator().manual_seed(79))
    yaw = torch.linspace(-0.3, 0.3, 4)
    truth = world.render(factors, orbit_camera(yaw, 0 * yaw), 64, supersample=1)
    found = load(None, CPU).segment(truth.image).argmax(1)
    # At 64 pixels much of a face is outline, where labels are a matter of half a pixel.
    assert (found == truth.label).float().mean() >= 0.9
