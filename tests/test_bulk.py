"""Bulk transfer: the same results as one by one, each once, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sat3d import bulk
from sat3d.artifact import Masks
from sat3d.bulk import bulk_transfer
from sat3d.bulk_folder import BulkSettings
from sat3d.cli.app import run
from sat3d.errors import Interrupted, MismatchError, Sat3dError, UsageError
from sat3d.images import read_image, write_png
from sat3d.inversion import InvertSettings
from sat3d.latents import from_seed, load_latent, save_latent
from sat3d.manifest import Manifest, read_manifest
from sat3d.testing import ToyGenerator, toy_masks
from sat3d.transfers import Edit, draw, transfer

HEADER = "source,reference,attributes,intensity,name\n"
FEW = BulkSettings(batch=4, invert=InvertSettings(steps=2, draft_steps=2))


pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def generator() -> ToyGenerator:
    return ToyGenerator(is_3d=True)


@pytest.fixture
def masks(generator: ToyGenerator) -> Masks:
    made = toy_masks(generator)
    made.save(Path("masks.safetensors"))
    return made


@pytest.fixture
def ten(masks: Masks) -> Manifest:
    """Ten pairs of seeds."""
    return listed(
        masks, [f"seed:{k},seed:{k + 50},top;middle,{1 + k / 10},p{k}" for k in range(10)]
    )


def listed(masks: Masks, rows: list[str], name: str = "pairs.csv") -> Manifest:
    Path(name).write_text(HEADER + "\n".join(rows) + "\n")
    found = read_manifest(Path(name), masks)
    assert not found.problems
    return found


def stamps(folder: str = "out") -> dict[str, int]:
    results = [*Path(folder).glob("*.png"), *Path(folder).glob("*.safetensors")]
    return {path.name: path.stat().st_mtime_ns for path in results}


def test_a_batch_gives_what_single_transfers_give(generator, masks, ten):
    told = bulk_transfer(generator, masks, ten, Path("out"), FEW)
    assert told["done"] == told["pairs"] == 10 and not told["failed"]
    for k in range(10):
        edits = [Edit(from_seed(generator, k + 50), ("top", "middle"))]
        expected = transfer(generator, masks, from_seed(generator, k), edits, 1 + k / 10)
        found = load_latent(Path(f"out/p{k}.safetensors"), generator)
        # The same numbers multiplied in another order: the last bits of float32.
        torch.testing.assert_close(found.styles, expected.styles, rtol=1e-5, atol=1e-6)
        assert found.origin == expected.origin and found.info == expected.info
        shown = read_image(Path(f"out/p{k}.png"))[0]
        # A PNG has 256 levels.
        torch.testing.assert_close(shown, draw(generator, expected), atol=1 / 127, rtol=0)


def test_a_2d_generator_needs_no_cameras(ten):
    generator = ToyGenerator()
    told = bulk_transfer(generator, toy_masks(generator), ten, Path("out"))
    assert told["done"] == 10


def test_the_same_command_again_writes_nothing_and_a_lost_result_anew(generator, masks, ten):
    bulk_transfer(generator, masks, ten, Path("out"), FEW)
    before = stamps()
    assert len(before) == 20
    told = bulk_transfer(generator, masks, ten, Path("out"), FEW)
    assert stamps() == before and told["run"]["written"] == 0
    # A picture without its latent is what a kill between the two leaves.
    Path("out/p3.safetensors").unlink()
    told = bulk_transfer(generator, masks, ten, Path("out"), FEW)
    changed = {name for name, stamp in stamps().items() if before[name] != stamp}
    assert changed == {"p3.png", "p3.safetensors"} and told["run"]["written"] == 1
    assert [x["written"] for x in told["runs"]] == [10, 0, 1]


def test_a_run_that_is_interrupted_goes_on(generator, masks, ten, monkeypatch):
    draw_batch, calls = bulk._draw, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw_batch(*arguments)

    monkeypatch.setattr(bulk, "_draw", interrupted)
    with pytest.raises(Interrupted, match="after 8 of 10 pairs"):
        bulk_transfer(generator, masks, ten, Path("out"), FEW)
    before = stamps()
    assert json.loads(Path("out/record.json").read_text())["done"] == 8
    told = bulk_transfer(generator, masks, ten, Path("out"), FEW)
    assert told["done"] == 10 and told["run"]["found"] == 8
    assert {name: stamps()[name] for name in before} == before


def test_an_image_is_inverted_once_under_any_name_and_for_ever(generator, masks, monkeypatch):
    write_png(Path("a.png"), draw(generator, from_seed(generator, 7)))
    Path("b.png").write_bytes(Path("a.png").read_bytes())
    rows = ["a.png,seed:1,top,,", "seed:1,b.png,top,,", "b.png,a.png,middle,,"]
    told = bulk_transfer(generator, masks, listed(masks, rows), Path("out"), FEW)
    (found,) = told["inversions"].values()
    assert found["psnr"] > 0 and found["image"] == "a.png"
    for name in ("pair-000001", "pair-000002", "pair-000003"):
        Path(f"out/{name}.safetensors").unlink()
    monkeypatch.setattr("sat3d.inversion.invert", None)  # calling it would fail
    assert bulk_transfer(generator, masks, listed(masks, rows), Path("out"), FEW)["done"] == 3


def test_a_picture_that_cannot_be_read_fails_its_rows_only(generator, masks):
    Path("bad.png").write_text("this is text")
    rows = ["seed:1,seed:2,top,,one", "bad.png,seed:2,top,,two", "seed:3,bad.png,top,,three"]
    told = bulk_transfer(generator, masks, listed(masks, rows), Path("out"), FEW)
    assert told["done"] == 1
    assert [(x["line"], x["name"]) for x in told["failed"]] == [(3, "two"), (4, "three")]
    assert "not a picture" in told["failed"][0]["reason"]
    # Put right, the same command does the rest.
    write_png(Path("bad.png"), draw(generator, from_seed(generator, 9)))
    told = bulk_transfer(generator, masks, listed(masks, rows), Path("out"), FEW)
    assert told["done"] == 3 and not told["failed"]


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_rows_and_the_last_completes_the_record(
    generator, masks, ten, monkeypatch, count
):
    bulk_transfer(generator, masks, ten, Path("one"), FEW)
    for rank in range(count):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(count))
        told = bulk_transfer(generator, masks, ten, Path("many"), FEW)
        own = {f"p{k}" for k in range(10) if k % count <= rank}
        assert {x.stem for x in Path("many").glob("*.png")} == own
    record = json.loads(Path("many/record.json").read_text())
    assert record["done"] == told["done"] == 10
    assert [x["rank"] for x in record["runs"]] == list(range(count))
    for k in range(10):
        one, many = (load_latent(Path(x, f"p{k}.safetensors"), generator) for x in ("one", "many"))
        # Products of batches of other sizes may differ in the last bits.
        torch.testing.assert_close(one.styles, many.styles, rtol=1e-5, atol=1e-6)


def test_a_folder_of_another_job_is_refused_and_can_be_overwritten(generator, masks, ten):
    bulk_transfer(generator, masks, ten, Path("out"), FEW)
    other = listed(masks, ["seed:1,seed:2,bottom,,p0"], "other.csv")
    with pytest.raises(MismatchError, match="other manifest, pairs"):
        bulk_transfer(generator, masks, other, Path("out"), FEW)
    with pytest.raises(MismatchError, match="other truncation"):
        bulk_transfer(generator, masks, ten, Path("out"), BulkSettings(truncation=0.5))
    told = bulk_transfer(generator, masks, other, Path("out"), FEW, overwrite=True)
    assert told["run"]["written"] == 1 and len(told["runs"]) == 1
    assert load_latent(Path("out/p0.safetensors"), generator).origin == (
        "seed:1 with bottom of seed:2"
    )


def test_a_folder_with_other_things_and_a_file_are_refused(generator, masks, ten):
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    Path("file").write_text("mine")
    for name in ("out", "file"):
        with pytest.raises(UsageError, match=r"already exists|is a file"):
            bulk_transfer(generator, masks, ten, Path(name), FEW)
    assert [x.name for x in Path("out").iterdir()] == ["notes.txt"]


def test_several_processes_cannot_overwrite(generator, masks, ten, monkeypatch):
    for key, value in {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UsageError, match="Remove the folder"):
        bulk_transfer(generator, masks, ten, Path("out"), FEW, overwrite=True)


def test_a_full_disk_ends_the_run_with_its_reason(generator, masks, ten, monkeypatch):
    def full(path, image):
        raise Sat3dError("cannot write: No space left on device")

    monkeypatch.setattr(bulk, "write_png", full)
    with pytest.raises(Sat3dError, match="No space left"):
        bulk_transfer(generator, masks, ten, Path("out"), FEW)


# ---------------------------------------------------------------- as it is typed


def command(*arguments: str) -> int:
    return run(["transfer", "--masks", "masks.safetensors", "--out", "out", *arguments])


def test_the_command_tells_speed_and_counts(ten, capsys):
    assert command("--manifest", "pairs.csv", "--batch", "3") == 0
    out, err = capsys.readouterr()
    assert "10 pairs in" in out and "pairs/s" in out and "10 of 10 pairs are done" in out
    assert "Transferring pairs 10/10" in err and "/s" in err
    assert command("--manifest", "pairs.csv", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["run"]["found"] == 10


def test_bad_rows_are_named_and_nothing_is_done(generator, masks, capsys):
    other = ToyGenerator(is_3d=True, seed=1)
    save_latent("other.safetensors", from_seed(other, 1), other)
    Path("pairs.csv").write_text(f"{HEADER}seed:1,gone.png,top,,\nseed:x,seed:1,top,,\n")
    assert command("--manifest", "pairs.csv") == 2
    err = capsys.readouterr().err.splitlines()
    assert [x.split(":")[0] for x in err] == ["line 2", "line 3", "error"]
    Path("pairs.csv").write_text(f"{HEADER}seed:1,seed:2,top,,\nother.safetensors,seed:1,top,,\n")
    assert command("--manifest", "pairs.csv") == 2
    assert "line 3: latent" in capsys.readouterr().err
    assert not Path("out").exists()


def test_rows_that_fail_are_named_and_the_exit_code_says_so(masks, capsys):
    Path("bad.png").write_text("this is text")
    listed(masks, ["seed:1,seed:2,top,,one", "bad.png,seed:2,top,,two"])
    assert command("--manifest", "pairs.csv", "--quiet") == 1
    out, err = capsys.readouterr()
    assert "1 of 2 pairs are done" in out
    assert "line 3: 'bad.png' is not a picture" in err.replace(str(Path.cwd()) + "/", "")
    assert "1 pairs failed" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--manifest", "pairs.csv", "--source", "seed:1"], "--source cannot be used"),
        (["--manifest", "pairs.csv", "--sweep", "0:1:2"], "--sweep cannot be used"),
        (["--manifest", "pairs.csv", "--views", "3"], "--views cannot be used"),
        (["--manifest", "gone.csv"], "cannot read manifest"),
        (["--manifest", "pairs.csv", "--intensity", "nan"], "outside"),
        (["--source", "seed:1", "--attribute", "top=seed:2", "--batch", "3"], "--batch cannot"),
        ([], "there is no source"),
        (["--source", "seed:1"], "nothing to transfer"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_done(ten, capsys, arguments, message):
    assert command(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not Path("out").exists()


SCRIPT = """
import time
from pathlib import Path
from sat3d import bulk
from sat3d.manifest import read_manifest
from sat3d.testing import ToyGenerator, toy_masks
from sat3d.bulk_folder import BulkSettings

generator = ToyGenerator(is_3d=True)
masks = toy_masks(generator)
plain = bulk.write_png

def slow(path, image):
    time.sleep(0.1)
    plain(path, image)

bulk.write_png = slow
found = read_manifest(Path("pairs.csv"), masks)
bulk.bulk_transfer(generator, masks, found, Path("out"), BulkSettings(batch=2))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="a kill as Unix knows it")
def test_a_killed_run_leaves_only_whole_results_and_goes_on(generator, masks):
    many = listed(masks, [f"seed:{k},seed:{k + 9},top,,p{k}" for k in range(200)])
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], env=dict(os.environ))
    deadline = time.monotonic() + 120
    while not list(Path().glob("out/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = stamps()
    latents = [name for name in before if name.endswith(".safetensors")]
    assert 0 < len(latents) < 200, "it was killed in the midst of it"
    for name in latents:
        load_latent(Path("out", name), generator)
        read_image(Path("out", name).with_suffix(".png"))
    told = bulk_transfer(generator, masks, many, Path("out"))
    assert told["done"] == 200 and told["run"]["found"] == len(latents)
    assert {name: stamps()[name] for name in latents} == {name: before[name] for name in latents}
