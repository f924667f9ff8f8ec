"""The benchmark runs, counts right, and its plain loop is what the engine computes."""

import json
from pathlib import Path

import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import clock, engine, floor, table
from benchmarks.plain import PlainPair, plain_parts
from benchmarks.subjects import Subject, tiny
from sat3d.losses import total_loss
from sat3d.objective import make_setup, measure_edit
from sat3d.pool import build_pool
from sat3d.settings import PRESETS, override


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
    assert plain["floor_seconds"] == plain["flops_per_sample"] / told["matrix_flops_per_second"]
    assert found["edit_seconds"] > 0 and told["versions"]["torch"] == torch.__version__
    console = Console(record=True, width=160)
    table.show(told, console)
    shown = console.export_text()
    for word in ("straightforward loop", "engine, quick", "share of floor", "super-resolution"):
        assert (word in shown and word in done.output) or word in shown


def test_an_unknown_subject_is_refused(tmp_path: Path):
    app = typer.Typer()
    app.command()(engine.main)
    done = CliRunner().invoke(app, ["--out", str(tmp_path / "x.json"), "--subject", "nonsense"])
    assert done.exit_code == 2 and not (tmp_path / "x.json").exists()
