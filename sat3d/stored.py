"""Tensors that stay in their file until they are wanted; every claim is checked before any read.

The checks cost no memory: a file may claim any shape, but nothing is allocated that its own bytes
do not fill.
"""

import math
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import torch
from torch import Tensor

from sat3d.errors import InputError

DTYPES = {
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Double": torch.float64,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
"""By the first part of torch's storage names: ``FloatStorage`` and so on."""
_LARGEST = 2**40
_MOST_DIMENSIONS = 8
_SMALL_STRETCH = 2**16


@dataclass(frozen=True)
class Region:
    """A stretch of an open file. Making one reads nothing."""

    file: BinaryIO
    start: int
    length: int

    def part(self, start: int, length: int) -> "Region":
        """A stretch inside this one. Raises InputError if it leaves it."""
        if start < 0 or length < 0 or start + length > self.length:
            raise InputError(f"it ends before byte {self.start + start + length}: truncated")
        return Region(self.file, self.start + start, length)

    def read(self) -> bytes:
        """All its bytes. Raises InputError if the file has become shorter."""
        self.file.seek(self.start)
        data = self.file.read(self.length)
        if len(data) != self.length:
            raise InputError(f"it ends before byte {self.start + self.length}: truncated")
        return data

    def read_into(self, buffer: memoryview) -> None:
        """Fill a buffer of this length. Raises InputError if the file has become shorter."""
        self.file.seek(self.start)
        done = 0
        while done < self.length:
            count = self.file.readinto(buffer[done:])  # type: ignore[attr-defined]
            if not count:
                raise InputError(f"it ends before byte {self.start + self.length}: truncated")
            done += count


@dataclass
class Storage:
    """Flat numbers of one type. In old files their place is known only after the pickle."""

    dtype: torch.dtype
    count: int
    region: Region | None = None

    def place(self, region: Region) -> None:
        """Say where the numbers are. Raises InputError if that is not the claimed size."""
        claimed = self.count * self.dtype.itemsize
        if region.length != claimed:
            raise InputError(f"a storage claims {claimed} bytes and has {region.length}: damaged")
        self.region = region


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's claims, checked against its storage. :meth:`read` makes the tensor."""

    storage: Storage
    offset: int
    stored_shape: tuple[int, ...]
    stride: tuple[int, ...]
    shape: tuple[int, ...] = field(default=())
    """As it will be read; differs from ``stored_shape`` after :meth:`reshaped`."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers."""
        return self.storage.dtype

    @property
    def bytes(self) -> int:
        """Size in memory once read."""
        return math.prod(self.shape) * self.dtype.itemsize

    def reshaped(self, *shape: int) -> "StoredTensor":
        """The same numbers in another shape. Raises InputError if the count differs."""
        if math.prod(shape) != math.prod(self.shape):
            raise InputError(f"a tensor of shape {list(self.shape)} does not fit {list(shape)}")
        return replace(self, shape=shape)

    def read(self) -> Tensor:
        """The tensor on the CPU, contiguous. Raises InputError for a storage without data."""
        if self.storage.region is None:
            raise InputError("a tensor's storage is not in the file: truncated")
        if math.prod(self.shape) == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        size = self.dtype.itemsize
        span = _span(self.stored_shape, self.stride)
        raw = torch.empty(span * size, dtype=torch.uint8)
        part = self.storage.region.part(self.offset * size, span * size)
        part.read_into(raw.numpy().data)
        # Bytes other than 0 and 1 are no booleans.
        flat = raw.ne(0) if self.dtype == torch.bool else raw.view(self.dtype)
        whole = flat.as_strided(self.stored_shape, self.stride).contiguous()
        return whole.reshape(self.shape)


def stored_tensor(storage: Storage, offset: object, shape: object, stride: object) -> StoredTensor:
    """A tensor over a storage. Raises InputError for claims that do not fit it."""
    sizes, steps = _sizes(shape, "shape"), _sizes(stride, "stride")
    (start,) = _sizes((offset,), "offset")
    if len(sizes) != len(steps):
        raise InputError(f"a tensor has {len(sizes)} dimensions and {len(steps)} strides: damaged")
    count = math.prod(sizes)
    # No repeated numbers: a small file could claim a tensor of any size.
    if count > storage.count or (count and start + _span(sizes, steps) > storage.count):
        raise InputError(
            f"a tensor of shape {list(sizes)}, strides {list(steps)}, offset {start} leaves its "
            f"storage of {storage.count} numbers"
        )
    # What is read is the whole stretch: few numbers far apart would cost much memory.
    if count and _span(sizes, steps) > 2 * count + _SMALL_STRETCH:
        raise InputError(
            f"a tensor of shape {list(sizes)} is spread over {_span(sizes, steps)} numbers"
        )
    return StoredTensor(storage, start, sizes, steps, sizes)


def _span(sizes: tuple[int, ...], steps: tuple[int, ...]) -> int:
    return 1 + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))


def _sizes(values: object, what: str) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > _MOST_DIMENSIONS:
        raise InputError(f"a tensor's {what} is no tuple of up to {_MOST_DIMENSIONS} numbers")
    for value in values:
        if type(value) is not int or not 0 <= value <= _LARGEST:
            raise InputError(f"a tensor's {what} holds {shown(value)}; allowed: 0 to {_LARGEST}")
    return values


def shown(value: object) -> str:
    """A value of a file for a message: one short line, whatever it is."""
    if value is None or isinstance(value, str | bool | int | float):
        text = repr(value[:80] if isinstance(value, str) else value)
        return text if len(text) <= 90 else text[:87] + "..."
    return f"a {type(value).__name__}"
