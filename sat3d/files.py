"""Reading no more than is sensible, and writing so that nothing half-written stays."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sat3d.errors import InputError, Sat3dError, UsageError


def read_limited(
    path: Path, what: str, limit: int, advice: str, error: type[Sat3dError] = InputError
) -> bytes:
    """The bytes of a file from outside; pipes and devices, which may never end, are not opened.

    ``what`` names the kind of file in messages, ``advice`` ends the one on a file over ``limit``
    bytes. Raises ``error``.
    """
    try:
        if path.exists() and not path.is_file():
            raise error(f"cannot read {what} '{path}': it is not a file. Give a {what} file.")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as problem:  # ValueError: a zero byte in the path
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error(f"cannot read {what} '{path}': {reason}. Check the path.") from None
    if len(data) > limit:
        size = f"{limit >> 20} MiB" if limit >> 20 else f"{limit} bytes"
        raise error(f"{what} '{path}' is larger than {size}. {advice}")
    return data


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside the target, flush to disk, then rename; a full disk leaves the old file.

    Raises Sat3dError with the system's reason.
    """
    _system_checked(path, lambda: _write(path, data))


def _write(path: Path, data: bytes) -> None:
    temporary = path.parent / f".sat3d-{secrets.token_hex(8)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:  # also after Ctrl-C; once renamed there is nothing to remove
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into; its files appear under ``path`` when the block ends well.

    With ``overwrite`` they replace files of the same name, and other files there stay. After an
    error nothing is left behind. Raises UsageError if the output is already there, Sat3dError if
    it cannot be written.
    """
    # A file in the way is never replaced by a folder.
    refuse_existing(path, overwrite and path.is_dir())
    temporary = path.parent / f".sat3d-{secrets.token_hex(8)}"
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        _system_checked(path, lambda: temporary.mkdir(parents=True))
        yield temporary
        _system_checked(path, lambda: _move_into(temporary, path))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in made:
            with suppress(OSError):  # it holds the results
                folder.rmdir()


def _move_into(temporary: Path, path: Path) -> None:
    if not path.is_dir() or not any(path.iterdir()):
        temporary.replace(path)
        return
    for file in sorted(temporary.rglob("*")):
        target = path / file.relative_to(temporary)
        if file.is_dir():
            target.mkdir(exist_ok=True)
        else:
            file.replace(target)


def _system_checked(path: Path, action: Callable[[], object]) -> None:
    """Do it, or raise Sat3dError with the system's reason."""
    try:
        action()
    except OSError as error:
        reason = error.strerror or str(error)
        raise Sat3dError(f"cannot write '{path}': {reason}. Free space or choose --out.") from None


def refuse_existing(path: Path, overwrite: bool = False) -> None:
    """Raise UsageError if an output is already there and may not be replaced."""
    if overwrite or not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    raise UsageError(f"output '{path}' already exists. Choose another name or --overwrite.")
