"""Checkpoints made by other programs, opened without trust: what they are and what they hold."""

import hashlib
import json
import math
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal

import torch

from sat3d import torch_files
from sat3d.errors import InputError
from sat3d.pickles import Array, Budget, Module, Names
from sat3d.stored import Region, Storage, StoredTensor, shown
from sat3d.weights import FORMAT

Layout = Literal["pickle", "torch zip", "torch legacy", "safetensors"]
_LONGEST_HEADER = 8 * 2**20
_MOST_TENSORS = 50_000
_MOST_ENTRIES = 500_000
_LONGEST_NAME = 200
_DEEPEST = 32
_HASHED_AT_ONCE = 2**20
_SAFETENSORS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
# First bytes -> what the file is; for the message only.
_OTHER_FORMATS = (
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself; download the file"),
    (b"<", "a web page, not a checkpoint; the download went wrong"),
    (b"{", "a JSON text, not a checkpoint"),
    (b"\x89HDF", "an HDF5 file, which is not supported"),
    (b"\x89PNG", "a picture, not a checkpoint"),
    (b"\xff\xd8\xff", "a picture, not a checkpoint"),
)


@dataclass(frozen=True)
class Checkpoint:
    """An open file from elsewhere: plain values, inert records, tensors not yet read."""

    path: Path
    layout: Layout
    root: object
    """The value the file holds; for safetensors a dict of tensors by name."""
    header: Mapping[str, object] = field(default_factory=dict)
    """The ``sat3d`` entry of a .safetensors file written by this package, else empty."""
    region: Region | None = None
    """The whole file."""

    @cached_property
    def sha256(self) -> str:
        """Of the whole file, in hex digits."""
        assert self.region is not None
        digest = hashlib.sha256()
        for start in range(0, self.region.length, _HASHED_AT_ONCE):
            size = min(_HASHED_AT_ONCE, self.region.length - start)
            digest.update(self.region.part(start, size).read())
        return digest.hexdigest()


@contextmanager
def open_checkpoint(path: Path, classes: Iterable[str] = ()) -> Iterator[Checkpoint]:
    """Open a checkpoint of any known layout; its tensors can be read inside the ``with`` block.

    ``classes`` are names of classes whose objects are read as inert records. Nothing in the file
    is executed. Raises InputError, in one line, for a link, another kind of file, damage, a name
    outside the list, and claims that the file's own size cannot hold.
    """
    with _opened(path) as file:
        region = Region(file, 0, os.fstat(file.fileno()).st_size)
        with one_line(path):
            checkpoint = _read(path, region, classes)
        yield checkpoint


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn whatever damage raises into an InputError that names the file."""
    try:
        yield
    except InputError as error:
        text = str(error).rstrip(".")
        raise InputError(f"'{path}' cannot be imported: {text}.") from None
    except (ValueError, OverflowError, struct.error, RecursionError, MemoryError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"'{path}' cannot be imported: it is damaged ({type(error).__name__}: {reason})."
        ) from None
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror or error}.") from None


def _opened(path: Path) -> BinaryIO:
    """A regular file, never a link, a folder or a device. Raises InputError."""
    # O_NONBLOCK: opening a pipe must not wait for its other end.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if path.is_symlink():
            raise InputError(f"'{path}' is a symbolic link. Give the file that it points to.")
        handle = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        raise InputError(f"no file '{path}'. Check the path.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read: {error}.") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"'{path}' is no regular file. Give a checkpoint file.")
    return os.fdopen(handle, "rb", buffering=0)


def _read(path: Path, region: Region, classes: Iterable[str]) -> Checkpoint:
    start = region.part(0, min(region.length, 64)).read()
    if start.startswith(b"PK\x03\x04"):
        return _pickled(path, "torch zip", torch_files.read_zip, region, classes)
    if start.startswith(b"\x80"):
        legacy = torch_files.is_legacy(region)
        read = torch_files.read_legacy if legacy else torch_files.read_plain
        return _pickled(path, "torch legacy" if legacy else "pickle", read, region, classes)
    if len(start) > 9 and start[8:9] == b"{":
        tensors, header = _read_safetensors(region)
        return Checkpoint(path, "safetensors", tensors, header, region)
    raise InputError(_what_it_is(start))


def _what_it_is(start: bytes) -> str:
    if not start:
        return "it is empty"
    for magic, name in _OTHER_FORMATS:
        if start.lstrip().startswith(magic):
            return f"it is {name}"
    return (
        f"it begins with the bytes {start[:8].hex(' ')}, which no known format does; known: "
        "pickle, torch.save, .safetensors"
    )


_Reader = Callable[[Region, Names, Budget], object]


def _pickled(
    path: Path, layout: Layout, read: _Reader, region: Region, classes: Iterable[str]
) -> Checkpoint:
    budget = Budget()
    root = read(region, torch_files.allowed_names(budget, classes), budget)
    return Checkpoint(path, layout, root, {}, region)


def _read_safetensors(region: Region) -> tuple[dict[str, StoredTensor], dict[str, object]]:
    """(tensors by name, our own header or {})."""
    size = int.from_bytes(region.part(0, 8).read(), "little")
    if size > _LONGEST_HEADER:
        raise InputError(f"its header claims {size} bytes; allowed: {_LONGEST_HEADER}")
    entries = json.loads(region.part(8, size).read().decode("utf-8"))
    data = region.part(8 + size, region.length - 8 - size)
    if not isinstance(entries, dict) or len(entries) > _MOST_TENSORS:
        raise InputError("its header is no list of tensors: damaged")
    notes = entries.pop("__metadata__", {})
    tensors = {name: _safetensor(name, entry, data) for name, entry in entries.items()}
    if sum(tensor.bytes for tensor in tensors.values()) > data.length:
        raise InputError("its tensors overlap: damaged")
    text = notes.get("sat3d") if isinstance(notes, dict) else None
    header = json.loads(text) if isinstance(text, str) else {}
    if not isinstance(header, dict) or (text is not None and header.get("format") != FORMAT):
        raise InputError(f"its sat3d header is not of format {FORMAT}. Update sat3d")
    return tensors, header


def _safetensor(name: str, entry: object, data: Region) -> StoredTensor:
    entry = entry if isinstance(entry, dict) else {}
    kind, shape, ends = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    dtype = _SAFETENSORS.get(kind) if isinstance(kind, str) else None
    sizes, places = _small_numbers(shape), _small_numbers(ends)
    if dtype is None or sizes is None or places is None or len(places) != 2:
        raise InputError(f"tensor {shown(name)} has type {shown(kind)} or a damaged entry")
    begin, end = places
    storage = Storage(dtype, math.prod(sizes))
    storage.place(data.part(begin, end - begin))
    whole = StoredTensor(storage, 0, (storage.count,), (1,), (storage.count,))
    return whole.reshaped(*sizes)


def _small_numbers(values: object) -> list[int] | None:
    """A JSON list of up to eight sizes or places; None for anything else."""
    if not isinstance(values, list) or len(values) > 8:
        return None
    fitting = [n for n in values if type(n) is int and 0 <= n < 2**48]
    return fitting if len(fitting) == len(values) else None


def state_dict(root: object) -> dict[str, StoredTensor]:
    """The tensors of a module record, or of a dict of tensors, by dotted name.

    Of a dict other entries than tensors are left out. Raises InputError for hooks, and for a tree
    that is too deep or too large to be a network.
    """
    found: dict[str, StoredTensor] = {}
    if isinstance(root, Module):
        _collect(root, "", 0, found, _Allowance())
    elif isinstance(root, dict):
        for key, value in root.items():
            if isinstance(key, str) and isinstance(value, StoredTensor):
                found[key] = value
    return found


class _Allowance:
    """Entries that may still be looked at: shared parts could make a small file a vast tree."""

    left = _MOST_ENTRIES

    def named(self, state: Mapping[str, object], kind: str) -> Iterator[tuple[str, object]]:
        entries = state.get(kind)
        entries = entries if isinstance(entries, dict) else {}
        self.spend(len(entries))
        for name, value in entries.items():
            if not isinstance(name, str) or len(name) > _LONGEST_NAME:
                raise InputError(f"its network has a part named {shown(name)}: damaged")
            yield name, value

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise InputError(f"its network has over {_MOST_ENTRIES} entries: no network has")


def _collect(
    module: Module, prefix: str, depth: int, found: dict[str, StoredTensor], allowed: _Allowance
) -> None:
    if depth > _DEEPEST:
        raise InputError(f"its modules nest deeper than {_DEEPEST}: no network does")
    state = module.state
    allowed.spend(1 + len(state))
    for name, value in state.items():
        if isinstance(name, str) and name.endswith("_hooks") and value:
            raise InputError(f"its module {shown(prefix)} has {shown(name)}: code, not weights")
    passing = state.get("_non_persistent_buffers_set")
    skipped = passing if isinstance(passing, list) else []
    for kind in ("_parameters", "_buffers"):
        for name, value in allowed.named(state, kind):
            allowed.spend(len(skipped))
            if isinstance(value, StoredTensor) and not (kind == "_buffers" and name in skipped):
                found[prefix + name] = value
    for name, value in allowed.named(state, "_modules"):
        if isinstance(value, Module):
            _collect(value, f"{prefix}{name}.", depth + 1, found, allowed)


def submodule(root: Module, name: str) -> Module | None:
    """The module record below another, by its own name."""
    entries = root.state.get("_modules")
    value = entries.get(name) if isinstance(entries, dict) else None
    return value if isinstance(value, Module) else None


def tensor_of(value: object) -> StoredTensor | None:
    """A tensor or a numpy array as a tensor; None for anything else."""
    if isinstance(value, Array):
        return torch_files.array_tensor(value)
    return value if isinstance(value, StoredTensor) else None
