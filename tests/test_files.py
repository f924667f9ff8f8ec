"""Files appear whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from sat3d.errors import Sat3dError, UsageError
from sat3d.files import folder_written_whole, refuse_existing, write_atomically


def test_folders_are_made_and_old_content_is_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Sat3dError, match=r"No space left on device\. Free space") as caught:
        write_atomically(path, b"new")
    assert caught.value.exit_code == 1
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_while_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file.bin", b"new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_device_without_space_is_one_clear_line():
    with pytest.raises(Sat3dError, match="cannot write"):
        write_atomically(Path("/dev/full/file"), b"x")


def test_a_folder_in_the_way_is_one_clear_line(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    with pytest.raises(Sat3dError, match="cannot write"):
        write_atomically(tmp_path / "taken", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_files_are_readable_by_others_as_the_umask_allows(tmp_path):
    path = tmp_path / "file.bin"
    old = os.umask(0o027)
    try:
        write_atomically(path, b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_long_name_is_written_too(tmp_path):
    path = tmp_path / ("n" * 250 + ".png")
    write_atomically(path, b"x")
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_appears_when_the_block_ends_well(tmp_path, exists):
    out = tmp_path / "deep" / "out"
    if exists:
        out.mkdir(parents=True)
    with folder_written_whole(out) as folder:
        (folder / "views").mkdir()
        (folder / "views" / "a.png").write_text("a")
        assert not out.exists() or not any(out.iterdir())
    assert (out / "views" / "a.png").read_text() == "a"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_folder_that_fails_leaves_nothing_behind(tmp_path, error):
    with pytest.raises(error), folder_written_whole(tmp_path / "out") as folder:
        (folder / "a.png").write_text("a")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_overwriting_a_folder_replaces_files_of_the_same_name_only(tmp_path):
    (tmp_path / "out" / "views").mkdir(parents=True)
    for name in ("views/a.png", "diary.txt"):
        (tmp_path / "out" / name).write_text("old")
    with folder_written_whole(tmp_path / "out", overwrite=True) as folder:
        (folder / "views").mkdir()
        (folder / "views" / "a.png").write_text("new")
    assert (tmp_path / "out" / "views" / "a.png").read_text() == "new"
    assert (tmp_path / "out" / "diary.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_or_file_in_the_way_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("kept")
    for path, overwrite in ((tmp_path, False), (tmp_path / "file", True)):
        with (
            pytest.raises(UsageError, match="already exists"),
            folder_written_whole(path, overwrite),
        ):
            pytest.fail("the block was entered")
    assert (tmp_path / "file").read_text() == "kept"
    with (
        pytest.raises(Sat3dError, match="cannot write"),
        folder_written_whole(tmp_path / "file" / "out"),
    ):
        pytest.fail("the block was entered")


def test_an_output_that_exists_is_refused_unless_it_may_be_replaced(tmp_path):
    refuse_existing(tmp_path / "new")
    refuse_existing(tmp_path)  # an empty folder is no output yet
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(UsageError, match=r"already exists.*--overwrite"):
            refuse_existing(path)
        refuse_existing(path, overwrite=True)


def test_a_dangling_link_counts_as_existing(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="already exists"):
        refuse_existing(tmp_path / "link")
