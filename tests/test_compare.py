"""Methods side by side, on a toy whose right answers are known."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from sat3d.compare import CompareSettings, Comparison, compare
from sat3d.errors import MismatchError, UsageError
from sat3d.interfaces import Bench, Codes, Editor, WeightsCard
from sat3d.measuring.tables import comparison_csv
from sat3d.testing import STRIPES, ToyGenerator, ToyMeasure, ToyReader, toy_masks, toy_pack

QUICK = CompareSettings(pairs=30, tune_pairs=20, bank=60, pool=8, multi_view_pairs=4)


class Planted(Editor):
    """Moves the channels that are known to be right; 1 is all the way."""

    name = "planted"
    intensities: tuple[float, ...] = (0.0, 0.5, 1.0, 4.0)

    def fit(self, bench: Bench) -> Mapping[str, Any]:
        self.generator = bench.generator
        self.seen = bench
        return {"seen": len(bench.pool)}

    def edit(self, source: Codes, reference: Codes, attribute: str, intensity: float) -> Tensor:
        layout = self.generator.layout
        places = layout.editable[self.generator.planted[attribute]]
        styles = source.styles.clone()
        styles[:, places] += intensity * (reference.styles - source.styles)[:, places]
        return styles


class Swap(Planted):
    name = "swap"
    intensities = (1.0,)

    def edit(self, source: Codes, reference: Codes, attribute: str, intensity: float) -> Tensor:
        return reference.styles


class Nothing(Planted):
    name = "nothing"
    intensities = (0.0,)

    def edit(self, source: Codes, reference: Codes, attribute: str, intensity: float) -> Tensor:
        return source.styles


class Unable(Planted):
    name = "unable"

    def fit(self, bench: Bench) -> Mapping[str, Any]:
        raise UsageError("it needs wings. Add --wings.")


def run(generator: ToyGenerator | None = None, **more: Any) -> Comparison:
    generator = generator or ToyGenerator(is_3d=True)
    editors = {"planted": Planted(), "swap": Swap(), "nothing": Nothing(), "unable": Unable()}
    settings = QUICK.model_copy(update=more)
    measure = ToyMeasure(toy_pack())
    return compare(generator, toy_masks(generator), editors, ToyReader(), measure, None, settings)


def test_the_figures_are_those_that_each_method_must_have() -> None:
    methods = run().figures["methods"]
    for name in STRIPES:
        right, all_of_it, none = (
            methods[x]["attributes"][name] for x in ("planted", "swap", "nothing")
        )
        assert right["intensity"] == 1.0
        assert right["success"] >= 0.9  # the camera's shade may tip a colour near a border
        assert right["leakage"] <= 0.05
        # Three colours: two independent draws differ in about two thirds of the pairs.
        assert 0.4 <= all_of_it["leakage"] <= 0.9
        assert none["success"] == none["leakage"] == 0.0
        # Rendered in other batches than the source: the last bits of float32.
        assert none["detail"] == pytest.approx(0.0, abs=1e-6)
        assert right["margin"] == pytest.approx(right["success"] - right["leakage"])
        assert right["detail"] > 0.8


def test_the_whole_range_is_told_and_the_best_is_its_maximum() -> None:
    for told in run().figures["methods"]["planted"]["attributes"].values():
        assert [point["intensity"] for point in told["range"]] == [0.0, 0.5, 1.0, 4.0]
        best = max(point["margin"] for point in told["range"])
        chosen = {point["intensity"]: point["margin"] for point in told["range"]}
        assert chosen[told["intensity"]] == pytest.approx(best)
        assert told["range"][0]["success"] == 0.0


def test_of_equal_intensities_the_middle_one_is_taken() -> None:
    class Deaf(Nothing):
        intensities = (3.0, -1.0, 2.0)

    generator = ToyGenerator()
    found = compare(generator, toy_masks(generator), {"deaf": Deaf()}, ToyReader(), settings=QUICK)
    for told in found.figures["methods"]["deaf"]["attributes"].values():
        assert told["intensity"] == 2.0


def test_the_first_method_is_compared_pair_by_pair_with_the_others() -> None:
    figures = run().figures
    assert list(figures["against"]) == ["swap", "nothing"]
    methods = figures["methods"]
    for other, told in figures["against"].items():
        for name in STRIPES:
            margins = [methods[x]["attributes"][name]["margin"] for x in ("planted", other)]
            assert told["attributes"][name]["difference"] == pytest.approx(margins[0] - margins[1])
        low, high = told["mean"]["interval"]
        assert 0.0 < low <= told["mean"]["difference"] <= high


def test_a_method_that_cannot_work_here_is_skipped_and_says_why() -> None:
    figures = run().figures
    assert figures["skipped"] == {"unable": "it needs wings. Add --wings."}
    assert "unable" not in figures["methods"]
    generator = ToyGenerator()
    with pytest.raises(UsageError, match="no method can be compared: it needs wings"):
        compare(generator, toy_masks(generator), {"x": Unable()}, ToyReader(), settings=QUICK)


def test_one_seed_is_one_report_but_for_the_timings() -> None:
    first, again, other = (run(seed=seed).figures for seed in (0, 0, 1))
    timings = [figures.pop("timings") for figures in (first, again, other)]
    assert json.dumps(first) == json.dumps(again)
    assert other["methods"] != first["methods"]
    assert timings[0].keys() == {"seconds", "seconds_to_fit", "seconds_per_edit"}
    assert timings[0]["seconds_per_edit"].keys() == first["methods"].keys()
    assert all(x > 0 for x in timings[0]["seconds_per_edit"].values())


def test_tuning_and_measuring_pairs_are_different_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, Tensor]] = []

    class Watching(Planted):
        def edit(self, source: Codes, reference: Codes, attribute: str, intensity: float) -> Tensor:
            if attribute == "top":
                seen.append((intensity, torch.stack([source.styles, reference.styles], dim=1)))
            return super().edit(source, reference, attribute, intensity)

    generator = ToyGenerator()
    editors = {"watching": Watching()}
    compare(generator, toy_masks(generator), editors, ToyReader(), settings=QUICK)
    pairs = torch.cat([codes for _, codes in seen])
    tuned, final = pairs[: 4 * 20].unflatten(0, (4, 20)), pairs[4 * 20 :]
    assert len(final) == 30
    assert torch.equal(tuned[0], tuned[3])  # every intensity sees the same pairs
    known = {tuple(pair.flatten().tolist()) for pair in tuned[0]}
    fresh = [tuple(pair.flatten().tolist()) not in known for pair in final]
    assert sum(fresh) >= 25  # of 60 * 59 possible pairs a few are drawn twice


def test_editors_are_given_what_the_text_image_model_sees_and_no_reader() -> None:
    generator = ToyGenerator(is_3d=True)
    editor = Planted()
    compare(
        generator, toy_masks(generator), {"one": editor}, ToyReader(), ToyMeasure(toy_pack()),
        settings=QUICK,
    )  # fmt: skip
    bench = editor.seen
    assert len(bench.pool) == 8
    assert not any(isinstance(x, ToyReader) for x in vars(bench).values())
    for groups in bench.pool.values.values():
        assert [group.shape for group in groups] == [(8, 3)]
        assert torch.allclose(groups[0].sum(dim=1), torch.ones(8), atol=1e-5)  # float32 softmax


def test_each_method_and_attribute_has_a_row_of_csv() -> None:
    lines = comparison_csv(run().figures).decode().splitlines()
    assert lines[0].startswith("method,attribute,intensity,success,leakage,margin")
    assert len(lines) == 1 + 3 * (len(STRIPES) + 1)
    assert lines[1].startswith("planted,top,1.0,")
    assert all(line.count(",") == lines[0].count(",") for line in lines)


def test_there_is_one_example_of_each_method_and_attribute_of_the_same_pair() -> None:
    examples = run().examples
    for name in STRIPES:
        pairs = [examples[x][name] for x in ("planted", "swap", "nothing")]
        assert all(torch.equal(p.source, pairs[0].source) for p in pairs)
        assert torch.equal(pairs[2].result, pairs[2].source)


def test_masks_of_another_generator_are_refused() -> None:
    generator = ToyGenerator()
    masks = toy_masks(generator)
    generator.card = WeightsCard("other", "0" * 64)
    with pytest.raises(MismatchError):
        compare(generator, masks, {"none": Nothing()}, ToyReader(), settings=QUICK)


def test_progress_ends_where_it_said_it_would() -> None:
    from sat3d.progress import Silent

    class Counting(Silent):
        counts: list[list[int]]

        def phase(self, description: str, total: int, start: int = 0) -> Any:
            self.counts = [*getattr(self, "counts", []), [0, total]]
            return super().phase(description, total, start)

        def advance(self, steps: int = 1, values: Any = None) -> None:
            self.counts[-1][0] += steps

    counting = Counting()
    generator = ToyGenerator(is_3d=True)
    editors = {"planted": Planted(), "swap": Swap()}
    compare(generator, toy_masks(generator), editors, ToyReader(), None, None, QUICK, counting)
    assert [done == total > 0 for done, total in counting.counts] == [True, True]
