"""'Your domain in 15 minutes' is tried word for word."""

import re
from pathlib import Path

import pytest

from sat3d.cli.app import run
from sat3d.descriptors import load_pack

PAGE = Path(__file__).parents[1] / "docs" / "own-domain.md"
TEXT = PAGE.read_text()
STEPS = TEXT.split("## From nothing to a first transfer")[1].split("\n## ")[0]
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", STEPS, re.M | re.DOTALL)
    for line in block.splitlines()
]
# Only so that the test stays quick.
SMALLER = {
    "train": [
        "--steps", "1", "--pool", "8", "--batch", "2", "--quiet", "--set", "preselection.images=2",
        "--set", "stop.pairs=2", "--set", "chunk=8",
    ],
    "try": ["--draws", "8"],
}  # fmt: skip
NUMBERS = {"five": 5, "six": 6, "seven": 7, "one": 1, "two": 2}


def test_the_page_counts_its_own_commands_and_edits():
    commands, edits = re.search(r"(\w+) commands and (\w+) edit", TEXT).groups()
    assert len(COMMANDS) == NUMBERS[commands]
    assert len(re.findall(r"in the place of", STEPS)) == NUMBERS[edits]


def test_every_step_of_the_page_works_as_it_stands(tmp_path, monkeypatch, pip_install):
    """pip alone gets other words: a folder of its own instead of the tests' environment."""
    monkeypatch.chdir(tmp_path)
    edited = re.search(r"all that is in `([^`]+)`", STEPS)[1]
    for line in COMMANDS:
        program, *words = line.split()
        if program == "pip":
            assert words[:2] == ["install", "-e"]
            pip_install(tmp_path / "site", tmp_path / words[2])
            monkeypatch.syspath_prepend(str(tmp_path / "site"))
        else:
            more = next((more for word, more in SMALLER.items() if word in words), [])
            assert run([*words, *more]) == 0, line
        if line == "sat3d plugin new headgear":
            assert (tmp_path / edited).is_file()
            pack = re.search(r"^```yaml\n(.*?)^```", STEPS, re.M | re.DOTALL)[1]
            (tmp_path / edited).write_text(pack)
    assert (tmp_path / "readings.png").is_file()
    assert (tmp_path / "runs" / "mine" / "preview.png").is_file()
    assert (tmp_path / "runs" / "mine-hat" / "picture.png").is_file()


@pytest.fixture
def extension(tmp_path):
    path = tmp_path / "calm.yaml"
    path.write_text(re.search(r"^```yaml\n(extends: .*?)^```", TEXT, re.M | re.DOTALL)[1])
    return path


def test_the_extending_pack_of_the_page_is_what_the_page_says(extension):
    pack = load_pack(extension)
    assert pack.names == ("hairstyle", "hair_color", "expression", "beard", "hat")
    assert pack.attributes[2].region == load_pack_by_name("faces").attributes[3].region
    assert pack.pool.exclude == ()


def load_pack_by_name(name: str):
    from sat3d.registry import load_pack as by_name

    return by_name(name)


def test_every_warning_of_try_is_explained():
    from sat3d import trial

    source = Path(trial.__file__).read_text()
    for words in ("too flat", "too sure", "tells no images apart"):
        assert f'"{words}' in source
        assert f"| `{words}` |" in TEXT
    assert "images read as" in source
