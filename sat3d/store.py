"""The store: one folder of weights files, each known by the file's stem.

``SAT3D_WEIGHTS`` names the folder; without it a folder of the user's data is taken. Whatever takes
weights takes a path or a name in the store, through :func:`resolve`. No torch here.
"""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from sat3d.errors import InputError, UsageError, nearest_name

SETTING = "SAT3D_WEIGHTS"
SUFFIX = ".safetensors"
IMPORTABLE = (".pkl", ".pt", ".pth", ".pickle", ".bin", ".ckpt", ".tar")
"""Endings of foreign files, which have to be imported before use."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
# Device names of Windows; a file of that name cannot be opened there.
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def store_folder() -> Path:
    """The store's folder, which need not exist yet."""
    chosen = os.environ.get(SETTING)
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_data_path

    return user_data_path("sat3d", appauthor=False) / "weights"


def checked_name(name: str) -> str:
    """The name itself if it may name a file of the store. Raises UsageError."""
    if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name) or name.endswith(SUFFIX):
        raise UsageError(
            f"'{name}' cannot be a name of weights. Allowed: up to 100 letters, digits, '.', '_', "
            f"'+' and '-', a letter or digit first, and no '{SUFFIX}' at the end."
        )
    return name


def path_of(name: str) -> Path:
    """Where weights of that name are or would be. Raises UsageError for an impossible name."""
    return store_folder() / f"{checked_name(name)}{SUFFIX}"


def names() -> list[str]:
    """Names of all weights in the store, sorted."""
    folder = store_folder()
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.suffix == SUFFIX and path.is_file())
    return sorted(path.stem for path in found if _NAME.fullmatch(path.stem))


def find(name: str, published: Callable[[], Iterable[str]] = tuple) -> Path:
    """The file of weights in the store. Raises UsageError naming the nearest.

    ``published`` gives names that could be pulled; it is asked only when there is no such file.
    """
    path = path_of(name)
    if path.is_file():
        return path
    others = list(published())
    if name in others:
        raise UsageError(f"weights '{name}' are not here yet. Run: sat3d weights pull {name}")
    here = names()
    near = nearest_name(name, [*here, *others])
    hint = f" Did you mean '{near}'?" if near else ""
    raise UsageError(
        f"unknown weights '{name}'.{hint} In the store: {', '.join(here) or 'nothing'}. "
        "Give a path or a name of 'sat3d weights list'."
    )


def resolve(text: str) -> Path:
    """The weights file that a user means by a path or a name; an existing file wins.

    Raises UsageError for an unknown name, InputError for a path without a file and for a file
    that has to be imported first.
    """
    path = Path(text).expanduser()
    if path.suffix.lower() in IMPORTABLE:
        raise InputError(
            f"'{text}' is not a {SUFFIX} file. Import it first: sat3d weights import {text}"
        )
    if _is_file(path):
        if path.suffix != SUFFIX:
            raise InputError(f"'{text}' is not a {SUFFIX} file. Give one written by sat3d.")
        return path
    if path.suffix == SUFFIX or path.name != text:
        raise InputError(f"no file '{text}'. Check the path, or give a name in the store.")
    return find(text, _published)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or a zero byte in it
        return False


def _published() -> list[str]:
    from sat3d.weights_list import published

    return list(published())


def remove(name: str) -> Path:
    """Delete weights from the store; returns where they were. Raises UsageError, OSError."""
    path = find(name)
    path.unlink()
    return path
