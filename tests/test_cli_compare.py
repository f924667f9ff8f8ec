"""The commands that measure, as they are typed: compare, and what evaluate writes."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from sat3d.artifact import Masks
from sat3d.cli.app import run
from sat3d.cli.loading import fitting_clip
from sat3d.errors import UsageError
from sat3d.hookspecs import hookimpl
from sat3d.interfaces import Bench, Codes, Editor
from sat3d.registry import registered
from sat3d.specs import EditorSpec
from sat3d.testing import ToyGenerator, toy_masks

COMPARE = ["compare", "--masks", ".", "--pairs", "6", "--tune-pairs", "4", "--bank", "40",
           "--pool", "8", "--quiet"]  # fmt: skip


class StillEditor(Editor):
    """Takes all of the reference at 1, nothing at 0."""

    name = "still"

    def __init__(self, options: Mapping[str, str]) -> None:
        self.intensities = (0.0, 1.0)
        if options:
            raise UsageError(f"method 'still': unknown option '{next(iter(options))}'.")

    def fit(self, bench: Bench) -> Mapping[str, Any]:
        return {}

    def edit(self, source: Codes, reference: Codes, attribute: str, intensity: float) -> Tensor:
        return source.styles + intensity * (reference.styles - source.styles)


class EditorPlugin:
    @hookimpl
    def register_editors(self, register: Callable[[EditorSpec], None]) -> None:
        def refuse(options: Mapping[str, str]) -> Editor:
            editor = StillEditor(options)
            editor.fit = _refuse  # type: ignore[method-assign]
            return editor

        register(EditorSpec("still", "a control", StillEditor))
        register(EditorSpec("wings", "needs wings", refuse))


def _refuse(bench: Bench) -> Mapping[str, Any]:
    raise UsageError("it needs wings.")


@pytest.fixture(autouse=True)
def _plugins(toys: None) -> Iterator[None]:
    with registered("editors", EditorPlugin()):
        yield


@pytest.fixture
def masks() -> Masks:
    made = toy_masks(ToyGenerator(is_3d=True))
    made.save(Path("masks.safetensors"))
    return made


MEASURE = ["evaluate", "--masks", ".", "--pairs", "10", "--bank", "30", "--quiet"]


def test_evaluate_writes_csv_and_a_report(masks: Masks, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--csv", "r.csv", "--report", "r.html", "--examples", "1"]
    assert run([*MEASURE, "--measure", "detail,curves", "--curve-pairs", "3", *files]) == 0
    assert Path("r.csv").read_text().startswith("attribute,figure,value,low,high\n")
    page = Path("r.html").read_text()
    assert page.count("<img ") == 3 * 3
    assert "<h2>Intensity</h2>" in page
    shown = capsys.readouterr().out
    assert "detail" in shown
    assert "r.html: written" in shown


def test_evaluate_lies_the_table_down_where_there_are_more_figures_than_attributes(
    masks: Masks, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*MEASURE, "--measure", "detail"]) == 0
    first = next(x for x in capsys.readouterr().out.splitlines() if "top" in x)
    assert "middle" in first
    assert "mean" in first


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--measure", "detial"], "Did you mean 'detail'"),
        (["--identity", "nobody"], "unknown reader 'nobody'"),
        (["--report", "there.html"], "already exists"),
        (["--csv", "there.html"], "already exists"),
    ],
)
def test_evaluate_refuses_wrong_use_and_leaves_files_alone(
    masks: Masks, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.html").write_text("mine")
    assert run([*MEASURE, *more]) == 2
    assert message in capsys.readouterr().err
    assert Path("there.html").read_text() == "mine"


# ---------------------------------------------------------------- compare


def test_own_weights_of_the_text_image_model_go_before_those_that_fit_the_generator() -> None:
    generator = ToyGenerator()
    fits = {"clip": "small", "clip_pretrained": "theirs"}
    generator.card = replace(generator.card, goes_with=fits)
    assert fitting_clip(None, None, generator) == ("small", "theirs")
    assert fitting_clip(None, "mine", generator) == ("small", "mine")
    assert fitting_clip("large", None, generator) == ("large", None)
    generator.card = replace(generator.card, goes_with={})
    assert fitting_clip(None, "mine", generator) == (None, "mine")


def test_compare_prints_one_table_and_writes_picture_and_figures(
    masks: Masks, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--out", "all.png", "--json", "all.json", "--csv", "all.csv"]
    assert run([*COMPARE, *files]) == 0
    shown = capsys.readouterr()
    assert "still" in shown.out
    assert "bottom" in shown.out
    assert "note: 'wings' was skipped: it needs wings." in shown.err
    figures = json.loads(Path("all.json").read_text())
    assert list(figures["methods"]) == ["still"]
    assert figures["masks"] == "."
    rows = Path("all.csv").read_text().splitlines()
    assert len(rows) == 1 + 4
    with Image.open("all.png") as picture:
        assert picture.width > 3 * 96


def test_compare_takes_the_methods_that_are_named_in_their_order(masks: Masks) -> None:
    methods = ["--method", "wings", "--method", "still"]
    assert run([*COMPARE, *methods, "--json", "some.json"]) == 0
    figures = json.loads(Path("some.json").read_text())
    assert list(figures["methods"]) == ["still"]
    assert list(figures["skipped"]) == ["wings"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "stil"], "Did you mean 'still'"),
        (["--method", "still:a=1"], "unknown option 'a'"),
        (["--method", "wings"], "no method can be compared: it needs wings."),
        (["--json", "there.json"], "already exists"),
        (["--bank", "1"], "--bank"),
    ],
)
def test_compare_refuses_wrong_use_in_one_line(
    masks: Masks, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.json").write_text("mine")
    assert run([*COMPARE, *more]) == 2
    assert message in capsys.readouterr().err
    assert Path("there.json").read_text() == "mine"
