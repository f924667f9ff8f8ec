"""The store: its folder, names, and what users may write for weights."""

from pathlib import Path

import pytest

from sat3d import store
from sat3d.errors import InputError, UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "store"
    monkeypatch.setenv("SAT3D_WEIGHTS", str(path))
    monkeypatch.chdir(tmp_path)
    return path


def put(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.safetensors").write_bytes(b"x")


def test_the_setting_names_the_folder_and_the_users_data_folder_is_the_default(folder, monkeypatch):
    assert store.store_folder() == folder
    monkeypatch.setenv("SAT3D_WEIGHTS", "~/w")
    assert store.store_folder() == Path.home() / "w"
    monkeypatch.delenv("SAT3D_WEIGHTS")
    assert store.store_folder().parts[-2:] == ("sat3d", "weights")


def test_names_are_the_stems_of_weights_files(folder):
    assert store.names() == []
    put(folder, "b", "a.1", "-odd")
    (folder / "c.pkl").write_bytes(b"x")
    (folder / "d.safetensors").mkdir()
    assert store.names() == ["a.1", "b"]


def test_an_existing_path_wins_over_a_name(folder, tmp_path):
    put(folder, "mine")
    assert store.resolve("mine") == folder / "mine.safetensors"
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"y")
    assert store.resolve("mine.safetensors") == Path("mine.safetensors")
    assert store.resolve(str(file)) == file
    (tmp_path / "mine").mkdir()  # a folder of that name does not hide the weights
    assert store.resolve("mine") == folder / "mine.safetensors"


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("mime", UsageError, "unknown weights 'mime'. Did you mean 'mine'. In the store: mine"),
        ("bisenet-celebmask", UsageError, "Did you mean 'bisenet-celebamask'"),
        ("bisenet-celebamask", UsageError, "Run: sat3d weights pull bisenet-celebamask"),
        ("no/such.safetensors", InputError, "no file 'no/such.safetensors'"),
        ("gone.safetensors", InputError, "no file 'gone.safetensors'"),
        ("folder/name", InputError, "no file"),
        ("ffhq.pkl", InputError, "Import it first: sat3d weights import ffhq.pkl"),
        ("there.txt", InputError, "is not a .safetensors file"),
        ("", UsageError, "cannot be a name"),
        ("..", UsageError, "cannot be a name"),
        ("a\0b", UsageError, "cannot be a name"),
        ("x" * 5000, UsageError, "cannot be a name"),
    ],
)
def test_what_is_neither_is_refused_with_a_remedy(folder, tmp_path, text, error, reason):
    put(folder, "mine")
    (tmp_path / "there.txt").write_bytes(b"x")
    with pytest.raises(error, match=reason.replace("'.", "'.?.?")):
        store.resolve(text)


@pytest.mark.parametrize(
    "name",
    ["", ".", "../x", "a/b", "a\\b", ".hidden", "-x", "x.safetensors", "NUL", "com1.x", "ü", "a\n"],
)
def test_names_that_could_leave_the_store_or_confuse_are_refused(name):
    with pytest.raises(UsageError, match="cannot be a name"):
        store.path_of(name)


def test_remove_deletes_one_file_and_names_the_nearest(folder):
    put(folder, "a-one", "a-two")
    assert store.remove("a-one") == folder / "a-one.safetensors"
    assert store.names() == ["a-two"]
    with pytest.raises(UsageError, match="Did you mean 'a-two'"):
        store.remove("a-tow")
