"""The figures of an evaluation, on a toy whose right answers are known."""

import dataclasses
import json
from typing import Any

import pytest
import torch

from sat3d.errors import MismatchError, Sat3dError, UsageError
from sat3d.evaluation import EvaluateSettings, evaluate
from sat3d.interfaces import Render, WeightsCard
from sat3d.progress import Silent
from sat3d.testing import STRIPES, ToyGenerator, ToyReader, ToySegmenter, toy_masks

QUICK = EvaluateSettings(pairs=40, bank=60, multi_view_pairs=8)


@pytest.fixture
def generator() -> ToyGenerator:
    return ToyGenerator(is_3d=True)


def measure(generator: ToyGenerator, logits: torch.Tensor | None = None, **more: Any) -> Any:
    masks = toy_masks(generator)
    masks = masks if logits is None else dataclasses.replace(masks, logits=logits)
    settings = QUICK.model_copy(update=more)
    return evaluate(generator, masks, ToyReader(), ToySegmenter(), settings)


def test_the_right_masks_succeed_and_leak_nothing(generator: ToyGenerator) -> None:
    report = measure(generator)
    for name in STRIPES:
        figures = report["attributes"][name]
        assert figures["success"] >= 0.95  # the camera's shade may tip a colour near a border
        assert figures["leakage"] <= 0.02
        assert figures["background"] < 1e-5  # the masks are right to e^-20
        assert figures["precision"] == figures["recall"] == 1.0
        assert figures["multi_view"] >= 0.9


def test_the_report_has_the_keys_it_promises_and_is_json(generator: ToyGenerator) -> None:
    report = json.loads(json.dumps(measure(generator)))
    assert {"attributes", "mean", "pairs", "generator", "masks", "seconds"} <= report.keys()
    assert list(report["attributes"]) == list(STRIPES)
    assert report["pairs"] == 40
    for key, mean in report["mean"].items():
        values = [report["attributes"][name][key] for name in STRIPES]
        assert mean == pytest.approx(sum(values) / 3)


def test_masks_that_give_everything_to_others_change_nothing(generator: ToyGenerator) -> None:
    logits = torch.zeros(4, generator.layout.editable_channels)
    logits[-1] = 100.0
    for figures in measure(generator, logits)["attributes"].values():
        # The pairs differ in the attribute, and the result is the source.
        assert figures["success"] == 0.0
        assert figures["leakage"] == 0.0
        assert figures["background"] == 0.0
        assert figures["precision"] == figures["recall"] == 0.0


def test_a_mask_of_all_channels_succeeds_and_leaks_what_differs(generator: ToyGenerator) -> None:
    logits = torch.zeros(4, generator.layout.editable_channels)
    logits[0] = 100.0
    figures = measure(generator, logits)["attributes"]["top"]
    assert figures["success"] >= 0.95
    # Three colours: two independent draws differ in about two thirds of the pairs.
    assert 0.4 <= figures["leakage"] <= 0.9
    assert figures["background"] > 0.05
    assert figures["recall"] == 1.0
    planted = len(generator.planted["top"])
    assert figures["precision"] == planted / generator.layout.editable_channels


def test_masks_of_a_neighbour_have_no_precision_and_no_recall(generator: ToyGenerator) -> None:
    logits = toy_masks(generator).logits[[1, 0, 2, 3]]
    figures = measure(generator, logits)["attributes"]
    assert figures["top"]["precision"] == figures["top"]["recall"] == 0.0
    assert figures["bottom"]["precision"] == figures["bottom"]["recall"] == 1.0


def test_the_background_is_the_hand_computed_change() -> None:
    class Brightening(ToyGenerator):
        """After the bank every pixel is 0.1 of 2 brighter, wherever it is."""

        drawn = 0

        def render(self, styles: torch.Tensor, *rest: Any, **more: Any) -> Render:
            image = super().render(styles, *rest, **more).image * 0.8  # the rim is not clamped
            self.drawn += len(styles)
            return Render(image + (0.1 if self.drawn > QUICK.bank else 0.0))

    generator = Brightening()
    masks = toy_masks(generator)
    masks = dataclasses.replace(masks, logits=torch.tensor([[0.0]] * 3 + [[99.0]]).expand(4, 64))
    report = evaluate(generator, masks, ToyReader(), ToySegmenter(), QUICK)
    assert report["mean"]["background"] == pytest.approx(0.05, abs=1e-5)


def test_one_seed_is_one_result_whatever_the_batch(generator: ToyGenerator) -> None:
    first, again, small = measure(generator), measure(generator), measure(generator, batch=3)
    assert first["attributes"] == again["attributes"]
    for name, figures in first["attributes"].items():
        assert small["attributes"][name] == pytest.approx(figures, abs=1e-6)
    other = measure(generator, seed=1)
    assert other["attributes"] != first["attributes"]


def test_without_a_segmenter_or_cameras_their_figures_are_left_open() -> None:
    generator = ToyGenerator()
    report = evaluate(generator, toy_masks(generator), ToyReader(), None, QUICK)
    assert report["mean"]["background"] is None
    assert report["mean"]["multi_view"] is None
    assert report["segmenter"] is None
    assert report["mean"]["success"] >= 0.95


def test_an_attribute_that_the_reader_does_not_know_is_named(generator: ToyGenerator) -> None:
    reader = ToyReader()
    reader.attributes = {"top": ("red", "green", "blue")}
    report = evaluate(generator, toy_masks(generator), reader, None, QUICK)
    assert list(report["attributes"]) == ["top"]
    assert report["unmeasured"] == ["middle", "bottom"]
    assert report["attributes"]["top"]["leakage"] is None  # there is no other attribute to change


def test_a_reader_of_another_domain_is_refused(generator: ToyGenerator) -> None:
    reader = ToyReader()
    reader.attributes = {"wheels": ("three", "four")}
    with pytest.raises(UsageError, match="none of the masks' attributes"):
        evaluate(generator, toy_masks(generator), reader, None, QUICK)


def test_a_bank_that_shows_one_value_is_an_error_that_says_so(generator: ToyGenerator) -> None:
    with pytest.raises(Sat3dError, match=r"one value of 'top'.*--bank"):
        measure(generator, truncation=0.0)


def test_masks_of_another_generator_are_refused(generator: ToyGenerator) -> None:
    masks = toy_masks(generator)
    generator.card = WeightsCard("other", "0" * 64)
    with pytest.raises(MismatchError):
        evaluate(generator, masks, ToyReader(), None, QUICK)


def test_progress_ends_where_it_said_it_would(generator: ToyGenerator) -> None:
    class Counting(Silent):
        done = total = 0

        def phase(self, description: str, total: int, start: int = 0) -> Any:
            self.total = total
            return super().phase(description, total, start)

        def advance(self, steps: int = 1, values: Any = None) -> None:
            self.done += steps

    counting = Counting()
    evaluate(generator, toy_masks(generator), ToyReader(), None, QUICK, counting)
    assert counting.done == counting.total > 0
