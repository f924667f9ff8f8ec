"""Turntable videos."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v2 as iio
import pytest
import torch
from torch import Tensor

from sat3d import video
from sat3d.errors import Sat3dError, UsageError
from sat3d.latents import from_seed
from sat3d.testing import ToyGenerator
from sat3d.video import check_ending, check_turns, turntable, write_video


@pytest.fixture
def frames() -> list[Tensor]:
    levels = torch.linspace(-0.8, 0.8, 6)
    return [level.expand(3, 16, 32).clone() for level in levels]


# imageio's own reader leaves its pipes to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["turn.mp4", "turn.gif"])
def test_a_video_holds_its_frames_in_order(frames: list[Tensor], tmp_path: Path, name: str) -> None:
    write_video(tmp_path / name, iter(frames))
    with iio.get_reader(tmp_path / name) as reader:
        shown = [frame[..., :3].mean() for frame in reader]
    assert len(shown) == len(frames)
    # Video colours have fewer levels; frames are 41 levels apart.
    for level, frame in zip(shown, frames, strict=True):
        assert level == pytest.approx(float(frame.mean() + 1) * 127.5, abs=6)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_turn_eases_from_the_front_to_both_sides_and_back() -> None:
    generator = ToyGenerator(is_3d=True)
    styles = torch.cat([from_seed(generator, seed).styles for seed in (1, 2)])
    shown = list(turntable(generator, styles, frames=8, widest=20.0))
    assert len(shown) == 8
    assert shown[0].shape == (3, generator.resolution, 2 * generator.resolution)
    torch.testing.assert_close(shown[4], shown[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(shown[1], shown[3], atol=1e-5, rtol=0)
    assert not torch.allclose(shown[2], shown[6], atol=1e-3)


def test_other_endings_and_flat_generators_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.mp4 \.gif"):
        check_ending(tmp_path / "turn.avi")
    with pytest.raises(UsageError, match="2D"):
        check_turns(ToyGenerator())
    check_turns(ToyGenerator(is_3d=True))


def test_an_existing_video_stays_unless_told(frames: list[Tensor], tmp_path: Path) -> None:
    path = tmp_path / "turn.gif"
    path.write_bytes(b"old")
    with pytest.raises(UsageError, match="already exists"):
        write_video(path, iter(frames))
    assert path.read_bytes() == b"old"
    write_video(path, iter(frames), overwrite=True)
    assert path.read_bytes() != b"old"


def test_a_missing_encoder_is_one_clear_line(
    frames: list[Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: Any, **__: Any) -> None:
        raise RuntimeError("No ffmpeg exe could be found.\nInstall ffmpeg on your system")

    monkeypatch.setattr(iio, "get_writer", lacking)
    with pytest.raises(Sat3dError, match=r"No ffmpeg exe could be found\. .*imageio\[ffmpeg\]"):
        write_video(tmp_path / "turn.mp4", iter(frames))
    assert list(tmp_path.iterdir()) == []


def test_imageio_itself_may_be_missing(
    frames: list[Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(name: str) -> None:
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(video.importlib, "import_module", lacking)
    with pytest.raises(Sat3dError, match="videos need imageio"):
        write_video(tmp_path / "turn.mp4", iter(frames))


def test_a_disk_that_fills_up_leaves_nothing(frames: list[Tensor], tmp_path: Path) -> None:
    def failing() -> Iterator[Tensor]:
        yield frames[0]
        raise OSError(errno.ENOSPC, "No space left on device")

    old = tmp_path / "turn.gif"
    old.write_bytes(b"old")
    with pytest.raises(Sat3dError, match="No space left"):
        write_video(old, failing(), overwrite=True)
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]
