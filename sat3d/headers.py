"""Headers of weights files, read as plain JSON: neither torch nor numpy, and only the first bytes.

A .safetensors file begins with eight bytes, the length of a JSON object (little-endian), and this
object; its entry ``__metadata__`` holds texts.
"""

import json
from pathlib import Path
from typing import Any

from sat3d.errors import InputError

FORMAT = 1
KEY = "sat3d"
"""The entry of a .safetensors file's metadata that holds the header, as JSON."""
_LONGEST = 100_000_000
"""As in the safetensors library."""
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading JSON of another shape than expected may raise."""


def read_header(path: Path) -> dict[str, Any]:
    """The header of a weights file; {} for a .safetensors without one. Raises InputError."""
    try:
        text = _metadata(path).get(KEY)
    except FileNotFoundError:
        raise InputError(f"no file '{path}'. Check the path.") from None
    except (OSError, *_DAMAGE) as error:
        raise InputError(f"'{path}' is not a readable .safetensors file: {error}.") from None
    return _parse_header(path, text) if text is not None else {}


def _metadata(path: Path) -> dict[str, Any]:
    """Texts of a .safetensors file by name. Raises OSError or one of _DAMAGE."""
    if path.exists() and not path.is_file():  # a pipe may never end
        raise ValueError("it is no file")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        room = path.stat().st_size - 8
        if not 2 <= length <= min(room, _LONGEST):
            raise ValueError(f"its first part claims {length} bytes")
        table = json.loads(file.read(length))
    texts: dict[str, Any] = table.pop("__metadata__", None) or {}
    if max((tensor["data_offsets"][1] for tensor in table.values()), default=0) != room - length:
        raise ValueError("its tensors do not fill it")
    return texts


def _parse_header(path: Path, text: str) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except _DAMAGE as error:
        raise InputError(f"'{path}' has a header that is not JSON: {error}.") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else type(header).__name__
        raise InputError(
            f"'{path}' has header format {found!r}; this version reads {FORMAT}. Update sat3d."
        )
    return header
