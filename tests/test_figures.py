"""The commands of examples/figures, on toys: a PNG and the data behind it, which agree."""

import importlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import sat3d
from examples.figures import common, pairs
from examples.figures.common import Figure
from sat3d.editors import load_editor
from sat3d.errors import UsageError
from sat3d.hookspecs import hookimpl
from sat3d.registry import registered
from sat3d.specs import DescriptorSpec, GeneratorSpec, ReaderSpec, SegmenterSpec
from sat3d.testing import (
    STRIPES,
    ToyGenerator,
    ToyMeasure,
    ToyReader,
    ToySegmenter,
    part_masks,
    toy_masks,
    toy_pack,
)

FOLDER = Path(__file__).parents[1] / "examples" / "figures"
NUMBERS = range(3, 12)
ROLES = {"clip": "toy", "reader": "toy", "segmenter": "toy", "descriptors": "stripes"}
QUICK = ["--set", "steps=2", "pool_size=32", "batch=2", "preview_every=0", "--preset", "quick"]


def figure(number: int) -> Figure:
    found: Figure = importlib.import_module(f"examples.figures.figure{number:02}").FIGURE
    return found


class Toys:
    """A 3D and a 2D toy with all that figures need, and one without segmenter."""

    @hookimpl
    def register_generators(self, register: Callable[[GeneratorSpec], None]) -> None:
        def load(is_3d: bool, **roles: str) -> Any:
            generator = ToyGenerator(is_3d=is_3d)
            generator.card = replace(generator.card, goes_with={**ROLES, **roles})
            return lambda weights, device: generator

        register(GeneratorSpec("toy", "stripes", load(True)))
        register(GeneratorSpec("flat", "stripes in 2D", load(False)))
        register(GeneratorSpec("plain", "stripes", load(True, segmenter="none")))

    @hookimpl
    def register_segmenters(self, register: Callable[[SegmenterSpec], None]) -> None:
        register(SegmenterSpec("toy", "stripes", lambda w, d: ToySegmenter()))

    @hookimpl
    def register_readers(self, register: Callable[[ReaderSpec], None]) -> None:
        register(ReaderSpec("toy", "stripes", lambda w, d: ToyReader()))

    @hookimpl
    def register_descriptors(self, register: Callable[[DescriptorSpec], None]) -> None:
        register(DescriptorSpec("stripes", "stripes", Path("stripes.yaml")))


@pytest.fixture(autouse=True)
def _toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In an empty folder; the toys and the bundled methods of editing are the only plugins."""
    monkeypatch.setenv("SAT3D_PLUGINS", "editors")
    monkeypatch.chdir(tmp_path)
    Path("stripes.yaml").write_text(yaml.safe_dump(toy_pack().model_dump(mode="json")))
    monkeypatch.setattr(common, "load_measure", lambda generator, pack: ToyMeasure(pack))
    with registered("toys", Toys()):
        yield


def run(number: int, *more: str, domains: tuple[str, ...] = ("toy+stripes",)) -> int:
    chosen = figure(number)
    pool = ["--pool", "80"] if chosen.methods else []
    given = ["--domains", *domains, "--out", "out", "--quiet", *QUICK, *pool]
    return chosen.run([*given, *more])


def data(number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"out/figure{number:02}.json").read_text())
    return found


def cells(told: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for grid in told["grids"] for cell in grid["cells"]]


# ---------------------------------------------------------------- every figure


@pytest.mark.parametrize("number", NUMBERS)
def test_a_command_writes_a_picture_and_its_data(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[Any] = []
    real = common.sheet
    monkeypatch.setattr(
        common, "sheet", lambda panels, *more: (drawn.extend(panels), real(panels, *more))[1]
    )
    assert run(number) == 0
    assert capsys.readouterr().out.split("\n")[0].endswith(f"figure{number:02}.png: written")
    with Image.open(f"out/figure{number:02}.png") as picture:
        assert min(picture.size) > 300
    told = data(number)
    assert told["figure"] == number
    assert told["missing"] == {}
    assert told["domains"][0]["fingerprint"] == ToyGenerator(is_3d=True).card.fingerprint
    assert all(len(mask["fingerprint"]) == 64 for mask in told["masks"])
    # What is drawn is what is written: labels in order, each caption in its place.
    assert len(drawn) == len(told["grids"]) > 0
    for panel, grid in zip(drawn, told["grids"], strict=True):
        assert list(panel.row_labels) == grid["rows"]
        assert list(panel.column_labels) == grid["columns"]
        captions = [tile.caption for row in panel.rows for tile in row if tile]
        assert captions == [cell["caption"] for cell in grid["cells"]]
        places = [(r, c) for r in grid["rows"] for c in grid["columns"]]
        assert [(cell["row"], cell["column"]) for cell in grid["cells"]] == places


@pytest.mark.parametrize("number", NUMBERS)
def test_results_name_what_they_were_made_of(number: int) -> None:
    assert run(number) == 0
    told = data(number)
    results = [cell for cell in cells(told) if "after" in cell]
    assert results
    for cell in results:
        name = cell["attribute"]
        assert cell["caption"].startswith(cell["after"][name]["value"])
        assert cell["success"] == (cell["after"][name]["value"] == cell["wanted"])
        assert cell["before"] == reading(cell["source"])
        assert cell["wanted"] == reading(cell["reference"])[name]["value"]
        assert isinstance(cell["intensity"], float)
    for cell in cells(told):
        if "seed" in cell:
            assert cell["reading"] == reading(cell["seed"])


def reading(seed: int) -> dict[str, Any]:
    """What the toy's reader sees of a seed, by the public interface."""
    generator = ToyGenerator(is_3d=True)
    latent = sat3d.resolve(f"seed:{seed}", generator)
    return seen(generator, latent)


def seen(generator: ToyGenerator, latent: sat3d.Latent) -> dict[str, Any]:
    image = generator.render(latent.styles, latent.camera).image.clamp(-1, 1)
    found = ToyReader().read(image)
    return {
        name: {
            "value": ToyReader.attributes[name][int(x.argmax())],
            # Batches of other sizes may round the last place.
            "probability": pytest.approx(float(x.max()), abs=2e-4),
        }
        for name, x in found.items()
    }


def test_the_same_seed_gives_the_same_data_and_another_one_other_images() -> None:
    run(10)
    first = data(10)["grids"]
    run(10)
    assert data(10)["grids"] == first
    run(10, "--seed", "1")
    assert data(10)["grids"] != first


# ---------------------------------------------------------------- single figures


def test_figure_4_shows_what_transfer_gives_for_the_seeds_it_names() -> None:
    generator = ToyGenerator(is_3d=True)
    toy_masks(generator).save(Path("masks.safetensors"))
    assert (
        figure(4).run(["--masks", "masks.safetensors", "--out", "out", "--generator", "toy"]) == 0
    )
    masks = sat3d.load_masks("masks.safetensors")
    for cell in cells(data(4)):
        if cell["row"] == "result":
            source, reference = (
                sat3d.resolve(f"seed:{cell[key]}", generator) for key in ("source", "reference")
            )
            edit = sat3d.Edit(reference, (cell["attribute"],))
            assert cell["after"] == seen(
                generator, sat3d.transfer(generator, masks, source, [edit])
            )
            assert cell["success"]
            assert cell["changed"] == []


def test_figure_4_pairs_stand_above_their_result() -> None:
    run(4)
    for grid in data(4)["grids"]:
        by_place = {(cell["row"], cell["column"]): cell for cell in grid["cells"]}
        for column in grid["columns"]:
            result = by_place["result", column]
            assert result["source"] == by_place["source", column]["seed"]
            assert result["reference"] == by_place["reference", column]["seed"]
            assert column == f"{result['attribute'].capitalize()} stripe"


def test_figure_6_ends_with_all_attributes_of_the_reference() -> None:
    generator = ToyGenerator(is_3d=True)
    toy_masks(generator).save(Path("masks.safetensors"))
    assert figure(6).run(["--masks", "masks.safetensors", "--out", "out", "--quiet"]) == 0
    steps = [cell for cell in cells(data(6)) if "after" in cell]
    last = [cell for cell in steps if len(cell["moved"]) == 3]
    assert len(last) == 2
    for cell in last:
        wanted = {name: x["value"] for name, x in reading(cell["reference"]).items()}
        assert {name: x["value"] for name, x in cell["after"].items()} == wanted
    assert all(cell["changed"] == [] for cell in steps)


@pytest.mark.parametrize(("number", "towards"), [(7, "presence"), (8, "absence")])
def test_figures_7_and_8_go_towards_presence_and_absence(number: int, towards: str) -> None:
    assert run(number, "--methods", "interfacegan", domains=("flat+stripes",)) == 0
    results = [cell for cell in cells(data(number)) if "method" in cell]
    assert {cell["method"] for cell in results} == {"interfacegan", "masks"}
    assert data(number)["grids"][0]["title"] == ""
    for cell in results:
        before = cell["before"][cell["attribute"]]["value"]
        absent = ToyReader.attributes["top"][0]
        assert (before if towards == "presence" else cell["wanted"]) == absent
        assert (cell["wanted"] if towards == "presence" else before) != absent


def test_a_3d_generator_that_stands_in_for_a_2d_one_is_called_so() -> None:
    run(8, "--methods", "interfacegan")
    title = data(8)["grids"][0]["title"]
    assert title == "No 2D generator: toy from the front stands in"


def test_the_best_of_a_range_is_shown_and_the_range_kept() -> None:
    run(7, "--methods", "interfacegan")
    ranges = [tuple(load_editor(name).intensities) for name in ("masks", "interfacegan")]
    for cell in cells(data(7)):
        if "range" in cell:
            least = max(point["score"] for point in cell["range"]) - 0.01
            best = [point["intensity"] for point in cell["range"] if point["score"] >= least]
            assert cell["intensity"] == min(best, key=abs)
            assert tuple(point["intensity"] for point in cell["range"]) in ranges


def test_a_method_that_cannot_work_here_is_left_out_and_told() -> None:
    assert run(3, domains=("flat+stripes",)) == 0
    told = data(3)
    assert "2D" in told["methods"]["preim3d"]["skipped"]
    assert told["grids"][0]["columns"][:2] == ["source", "ours, A"]
    assert run(7) == 0  # the toy's text-image model has no phrases for StyleCLIP
    assert "styleclip" in data(7)["methods"]["styleclip"]["skipped"]
    assert "StyleCLIP" not in data(7)["grids"][0]["columns"]


def test_figure_9_measures_only_what_lies_outside() -> None:
    run(9)
    told = data(9)
    assert [mask["changes"][-1] for mask in told["masks"]][1] == "weights.background=0"
    assert told["masks"][0]["settings"]["weights"]["background"] > 0
    assert told["masks"][1]["settings"]["weights"]["background"] == 0
    generator = ToyGenerator(is_3d=True)
    shown = [cell for cell in cells(told) if cell["row"].startswith("change")]
    assert len(shown) == 6
    for cell in shown:
        label = "toy-toy-stripes-preselection.strength=1.8-others_start=1"
        suffix = "" if cell["row"] == "change, with" else "-weights.background=0"
        masks = sat3d.load_masks(Path("runs/figures", label + suffix))
        source, reference = (
            sat3d.resolve(f"seed:{cell[key]}", generator) for key in ("source", "reference")
        )
        edit = sat3d.Edit(reference, (cell["attribute"],))
        result = sat3d.transfer(generator, masks, source, [edit])
        before, after = (
            generator.render(x.styles, x.camera).image[0].clamp(-1, 1) for x in (source, result)
        )
        stripe = part_masks(16, 16)[STRIPES.index(cell["attribute"])].bool()
        expected = float((after - before).abs().mean(dim=0)[~stripe].mean() / 2)
        assert cell["background"] == pytest.approx(expected, abs=1e-6)  # float32 sums
        assert cell["caption"] == f"{cell['background']:.4f}"
    # Two steps from one start, the trainings already differ.
    assert shown[0]["background"] != shown[3]["background"]


def test_figure_9_needs_a_segmenter(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(9, domains=("plain+stripes",)) == UsageError.exit_code
    assert capsys.readouterr().err == (
        "error: domain 'plain+stripes' has no segmenter, so it knows no background.\n"
    )


def test_figure_10_sweeps_the_intensity() -> None:
    run(10)
    steps = [cell for cell in cells(data(10)) if "after" in cell]
    assert all(cell["column"] == f"intensity {cell['intensity']:g}" for cell in steps)
    assert {cell["intensity"] for cell in steps} == {0.5, 1.0, 1.5, 2.0, 2.5}


def test_figure_11_trains_without_the_preservation_loss_and_tells_both_values() -> None:
    run(11)
    told = data(11)
    weights = [mask["settings"]["weights"]["preserve"] for mask in told["masks"]]
    assert weights[0] > 0 == weights[1]
    for cell in cells(told):
        shown = cell.get("after") or cell["reading"]
        assert cell["caption"].split("\n") == [shown[x]["value"] for x in ("top", "middle")]


# ---------------------------------------------------------------- domains and masks


def test_one_line_says_which_domains_are_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(5, domains=("toy+stripes", "tulips+tulips", "flat+stripes", "flowers+x")) == 0
    assert capsys.readouterr().err == (
        "figure 5: not installed: tulips+tulips, flowers+x (pip install ./examples/flowers); "
        "drawn with toy+stripes, flat+stripes\n"
    )
    told = data(5)
    assert list(told["missing"]) == ["tulips+tulips", "flowers+x"]
    assert [grid["domain"] for grid in told["grids"]] == ["toy+stripes", "flat+stripes"]


def test_other_figures_take_the_first_domain_that_is_installed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(10, domains=("tulips+tulips", "flat+stripes", "toy+stripes")) == 0
    assert "drawn with flat+stripes\n" in capsys.readouterr().err
    assert [x["domain"] for x in data(10)["domains"]] == ["flat+stripes"]


def test_no_domain_at_all_is_one_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(5, domains=("tulips+tulips", "toy+daisies")) == UsageError.exit_code
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("error: none of the domains is installed: tulips+tulips: unknown gene")
    assert "unknown descriptor pack 'daisies'" in told
    assert not Path("out").exists()


def test_trained_masks_are_kept_and_trained_anew_only_when_settings_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[Path] = []
    real = common.train

    def counted(*parts: Any, out: Path, **more: Any) -> Any:
        trained.append(out)
        return real(*parts, out=out, **more)

    monkeypatch.setattr(common, "train", counted)
    run(11)
    first = data(11)["masks"]
    assert len(trained) == 2
    assert trained[1].name.endswith("weights.preserve=0")
    run(11)
    assert len(trained) == 2
    assert data(11)["masks"] == first
    assert figure(11).run(["--domains", "toy+stripes", "--quiet", *QUICK, "--preset", "cpu"]) == 0
    assert len(trained) == 4


def test_masks_of_another_generator_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    toy_masks(ToyGenerator(seed=5)).save(Path("masks.safetensors"))
    assert figure(4).run(["--masks", "masks.safetensors", "--quiet"]) == UsageError.exit_code
    assert capsys.readouterr().err.startswith("error: these masks were made for weights 'toy'")


# ---------------------------------------------------------------- choosing


def test_images_that_show_a_value_most_surely_are_picked_once() -> None:
    bank = make_bank()
    used: set[int] = set()
    first, second = (bank.pick("top", {0, 1}, used) for _ in range(2))
    assert first != second
    assert used == {first, second}
    assert {bank.value(first, "top"), bank.value(second, "top")} <= {0, 1}
    sure = [bank.readings[k]["top"]["probability"] for k in (first, second)]
    assert sure[0] >= round(sure[1], 2) - 0.005  # compared in hundredths
    with pytest.raises(sat3d.Sat3dError, match="none of 24 images is left that shows top 'red'"):
        bank.pick("top", {0}, set(range(24)))


def test_images_that_the_pack_leaves_out_are_not_shown() -> None:
    bank = make_bank()
    measure = bank.domain.measure
    (rule,) = bank.domain.pack.pool.exclude
    assert len(bank.images) == 24
    found = measure.rule_probability(measure.encode_image(bank.images), rule)
    assert bool((found < rule.above + 1e-6).all())
    generator = bank.domain.generator
    drawn = torch.cat([sat3d.resolve(f"seed:{k}", generator).styles for k in range(1000, 1064)])
    every = generator.render(drawn).image
    assert bool((measure.rule_probability(measure.encode_image(every), rule) >= rule.above).any())


def make_bank() -> pairs.Bank:
    options = figure(4)._options(["--domains", "toy+stripes", "--bank", "24", "--quiet"])
    work = figure(4)._open(options)
    return pairs.make_bank(work, work.domain)


# ---------------------------------------------------------------- the page


def test_the_page_lists_every_figure_with_its_command() -> None:
    page = (FOLDER / "README.md").read_text()
    named = re.findall(r"`python -m examples\.figures\.figure(\d\d)`", page)
    assert [int(x) for x in named] == list(NUMBERS)
    for number in NUMBERS:
        text = (FOLDER / f"figure{number:02}.py").read_text()
        assert f"python -m examples.figures.figure{number:02} --out figures" in text
        assert text.startswith(f'"""Figure {number}: ')
        assert figure(number).number == number
