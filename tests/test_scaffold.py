"""``sat3d plugin new``: what it writes installs, passes its own tests and trains."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sat3d.cli.app import run
from sat3d.errors import UsageError
from sat3d.registry import Catalogue, discover
from sat3d.scaffold import Plan, check_plan, render, write_plugin

KINDS = [(False, False), (True, False), (False, True), (True, True)]


@pytest.fixture(scope="module")
def catalogue():
    return discover()


@pytest.mark.parametrize(("generator", "segmenter"), KINDS)
def test_nothing_is_left_to_fill_in_and_all_code_compiles(catalogue, generator, segmenter):
    files = render(Plan("my-thing", generator, segmenter), catalogue)
    assert ("sat3d_my_thing/generator.py" in files) == generator
    assert ("sat3d_my_thing/segmenter.py" in files) == segmenter
    for name, text in files.items():
        assert "$" not in text, name
        assert text.endswith("\n") and not text.endswith("\n\n"), name
        assert all(len(x) <= 100 for x in text.splitlines() if not x.startswith("sat3d ")), name
        if name.endswith(".py"):
            compile(text, name, "exec")
    project = tomllib.loads(files["pyproject.toml"])
    assert project["project"]["name"] == "sat3d-my-thing"
    assert project["project"]["entry-points"]["sat3d"] == {"my_thing": "sat3d_my_thing"}


@pytest.mark.parametrize(("generator", "segmenter"), KINDS)
def test_the_written_code_is_in_order(catalogue, tmp_path, generator, segmenter):
    pytest.importorskip("ruff")
    write_plugin(Plan("thing", generator, segmenter), tmp_path / "thing", catalogue)
    rules = ["--isolated", "--line-length", "100"]
    for words in (["check", *rules, "--select", "E,F,I,W,B"], ["format", "--check", *rules]):
        call = [sys.executable, "-m", "ruff", *words, "--no-cache", "."]
        done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path / "thing")
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "name",
    ["", "Thing", "9lives", "a b", "a/b", "../up", "a--b", "-a", "a-", "ä", "null", "x" * 41],
)
def test_what_is_no_name_is_refused(name):
    with pytest.raises(UsageError, match="cannot name a plugin"):
        check_plan(Plan(name), Catalogue())


@pytest.mark.parametrize("name", ["eg3d", "faces", "descriptors"])
def test_a_name_that_is_taken_is_refused(catalogue, name):
    with pytest.raises(UsageError, match=f"already called '{name}'"):
        check_plan(Plan(name), catalogue)


def test_a_module_that_is_installed_is_never_hidden():
    with pytest.raises(UsageError, match="module 'sat3d_plugins' is already installed"):
        check_plan(Plan("plugins"), Catalogue())


def test_an_existing_folder_is_refused_and_stays_as_it_was(tmp_path, catalogue):
    (tmp_path / "here").mkdir()
    with pytest.raises(UsageError, match="already exists"):
        write_plugin(Plan("thing"), tmp_path / "here", catalogue)
    assert list((tmp_path / "here").iterdir()) == []


def test_after_a_failure_nothing_is_there(tmp_path, catalogue, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="No space"):
        write_plugin(Plan("thing"), tmp_path / "deep" / "thing", catalogue)
    assert list(tmp_path.iterdir()) == []


def test_the_command_names_what_it_wrote(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["plugin", "new", "my-thing", "--generator", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == "sat3d-my-thing"
    assert told["name"] == "my_thing"
    assert all(Path(file).is_file() for file in told["files"])
    assert len(told["files"]) == len([x for x in Path("sat3d-my-thing").rglob("*") if x.is_file()])
    assert run(["plugin", "new", "my-thing"]) == 2
    assert "already exists" in capsys.readouterr().err


@pytest.fixture(scope="module")
def site(tmp_path_factory, catalogue, pip_install):
    """Two packages installed by pip into one folder: all of it, and a pack alone."""
    folder = tmp_path_factory.mktemp("scaffold")
    write_plugin(Plan("whole-thing", True, True), folder / "whole", catalogue)
    write_plugin(Plan("words"), folder / "words", catalogue)
    pip_install(folder / "site", folder / "whole", folder / "words")
    return folder


@pytest.fixture
def inside(site, monkeypatch):
    """This process with the installed packages, in their folder."""
    monkeypatch.syspath_prepend(str(site / "site"))
    monkeypatch.chdir(site)
    return site


def test_installed_packages_show_up(inside, capsys):
    assert run(["plugins"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert sum("sat3d-whole-thing 0.1.0" in line for line in listed) == 3
    assert sum("sat3d-words 0.1.0" in line for line in listed) == 1
    assert not [line for line in listed if line.startswith("problem")]


def test_their_own_tests_pass(site):
    environment = {**os.environ, "PYTHONPATH": str(site / "site"), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "whole", "words"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=site, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_the_commands_of_its_readme_lead_to_a_first_transfer(inside):
    readme = (inside / "whole" / "README.md").read_text()
    commands = [line.split() for line in readme.splitlines() if line.startswith("sat3d ")]
    assert [words[1] for words in commands] == [
        "plugins", "descriptors", "train", "transfer", "descriptors",
    ]  # fmt: skip
    for _, *words in commands:
        small = ["--steps", "2", "--pool", "16", "--quiet"] if "train" in words else []
        assert run([*words, *small]) == 0, words
    assert (inside / "runs" / "first" / "picture.png").stat().st_size > 1000
    assert (inside / "readings.png").is_file()


def test_the_commands_of_a_pack_alone_are_complete(inside, capsys):
    readme = (inside / "words" / "README.md").read_text()
    train = next(line for line in readme.splitlines() if line.startswith("sat3d train"))
    assert "--generator eg3d --descriptors words --clip" in train
    assert run(["descriptors", "check", "words"]) == 0
