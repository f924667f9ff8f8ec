"""The recipes of the measuring networks: two steps each on noise, and the parts they rest on."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sat3d_plugins.segmenters.deeplabv3.networks import VOC_LABELS

from recipes import captions, encoder, fitting, readers, segmenter, text_image, worlds
from recipes.data import Renders, augment, shrunk, to_float
from recipes.worlds import World
from sat3d.descriptors import parse_pack
from sat3d.qmm import IDS, ROWS, WORDS
from sat3d.weights import load_weights, read_header, save_weights

AVATARS, CATS, CARS = (worlds.load(name) for name in ("avatars", "cats", "cars"))


def noise(world: World, count: int, seed: int) -> Renders:
    """Renders that show nothing: right in kind, and quick."""
    source = torch.Generator().manual_seed(seed)
    factors = world.sample_factors(count, source)
    return Renders(
        world,
        torch.randint(256, (count, 3, 128, 128), dtype=torch.uint8, generator=source),
        torch.randint(len(world.labels), (count, 128, 128), dtype=torch.uint8, generator=source),
        torch.zeros(count, 128, 128, dtype=torch.float16),
        factors,
        world.cameras_for(factors, source),
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a recipe's main on the CPU and returns its weights' tensors and header."""

    def renders(world: World, count: int, seed: int, *_: object) -> Renders:
        return noise(world, count, seed)

    def main(module: object, *more: str) -> tuple[dict[str, torch.Tensor], dict]:
        out = tmp_path / "out.safetensors"
        words = ["x", "--out", out, "--work", tmp_path / "work", "--device", "cpu", "--steps", "2"]
        words += ["--batch", "12", "--count", "16", "--held-out", "8", *more]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        module.main()  # type: ignore[attr-defined]
        return load_weights(out)

    monkeypatch.setattr(fitting, "renders", renders)
    monkeypatch.setattr(text_image, "CAPTIONS", 300)
    monkeypatch.setattr(segmenter, "DEEPLAB_SIZE", 64)
    return main


@pytest.mark.parametrize(
    ("module", "world"),
    [
        (text_image, "avatars"),
        (segmenter, "avatars"),
        (segmenter, "cats"),
        (readers, "avatars"),
        (readers, "cars"),
        (encoder, "avatars"),
        (encoder, "cars"),
    ],
)
def test_a_recipe_writes_weights_that_say_how_they_came_about(
    module: object, world: str, run
) -> None:
    few = ["--batch", "4"] if module is segmenter else []
    tensors, header = run(module, "--seed", "3", "--world", world, *few)
    assert all(torch.isfinite(x).all() for x in tensors.values())
    assert header["seed"] == 3
    assert header["training"]["trained_steps"] == 2
    assert header["licence"] == "Apache-2.0"
    assert header["figures"]
    assert header["config"]


def test_text_image_weights_know_nothing_of_words_never_seen(run) -> None:
    tensors, header = run(text_image)
    assert WORDS not in tensors
    assert 100 < len(tensors[IDS]) < 1000
    assert tensors[ROWS].shape == (len(tensors[IDS]), header["config"]["text_cfg"]["width"])
    start, end, pad = 49406, 49407, 0
    assert {start, end, pad} <= set(tensors[IDS].tolist())
    figures = header["figures"]
    assert {"hairstyle", "beard", "pool_hat", "mean_max_128"} <= set(figures)
    assert 0 < figures["beard"]["mean_max"] <= 1


def test_one_text_image_model_serves_several_worlds(run) -> None:
    tensors, header = run(text_image, "--world", "cats", "--with", "cars")
    assert header["worlds"] == ["cats", "cars"]
    assert set(header["figures"]["cats"]) >= set(CATS.attributes)
    assert set(header["figures"]["cars"]) >= set(CARS.attributes)
    # Twice the words are some kilobytes; the image tower is what weighs.
    assert tensors[ROWS].numel() < 0.05 * sum(x.numel() for x in tensors.values())


def test_the_segmenter_of_cats_knows_the_animal_and_the_rest() -> None:
    assert segmenter.names_of(CATS) == ("background", "cat")
    assert segmenter.names_of(CATS)[1] in VOC_LABELS
    data = noise(CATS, 2, 0)
    assert torch.equal(segmenter.truth_of(data) == 1, data.labels > 0)
    assert segmenter.truth_of(noise(AVATARS, 2, 0)).max() > 1


def test_a_killed_run_goes_on_from_its_checkpoint(
    tmp_path: Path,
    run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fitting, "SAVE_EVERY", 0.0)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(readers, "save_weights", stop)
        with pytest.raises(KeyboardInterrupt):
            run(readers, "--steps", "3")
    checkpoint = tmp_path / "work" / "readers.checkpoint.pt"
    assert torch.load(checkpoint, weights_only=True)["step"] == 3
    _, header = run(readers, "--steps", "3")
    assert header["training"]["trained_steps"] == 3
    assert not checkpoint.exists()


def test_the_encoder_goes_into_the_generators_file(tmp_path: Path, run) -> None:
    tensors, header = run(encoder)
    made, into = tmp_path / "out.safetensors", tmp_path / "generator.safetensors"
    save_weights(into, {"x": torch.ones(2)}, {"architecture": "eg3d", "config": {"z_dim": 4}})
    encoder.merge(made, into)
    encoder.merge(made, into)
    merged = load_weights(into)[0]
    assert merged.keys() == {"x", *(f"encoder.{key}" for key in tensors)}
    assert read_header(into)["encoder"] == header["config"]
    assert read_header(into)["config"] == {"z_dim": 4}
    json.dumps(read_header(into))


@pytest.mark.parametrize("world", [AVATARS, CATS, CARS], ids=lambda w: w.name)
def test_every_phrase_of_a_pack_has_a_question(world: World) -> None:
    pack = text_image.pack_of(world)
    found = captions.check(world, pack)
    assert set(pack.names) == set(world.attributes)
    assert pack.template == world.templates[0]
    for name in pack.names:
        assert found[name].factor == name
    for question in world.questions:
        assert len(question.answer_of) == len(world.values(question.factor))
        assert set(question.answer_of) == set(range(len(question.answers)))
        words = [w for answer in question.answers for w in answer]
        assert len(set(words)) == len(words)
    data = {"name": "x", "title": "x", "domain": "x", "template": "{}"}
    group = {"name": "g", "phrases": ["big ears", "small ears"]}
    data["attributes"] = [{"name": "ears", "title": "Ears", "groups": [group]}]
    with pytest.raises(ValueError, match="big ears"):
        captions.check(world, parse_pack(data, "the test"))


@pytest.mark.parametrize("world", [AVATARS, CATS, CARS], ids=lambda w: w.name)
def test_captions_say_what_their_facts_hold(world: World) -> None:
    texts, facts = captions.write_captions(world, 200, seed=0)
    assert captions.write_captions(world, 200, seed=0) == (texts, facts)
    for text, said in zip(texts, facts, strict=True):
        held = [(f.name, v) for f, v in zip(world.factors, said, strict=True) if v >= 0]
        assert len(held) in (2, 3)
        for name, value in held:
            question = next(q for q in world.questions if q.factor == name)
            assert any(words in text for words in question.answers[value])


def test_angles_are_those_of_the_cameras() -> None:
    yaw, pitch = torch.tensor([-0.5, 3.1, -2.4]), torch.tensor([0.2, 0.0, -0.25])
    found = replace(noise(CARS, 3, 0), cameras=CARS.cameras.at(yaw, pitch)).angles()
    assert torch.allclose(found, torch.stack([yaw, pitch], 1), atol=1e-5)


def test_angles_differ_by_the_short_way_round() -> None:
    found = encoder.turned(torch.tensor([[3.1, 0.1]]), torch.tensor([[-3.1, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[6.2 - 2 * torch.pi, 0.1]]))


def test_augmented_images_keep_their_size_and_range() -> None:
    torch.manual_seed(0)
    images = to_float(noise(CATS, 10, 1).images)
    for _ in range(4):
        found = augment(images)
        assert found.shape == images.shape
        assert found.min() >= -1
        assert found.max() <= 1
        assert not torch.equal(found, images)
    assert shrunk(images, 48).shape == (10, 3, 48, 48)


def test_renders_are_drawn_once_and_then_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recipes import data

    drawn = noise(CATS, 4, 0)
    monkeypatch.setattr(data, "_draw", lambda *_: (drawn.images, drawn.labels, drawn.depths))
    first = data.renders(CATS, 4, 5, "cpu", tmp_path)
    monkeypatch.setattr(data, "_draw", lambda *_: pytest.fail("drawn again"))
    second = data.renders(CATS, 4, 5, "cpu", tmp_path)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.factors.classes, second.factors.classes)
    assert torch.equal(first.cameras, second.cameras)
    assert [p.name for p in tmp_path.iterdir()] == [f"renders-{data.FORMAT}-5-4.safetensors"]
