"""The example package, installed by pip into a folder of its own, from a clean copy."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sat3d.cli.app import run

EXAMPLE = Path(__file__).parents[1] / "examples" / "flowers"


@pytest.fixture(scope="module")
def site(tmp_path_factory, pip_install):
    """A folder with the package as pip installs it; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("flowers")
    # A copy: building leaves files in the tree.
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(EXAMPLE, folder / "package", ignore=ignored)
    pip_install(folder / "site", folder / "package")
    return folder


@pytest.fixture
def inside(site, monkeypatch):
    """This process with the installed package, in a folder for its results."""
    monkeypatch.syspath_prepend(str(site / "site"))
    monkeypatch.chdir(site)
    return site


def test_it_shows_up(inside, capsys):
    assert run(["plugins"]) == 0
    listed = capsys.readouterr().out.splitlines()
    mine = [line for line in listed if "sat3d-flowers 0.1.0" in line]
    for kind in ("generator", "segmenter", "descriptor pack", "reader", "clip model"):
        assert any(line.startswith(kind) for line in mine), kind
    assert not [line for line in listed if line.startswith("problem")]


def test_its_own_tests_pass(site):
    environment = {**os.environ, "PYTHONPATH": str(site / "site"), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "package"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=site, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_it_trains_transfers_and_is_measured_without_a_network(inside):
    train = ["train", "--generator", "flowers", "--descriptors", "flowers", "--preset", "quick"]
    assert run([*train, "--steps", "4", "--quiet", "--out", "masks"]) == 0
    pair = ["--source", "seed:3", "--reference", "seed:8", "--attribute", "petal_color"]
    assert run(["transfer", "--masks", "masks", *pair, "--quiet", "--out", "first"]) == 0
    assert (inside / "first" / "picture.png").stat().st_size > 1000
    few = ["--pairs", "4", "--bank", "64", "--quiet", "--json", "report.json"]
    assert run(["evaluate", "--masks", "masks", *few]) == 0
    assert (inside / "report.json").is_file()


def test_the_pack_tells_flowers_apart(inside, capsys):
    words = ["descriptors", "try", "flowers", "--generator", "flowers", "--draws", "32"]
    assert run(words) == 0
    assert "every group tells these images apart" in capsys.readouterr().out
