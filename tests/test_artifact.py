import dataclasses

import pytest
import torch

from sat3d.artifact import Masks, load_masks
from sat3d.errors import InputError, MismatchError, PackError
from sat3d.interfaces import StyleLayout
from sat3d.mask import channel_mask
from sat3d.testing import ToyGenerator, toy_pack
from sat3d.weights import save_weights


def _masks(**header):
    generator = ToyGenerator()
    made = {
        "name": generator.name,
        "weights": generator.card.name,
        "fingerprint": generator.card.fingerprint,
        "layout": generator.layout.digest,
    }
    plain = {"kind": "masks", "generator": made, "pack": toy_pack().model_dump(mode="json")}
    logits = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    return Masks(logits, {**plain, **header})


def test_masks_survive_the_file_bit_for_bit(tmp_path):
    masks = _masks(figures={"steps": 3})
    masks.save(tmp_path / "masks.safetensors")
    for path in (tmp_path, tmp_path / "masks.safetensors"):
        again = load_masks(path)
        assert torch.equal(again.logits, masks.logits)
        assert again.pack == toy_pack() and again.attributes == ("top", "middle", "bottom")
        assert again.header["figures"] == {"steps": 3}


def test_a_mask_is_asked_for_by_name_or_title():
    masks = _masks()
    wanted = channel_mask(masks.logits, [0, 2])
    assert torch.equal(masks.mask(["top", "Bottom stripe"]), wanted)
    assert torch.equal(masks.mask(["bottom", "top", "top"]), wanted)
    assert torch.equal(masks.mask("middle"), channel_mask(masks.logits, [1]))
    with pytest.raises(PackError, match="Did you mean 'middle'"):
        masks.mask("midle")


def test_masks_fit_their_own_generator():
    _masks().check(ToyGenerator())


def test_masks_of_other_weights_are_refused():
    with pytest.raises(MismatchError, match="made for weights 'toy'.*Load generator 'toy'"):
        _masks().check(ToyGenerator(seed=1))


def test_masks_of_another_layout_are_refused():
    other = ToyGenerator()
    layers = (dataclasses.replace(other.layout.layers[0], name="x"), *other.layout.layers[1:])
    other.layout = StyleLayout(layers)
    with pytest.raises(MismatchError, match="style layout"):
        _masks().check(other)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"kind": "generator"}, "holds no masks"),
        ({"generator": None}, "which generator"),
        ({"generator": {"name": 3}}, "which generator"),
        ({"pack": {"name": "x"}}, "pack"),
    ],
)
def test_a_foreign_or_damaged_header_is_refused(tmp_path, header, message):
    _masks(**header).save(tmp_path / "x.safetensors")
    with pytest.raises((InputError, PackError), match=message):
        load_masks(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(3, 64), "asks for 4 rows"),
        (torch.zeros(4), "asks for 4 rows"),
        (torch.full((4, 64), float("nan")), "not finite"),
    ],
)
def test_a_damaged_matrix_is_refused(tmp_path, logits, message):
    save_weights(tmp_path / "x.safetensors", {"mask.logits": logits}, _masks().header)
    with pytest.raises(InputError, match=message):
        load_masks(tmp_path / "x.safetensors")


def test_a_missing_or_broken_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no file"):
        load_masks(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(InputError, match="not a readable"):
        load_masks(tmp_path / "cut.safetensors")
