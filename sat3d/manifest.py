"""The list of a bulk transfer: a CSV file with one pair on each row.

Columns, in any order: ``source``, ``reference``, ``attributes`` (or ``attribute``; several are
joined by ``;``), and optionally ``intensity`` and ``name``. Everything in it is hostile until
checked.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sat3d.artifact import Masks
from sat3d.errors import InputError, Sat3dError, UsageError
from sat3d.files import read_limited
from sat3d.latents import parse_source
from sat3d.transfers import canonical, check_intensity

MAX_BYTES = 64 << 20
MAX_ROWS = 1_000_000
_NEEDED = ("source", "reference", "attributes")
_OPTIONAL = ("intensity", "name")
# Becomes a file name on any system: no separators, no leading dot, no drive letters.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Row:
    """One pair, checked as far as that is possible without opening pictures."""

    line: int
    """Where it begins in the file; the header is line 1."""
    name: str
    """What its results are called; unique, also where case does not count."""
    source: str
    """As :func:`sat3d.latents.parse_source` reads it."""
    reference: str
    attributes: tuple[str, ...]
    """As the pack names them."""
    intensity: float


@dataclass(frozen=True)
class Manifest:
    """A list of pairs."""

    rows: tuple[Row, ...]
    problems: tuple[str, ...]
    """What is wrong with the rows that are not among ``rows``: 'line N: ...'."""
    digest: str
    """sha256 of the file."""


def read_manifest(path: Path, masks: Masks, intensity: float = 1.0) -> Manifest:
    """Read and check a list; rows without an intensity take the one given.

    Paths in it are relative to its own folder. Every bad row becomes one of ``problems``. Raises
    InputError if the file as a whole cannot be used: unreadable, no header, no rows.
    """
    data = read_limited(path, "manifest", MAX_BYTES, "Split it.")
    try:
        text = data.decode("utf-8-sig")  # spreadsheet programs put a mark first
    except UnicodeDecodeError as error:
        where = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"manifest '{path}' is not UTF-8 text (line {where}). Save it as CSV UTF-8."
        ) from None
    checker = _Checker(path.parent, masks, intensity)
    rows: list[Row] = []
    problems: list[str] = []
    for line, cells in _records(path, text):
        try:
            rows.append(checker.row(line, len(rows) + len(problems) + 1, cells))
        except Sat3dError as error:
            problems.append(f"line {line}: {error}")
    if not rows and not problems:
        raise InputError(f"manifest '{path}' has a header and no pairs. Add a row for each pair.")
    return Manifest(tuple(rows), tuple(problems), hashlib.sha256(data).hexdigest())


def _records(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, str]]]:
    """(line, cells by column) of every row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] | None = None
    seen, line = 0, 0
    try:
        while True:
            line = reader.line_num + 1
            cells = next(reader, None)
            if cells is None:
                break
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns = _header(path, cells)
                continue
            seen += 1
            if seen > MAX_ROWS:
                raise InputError(f"manifest '{path}' has more than {MAX_ROWS} rows. Split it.")
            yield line, _cells(columns, cells)
    except csv.Error as error:
        raise InputError(f"manifest '{path}', line {line}: {error}. Write it as CSV.") from None
    if columns is None:
        raise InputError(f"manifest '{path}' is empty. Its header is {','.join(_NEEDED)}.")


def _header(path: Path, cells: list[str]) -> list[str]:
    """The names of the columns. Raises InputError for missing, unknown and repeated ones."""
    names = [cell.strip().casefold() for cell in cells]
    names = ["attributes" if name == "attribute" else name for name in names]
    problems = [f"lacks '{name}'" for name in _NEEDED if name not in names]
    problems += [f"does not know '{n[:40]}'" for n in names if n not in _NEEDED + _OPTIONAL]
    problems += [f"has '{n}' twice" for n in dict.fromkeys(names) if n and names.count(n) > 1]
    if problems:
        raise InputError(
            f"the header of manifest '{path}' {', '.join(problems)}. Columns are "
            f"{', '.join(_NEEDED)} and, if wanted, {', '.join(_OPTIONAL)}, divided by commas."
        )
    return names


def _cells(columns: list[str], cells: list[str]) -> Mapping[str, str]:
    """Cells by column; a number of cells that does not fit is kept under ''."""
    if len(cells) != len(columns):
        return {"": str(len(cells))}
    return {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}


class _Checker:
    """Turns cells into rows; remembers what it has checked, as lists repeat themselves."""

    def __init__(self, folder: Path, masks: Masks, intensity: float) -> None:
        self._folder, self._masks, self._intensity = folder, masks, intensity
        self._sources: dict[str, str] = {}
        self._attributes: dict[str, tuple[str, ...]] = {}
        self._names: dict[str, int] = {}

    def row(self, line: int, number: int, cells: Mapping[str, str]) -> Row:
        """The row, or a Sat3dError that says what is wrong with it."""
        if "" in cells:
            raise UsageError(f"{cells['']} cells do not fit the header. Quote cells with commas.")
        return Row(
            line,
            self._name(line, cells.get("name", "") or f"pair-{number:06d}"),
            self._source(cells["source"]),
            self._source(cells["reference"]),
            self._groups(cells["attributes"]),
            self._strength(cells.get("intensity", "")),
        )

    def _source(self, text: str) -> str:
        if text not in self._sources:
            if not text:
                raise InputError("a source or reference is missing. Write seed:N or a path.")
            known = text
            if not text.startswith("seed:"):
                known = str(self._folder / Path(text).expanduser())
            parse_source(known)
            self._sources[text] = known
        return self._sources[text]

    def _groups(self, text: str) -> tuple[str, ...]:
        if text not in self._attributes:
            names = [name.strip() for name in text.split(";") if name.strip()]
            if not names:
                raise InputError("no attribute is named. Write one, or several divided by ';'.")
            self._attributes[text] = canonical(self._masks, [("", names)])[0]
        return self._attributes[text]

    def _strength(self, text: str) -> float:
        if not text:
            return self._intensity
        try:
            return check_intensity(float(text))
        except ValueError:
            raise InputError(f"intensity '{text}' is no number. Write e.g. 1.5.") from None

    def _name(self, line: int, text: str) -> str:
        if not _NAME.fullmatch(text):
            raise InputError(
                f"name '{text[:40]}' cannot be a file name here: up to 100 letters, digits, '_', "
                "'-' and, not at the start, '.'. Choose another."
            )
        first = self._names.setdefault(text.casefold(), line)
        if first != line:
            raise InputError(f"name '{text}' is that of line {first}, too. Choose another.")
        return text
