"""The package keeps sat3d's contracts, and its parts fit together."""

import json
from pathlib import Path

import pytest
import sat3d_flowers
import torch
from sat3d_flowers import generator, seeing
from sat3d_flowers.drawing import LABELS, SIZES, draw

import sat3d
from sat3d.qmm import QMM
from sat3d.testing import (
    GeneratorConformance,
    ReaderConformance,
    SegmenterConformance,
    check_pack,
)

CPU = torch.device("cpu")
HERE = Path(sat3d_flowers.__file__).parent


class TestGenerator(GeneratorConformance):
    @staticmethod
    def load(weights):
        return generator.load(weights, CPU)


class TestSegmenter(SegmenterConformance):
    @staticmethod
    def load(weights):
        return seeing.load_segmenter(weights, CPU)


class TestReader(ReaderConformance):
    @staticmethod
    def load(weights):
        return seeing.load_reader(weights, CPU)


def test_the_pack_is_valid_and_its_labels_are_the_segmenters():
    check_pack(HERE / "flowers.yaml", LABELS)


def test_everything_is_on_offer():
    catalogue = sat3d.discover()
    mine = {k for k, offer in catalogue.offers() if offer.plugin == "flowers"}
    assert mine == {"generator", "segmenter", "descriptor pack", "reader", "clip model"}


def test_what_the_weights_name_as_fitting_is_on_offer():
    fits = generator.load(None, CPU).card.goes_with
    catalogue = sat3d.discover()
    catalogue.clip_model(fits["clip"])
    catalogue.segmenter(fits["segmenter"])
    catalogue.descriptor(fits["descriptors"])
    catalogue.reader(fits["reader"])


def test_the_cover_of_a_pixel_sums_to_one():
    source = torch.Generator().manual_seed(0)
    numbers = {name: torch.randn(4, n, generator=source) for name, n in SIZES.items()}
    _, cover = draw(numbers, 32)
    torch.testing.assert_close(cover.sum(dim=1), torch.ones(4, 32, 32))


def test_exchanging_an_attributes_channels_exchanges_the_attribute_alone():
    flowers = generator.load(None, CPU)
    source, reference = flowers.styles(flowers.map(flowers.sample_latents(2, seed=1))).split(1)
    for attribute, channels in flowers.planted.items():
        mixed = source.clone()
        index = flowers.layout.editable[channels]
        mixed[:, index] = reference[:, index]
        before, after, wanted = (flowers.numbers(x) for x in (source, mixed, reference))
        for name in SIZES:
            own = name in generator.ATTRIBUTES[attribute]
            # Least squares in float32.
            torch.testing.assert_close(
                after[name], (wanted if own else before)[name], atol=1e-4, rtol=0
            )


def test_the_measurement_is_right_and_not_too_sure():
    """A sure measurement would give no gradient; chance would be 0.25 to 0.5."""
    pack = sat3d.load_pack(HERE / "flowers.yaml")
    qmm = QMM.load(pack, "sat3d-flowers", None, CPU)
    flowers = generator.load(None, CPU)
    styles = flowers.styles(flowers.map(flowers.sample_latents(128, seed=9)))
    numbers = flowers.numbers(styles)
    found = qmm.measure(flowers.render(styles).image).split(qmm.group_sizes, dim=1)
    names = ("petal_color", "petal_shape", "centre_color", "centre_size")
    for name, group in zip(names, found, strict=True):
        right = (group.argmax(dim=1) == numbers[name].argmax(dim=1)).float().mean()
        assert right > 0.8, name
        assert group.amax(dim=1).mean() < 0.95, name


def test_the_reader_judges_what_is_drawn():
    flowers, reader = generator.load(None, CPU), seeing.load_reader(None, CPU)
    styles = flowers.styles(flowers.map(flowers.sample_latents(128, seed=10)))
    found = reader.read(flowers.render(styles).image)["petal_color"].argmax(dim=1)
    right = (found == flowers.numbers(styles)["petal_color"].argmax(dim=1)).float().mean()
    assert right > 0.85


@pytest.mark.parametrize("load", [generator.load, seeing.load_segmenter, seeing.load_reader])
def test_weights_of_something_else_are_refused(load, tmp_path):
    other = tmp_path / "other.safetensors"
    sat3d.weights.save_weights(other, {"x": torch.zeros(1)}, {"architecture": "other"})
    with pytest.raises(sat3d.InputError, match=r"other\.safetensors"):
        load(str(other), CPU)


def test_the_text_image_models_file_says_what_it_is():
    config = json.loads((HERE / "sat3d-flowers.json").read_text())
    assert config["text_cfg"]["context_length"] == 16
    assert (HERE / "weights" / "sat3d-flowers.safetensors").stat().st_size < 2**20
