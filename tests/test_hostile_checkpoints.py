"""Hostile and damaged checkpoints: nothing runs, each is refused in one line, cheaply.

All files are offered to ``import_file`` in one other process, under an audit hook that notes
whatever executes, compiles, imports or starts anything.
"""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipes.hostile import CANARY, CASES, EVIL_NAMES, SYSTEM, own, snapshot

SECONDS = 10.0
MEGABYTES = 2048

DRIVER = """
import json, sys, time
from pathlib import Path
from sat3d.errors import Sat3dError
from sat3d.importing import import_file
from sat3d.registry import discover

folder, good = Path(sys.argv[1]), Path(sys.argv[2])
catalogue = discover()
store = folder.parent / "store"
import_file(good, "good", folder=store, catalogue=catalogue)
watched, seen = ("exec", "compile", "import", "pickle.", "os.system", "os.exec", "os.spawn",
                 "os.posix_spawn", "os.fork", "subprocess.", "socket.", "ctypes."), []
def watch(event, arguments):
    if listening and event.startswith(watched):
        seen.append(f"{event} {arguments!r:.200}")
listening = False
sys.addaudithook(watch)
def offer(path):
    global listening
    seen.clear()
    start = time.monotonic()
    listening = True
    try:
        outcome = str(import_file(path, "bad", folder=store, catalogue=catalogue))
        kind = "imported"
    except Sat3dError as error:
        kind, outcome = type(error).__name__, str(error)
    except BaseException as error:
        kind, outcome = "CRASH " + type(error).__name__, str(error)[:300]
    listening = False
    return {"kind": kind, "text": outcome, "seconds": time.monotonic() - start,
            "events": list(seen)}
# What is imported lazily on the first refusal is no concern of a file's.
offer(folder / "warm-up")
verdicts = {name: offer(folder / name) for name in json.loads(sys.argv[3])}
peak = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
verdicts["peak kB"] = int(peak[0].split()[1])
print(json.dumps(verdicts))
"""


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """What became of every file, and the peak memory of the process that was offered them."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to measure memory")
    base = tmp_path_factory.mktemp("hostile")
    folder = base / "files"
    folder.mkdir()
    files = {}
    for number_, (key, case) in enumerate(CASES.items()):
        files[key] = f"file{number_}.pkl"
        path = folder / files[key]
        if isinstance(case, bytes):
            path.write_bytes(case)
        else:
            case(path)
    (folder / "warm-up").write_bytes(own(resolution=8, channel_max=4, w_dim=4))
    good = base / "good.pt"
    torch.save(_bisenet_state(), good)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(folder), str(good), json.dumps(list(files.values()))],
        capture_output=True, text=True, cwd=folder, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    return {
        "executed": (folder / CANARY).exists(),
        "stored": sorted(path.name for path in (base / "store").iterdir()),
        "peak kB": found["peak kB"],
        **{key: found[file] for key, file in files.items()},
    }


def _bisenet_state() -> dict[str, torch.Tensor]:
    from sat3d_plugins.segmenters.bisenet.network import BiSeNet

    return BiSeNet(19, 4).state_dict()


@pytest.mark.parametrize("key", CASES)
def test_a_hostile_file_is_refused_in_one_line_and_runs_nothing(verdicts, key):
    verdict = verdicts[key]
    assert verdict["kind"] == "InputError", verdict
    assert "\n" not in verdict["text"]
    assert len(verdict["text"]) < 600
    assert verdict["text"].endswith("."), verdict["text"]
    assert verdict["events"] == []
    assert verdict["seconds"] < SECONDS


@pytest.mark.parametrize("key", [key for key in CASES if key.startswith("global ")])
def test_a_global_outside_the_list_is_named(verdicts, key):
    module, attribute, _ = EVIL_NAMES[key.removeprefix("global ")]
    assert f"'{module}.{attribute}'" in verdicts[key]["text"]


def test_nothing_was_executed_and_nothing_written(verdicts):
    assert not verdicts["executed"]
    assert verdicts["stored"] == ["good.safetensors"]


def test_the_memory_stays_within_its_bound(verdicts):
    # Measured with all files offered to one process, torch included.
    assert verdicts["peak kB"] / 1024 < MEGABYTES


def test_there_are_enough_hostile_files():
    assert len(CASES) >= 50


def test_the_payloads_work_where_nobody_guards(tmp_path, monkeypatch):
    """The canary is no dud: the ordinary unpickler runs it."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(snapshot(SYSTEM))
    assert (tmp_path / CANARY).exists()
