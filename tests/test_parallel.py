"""Several processes give what one gives, and a lost one costs nothing but its own time."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sat3d import parallel
from sat3d.artifact import load_masks
from sat3d.checkpoint import load_checkpoint
from sat3d.engine import train
from sat3d.errors import UsageError
from sat3d.settings import PRESETS, override
from sat3d.testing import ToyGenerator, ToyMeasure, ToySegmenter, toy_pack

ROOT = Path(__file__).parents[1]
# An ordinary epsilon: with a tiny one, Adam makes full steps of gradients that are mere rounding.
SETTINGS = override(
    PRESETS["quick"],
    ["pool_size=40", "steps=12", "batch=5", "chunk=7", "epsilon=1e-5", "preselection.by=qmm",
     "preselection.images=11", "stop.every=4", "stop.pairs=7", "checkpoint_every=100"],
)  # fmt: skip

# Also run by the tests themselves, as one process.
WORK = """
import json
from pathlib import Path
import torch
from safetensors.torch import save_file
from sat3d.engine import train
from sat3d.evaluation import EvaluateSettings, evaluate
from sat3d.parallel import is_main, join
from sat3d.pool import build_pool
from sat3d.preselect import region_scores
from sat3d.settings import TrainSettings, override
from sat3d.testing import *

def work(out, settings):
    pack = toy_pack()
    parts = ToyGenerator(is_3d=True), pack, ToyMeasure(pack), ToySegmenter()
    join(torch.device("cpu"))
    pool = build_pool(*parts, settings)
    scores = region_scores(parts[0], parts[3], pool.table, pool, settings)
    masks = train(*parts, settings, out=out)
    # One attribute more than processes, and a bank that is no multiple of the batch.
    measuring = EvaluateSettings(pairs=6, bank=30, batch=7)
    figures = evaluate(parts[0], toy_masks(parts[0]), ToyReader(), parts[3], measuring)
    del figures["seconds"]
    if is_main():
        (out / "figures.json").write_text(json.dumps(figures))
        save_file({"styles": pool.styles, "regions": pool.regions, "images": pool.images,
                   "cameras": pool.cameras, "scores": scores}, out / "pool.safetensors")
"""
MAIN = """
import sys
work(Path(sys.argv[1]), TrainSettings.model_validate_json(sys.argv[2]))
"""
LOSING = """
import os, signal, sys
from pathlib import Path
from sat3d import engine, parallel
from sat3d.errors import Sat3dError
from sat3d.settings import TrainSettings
from sat3d.testing import *

plain = engine._step

def step(run, state):
    if state.step == 5 and parallel.rank() == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    plain(run, state)

engine._step = step
pack = toy_pack()
parts = ToyGenerator(is_3d=True), pack, ToyMeasure(pack), ToySegmenter()
try:
    engine.train(*parts, TrainSettings.model_validate_json(sys.argv[2]), out=Path(sys.argv[1]))
except Sat3dError as error:
    sys.exit(f"error: {error}")
"""


def torchrun(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes that run ``code``."""
    script = folder / "script.py"
    script.write_text(code)
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [sys.executable, *start, str(script), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,  # generous: machines of tests are shared
        check=False,
    )


def assert_close(one: Any, other: Any, tolerance: float) -> None:
    """Equal plain JSON values, but for rounding of fractions."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_close(one[key], other[key], tolerance)
    elif isinstance(one, list):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_close(first, second, tolerance)
    else:
        assert one == (pytest.approx(other, abs=tolerance) if isinstance(one, float) else other)


def test_two_processes_learn_and_measure_what_one_does(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    space: dict = {}
    exec(WORK, space)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    space["work"](one, SETTINGS)
    done = torchrun(tmp_path, WORK + MAIN, str(two), SETTINGS.model_dump_json())
    assert done.returncode == 0, done.stderr
    pools = [load_file(x / "pool.safetensors") for x in (one, two)]
    for key in ("styles", "regions", "images", "cameras"):
        assert torch.equal(pools[0][key], pools[1][key]), f"the same draws in the same order: {key}"
    # Sums in another order: the last bits of float32, through twelve steps of the optimiser.
    torch.testing.assert_close(pools[0]["scores"], pools[1]["scores"], rtol=1e-5, atol=1e-7)
    masks = [load_masks(x) for x in (one, two)]
    torch.testing.assert_close(masks[0].logits, masks[1].logits, rtol=1e-4, atol=1e-4)
    held = [x.header["figures"]["held_out"] for x in masks]
    assert held[1] == pytest.approx(held[0], rel=1e-4)
    lines = [(x / "training.jsonl").read_text().splitlines() for x in (one, two)]
    assert len(lines[0]) == len(lines[1]), "only one process writes"
    for single, both in zip(*lines, strict=True):
        assert json.loads(both)["losses"] == pytest.approx(json.loads(single)["losses"], rel=1e-4)
    figures = [json.loads((x / "figures.json").read_text()) for x in (one, two)]
    # Masks that agree to 1e-4 change an image by less than that, and no reading of it.
    assert_close(figures[1], figures[0], 1e-4)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_run_with_one_line_and_one_process_goes_on(
    tmp_path: Path, lost: int
) -> None:
    pack = toy_pack()
    parts = ToyGenerator(is_3d=True), pack, ToyMeasure(pack), ToySegmenter()
    began = time.monotonic()
    done = torchrun(tmp_path, LOSING, str(tmp_path / "run"), SETTINGS.model_dump_json(), str(lost))
    assert done.returncode != 0 and time.monotonic() - began < 600
    said = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert len(said) == 1, done.stderr
    assert "process" in said[0] and "after step 5 of 12" in said[0] and "--resume" in said[0]
    assert load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").step == 5
    resumed = train(*parts, SETTINGS, out=tmp_path / "run", resume=True)
    whole = train(*parts, SETTINGS, out=tmp_path / "whole")
    # Five of the steps were summed in another order.
    torch.testing.assert_close(resumed.logits, whole.logits, rtol=1e-4, atol=1e-4)


def test_alone_nothing_is_exchanged_and_the_library_not_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)  # importing it would fail
    monkeypatch.setenv("WORLD_SIZE", "4")  # set by clusters, too; torchrun also tells LOCAL_RANK
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    values = torch.arange(3.0)
    device = torch.device("cpu")
    parallel.join(device)
    assert parallel.world() == 1 and parallel.is_main()
    assert parallel.summed(values) is values
    assert parallel.gathered({"a": values}, device)["a"] is values
    assert parallel.gathered_objects([1, 2]) == [1, 2] and parallel.decided(lambda: 5) == 5
    assert parallel.part(7) == slice(0, 7) and parallel.share([1, 2]) == [1, 2]
    assert parallel.local_device("cuda") == "cuda"


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("rows", [0, 1, 5, 24])
def test_parts_and_shares_take_every_row_once(
    monkeypatch: pytest.MonkeyPatch, count: int, rows: int
) -> None:
    items = list(range(rows))
    parts, shares = [], []
    monkeypatch.setenv("WORLD_SIZE", str(count))
    for rank in range(count):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        parts += items[parallel.part(rows)]
        shares += parallel.share(items)
    assert parts == items and sorted(shares) == items


def test_processes_without_the_library_are_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    for key, value in {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UsageError, match=r"pip install 'sat3d\[multi\]'"):
        parallel.join(torch.device("cpu"))


def test_of_those_that_remain_one_speaks(tmp_path: Path) -> None:
    lost = parallel.Lost("gone.")
    first = parallel.spoken(lost, tmp_path, lambda: "Saved.")
    assert isinstance(first, parallel.Lost) and str(first) == "gone. Saved."
    assert isinstance(parallel.spoken(lost, tmp_path, lambda: "Saved."), SystemExit)
