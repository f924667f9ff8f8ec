"""The commands transfer, invert and evaluate, as they are typed."""

import errno
import json
import os
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sat3d.artifact import Masks
from sat3d.cli.app import run
from sat3d.images import read_image, write_png
from sat3d.interfaces import WeightsCard
from sat3d.latents import from_seed, load_latent
from sat3d.testing import ToyGenerator, toy_masks
from sat3d.transfers import Edit, draw, transfer

FEW = ["--steps", "3"]


pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def generator() -> ToyGenerator:
    return ToyGenerator(is_3d=True)


@pytest.fixture
def masks(generator: ToyGenerator, tmp_path: Path) -> Masks:
    """Also in masks.safetensors of the working folder."""
    made = toy_masks(generator)
    made.save(tmp_path / "masks.safetensors")
    return made


@pytest.fixture
def photo(generator: ToyGenerator, tmp_path: Path) -> Path:
    path = tmp_path / "me.png"
    write_png(path, draw(generator, from_seed(generator, 77)))
    return path


def tree(folder: Path) -> dict[str, int]:
    """Everything below a folder, hidden files too, with the time of its last change."""
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def edit(*arguments: str) -> int:
    """``sat3d transfer`` with the masks and quietly."""
    return run(["transfer", "--masks", "masks.safetensors", "--quiet", *arguments])


PLAIN = ["--source", "seed:3", "--reference", "seed:8", "--attribute", "top"]


def test_transfer_leaves_picture_images_latent_and_record(
    generator: ToyGenerator, masks: Masks, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit(*PLAIN, "--out", "out", "--intensity", "1.5", "--views", "3") == 0
    views = {f"result-view-{k}.png" for k in (1, 2, 3)}
    names = {"picture.png", "record.json", "result.png", "result.safetensors"} | views
    assert {path.name for path in Path("out").iterdir()} == names
    source, reference = from_seed(generator, 3), from_seed(generator, 8)
    expected = transfer(generator, masks, source, [Edit(reference, ("top",))], 1.5)
    latent = load_latent(Path("out/result.safetensors"), generator)
    torch.testing.assert_close(latent.styles, expected.styles)
    shown = read_image(Path("out/result.png"))[0]
    # A PNG has 256 levels.
    torch.testing.assert_close(shown, draw(generator, expected), atol=1 / 127, rtol=0)
    record = json.loads(Path("out/record.json").read_text())
    assert record["edits"] == [{"reference": "seed:8", "attributes": ["top"]}]
    assert record["intensities"] == [1.5]
    assert set(record["files"]) == names
    assert record["generator"]["fingerprint"] == generator.card.fingerprint
    assert "picture.png" in capsys.readouterr().out
    # Whoever may read the user's other folders may read this one.
    Path("plain").mkdir()
    assert Path("out").stat().st_mode == Path("plain").stat().st_mode


def test_a_result_is_the_source_of_the_next_edit(generator: ToyGenerator, masks: Masks) -> None:
    assert edit(*PLAIN, "--out", "one") == 0
    again = ["--source", "one/result.safetensors", "--attribute", "middle=seed:4"]
    assert edit(*again, "--out", "two") == 0
    assert edit("--source", "seed:3", "--attribute", "top=seed:8", "--attribute", "middle=seed:4",
                "--out", "both") == 0  # fmt: skip
    two, both = (load_latent(Path(x, "result.safetensors"), generator) for x in ("two", "both"))
    torch.testing.assert_close(two.styles, both.styles)


def test_the_example_does_what_the_command_does(
    generator: ToyGenerator, masks: Masks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["", "masks.safetensors", "seed:3", "seed:8", "top"])
    runpy.run_path(str(Path(__file__).parents[1] / "examples" / "transfer_one_image.py"))
    assert edit(*PLAIN, "--out", "out", "--intensity", "2") == 0
    assert Path("result-2.png").read_bytes() == Path("out/result.png").read_bytes()
    latents = [load_latent(x / "result.safetensors", generator) for x in (Path(), Path("out"))]
    assert torch.equal(latents[0].styles, latents[1].styles)


def test_a_sweep_leaves_one_result_for_each_intensity(
    generator: ToyGenerator, masks: Masks, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit(*PLAIN, "--out", "out", "--sweep", "0:2:3", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["intensities"] == [0.0, 1.0, 2.0]
    assert record["results"] == ["result-01", "result-02", "result-03"]
    first = load_latent(Path("out/result-01.safetensors"), generator)
    assert torch.equal(first.styles, from_seed(generator, 3).styles)


def test_a_turn_goes_to_the_results_or_to_the_path_given(masks: Masks, tmp_path: Path) -> None:
    assert edit(*PLAIN, "--out", "out", "--video", "turn.mp4") == 0
    assert Path("out/turn.mp4").stat().st_size > 0
    assert "turn.mp4" in json.loads(Path("out/record.json").read_text())["files"]
    apart = tmp_path / "films" / "turn.gif"
    assert edit(*PLAIN, "--out", "out2", "--video", str(apart)) == 0
    assert apart.stat().st_size > 0


def test_an_image_is_inverted_and_a_poor_one_warned_about(
    masks: Masks, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    write_png(Path("noise.png"), noise)
    arguments = ["--source", "me.png", "--attribute", "top=noise.png", *FEW]
    assert edit(*arguments, "--out", "out") == 0
    record = json.loads(Path("out/record.json").read_text())
    assert record["inversions"]["me.png"]["psnr"] > record["inversions"]["noise.png"]["psnr"]
    assert "warning: 'noise.png': poor inversion" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["grey", "alpha", "palette", "large", "oblong", "rotated"])
def test_pictures_of_any_size_and_mode_are_taken(masks: Masks, photo: Path, kind: str) -> None:
    picture = Image.open(photo)
    exif = Image.Exif()
    exif[0x0112] = 6
    {
        "grey": lambda: picture.convert("L").save("in.png"),
        "alpha": lambda: picture.convert("RGBA").save("in.png"),
        "palette": lambda: picture.convert("P").save("in.png"),
        "large": lambda: picture.resize((300, 300)).save("in.png"),
        "oblong": lambda: picture.resize((40, 90)).save("in.png"),
        "rotated": lambda: picture.save("in.png", exif=exif),
    }[kind]()
    assert edit("--source", "in.png", "--attribute", "top=seed:1", "--out", "out", *FEW) == 0


def test_an_existing_output_stays_unless_told_and_then_only_its_own_files_change(
    masks: Masks, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    before = tree(Path())
    assert edit(*PLAIN, "--out", "out") == 2
    assert "already exists" in capsys.readouterr().err
    assert tree(Path()) == before
    assert edit(*PLAIN, "--out", "out", "--overwrite") == 0
    assert Path("out/notes.txt").read_text() == "mine"
    assert Path("out/result.png").is_file()
    Path("file").write_text("mine")
    assert edit(*PLAIN, "--out", "file", "--overwrite") == 2
    assert Path("file").read_text() == "mine"


WRONG: list[tuple[list[str], int, str]] = [
    (["--source", "seed:abc", "--attribute", "top=seed:1"], 2, "after seed:"),
    (["--source", "gone.png", "--attribute", "top=seed:1"], 2, "does not exist"),
    (["--source", "notes.txt", "--attribute", "top=seed:1"], 2, "is no source"),
    (["--source", "text.png", "--attribute", "top=seed:1"], 2, "not a picture"),
    (["--source", "half.png", "--attribute", "top=seed:1"], 2, "damaged"),
    (["--source", "half.safetensors", "--attribute", "top=seed:1"], 2, "not a readable"),
    (["--source", "masks.safetensors", "--attribute", "top=seed:1"], 2, "not a saved latent"),
    (["--source", "seed:3", "--attribute", "topp=seed:1"], 2, "Did you mean 'top'"),
    (["--source", "seed:3", "--attribute", "top"], 2, "has no reference"),
    (["--source", "seed:3", "--attribute", "top=seed:1", "--attribute", "top=seed:2"], 2, "twice"),
    ([*PLAIN, "--intensity", "1", "--sweep", "0:1:2"], 2, "exclude each other"),
    ([*PLAIN, "--intensity", "nan"], 2, "outside -100 to 100"),
    ([*PLAIN, "--sweep", "0:1"], 2, "FROM:TO:COUNT"),
    ([*PLAIN, "--video", "turn.avi"], 2, "must end in"),
    ([*PLAIN, "--generator", "other"], 2, "made for weights"),
    ([*PLAIN, "--generator", "unknown"], 2, "unknown generator 'unknown'"),
    ([*PLAIN, "--generator", "flat", "--video", "turn.mp4"], 2, "2D"),
    ([*PLAIN, "--steps", "99999999"], 2, "--steps"),
    ([*PLAIN, "--masks", "gone.safetensors"], 2, "gone.safetensors"),
    ([*PLAIN, "--masks", "me.png"], 2, "me.png"),
    ([*PLAIN, "--views", "0"], 2, "--views"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), WRONG)
def test_a_wrong_request_is_one_line_and_leaves_nothing(
    masks: Masks,
    photo: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    Path("notes.txt").write_text("notes")
    Path("text.png").write_text("this is text")
    Path("half.png").write_bytes(photo.read_bytes()[:-40])
    Path("half.safetensors").write_bytes(Path("masks.safetensors").read_bytes()[:100])
    before = tree(Path())
    assert edit("--out", "out", *arguments) == code
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    if "Usage:" not in told:  # the parser's own complaints come with the usage
        assert told.count("\n") == 1
    assert tree(Path()) == before


def test_debug_shows_where_an_error_comes_from(
    masks: Masks, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["--source", "seed:abc", "--attribute", "top=seed:1", "--out", "out"]
    assert edit(*wrong, "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_a_failure_that_leaves_nothing(
    masks: Masks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 4:  # some files were written by then
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = tree(Path())
    assert edit(*PLAIN, "--out", "deep/out") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert tree(Path()) == before


def test_invert_leaves_latent_picture_and_figures(
    generator: ToyGenerator, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["invert", "me.png", "--generator", "toy", "--out", "out", "--json"]) == 0
    assert {x.name for x in Path("out").iterdir()} == {"me.safetensors", "me.png", "me.json"}
    told = json.loads(capsys.readouterr().out)["images"][0]
    assert told == json.loads(Path("out/me.json").read_text())
    assert told["psnr"] > 22.0
    latent = load_latent(Path("out/me.safetensors"), generator)
    shown, given = draw(generator, latent), read_image(photo)[0]
    assert 10 * torch.log10(4 / (shown - given).square().mean()) == pytest.approx(
        told["psnr"], abs=0.01
    )


def test_invert_goes_on_after_a_bad_file_of_a_folder_and_fails_in_the_end(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("photos")
    folder.mkdir()
    (folder / "a.png").write_bytes(photo.read_bytes())
    (folder / "b.png").write_text("not a picture")
    Image.open(photo).save(folder / "a.jpg")
    (folder / "notes.txt").write_text("ignored")
    arguments = ["--generator", "toy", "--out", "out", "--quiet", *FEW]
    assert run(["invert", "photos", *arguments]) == 1
    assert {x.name for x in Path("out").glob("*.safetensors")} == {
        "a-png.safetensors",
        "a-jpg.safetensors",
    }
    out, err = capsys.readouterr()
    assert "b.png" in out and "not a picture" in out
    assert "1 of 3 images could not be inverted: b.png" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gone.png"], 2, "does not exist"),
        (["empty"], 2, "has no images"),
        (["text.png"], 2, "not a picture"),
        (["me.png", "--generator", "unknown"], 2, "unknown generator"),
        (["me.png", "--max-seconds", "nan"], 2, "--max-seconds"),
        (["me.png", "--space", "z"], 2, "--space"),
    ],
)
def test_a_wrong_inversion_is_told_and_leaves_nothing(
    photo: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    Path("empty").mkdir()
    Path("text.png").write_text("this is text")
    before = tree(Path())
    assert run(["invert", "--generator", "toy", "--quiet", "--out", "out", *arguments]) == code
    assert message in capsys.readouterr().err
    assert tree(Path()) == before


MEASURE = ["evaluate", "--masks", ".", "--pairs", "10", "--bank", "30", "--quiet"]


def test_evaluate_prints_a_table_and_writes_the_figures(
    masks: Masks, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*MEASURE, "--json", "report.json"]) == 0
    report: dict[str, Any] = json.loads(Path("report.json").read_text())
    assert set(report) >= {"attributes", "mean", "pairs", "generator", "masks", "seconds"}
    assert report["masks"]["path"] == "."
    assert report["reader"] == report["segmenter"] == "toy"
    out = capsys.readouterr().out
    for word in ("success", "leakage", "multi view", "top", "middle", "bottom", "mean"):
        assert word in out
    assert f"{report['mean']['success']:.3f}" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--json", "old.json"], 2, "already exists"),
        (["--reader", "unknown"], 2, "unknown reader"),
        (["--segmenter", "unknown"], 2, "unknown segmenter"),
        (["--bank", "100000000"], 2, "--bank"),
        (["--intensity", "inf"], 2, "--intensity"),
        (["--pairs", "0"], 2, "--pairs"),
        (["--generator", "other"], 2, "made for weights"),
        (["--truncation", "0"], 1, "one value of"),
    ],
)
def test_a_wrong_measurement_is_told_and_leaves_nothing(
    masks: Masks,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    Path("old.json").write_text("{}")
    before = tree(Path())
    assert run([*MEASURE, "--json", "new.json", *arguments]) == code
    assert message in capsys.readouterr().err
    assert tree(Path()) == before


def test_weights_without_a_reader_ask_for_one(
    generator: ToyGenerator, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ToyGenerator(is_3d=True)
    other.card = WeightsCard("other", "0" * 64)
    other.name = "other"
    toy_masks(other).save(Path("masks.safetensors"))
    assert run([*MEASURE]) == 2
    assert "name no reader. Add --reader, one of: toy" in capsys.readouterr().err
    assert run([*MEASURE, "--reader", "toy"]) == 0
