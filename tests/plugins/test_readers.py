"""The attribute readers and the networks that share their trunk."""

from pathlib import Path

import pytest
import torch
from sat3d_plugins.convnet import to_square
from sat3d_plugins.generators.eg3d.encoder import Encoder
from sat3d_plugins.readers.attributes.reader import BUNDLED, ReaderNetwork, load
from sat3d_plugins.readers.complexion.reader import ComplexionReader

from sat3d.errors import InputError
from sat3d.interfaces import Segmenter, WeightsCard
from sat3d.weights import load_into, save_weights

CPU = torch.device("cpu")
ATTRIBUTES = {"beard": ["none", "full"], "hat": ["none", "beanie", "helmet"]}
CONFIG = {"attributes": ATTRIBUTES, "widths": [4, 6, 8], "size": 32}


def write(path: Path, **changes: object) -> Path:
    torch.manual_seed(0)
    network = ReaderNetwork(ATTRIBUTES, CONFIG["widths"])
    header = {"architecture": "avatar-reader", "config": {**CONFIG, **changes}}
    save_weights(path, {k: v.half() if v.is_floating_point() else v for k, v in
                        network.state_dict().items()}, header)  # fmt: skip
    return path


def test_readings_are_probabilities_of_each_attributes_values(tmp_path: Path) -> None:
    reader = load(str(write(tmp_path / "r.safetensors")), CPU)
    assert reader.attributes == {k: tuple(v) for k, v in ATTRIBUTES.items()}
    found = reader.read(torch.rand(3, 3, 50, 50) * 2 - 1)
    assert {k: v.shape for k, v in found.items()} == {"beard": (3, 2), "hat": (3, 3)}
    for values in found.values():
        assert torch.allclose(values.sum(1), torch.ones(3), atol=1e-5)


def test_an_image_is_read_the_same_alone_and_in_a_batch(tmp_path: Path) -> None:
    reader = load(str(write(tmp_path / "r.safetensors")), CPU)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    alone, together = reader.read(images[1:2]), reader.read(images)
    # Convolutions of another batch size may round differently in float32.
    assert all(torch.allclose(alone[k][0], together[k][1], atol=1e-5) for k in ATTRIBUTES)


@pytest.mark.parametrize(
    "changes",
    [
        {"widths": "no"},
        {"widths": [10**9]},
        {"size": 33},
        {"attributes": {"a.b": ["x", "y"]}},
        {"attributes": {"a": ["x"]}},
        {"attributes": {}},
        {"attributes": {"a": [1, 2]}},
    ],
)
def test_a_header_with_a_wrong_setting_is_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    path = write(tmp_path / "r.safetensors", **changes)
    with pytest.raises(InputError, match="is not a file of attribute readers: config"):
        load(str(path), CPU)


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_weights(path, {"x": torch.zeros(1)}, {"architecture": "eg3d", "config": {}})
    with pytest.raises(InputError, match="architecture 'eg3d'"):
        load(str(path), CPU)
    wider = write(tmp_path / "wider.safetensors", widths=[4, 6, 10])
    with pytest.raises(InputError, match="differs in"):
        load(str(wider), CPU)
    with pytest.raises(InputError, match="no file"):
        load(str(tmp_path / "none.safetensors"), CPU)


def test_resizing_leaves_an_image_of_the_right_size_alone() -> None:
    image = torch.rand(1, 3, 32, 32)
    assert to_square(image, 32) is image
    assert to_square(image, 16).shape == (1, 3, 16, 16)


def test_encoder_gives_the_mean_where_w_never_varies() -> None:
    encoder = Encoder(w_dim=10, size=32, widths=[4, 6, 8], hidden=12).eval()
    encoder.w_mean.copy_(torch.arange(10.0))
    encoder.w_std[3:] = 0
    w, yaw, pitch = encoder(torch.rand(2, 3, 48, 48) * 2 - 1)
    assert w.shape == (2, 10)
    assert yaw.shape == pitch.shape == (2,)
    assert torch.equal(w[:, 3:], torch.arange(3.0, 10.0).expand(2, -1))
    assert not torch.equal(w[0, :3], torch.arange(3.0))


def test_encoder_survives_being_written_and_read(tmp_path: Path) -> None:
    settings = {"w_dim": 10, "size": 32, "widths": [4, 6, 8], "hidden": 12}
    first, second = Encoder(**settings).eval(), Encoder(**settings).eval()
    load_into(second, first.state_dict(), "the encoder")
    image = torch.rand(1, 3, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(first(image), second(image), strict=True))


@pytest.mark.skipif(not BUNDLED.is_file(), reason="the bundled readers are not there")
def test_the_bundled_readers_read_renders() -> None:
    from recipes import worlds
    from recipes.renderer import orbit_camera

    world = worlds.load("avatars")
    factors = world.sample_factors(40, torch.Generator().manual_seed(78))
    names = [f.name for f in world.factors]
    bare = factors[(factors.classes[:, names.index("hat")] == 0).nonzero().squeeze(1)[:8]]
    yaw = torch.linspace(-0.3, 0.3, 8)
    images = world.render(bare, orbit_camera(yaw, 0 * yaw), 64, supersample=1).image
    found = load(str(BUNDLED), CPU).read(images)
    right = [
        (values.argmax(1) == bare.classes[:, names.index(name)]).float().mean()
        for name, values in found.items()
    ]
    # Nearly all of 48 readings; these renders are coarser than those it was trained on.
    assert torch.stack(right).mean() >= 0.9


def test_an_embedding_holds_what_the_heads_look_at_and_all_features(tmp_path: Path) -> None:
    reader = load(str(write(tmp_path / "r.safetensors")), CPU)
    images = torch.rand(5, 3, 32, 32) * 2 - 1
    found = reader.embed(images)
    for name, values in reader.read(images).items():
        assert torch.allclose(found.probabilities[name], values, atol=1e-6)
        # As many directions as differences between values.
        assert found.attributes[name].shape == (5, len(values[0]) - 1)
    assert found.features is not None
    assert found.features.shape == (5, CONFIG["widths"][-1])
    assert found.identity is None
    assert reader.name == "r" and "identity" not in reader.card.goes_with


def test_the_parts_of_an_embedding_decide_the_reading(tmp_path: Path) -> None:
    reader = load(str(write(tmp_path / "r.safetensors")), CPU)
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    found = reader.embed(images)
    for name, head in reader._network.heads.items():
        logits = found.attributes[name] @ reader._directions[name].T @ head.weight.T + head.bias
        assert torch.allclose(logits.softmax(1), found.probabilities[name], atol=1e-5)


class Halves(Segmenter):
    """Skin above, nose below; there is no neck, and nothing where the image is black."""

    name = "halves"
    card = WeightsCard("halves", "0" * 64)
    labels = ("background", "skin", "nose", "neck")
    device = CPU

    def to(self, device: torch.device) -> "Halves":
        return self

    def segment(self, image: torch.Tensor) -> torch.Tensor:
        found = torch.zeros(len(image), 4, *image.shape[2:])
        found[:, 1, : image.shape[2] // 2] = 1.0
        found[:, 2, image.shape[2] // 2 :] = 1.0
        dark = (image <= -1.0).all(dim=1)
        found = found * ~dark[:, None]
        found[:, 0] = dark.float()
        return found


def test_a_complexion_is_the_mean_colour_of_the_parts_that_are_seen() -> None:
    image = torch.zeros(2, 3, 8, 8)
    image[0, :, :4], image[0, :, 4:] = 0.5, -0.5
    image[0, 1, :2] = 0.1
    image[1] = -1.0
    found = ComplexionReader(Halves()).embed(image).identity
    assert found is not None
    skin, nose, neck = found[0].view(3, 3)
    assert skin.tolist() == pytest.approx([0.5, 0.3, 0.5])
    assert nose.tolist() == pytest.approx([-0.5] * 3)
    assert neck.tolist() == pytest.approx([0.0, -0.1, 0.0])  # hidden: the mean of all skin seen
    assert found[1].tolist() == [0.0] * 9
    assert ComplexionReader(Halves()).read(image) == {}
