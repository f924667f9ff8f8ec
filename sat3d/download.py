"""Fetching one file so that it arrives whole or not at all, and goes on where it stopped.

httpx2 moves the bytes; what it lacks is here: going on after a break, in this run or a later one,
and believing a server nothing that can be checked. (pooch starts again after a break; the hub's
own loader goes on, but checks neither that the file is still the same nor where the rest begins.)

While under way the bytes are in ``NAME.part``, beside a note of their address and of the server's
mark for this version of the file. Only the whole, checked file gets the final name.
"""

import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sat3d import __version__
from sat3d.answers import (
    WEB,
    Broken,
    Expected,
    Part,
    Refused,
    StartAgain,
    followed,
    mark,
    place,
    shown,
)
from sat3d.errors import Sat3dError, UsageError
from sat3d.files import write_atomically
from sat3d.progress import SILENT, Progress

if TYPE_CHECKING:
    from httpx2 import Client

MOST_BYTES = 16 << 30
"""A file whose length nobody tells is not followed beyond this."""
MOST_ATTEMPTS = 100
MIB = 1 << 20
UNKNOWN = Expected()


@dataclass(frozen=True)
class Fetched:
    """A file that arrived."""

    path: Path
    size: int
    sha256: str
    address: str
    """Where it came from, without user name and password; empty if it was there before."""


def fetch(
    addresses: Sequence[str],
    target: Path,
    expected: Expected = UNKNOWN,
    progress: Progress = SILENT,
    tries: int = 5,
    wait: float = 1.0,
) -> Fetched:
    """Fetch the file from the first address that has it: http, https or file.

    A transfer that breaks goes on after ``wait`` seconds, then after twice as many and so on; an
    address is given up after ``tries`` attempts in a row that brought nothing (0: at the first
    break). Raises Sat3dError with every address's reason, UsageError while another process
    fetches the same file.
    """
    with _alone(target):
        if target.is_file():
            with _told_of(target):
                size, digest = target.stat().st_size, sha256_of(target)
            if expected.misfit(size, digest) is None:
                return Fetched(target, size, digest, "")
        reasons = []
        for address in _part_first(addresses, target):
            try:
                return _from(address, target, expected, progress, tries, wait)
            except (Refused, Broken) as problem:
                reasons.append(f"{shown(address)}: {problem}")
        raise Sat3dError(f"cannot fetch '{target.name}': {'; '.join(reasons) or 'no address'}.")


def sha256_of(path: Path) -> str:
    """sha256 of a file: 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    with _told_of(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"), timeout=0)
    try:
        with lock:
            yield
    except Timeout:
        raise UsageError(
            f"'{target.name}' is being fetched by another process. Wait for it to end."
        ) from None


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Turn the system's refusal into one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise Sat3dError(
            f"cannot write '{path}': {reason}. Free space or move the store."
        ) from None


def _part_file(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _note_file(target: Path) -> Path:
    return target.with_name(f"{target.name}.part.json")


def _read_part(target: Path) -> tuple[Part | None, int]:
    """Whose bytes the part file holds, and how many; (None, 0) if that cannot be told."""
    try:
        part = Part(**json.loads(_note_file(target).read_text(encoding="utf-8")))
        return part, _part_file(target).stat().st_size
    except (OSError, ValueError, TypeError):
        return None, 0


def _part_first(addresses: Sequence[str], target: Path) -> list[str]:
    """The addresses, the one that a part was fetched from first."""
    part, _ = _read_part(target)
    return sorted(addresses, key=lambda address: part is None or shown(address) != part.address)


def _drop_part(target: Path) -> None:
    _part_file(target).unlink(missing_ok=True)
    _note_file(target).unlink(missing_ok=True)


def _from(
    address: str, target: Path, expected: Expected, progress: Progress, tries: int, wait: float
) -> Fetched:
    """All of the file from one address. Raises Refused or Broken."""
    pieces = _receive_all(address, target, expected, progress, tries, wait)
    problem = _finish(address, target, expected)
    if isinstance(problem, str) and pieces > 1:
        # The pieces may be of different versions of the file: once more, from the beginning.
        _receive_all(address, target, expected, progress, tries, wait)
        problem = _finish(address, target, expected)
    if isinstance(problem, str):
        raise Refused(problem)
    return problem


def _finish(address: str, target: Path, expected: Expected) -> Fetched | str:
    """Give the whole file its name, or drop it and say what is wrong with it."""
    path = _part_file(target)
    with _told_of(target):
        size, digest = path.stat().st_size, sha256_of(path)
        problem = expected.misfit(size, digest)
        if problem is not None:
            _drop_part(target)
            return problem
        path.replace(target)
        _drop_part(target)
    return Fetched(target, size, digest, shown(address))


def _receive_all(
    address: str, target: Path, expected: Expected, progress: Progress, tries: int, wait: float
) -> int:
    """Attempt after attempt until the part file is whole; returns how many pieces it has.

    Raises Refused or Broken.
    """
    scheme = urlsplit(address).scheme
    if scheme == "file":
        _copy(address, target, expected, progress)
        return 1
    if scheme not in WEB:
        raise Refused("only http, https and file addresses are followed")
    import httpx2

    timeout = httpx2.Timeout(30.0, connect=15.0)
    headers = {"User-Agent": f"sat3d/{__version__}", "Accept-Encoding": "identity"}
    with httpx2.Client(timeout=timeout, headers=headers) as client:
        failed, first = 0, 2 if _read_part(target)[1] else 1
        for pieces in range(first, first + MOST_ATTEMPTS):
            before = _read_part(target)[1]
            try:
                _attempt(client, address, target, expected, progress)
                return pieces
            except Broken as problem:
                reason = problem
                if isinstance(problem, StartAgain):
                    _drop_part(target)
            # New bytes, or the way cleared for them, are progress; then patience begins anew.
            failed = 0 if _read_part(target)[1] > before else failed + 1
            if failed >= tries:
                raise Broken(f"{reason}; given up")
            progress.note(f"{target.name}: {reason}; going on")
            time.sleep(min(wait * 2**failed, 60.0))
    raise Broken(f"the connection broke {MOST_ATTEMPTS} times")


def _attempt(
    client: "Client", address: str, target: Path, expected: Expected, progress: Progress
) -> None:
    """One request for what is missing; returns when the part file is whole."""
    import httpx2

    part, have = _read_part(target)
    if part is None or part.address != shown(address) or not (part.mark or expected.sha256):
        # Nothing would tell that old and new bytes belong together.
        part, have = None, 0
    if part is not None and have and have == (part.total or expected.size):
        return
    headers = {}
    if part is not None and have:
        headers = {"Range": f"bytes={have}-", **({"If-Range": part.mark} if part.mark else {})}
    try:
        with followed(client, address, headers) as response:
            start, total = place(response, part, have, expected)
            _check_space(target, start, total)
            if start == 0:
                _begin(target, Part(shown(address), mark(response.headers), total))
            _append(target, response.iter_raw(), start, total, expected, progress)
    except (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, httpx2.InvalidURL) as error:
        raise Refused(_words(error)) from None
    except httpx2.HTTPError as error:
        raise Broken(_words(error)) from None


def _check_space(target: Path, start: int, total: int | None) -> None:
    free = shutil.disk_usage(target.parent).free
    if total is not None and total - start > free:
        raise Sat3dError(
            f"'{target.name}' needs {total - start} more bytes, and '{target.parent}' has {free}. "
            "Free space, or name another folder in SAT3D_WEIGHTS."
        )


def _begin(target: Path, part: Part) -> None:
    """An empty part file and its note."""
    with _told_of(target):
        _part_file(target).write_bytes(b"")
        write_atomically(_note_file(target), json.dumps(asdict(part)).encode())


def _append(
    target: Path,
    chunks: Iterable[bytes],
    start: int,
    total: int | None,
    expected: Expected,
    progress: Progress,
) -> None:
    """Write the body behind the first ``start`` bytes. Raises Refused, Broken."""
    limit = total or expected.size or MOST_BYTES
    with _told_of(target):
        file = _part_file(target).open("r+b")
    with file:
        file.truncate(start)
        file.seek(start)
        done = _write(file, chunks, start, limit, target, progress)
        with _told_of(target):
            file.flush()
            os.fsync(file.fileno())
    if total is not None and done < total:
        raise Broken(f"the connection ended after {done} of {total} bytes")


def _write(
    file: BinaryIO,
    chunks: Iterable[bytes],
    done: int,
    limit: int,
    target: Path,
    progress: Progress,
) -> int:
    """Write chunks, showing MiB; returns the file's length. Raises Refused beyond ``limit``."""
    total = -(-limit // MIB)
    with progress.phase(f"{target.name} (MiB)", total, done // MIB) as phase:
        for chunk in chunks:
            if done + len(chunk) > limit:
                _drop_part(target)
                raise Refused(f"more than {limit} bytes come")
            with _told_of(target):
                file.write(chunk)
            phase.advance((done + len(chunk)) // MIB - done // MIB)
            done += len(chunk)
        phase.advance(total - done // MIB if done == limit else 0)
    return done


def _copy(address: str, target: Path, expected: Expected, progress: Progress) -> None:
    """A file: address."""
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise Refused("a file: address names a file of this machine, file:///folder/file")
    source = Path(url2pathname(parts.path))
    try:
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Refused("it is not a file")
        with source.open("rb") as file:
            if expected.size is not None and status.st_size != expected.size:
                raise Refused(f"the file there has {status.st_size} bytes, not {expected.size}")
            _check_space(target, 0, status.st_size)
            _begin(target, Part(address))
            chunks = iter(lambda: file.read(MIB), b"")
            _append(target, chunks, 0, status.st_size, expected, progress)
    except OSError as error:
        raise Refused(error.strerror or str(error)) from None


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return text or type(error).__name__
