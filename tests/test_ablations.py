"""The ablations: every variant is a valid one, trained and measured once."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import ablations
from benchmarks.command import start
from benchmarks.subjects import Subject
from sat3d.errors import UsageError
from sat3d.mask import probabilities
from sat3d.registry import load_pack
from sat3d.settings import override, preset
from sat3d.testing import (
    ToyGenerator,
    ToyMeasure,
    ToyReader,
    ToySegmenter,
    toy_masks,
    toy_pack,
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, on a toy."""
    generator, pack = ToyGenerator(), toy_pack()
    parts: Any = (generator, pack, ToyMeasure(pack), ToySegmenter())
    monkeypatch.setattr(ablations, "avatars", lambda _: Subject("toy", "a toy", *parts))
    monkeypatch.setattr(ablations, "find_reader", lambda *_: ToyReader())
    app = typer.Typer()
    app.command()(ablations.main)
    small = ["--preset", "quick", "--set", "steps=2", "--set", "pool_size=40", "--set", "chunk=40"]
    common = [*small, "--pairs", "2", "--bank", "40", "--device", "cpu"]
    return lambda *more: CliRunner().invoke(app, [*common, *more])


def test_each_variant_is_a_change_that_the_settings_know():
    default = preset("cpu")
    for variant in ablations.VARIANTS[1:]:
        changed = override(default, variant.assignments) != default
        assert changed != (variant.pack is not None), variant.name


def test_variants_of_the_pool_drop_what_they_say():
    pack = load_pack("faces")
    assert pack.pool.quotas and pack.pool.exclude
    assert ablations.without_quotas(pack).pool.quotas == ()
    assert ablations.without_quotas(pack).pool.exclude == pack.pool.exclude
    assert ablations.without_rules(pack).pool.exclude == ()


def test_hard_masks_give_each_channel_to_its_most_probable_row():
    masks = toy_masks(ToyGenerator(), sureness=0.3)
    soft, hard = (probabilities(x.logits) for x in (masks, ablations.hardened(masks)))
    assert torch.equal(soft.argmax(dim=0), hard.argmax(dim=0))
    assert hard.amax(dim=0).min() > 0.999 > 0.9 > soft.amax(dim=0).max()


def test_a_stopped_run_goes_on_and_measures_nothing_twice(tmp_path: Path, run: Any) -> None:
    out = tmp_path / "ablations.json"
    first = run("--out", str(out), "--only", "default")
    assert first.exit_code == 0, first.output
    told = json.loads(out.read_text())
    assert list(told["variants"]) == ["default", "hard masks"]
    assert 0 <= told["variants"]["default"]["mean"]["success"] <= 1
    second = run("--out", str(out), "--only", "default", "--only", "no L_src")
    assert second.exit_code == 0, second.output
    assert "default: the preset" not in second.output
    assert list(json.loads(out.read_text())["variants"]) == [*told["variants"], "no L_src"]


def test_a_file_of_another_run_and_an_unknown_variant_are_refused(tmp_path: Path, run: Any) -> None:
    out = tmp_path / "ablations.json"
    out.write_text('{"preset": "gpu"}')
    assert "not of this run" in str(run("--out", str(out)).exception)
    wrong = run("--out", str(tmp_path / "new.json"), "--only", "no L_bgg").exception
    assert isinstance(wrong, UsageError) and "no L_bg" in str(wrong)


def test_what_is_wrong_is_one_line_on_the_command_line(tmp_path: Path, capsys: Any) -> None:
    words = ["ablations", "--out", str(tmp_path / "new.json"), "--only", "nothing"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as stopped:
            start(ablations.main, "ablations")
    assert stopped.value.code == UsageError.exit_code
    assert capsys.readouterr().err.startswith("error: unknown variant 'nothing'.")
