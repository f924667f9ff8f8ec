"""What the doctor finds on a healthy and on a broken installation."""

import json
import sys
from importlib import metadata

import pytest

from sat3d import doctor
from sat3d.cli.app import run


def test_the_report_names_versions_device_memory_and_plugins(capsys):
    code = run(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == (1 if report["problems"] else 0)
    facts = report["facts"]
    assert facts["torch"] == metadata.version("torch")
    assert int(facts["cores"]) >= 1
    assert facts["memory"].endswith("GiB")
    assert facts["default device"] in ("cpu", "cuda")
    assert facts["descriptor pack faces"].startswith("sat3d ")
    assert any("'cpu'" in ability for ability in report["abilities"])


def test_bundled_weights_are_counted_and_their_absence_is_a_problem(monkeypatch):
    monkeypatch.setenv("SAT3D_PLUGINS", "bisenet,descriptors")
    monkeypatch.setattr(doctor, "_weights_of", lambda module: [])
    report = doctor.examine()
    assert report.facts["bundled weights"] == "0 B"
    assert any("weights are not in the package" in problem for problem in report.problems)


def test_a_reader_without_weights_of_its_own_is_no_problem(monkeypatch):
    monkeypatch.setenv("SAT3D_PLUGINS", "complexion")
    assert not [x for x in doctor.examine().problems if "complexion" in x]


def test_damaged_bundled_weights_are_a_problem(monkeypatch, tmp_path):
    damaged = tmp_path / "a.safetensors"
    damaged.write_bytes(b"no tensors")
    monkeypatch.setenv("SAT3D_PLUGINS", "bisenet")
    monkeypatch.setattr(doctor, "_weights_of", lambda module: [damaged])
    report = doctor.examine()
    assert any("not a readable .safetensors" in problem for problem in report.problems)


def test_a_broken_plugin_makes_the_exit_code_1_and_is_named(capsys, installer):
    installer.install("sat3d-bad", "import no_such_module_at_all")
    assert run(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("problem: plugin 'sat3d_bad' (sat3d-bad 1.0)") for line in lines)


def test_a_torch_that_cannot_be_imported_is_a_problem_and_no_traceback(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    report = doctor.examine()
    assert any("torch cannot be imported" in problem for problem in report.problems)


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(doctor, "_PACKAGES", ("sat3d-no-such-package",))
    report = doctor.examine()
    assert "pip install sat3d-no-such-package" in report.problems[0]


def test_little_memory_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, "memory_bytes", lambda: 2 << 30)
    assert any("2.0 GiB of memory" in problem for problem in doctor.examine().problems)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB"), (80 << 30, "80.0 GiB")],
)
def test_sizes_are_in_words(count, text):
    assert doctor.size_text(count) == text
