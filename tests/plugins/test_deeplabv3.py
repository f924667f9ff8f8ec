"""DeepLabv3: torchvision's own weights and networks of segmentation-models-pytorch."""

from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from sat3d_plugins.segmenters.deeplabv3 import segmenter as plugin
from sat3d_plugins.segmenters.deeplabv3.importer import config_of, convert_state
from sat3d_plugins.segmenters.deeplabv3.networks import VOC_LABELS, DeepLabConfig, logits
from sat3d_plugins.segmenters.deeplabv3.segmenter import input_size, load
from torchvision.models import segmentation

from sat3d.errors import InputError
from sat3d.images import imagenet_input
from sat3d.importing import import_file
from sat3d.registry import load_segmenter
from sat3d.testing import check_segmenter
from sat3d.weights import save_weights

CPU = torch.device("cpu")


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Normalisation that differs from the initial one, so that it matters.

    Its scale is below one: a hundred layers of random weights would otherwise make logits of
    thousands, whose rounding alone decides between labels.
    """
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.2, 0.5)
    return model.eval()


def published(encoder: str) -> torch.nn.Module:
    """torchvision's model as its published checkpoints have it: with auxiliary classifier."""
    make = getattr(segmentation, f"deeplabv3_{encoder}")
    return randomised(make(weights=None, weights_backbone=None, num_classes=21, aux_loss=True))


def imported(model: torch.nn.Module, path: Path, **changes: object) -> Path:
    converted = convert_state(model.state_dict())
    assert converted is not None
    tensors, header = converted
    save_weights(path, tensors, {**header, "config": {**header["config"], **changes}})
    return path


@pytest.mark.parametrize("encoder", ["resnet50", "resnet101"])
def test_torchvisions_weights_give_what_torchvisions_own_model_gives(tmp_path, encoder):
    model = published(encoder)
    segmenter = load(str(imported(model, tmp_path / "w.safetensors", size=64)), CPU)
    assert segmenter.config.encoder == encoder
    assert segmenter.labels == VOC_LABELS
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    seen = imagenet_input(image, (64, 96))
    with torch.no_grad():
        wanted, found = model(seen)["out"], logits(segmenter._network, seen)
    # The same code on the same weights; where they lie in memory changes the order of sums.
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert (segmenter.segment(image) - wanted.softmax(1)).abs().max() <= 1e-6


def test_a_published_checkpoint_is_imported_as_it_is(tmp_path):
    model = published("resnet50")
    torch.save(model.state_dict(), tmp_path / "deeplabv3_resnet50_coco.pth")
    report = import_file(tmp_path / "deeplabv3_resnet50_coco.pth", "coco", folder=tmp_path)
    assert (report.kind, report.architecture) == ("segmenter", "deeplabv3")
    assert "Pascal VOC" in report.notes[0]
    segmenter = load(str(report.path), CPU)
    state = segmenter._network.state_dict()
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("aux_classifier.")}
    assert state.keys() == own.keys()
    assert all(torch.equal(state[key], own[key]) for key in own)
    # A weights file of ours can be imported too, e.g. to give it another name.
    again = import_file(report.path, "again", folder=tmp_path)
    assert load(str(again.path), CPU).card.fingerprint == segmenter.card.fingerprint


def test_the_labels_are_those_of_the_published_weights():
    categories = segmentation.DeepLabV3_ResNet50_Weights.DEFAULT.meta["categories"]
    assert len(VOC_LABELS) == 21
    assert VOC_LABELS.index("cat") == 8
    assert [x.strip("_") for x in categories] == list(VOC_LABELS)


def test_input_is_sized_and_normalised_as_torchvision_does():
    transform = segmentation.DeepLabV3_ResNet50_Weights.DEFAULT.transforms()
    for height, width in ((256, 256), (300, 411), (1024, 768)):
        image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(2))
        wanted = transform(image)[None]
        found = imagenet_input(image[None] * 2 - 1, input_size(height, width, 520))
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() <= 1e-4


@pytest.mark.parametrize(
    ("arguments", "size"),
    [((64, 64, 520, 16), (512, 512)), ((5000, 10, 64), (256, 64)), ((1, 1, 32, 16), (32, 32))],
)
def test_input_sizes_are_bounded_and_multiples_of_the_stride(arguments, size):
    assert input_size(*arguments) == size


def test_the_auxiliary_classifier_is_left_out():
    converted = convert_state(published("resnet50").state_dict())
    assert converted is not None
    assert not [key for key in converted[0] if key.startswith("aux")]
    assert converted[1]["architecture"] == "deeplabv3"
    assert converted[1]["config"]["source"] == "torchvision"


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp"])
def test_other_networks_of_torchvision_are_not_taken_for_it(name):
    name = "lraspp_mobilenet_v3_large" if name == "lraspp" else name
    model = getattr(segmentation, name)(weights=None, weights_backbone=None)
    assert config_of(model.state_dict()) is None
    assert convert_state({}) is None


def small(path: Path, encoder: str = "resnet18", **changes: object) -> Path:
    model = randomised(smp.DeepLabV3("resnet18", encoder_weights=None, classes=3))
    config = {"source": "smp", "encoder": encoder, "labels": ["background", "cat", "tail"]}
    header = {"architecture": "deeplabv3", "config": {**config, "size": 64, **changes}}
    save_weights(path, model.state_dict(), header)
    return path


def test_an_smp_network_is_what_the_core_expects(tmp_path):
    segmenter = load(str(small(tmp_path / "w.safetensors")), CPU)
    assert segmenter.labels == ("background", "cat", "tail")
    check_segmenter(segmenter)
    check_segmenter(segmenter, size=50)  # no multiple of 16
    wide = segmenter.segment(torch.zeros(1, 3, 40, 56))
    assert wide.shape == (1, 3, 40, 56)


def test_an_smp_network_gives_what_its_own_model_gives(tmp_path):
    model = randomised(smp.DeepLabV3("resnet18", encoder_weights=None, classes=3))
    segmenter = load(str(small(tmp_path / "w.safetensors")), CPU)
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1
    segmenter._network.load_state_dict(model.state_dict())
    with torch.no_grad():
        wanted = model(imagenet_input(image, (64, 64))).softmax(1)
    assert (segmenter.segment(image) - wanted).abs().max() <= 1e-6


def test_an_smp_file_of_ours_can_be_imported_again(tmp_path):
    first = load(str(small(tmp_path / "w.safetensors")), CPU)
    report = import_file(tmp_path / "w.safetensors", "again", folder=tmp_path)
    again = load(str(report.path), CPU)
    assert again.config == first.config
    assert again.card.fingerprint == first.card.fingerprint


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoder": "resnet99"}, "unknown encoder 'resnet99'"),
        ({"encoder": "tu-resnet18"}, "unknown encoder"),
        ({"encoder": "vgg11"}, "cannot be used in DeepLabv3"),
        ({"encoder": "resnet34"}, "lacks|differs in"),
        ({"source": "elsewhere"}, "config.source"),
        ({"source": "torchvision"}, "unknown encoder"),
        ({"size": 10**6}, "config.size"),
        ({"decoder": 10**6}, "config.decoder"),
        ({"decoder": 64}, "differs in"),
        ({"source": "torchvision", "encoder": "resnet50", "decoder": 64}, "config.decoder"),
        ({"labels": ["cat", "cat", "dog"]}, "config.labels"),
        ({"labels": "cat"}, "config.labels"),
        ({"labels": ["a", "b"]}, "differs in"),
        ({"depth": 5}, "unknown key 'depth'"),
    ],
)
def test_a_header_with_a_wrong_setting_is_refused(tmp_path, changes, reason):
    with pytest.raises(InputError, match=reason):
        load(str(small(tmp_path / "w.safetensors", **changes)), CPU)


def test_configuration_survives_the_header():
    config = DeepLabConfig("smp", "resnet18", ("a", "b"), 96)
    assert DeepLabConfig.from_dict(config.to_dict()) == config
    with pytest.raises(InputError, match="no key 'encoder'"):
        DeepLabConfig.from_dict({"source": "smp"})


def test_without_weights_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(plugin, "BUNDLED", tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="no weights .* bundled. Add --segmenter-weights"):
        load_segmenter("deeplabv3", None, "cpu")


def test_weights_of_another_architecture_are_refused(tmp_path):
    save_weights(tmp_path / "x.safetensors", {"x": torch.zeros(1)}, {"architecture": "other"})
    with pytest.raises(InputError, match="not of 'deeplabv3'"):
        load(str(tmp_path / "x.safetensors"), CPU)
