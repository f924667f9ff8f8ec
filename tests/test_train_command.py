import json

import pytest
import torch

from sat3d.artifact import load_masks
from sat3d.cli.app import run
from sat3d.hookspecs import hookimpl
from sat3d.interfaces import WeightsCard
from sat3d.qmm import QMM
from sat3d.registry import registered
from sat3d.specs import DescriptorSpec, GeneratorSpec, SegmenterSpec
from sat3d.testing import ToyGenerator, ToyMeasure, ToySegmenter, toy_pack

FAST = ["--preset", "quick", "--device", "cpu", "--steps", "4", "--pool", "32"]
FAST += ["--set", "preselection.images=8"]


class _Toys:
    def __init__(self, pack, goes_with, header):
        self.pack, self.goes_with, self.header = pack, goes_with, header

    @hookimpl
    def register_generators(self, register):
        def load(weights, device):
            generator = ToyGenerator()
            card = generator.card
            about = {"goes_with": self.goes_with, "info": self.header}
            generator.card = WeightsCard("toy", card.fingerprint, **about)
            return generator

        register(GeneratorSpec("toy", "stripes", load))

    @hookimpl
    def register_segmenters(self, register):
        register(SegmenterSpec("toy", "stripes", lambda weights, device: ToySegmenter()))

    @hookimpl
    def register_descriptors(self, register):
        register(DescriptorSpec("stripes", "stripes", self.pack))


@pytest.fixture
def goes_with():
    return {"clip": "toy", "segmenter": "toy", "descriptors": "stripes"}


@pytest.fixture
def header():
    return {}


@pytest.fixture(autouse=True)
def _toys(tmp_path, monkeypatch, goes_with, header):
    pack = tmp_path / "stripes.yaml"
    pack.write_text(json.dumps(toy_pack().model_dump(mode="json")))
    monkeypatch.setattr(QMM, "load", lambda pack, *_: ToyMeasure(pack))
    monkeypatch.chdir(tmp_path)
    with registered("toys", _Toys(pack, goes_with, header)):
        yield


def test_the_weights_say_what_goes_with_them_and_the_summary_what_to_do_next(tmp_path, capsys):
    assert run(["train", "--generator", "toy", *FAST]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "runs" / "toy-stripes"
    assert "3 attributes, 64 channels, 4 steps" in out
    assert "sat3d transfer --masks runs/toy-stripes/masks.safetensors" in out
    masks = load_masks(folder)
    assert masks.header["segmenter"]["name"] == "toy"
    assert masks.header["settings"]["steps"] == 4


def test_json_prints_only_json(capsys):
    assert run(["train", "--generator", "toy", "--json", "--out", "a", *FAST]) == 0
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert summary["steps"] == 4 and summary["attributes"] == ["top", "middle", "bottom"]
    assert set(summary["held_out"]) == {"loss", "success", "leakage"} and shown.err == ""


def test_flags_and_set_reach_the_settings():
    more = ["--seed", "5", "--batch", "2", "--set", "weights.background=3", "--segmenter", "none"]
    assert run(["train", "--generator", "toy", "--out", "a", "--quiet", *FAST, *more]) == 0
    header = load_masks("a").header
    settings = header["settings"]
    assert (settings["seed"], settings["batch"], settings["pool_size"]) == (5, 2, 32)
    assert settings["weights"]["background"] == 3 and header["segmenter"] is None


def test_an_existing_folder_is_kept_unless_told(capsys):
    command = ["train", "--generator", "toy", "--out", "a", "--quiet", *FAST]
    assert run(command) == 0
    before = load_masks("a").logits
    assert run([*command, "--seed", "1"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert torch.equal(load_masks("a").logits, before)
    assert run([*command, "--seed", "1", "--overwrite"]) == 0
    assert not torch.equal(load_masks("a").logits, before)


def test_resume_goes_on_with_more_steps(capsys):
    command = ["train", "--generator", "toy", "--out", "a", "--quiet", *FAST]
    assert run(command) == 0
    assert run([*command, "--resume", "--steps", "6"]) == 0
    assert load_masks("a").header["figures"]["steps"] == 6
    assert run([*command, "--resume", "--overwrite"]) == 2
    assert run([*command, "--resume", "--set", "lr=3"]) == 2
    assert "of another run (settings.lr" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--generator", "tyo"], "Did you mean 'toy'"),
        (["--descriptors", "none.yaml"], "cannot read pack"),
        (["--segmenter", "x"], "unknown segmenter 'x'"),
        (["--preset", "fast"], "unknown preset 'fast'"),
        (["--set", "lr"], "not KEY=VALUE"),
        (["--set", "foo=1"], "unknown setting 'foo'"),
        (["--out", "stripes.yaml"], "is a file"),
        (["--device", "abacus"], "device 'abacus'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert run(["train", "--generator", "toy", *FAST, *arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err.replace("\n", " ") and shown.out == ""


@pytest.mark.parametrize("goes_with", [{}])
def test_weights_that_name_nothing_ask_for_it(capsys, goes_with):
    assert run(["train", "--generator", "toy", *FAST]) == 2
    assert "Add --descriptors" in capsys.readouterr().err
    assert run(["train", "--generator", "toy", "--descriptors", "stripes", *FAST]) == 2
    assert "Add --clip" in capsys.readouterr().err


def test_ctrl_c_exits_with_130_and_says_what_was_saved(tmp_path, monkeypatch, capsys):
    from sat3d import engine

    step = engine._step

    def interrupted(run, state):
        step(run, state)
        if state.step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine, "_step", interrupted)
    assert run(["train", "--generator", "toy", "--out", "a", "--quiet", *FAST]) == 130
    assert "stopped after step 2 of 4" in capsys.readouterr().err
    assert load_masks(tmp_path / "a").header["figures"]["finished"] is False


ADVICE = {"train_settings": ["pool_size=40", "weights.background=7"]}
SHORT = [
    "--device",
    "cpu",
    "--steps",
    "2",
    "--set",
    "preselection.images=8",
    "--set",
    "stop.every=0",
]


@pytest.mark.parametrize("header", [ADVICE])
def test_settings_that_the_weights_advise_hold_unless_others_are_asked_for(tmp_path):
    def learned(*more):
        assert run(["train", "--generator", "toy", "--overwrite", *SHORT, *more]) == 0
        return load_masks(tmp_path / "runs" / "toy-stripes").header["settings"]

    advised = learned()
    assert (advised["pool_size"], advised["weights"]["background"]) == (40, 7.0)
    assert learned("--pool", "36")["pool_size"] == 36
    assert learned("--preset", "quick")["weights"]["background"] == 10.0


@pytest.mark.parametrize("header", [{"train_settings": "steps=3"}, {"train_settings": [3]}])
def test_advice_of_another_form_is_one_clear_line(capsys, header):
    assert run(["train", "--generator", "toy", *SHORT]) == 2
    assert "Allowed: a list of texts KEY=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize("header", [{"train_settings": ["stepz=3"]}])
def test_advice_that_no_setting_is_named_in_is_refused(capsys, header):
    assert run(["train", "--generator", "toy", *SHORT]) == 2
    assert "stepz" in capsys.readouterr().err
