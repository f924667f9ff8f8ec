from dataclasses import replace

import pytest

from sat3d.errors import UsageError
from sat3d.settings import PRESETS, TrainSettings, describe, fitting, override, preset
from sat3d.testing import ToyGenerator


def test_the_paper_preset_holds_the_papers_numbers():
    paper = PRESETS["paper"]
    assert (paper.steps, paper.batch, paper.lr, paper.pool_size) == (300_000, 1, 0.01, 6000)
    weights = paper.weights
    assert (weights.target, weights.preserve) == (3.5, 3.5)
    assert (weights.background, weights.probability) == (40.0, 0.1)
    assert (paper.targets, paper.intensity, paper.others_start) == (1, 1.0, 1.0)
    assert paper.preselection.by == "region" and not paper.draft and paper.softness == 1.0


def test_only_presets_for_gpus_are_short_or_replayed():
    for name, settings in PRESETS.items():
        on_gpu = name.startswith("gpu")
        assert (settings.precision == "bfloat16") is on_gpu
        assert settings.graphs is (name == "gpu")
        assert settings.checkpointing is (name == "gpu8")


def test_the_preset_for_small_gpus_learns_as_the_one_for_large():
    same = {"chunk", "graphs", "checkpointing"}
    assert PRESETS["gpu8"].model_dump(exclude=same) == PRESETS["gpu"].model_dump(exclude=same)
    assert PRESETS["gpu8"].chunk < PRESETS["gpu"].chunk


def test_auto_takes_the_preset_of_the_device():
    assert preset("auto", "cpu") is PRESETS["cpu"]
    assert preset("auto", "cuda") is PRESETS["gpu"]


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'paper'"):
        preset("papre")


def test_dotted_keys_reach_nested_settings_and_leave_the_rest():
    changed = override(
        PRESETS["paper"], ["weights.background=0", "lr=1e-3", "draft=true", "compare_size=64"]
    )
    assert changed.weights.background == 0 and changed.weights.target == 3.5
    assert (changed.lr, changed.draft, changed.compare_size) == (1e-3, True, 64)
    assert override(changed, ["compare_size=null"]).compare_size is None
    assert override(changed, ["preselection.by=none"]).preselection.by == "none"
    assert PRESETS["paper"].lr == 0.01


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr", "is not KEY=VALUE"),
        ("larning=1", "unknown setting 'larning'"),
        ("weights.backgruond=1", "Did you mean 'weights.background'"),
        ("lr.x=1", "unknown setting 'lr.x'"),
        ("steps=many", "setting 'steps' cannot be 'many'"),
        ("batch=0", "setting 'batch' cannot be 0"),
        ("weights=3", "setting 'weights' cannot be 3"),
        ("preselection.by=magic", "setting 'preselection.by'"),
        ("lr=[", "not a plain one"),
    ],
)
def test_a_wrong_setting_is_named(text, message):
    with pytest.raises(UsageError, match=message):
        override(TrainSettings(), [text])


def test_every_setting_is_described():
    rows = describe()
    assert {"weights.background", "stop.every", "preselection.by", "lr"} <= {r[0] for r in rows}
    assert [key for key, _, text in rows if not text] == []


def test_advice_of_the_weights_stands_between_the_preset_and_the_users_own() -> None:
    generator = ToyGenerator()
    info = {"train_settings": ["steps=7", "batch=3"]}
    generator.card = replace(generator.card, info=info)
    known = preset("cpu")
    found = fitting("auto", generator, ["batch=5"])
    assert (found.steps, found.batch, found.lr) == (7, 5, known.lr)
    assert fitting("cpu", generator) == known
