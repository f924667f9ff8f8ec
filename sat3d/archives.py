"""Zip archives as torch writes them: members stored uncompressed, left in the file until read.

Anything compressed, encrypted, overlapping or named twice is refused, so an archive can never hold
more than its own size.
"""

import struct

from sat3d.errors import InputError
from sat3d.stored import Region, shown

_END, _END64, _LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_ENTRY, _LOCAL = b"PK\x01\x02", b"PK\x03\x04"
_MOST_MEMBERS = 50_000
_LARGEST_DIRECTORY = 16 * 2**20
_LONG = 0xFFFFFFFF


def members(file: Region) -> dict[str, Region]:
    """The members of an archive by name. Raises InputError for a damaged or unusual one."""
    count, size, offset = _directory(file)
    if count > _MOST_MEMBERS or size > _LARGEST_DIRECTORY:
        raise InputError(f"its archive lists {count} members; allowed: {_MOST_MEMBERS}")
    data = file.part(offset, size).read()
    found: dict[str, Region] = {}
    at = total = 0
    for _ in range(count):
        name, region, at = _member(file, data, at)
        if name in found:
            raise InputError(f"its archive has two members named {shown(name)}")
        total += region.length
        if total > file.length:
            raise InputError("its archive claims more bytes than it has: members overlap")
        found[name] = region
    return found


def _directory(file: Region) -> tuple[int, int, int]:
    """(members, bytes, offset) of the list of members at the file's end."""
    tail = file.part(max(0, file.length - 65557), min(65557, file.length)).read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + 22:
        raise InputError("its zip archive has no end: truncated")
    count, size, offset = struct.unpack_from("<HII", tail, at + 10)
    if count != 0xFFFF and size != _LONG and offset != _LONG:
        return count, size, offset
    if at < 20 or tail[at - 20 : at - 16] != _LOCATOR64:
        raise InputError("its zip archive has a damaged end")
    (where,) = struct.unpack_from("<Q", tail, at - 12)
    record = file.part(where, 56).read()
    if record[:4] != _END64:
        raise InputError("its zip archive has a damaged end")
    count, size, offset = struct.unpack_from("<QQQ", record, 32)
    return count, size, offset


def _member(file: Region, data: bytes, at: int) -> tuple[str, Region, int]:
    """(name, contents, position of the next entry) of the entry at a position of the list."""
    if data[at : at + 4] != _ENTRY or len(data) < at + 46:
        raise InputError("its zip archive has a damaged list of members")
    flags, method = struct.unpack_from("<HH", data, at + 8)
    packed, size, name_size, extra_size, note_size = struct.unpack_from("<IIHHH", data, at + 20)
    (offset,) = struct.unpack_from("<I", data, at + 42)
    extra_at = at + 46 + name_size
    following = extra_at + extra_size + note_size
    name = data[at + 46 : extra_at].decode("utf-8")
    if _LONG in (packed, size, offset):
        extra = data[extra_at : extra_at + extra_size]
        size, packed, offset = _wide(extra, size, packed, offset)
    if method or flags & 1 or packed != size:
        raise InputError(f"its archive member {shown(name)} is compressed; torch stores them plain")
    local = file.part(offset, 30).read()
    if local[:4] != _LOCAL:
        raise InputError(f"its archive member {shown(name)} is not where the list says: damaged")
    skipped = sum(struct.unpack_from("<HH", local, 26))
    return name, file.part(offset + 30 + skipped, size), following


def _wide(extra: bytes, *values: int) -> tuple[int, int, int]:
    """The 64-bit values of an entry (size, packed, offset) where the short ones are full."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            body = extra[at + 4 : at + 4 + length]
            wide = iter(struct.unpack(f"<{len(body) // 8}Q", body[: len(body) // 8 * 8]))
            size, packed, offset = (next(wide, v) if v == _LONG else v for v in values)
            return size, packed, offset
        at += 4 + length
    raise InputError("its zip archive has a damaged list of members")
