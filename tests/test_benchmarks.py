"""The benchmark runs, counts right, and its plain loop is what the engine computes."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import clock, engine, floor, profile, quality, table
from benchmarks.plain import PlainPair, plain_parts
from benchmarks.subjects import Subject, tiny
from sat3d.checkpoint import Checkpoint, save_checkpoint
from sat3d.losses import total_loss
from sat3d.objective import make_setup, measure_edit
from sat3d.pool import build_pool
from sat3d.settings import PRESETS, override
from sat3d.testing import (
    ToyGenerator,
    ToyMeasure,
    ToyReader,
    ToySegmenter,
    toy_masks,
    toy_pack,
)

EMPTY = {"state": {}, "param_groups": []}


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny(torch.device("cpu"))


@pytest.mark.parametrize("targets", [1, 2])
def test_the_engine_computes_the_plain_losses_and_gradients(subject: Subject, targets: int):
    """With the settings of the paper, where the engine only keeps what it need not repeat."""
    settings = override(PRESETS["paper"], ["pool_size=8", f"targets={targets}", "batch=4"])
    pool = build_pool(*subject.parts, settings)
    setup = make_setup(*subject.parts, settings, pool)
    rows, attributes = len(subject.pack.attributes) + 1, len(subject.pack.attributes)
    source = torch.Generator().manual_seed(0)
    shape = (rows, subject.generator.layout.editable_channels)
    logits = torch.randn(shape, generator=source, requires_grad=True)
    first, second = torch.tensor([0, 1, 2, 3]), torch.tensor([4, 5, 6, 7])
    chosen = torch.zeros(4, attributes, dtype=torch.bool)
    for k in range(4):
        chosen[k, (k + torch.arange(targets)) % attributes] = True
    parts, _, _ = measure_edit(setup, logits, (first, second, chosen))
    (quick,) = torch.autograd.grad(total_loss(parts, settings.weights), logits)
    plain = torch.zeros_like(quick)
    for k in range(4):
        assert pool.cameras is not None
        pair = PlainPair(
            pool.styles[first[k : k + 1]],
            pool.styles[second[k : k + 1]],
            pool.cameras[first[k : k + 1]],
            pool.cameras[second[k : k + 1]],
            chosen[k : k + 1],
        )
        one = plain_parts(subject, logits, pair)
        for name in ("target", "preserve", "background"):
            # The pool keeps images in half precision; three colours of 11 bits each.
            torch.testing.assert_close(one[name][0], parts[name][k], rtol=2e-3, atol=2e-3)
        plain += torch.autograd.grad(total_loss(one, settings.weights), logits)[0] / 4
    cosine = torch.nn.functional.cosine_similarity(plain.flatten(), quick.flatten(), dim=0)
    # L1 has a gradient of size 1 however small the difference, so rounding flips single signs.
    assert cosine > 0.999
    assert plain.norm() == pytest.approx(float(quick.norm()), rel=0.01)


def test_products_and_convolutions_are_counted_as_two_for_each_multiply_add():
    one, two = torch.randn(3, 5), torch.randn(5, 7)
    assert clock.flops(lambda: one @ two) == 2 * 3 * 5 * 7
    image, kernel = torch.randn(1, 4, 8, 8), torch.randn(6, 4, 3, 3)
    work = 2 * 6 * 4 * 9 * 64
    assert clock.flops(lambda: torch.nn.functional.conv2d(image, kernel, padding=1)) == work


def test_the_parts_add_up(subject: Subject):
    parts = floor.count_parts(subject)
    inside = parts["backbone"] + parts["rendering"] + parts["super-resolution"]
    assert parts["generator"] == pytest.approx(inside, rel=1e-6)
    assert parts["generator, draft"] < parts["generator"]
    for name in ("generator", "text-image model"):
        # The way back costs about as much as the way forth, as the weights are frozen.
        assert 1.5 < parts[f"{name} and back"] / parts[name] < 3.1


def test_one_command_writes_figures_and_prints_a_table(tmp_path: Path):
    app = typer.Typer()
    app.command()(engine.main)
    out = tmp_path / "new" / "speed.json"
    few = ["--subject", "tiny", "--steps", "2", "--pool", "8", "--device", "cpu"]
    done = CliRunner().invoke(app, ["--out", str(out), *few, "--preset", "quick"])
    assert done.exit_code == 0, done.output
    told = json.loads(out.read_text())
    (found,) = told["subjects"]
    plain, quick = found["rows"]
    assert plain["times_plain"] == 1 and quick["batch"] == PRESETS["quick"].batch
    assert quick["times_plain"] == pytest.approx(
        quick["samples_per_second"] / plain["samples_per_second"]
    )
    assert plain["flops_per_sample"] > quick["flops_per_sample"] > 0
    assert quick["notes"] == [] and quick["seconds_to_first_report"] > 0
    assert plain["floor_seconds"] == plain["flops_per_sample"] / told["matrix_flops_per_second"]
    assert found["edit_seconds"] > 0 and found["edit_seconds_bfloat16"] > 0
    assert told["versions"]["torch"] == torch.__version__
    console = Console(record=True, width=160)
    table.show(told, console)
    shown = console.export_text()
    for word in ("straightforward loop", "engine, quick", "share of floor", "super-resolution"):
        assert (word in shown and word in done.output) or word in shown


def test_the_profile_names_the_operations_of_a_step(tmp_path: Path):
    app = typer.Typer()
    app.command()(profile.main)
    out = tmp_path / "profile.json"
    few = ["--subject", "tiny", "--preset", "quick", "--device", "cpu", "--steps", "1"]
    done = CliRunner().invoke(app, ["--out", str(out), *few, "--set", "pool_size=8"])
    assert done.exit_code == 0, done.output
    told = json.loads(out.read_text())
    names = {row["name"] for row in told["operations"]}
    assert {"aten::_softmax", "aten::copy_"} <= names and told["step_ms"] > 0
    assert "ms a step of 4" in done.output and "operation" in done.output


def test_an_unknown_subject_is_refused(tmp_path: Path):
    app = typer.Typer()
    app.command()(engine.main)
    done = CliRunner().invoke(app, ["--out", str(tmp_path / "x.json"), "--subject", "nonsense"])
    assert done.exit_code == 2 and not (tmp_path / "x.json").exists()


def test_variants_tell_what_each_setting_buys_and_a_failing_row_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the loop\nis broken")

    def noting(*parts: Any, **more: Any) -> Any:
        if parts[-1].graphs:
            logging.getLogger("sat3d.frozen").warning("steps: cannot be captured")
        return train(*parts, **more)

    train = engine.train
    monkeypatch.setattr(engine, "train", noting)
    monkeypatch.setattr(engine.PlainLoop, "step", fail)
    app = typer.Typer()
    app.command()(engine.main)
    out = tmp_path / "speed.json"
    few = ["--subject", "tiny", "--steps", "1", "--pool", "8", "--device", "cpu", "--json"]
    ways = ["float32", "+ bfloat16", "+ graphs"]
    asked = [x for way in ways for x in ("--variant", way)]
    done = CliRunner().invoke(app, ["--out", str(out), *few, "--preset", "quick", *asked])
    assert done.exit_code == 0, done.output
    told = json.loads(out.read_text())
    assert json.loads(done.stdout) == told
    plain, *rows = told["subjects"][0]["rows"]
    assert plain == {
        "name": "straightforward loop",
        "failed": "RuntimeError: the loop is broken",
    }
    assert [row["name"] for row in rows] == ["engine, quick", *(f"quick: {way}" for way in ways)]
    assert [row["settings"]["precision"] for row in rows] == ["float32"] * 2 + ["bfloat16"] * 2
    assert all(row["samples_per_second"] > 0 and row["times_plain"] is None for row in rows)
    assert [row["notes"] for row in rows] == [[], [], [], ["steps: cannot be captured"]]
    console = Console(record=True, width=160)
    table.show(told, console)
    shown = console.export_text()
    assert "straightforward loop: RuntimeError: the loop is broken" in shown
    assert "quick: + graphs: steps: cannot be captured" in shown


def toys(_: torch.device) -> tuple[Subject, ToyReader]:
    pack = toy_pack()
    parts = ToyGenerator(True), pack, ToyMeasure(pack), ToySegmenter()
    return Subject("toy", "stripes", *parts), ToyReader()


def test_time_to_quality_is_told_with_its_phases_and_against_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(quality, "load", toys)
    monkeypatch.setattr(quality, "SUCCESS", 0.6)
    monkeypatch.setattr(quality, "LEAKAGE", 0.4)
    app = typer.Typer()
    app.command()(quality.main)
    out = tmp_path / "quality.json"
    few = ["--device", "cpu", "--preset", "quick", "--pairs", "8", "--bank", "40", "--every", "2"]
    fast = [x for y in ("steps=12", "pool_size=48", "stop.every=4") for x in ("--set", y)]
    none = "preselection.by=none,others_start=0,steps=1"
    done = CliRunner().invoke(app, ["--out", str(out), *few, *fast, "--against", none])
    assert done.exit_code == 0, done.output
    told = json.loads(out.read_text())
    found = told["run"]
    phases = ["interpreter", "imports", "loading", "Drawing the pool", "Looking for channels"]
    assert list(found["seconds"]) == [*phases, "Training", "in all"]
    assert found["seconds"]["in all"] >= found["seconds"]["Training"] > 0
    good = found["good"]
    assert good["success"] >= 0.6 and good["leakage"] <= 0.4
    assert 2 <= good["step"] <= 12 and good["seconds"] <= found["seconds"]["in all"]
    assert [x["step"] for x in found["course"]] == [4, 6, 8, 10, 12]
    other = told["against"]
    assert other["steps"] == 1 and other["cosine"] < 0.99
    assert other["difference"]["success"] == pytest.approx(
        found["end"]["success"] - other["end"]["success"]
    )
    assert "cosine of the masks" in done.output


def test_the_first_good_matrix_is_found_by_halving(tmp_path: Path):
    course, asked = quality.Course(0.0), []
    for step in range(1, 8):
        path = tmp_path / str(step)
        matrix = torch.full((64, 4), float(step))
        save_checkpoint(path, Checkpoint(step, matrix, EMPTY, torch.zeros(1), {}, {}))
        course.kept.append((step, step * 1.5, path))
    masks = toy_masks(ToyGenerator())
    end = dataclasses.replace(masks, logits=torch.full((4, 64), 8.0))

    def judge(some):
        asked.append(float(some.logits[0, 0]))
        good = asked[-1] >= 5
        return {"success": 1.0 if good else 0.5, "leakage": 0.0}

    good, last = quality.first_good(course, end, (8, 12.0), judge)
    assert good == {"step": 5, "seconds": 7.5, "success": 1.0, "leakage": 0.0}
    assert last["success"] == 1 and len(asked) <= 4
    assert (
        quality.first_good(course, end, (8, 12.0), lambda _: {"success": 0, "leakage": 0})[0]
        is None
    )


def test_a_matrix_is_like_itself_and_not_like_another():
    masks = toy_masks(ToyGenerator())
    same = quality.likeness(masks, masks)
    assert same["cosine"] == pytest.approx(1) and list(same["cosine_of_rows"])[-1] == "others"
    turned = dataclasses.replace(masks, logits=masks.logits.flip(0))
    assert quality.likeness(masks, turned)["cosine"] < 0.5


def test_the_clock_began_with_the_process():
    before = quality.process_age()
    assert 0 < before <= quality.process_age() < 24 * 3600
