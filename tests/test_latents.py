"""Sources as they are typed, and latents on disk."""

import dataclasses
from pathlib import Path

import pytest
import torch

from sat3d.errors import InputError, MismatchError, UsageError
from sat3d.images import write_png
from sat3d.interfaces import WeightsCard
from sat3d.inversion import Inversion, InvertSettings
from sat3d.latents import Latent, from_seed, load_latent, parse_source, resolve, save_latent
from sat3d.testing import ToyGenerator
from sat3d.transfers import draw
from sat3d.weights import load_weights, save_weights


@pytest.fixture
def generator() -> ToyGenerator:
    return ToyGenerator(is_3d=True)


@pytest.fixture
def saved(generator: ToyGenerator, tmp_path: Path) -> Path:
    path = tmp_path / "one.safetensors"
    save_latent(path, from_seed(generator, 5), generator)
    return path


def test_a_source_is_a_seed_a_latent_or_an_image(saved: Path, tmp_path: Path) -> None:
    picture = tmp_path / "me.JPG"
    picture.touch()
    assert (parse_source("seed:8").kind, parse_source("seed:8").seed) == ("seed", 8)
    assert parse_source(str(saved)).kind == "latent"
    assert parse_source(str(picture)).kind == "image"
    assert parse_source(str(picture)).label == "me.JPG"


@pytest.mark.parametrize(
    "text",
    ["seed:abc", "seed:", "seed:-1", "seed: 7", "seed:1_0", "seed:1.5", "seed:٣", f"seed:{2**63}"],
)
def test_a_seed_is_a_plain_whole_number(text: str) -> None:
    with pytest.raises(InputError, match="whole number from 0"):
        parse_source(text)


def test_a_source_that_is_nothing_says_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"notes\.txt.*seed:N.*\.safetensors.*\.png"):
        parse_source(str(tmp_path / "notes.txt"))
    with pytest.raises(InputError, match="does not exist"):
        parse_source(str(tmp_path / "gone.png"))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        parse_source(str(tmp_path / "folder.png"))


def test_a_latent_comes_back_as_it_was_saved(generator: ToyGenerator, saved: Path) -> None:
    before, after = from_seed(generator, 5), load_latent(saved, generator)
    assert torch.equal(after.styles, before.styles)
    assert after.w is not None and before.w is not None and torch.equal(after.w, before.w)
    assert after.camera is not None and before.camera is not None
    assert torch.equal(after.camera, before.camera)
    assert after.origin == "seed:5"
    assert after.info == {"truncation": 1.0}


def test_a_latent_without_w_or_camera_is_looked_at_from_the_front(
    generator: ToyGenerator, tmp_path: Path
) -> None:
    path = tmp_path / "bare.safetensors"
    save_latent(path, Latent(from_seed(generator, 5).styles), generator)
    latent = load_latent(path, generator)
    assert latent.w is None
    assert latent.camera is not None and torch.equal(latent.camera, generator.orbit(0.0, 0.0))


def test_a_latent_of_other_weights_is_refused(generator: ToyGenerator, saved: Path) -> None:
    generator.card = WeightsCard("other", "0" * 64)
    with pytest.raises(MismatchError, match=r"weights .* make the latent anew"):
        load_latent(saved, generator)


@pytest.mark.parametrize("key", ["generator", "layout"])
def test_a_latent_of_another_generator_is_refused(
    generator: ToyGenerator, saved: Path, key: str
) -> None:
    tensors, header = load_weights(saved)
    save_weights(saved, tensors, {**header, key: "another"})
    with pytest.raises(MismatchError, match=f"made with {key} 'another'"):
        load_latent(saved, generator)


def test_a_truncated_latent_is_refused(generator: ToyGenerator, saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-10])
    with pytest.raises(InputError, match="not a readable"):
        load_latent(saved, generator)


def test_a_file_of_another_kind_is_refused(generator: ToyGenerator, saved: Path) -> None:
    tensors, header = load_weights(saved)
    save_weights(saved, tensors, {**header, "kind": "masks"})
    with pytest.raises(InputError, match="kind 'masks'"):
        load_latent(saved, generator)
    with pytest.raises(UsageError, match="must end in"):
        load_latent(saved.with_suffix(".png"), generator)


@pytest.mark.parametrize("damage", ["shape", "nan", "type", "camera"])
def test_numbers_that_no_latent_has_are_refused(
    generator: ToyGenerator, saved: Path, damage: str
) -> None:
    tensors, header = load_weights(saved)
    styles = tensors["styles"]
    broken = {
        "shape": {"styles": styles[:, :-1]},
        "nan": {"styles": styles * float("nan")},
        "type": {"styles": styles.long()},
        "camera": {"camera": torch.zeros(1, 24)},
    }[damage]
    save_weights(saved, {**tensors, **broken}, header)
    with pytest.raises(InputError, match="of finite numbers"):
        load_latent(saved, generator)


def test_one_seed_is_one_latent_and_no_truncation_is_the_default(generator: ToyGenerator) -> None:
    first, again = resolve("seed:3", generator), resolve("seed:3", generator)
    assert torch.equal(first.styles, again.styles)
    assert not torch.equal(first.styles, resolve("seed:4", generator).styles)
    short = resolve("seed:3", generator, truncation=0.5)
    assert not torch.equal(first.styles, short.styles)


def test_a_resolved_latent_is_called_by_its_file(generator: ToyGenerator, saved: Path) -> None:
    latent = resolve(str(saved), generator)
    assert latent.origin == "one.safetensors"
    assert latent.info["made"] == "seed:5"


def test_a_resolved_image_is_inverted_and_its_quality_told(
    generator: ToyGenerator, tmp_path: Path
) -> None:
    path = tmp_path / "me.png"
    original = dataclasses.replace(from_seed(generator, 9), camera=generator.orbit(0.1, 0.0))
    write_png(path, draw(generator, original))
    heard: list[Inversion] = []
    quick = InvertSettings(pool=8, draft_steps=2, steps=2)
    latent = resolve(str(path), generator, settings=quick, on_inversion=heard.append)
    assert latent.origin == "me.png"
    assert latent is heard[0].latent
