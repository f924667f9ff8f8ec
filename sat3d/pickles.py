"""Reading pickles without running anything of them.

A pickle is a program for a small stack machine that may call any function by name. This machine
knows only the instructions that the files in question use, has no import at all, and gives every
name of a short list a meaning of our own; any other name ends the reading. Values are plain
(None, numbers, text, lists, tuples, dicts) or one of :class:`Module`, :class:`Array`,
:class:`~sat3d.stored.StoredTensor`, :class:`~sat3d.stored.Region` (bytes, left in the file).

Sizes, counts and time are bounded while reading, so that no file can exhaust the machine.
"""

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sat3d.errors import InputError
from sat3d.stored import Region, shown

MOST_STEPS = 1_000_000
"""A snapshot of the largest published generators takes about 40,000."""
MOST_SECONDS = 8.0
MOST_TEXT = 64 * 2**20
_CHUNK = 16 * 2**10
_LONGEST_INTEGER = 32
_LONGEST_LINE = 256

Builder = Callable[[tuple[object, ...]], object]
Persistent = Callable[[object], object]


@dataclass(frozen=True)
class Known:
    """A name on the list. ``build`` makes our own value of the arguments given in the file."""

    name: str
    build: Builder


Names = dict[str, Known]


@dataclass
class Module:
    """An object of a class that is not here: its class's name and its attributes, nothing else."""

    class_name: str
    state: dict[str, object] = field(default_factory=dict)


@dataclass
class Array:
    """A numpy array; ``content`` is its state as written: version, shape, dtype, order, bytes."""

    content: tuple[object, ...] = ()


@dataclass
class Budget:
    """What one file may still use, over all pickles inside it."""

    steps: int = MOST_STEPS
    text: int = MOST_TEXT
    deadline: float = field(default_factory=lambda: time.monotonic() + MOST_SECONDS)

    def spend(self, steps: int = 1) -> None:
        """Take steps. Raises InputError when they, or the time, are used up."""
        self.steps -= steps
        if self.steps < 0:
            raise InputError(f"it needs more than {MOST_STEPS} reading steps: not a checkpoint")
        if (steps > 1 or self.steps % 1024 == 0) and time.monotonic() > self.deadline:
            raise InputError(f"reading its structure takes over {MOST_SECONDS:g} s")


class Cursor:
    """Reads a region from front to back; large pieces are skipped, not read."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self._chunk = b""
        self._from = 0  # where the chunk begins in the region
        self._at = 0  # position in the chunk

    @property
    def position(self) -> int:
        """Bytes passed so far."""
        return self._from + self._at

    @property
    def remaining(self) -> int:
        """Bytes left."""
        return self.region.length - self.position

    def take(self, count: int) -> bytes:
        """The next bytes. Raises InputError if there are fewer."""
        end = self._at + count
        if end > len(self._chunk):
            self._refill(count)
            end = count
        piece = self._chunk[self._at : end]
        self._at = end
        return piece

    def _refill(self, count: int) -> None:
        if count > self.remaining:
            raise InputError(f"it ends at byte {self.region.length}, in the middle: truncated")
        size = min(max(count, _CHUNK), self.remaining)
        self._from, self._at = self.position, 0
        self._chunk = self.region.part(self._from, size).read()

    def skip(self, count: int) -> Region:
        """The next bytes as a region, unread."""
        piece = self.region.part(self.position, count)
        if self._at + count <= len(self._chunk):
            self._at += count
        else:
            self._from, self._at, self._chunk = self.position + count, 0, b""
        return piece

    def number(self, size: int) -> int:
        """An unsigned little-endian number of so many bytes."""
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        """Text up to the next newline."""
        letters = bytearray()
        while (letter := self.take(1)) != b"\n":
            letters += letter
            if len(letters) > _LONGEST_LINE:
                raise InputError(f"a name in it is longer than {_LONGEST_LINE} letters")
        return letters.decode("utf-8")


def no_persistent(reference: object) -> object:
    """For files that may not refer to anything outside the pickle."""
    raise InputError(f"it refers to {shown(reference)} outside itself, which is not allowed here")


def read_pickle(
    cursor: Cursor, names: Names, budget: Budget, persistent: Persistent = no_persistent
) -> object:
    """The value of the pickle that begins at the cursor, which is left behind its end.

    Raises InputError for a name outside ``names``, an instruction that such files do not use, a
    bound that is passed, and damage. Nothing of the file is executed.
    """
    machine = _Machine(cursor, names, budget, persistent)
    if cursor.take(1) != b"\x80":
        raise InputError("it does not begin as a pickle of protocol 2 to 5")
    protocol = cursor.number(1)
    if not 2 <= protocol <= 5:
        raise InputError(f"it is a pickle of protocol {protocol}; allowed: 2 to 5")
    while (code := cursor.take(1)) != b".":
        budget.spend()
        step = _STEPS.get(code)
        if step is None:
            name = _REFUSED.get(code, f"0x{code.hex()}")
            raise InputError(f"it uses the pickle instruction {name}, which is not allowed")
        step(machine)
    if machine.marks or len(machine.stack) != 1:
        raise InputError("its pickle ends in the middle of a value: damaged")
    return machine.stack[0]


class _Machine:
    """The stack machine: values, marks (where a list of arguments began) and remembered values."""

    def __init__(
        self, cursor: Cursor, names: Names, budget: Budget, persistent: Persistent
    ) -> None:
        self.cursor, self.names, self.budget, self.persistent = cursor, names, budget, persistent
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        # A dict, not an array: a file chooses the positions.
        self.memo: dict[int, object] = {}

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        if not self.stack:
            raise InputError("its pickle takes a value that is not there: damaged")
        return self.stack.pop()

    def top(self) -> object:
        if not self.stack:
            raise InputError("its pickle takes a value that is not there: damaged")
        return self.stack[-1]

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[object]:
        if not self.marks:
            raise InputError("its pickle ends a list that never began: damaged")
        items, self.stack = self.stack, self.marks.pop()
        self.budget.spend(len(items))
        return items

    def text(self, size: int, encoding: str = "utf-8") -> None:
        self.budget.text -= size
        if self.budget.text < 0:
            raise InputError(f"it holds more than {MOST_TEXT} bytes of text: not a checkpoint")
        self.push(self.cursor.take(size).decode(encoding))

    def integer(self, size: int) -> None:
        if size > _LONGEST_INTEGER:
            raise InputError(f"it holds an integer of {size} bytes; allowed: {_LONGEST_INTEGER}")
        self.push(int.from_bytes(self.cursor.take(size), "little", signed=True))

    def frame(self) -> None:
        size = self.cursor.number(8)
        self.cursor.region.part(self.cursor.position, size)  # raises if it is not there

    def remember(self, position: int) -> None:
        self.memo[position] = self.top()

    def recall(self, position: int) -> None:
        if position not in self.memo:
            raise InputError(f"its pickle recalls value {position}, never remembered: damaged")
        self.push(self.memo[position])

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def extend(self, items: list[object]) -> None:
        target = self.top()
        if type(target) is not list:
            raise InputError(f"its pickle appends to {shown(target)}: damaged")
        target.extend(items)

    def set_items(self, items: list[object]) -> None:
        target = self.top()
        if type(target) is not dict or len(items) % 2:
            raise InputError(f"its pickle sets items of {shown(target)}: damaged")
        for key, value in zip(items[::2], items[1::2], strict=True):
            put(target, key, value)

    def look_up(self, module: object, name: object) -> None:
        # Plain text of moderate length only; nothing is ever imported.
        full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else None
        if full is None:
            raise InputError("its pickle names a global by something that is no text: damaged")
        if full not in self.names:
            raise InputError(f"it names the global {shown(full)}, which is not on the list")
        self.push(self.names[full])

    def stack_global(self) -> None:
        name = self.pop()
        self.look_up(self.pop(), name)

    def call(self) -> None:
        arguments, target = self.pop(), self.pop()
        if not isinstance(target, Known):
            raise InputError(f"its pickle calls {shown(target)}, which is not on the list")
        if not isinstance(arguments, tuple):
            raise InputError(f"its pickle calls '{target.name}' with {shown(arguments)}: damaged")
        self.push(target.build(arguments))

    def call_with_keywords(self) -> None:
        keywords = self.pop()
        if type(keywords) is not dict or keywords:
            raise InputError("its pickle makes an object with keyword arguments: not allowed")
        self.call()

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Module):
            if type(state) is not dict or target.state:
                raise InputError(f"its pickle gives '{target.class_name}' an odd state: damaged")
            target.state = state  # not a copy: one state may be given to many objects
        elif isinstance(target, Array) and isinstance(state, tuple):
            target.content = state
        elif isinstance(target, Known) or type(target) not in _IGNORE_STATE:
            raise InputError(f"its pickle gives {shown(target)} a state: not allowed")

    def refer(self) -> None:
        self.push(self.persistent(self.pop()))


@dataclass(frozen=True)
class Dtype:
    """A numpy number type by its code, e.g. 'f8'."""

    code: str


# Attributes set on a dict (a state dict's versions) or a dtype (its byte order) carry no weights.
_IGNORE_STATE = (dict, Dtype)


def put(target: dict[object, object], key: object, value: object) -> None:
    """Set one item. Keys are text or numbers: others may take for ever to hash."""
    if type(key) not in (str, int, float, bool):
        raise InputError(f"it has a dict with the key {shown(key)}; allowed: text, numbers")
    target[key] = value


_Step = Callable[[_Machine], None]
_STEPS: dict[bytes, _Step] = {
    b"(": _Machine.mark,
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.integer(4),
    b"K": lambda m: m.push(m.cursor.number(1)),
    b"M": lambda m: m.push(m.cursor.number(2)),
    b"\x8a": lambda m: m.integer(m.cursor.number(1)),
    b"\x8b": lambda m: m.integer(m.cursor.number(4)),
    b"G": lambda m: m.push(struct.unpack(">d", m.cursor.take(8))[0]),
    b"\x8c": lambda m: m.text(m.cursor.number(1)),
    b"X": lambda m: m.text(m.cursor.number(4)),
    b"\x8d": lambda m: m.text(m.cursor.number(8)),
    b"U": lambda m: m.text(m.cursor.number(1), "latin-1"),
    b"T": lambda m: m.text(m.cursor.number(4), "latin-1"),
    b"C": lambda m: m.push(m.cursor.skip(m.cursor.number(1))),
    b"B": lambda m: m.push(m.cursor.skip(m.cursor.number(4))),
    b"\x8e": lambda m: m.push(m.cursor.skip(m.cursor.number(8))),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"]": lambda m: m.push([]),
    b"a": lambda m: m.extend([m.pop()]),
    b"e": lambda m: m.extend(m.since_mark()),
    b"}": lambda m: m.push({}),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.since_mark()),
    # Sets become lists: nothing here needs to look anything up in them quickly.
    b"\x8f": lambda m: m.push([]),
    b"\x90": lambda m: m.extend(m.since_mark()),
    b"\x91": lambda m: m.push(tuple(m.since_mark())),
    b"c": lambda m: m.look_up(m.cursor.line(), m.cursor.line()),
    b"\x93": _Machine.stack_global,
    b"R": _Machine.call,
    b"\x81": _Machine.call,
    b"\x92": _Machine.call_with_keywords,
    b"b": _Machine.build,
    b"Q": _Machine.refer,
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"q": lambda m: m.remember(m.cursor.number(1)),
    b"r": lambda m: m.remember(m.cursor.number(4)),
    b"h": lambda m: m.recall(m.cursor.number(1)),
    b"j": lambda m: m.recall(m.cursor.number(4)),
    b"\x95": _Machine.frame,
}

_REFUSED = {
    b"i": "INST", b"o": "OBJ", b"\x82": "EXT1", b"\x83": "EXT2", b"\x84": "EXT4",
    b"P": "PERSID", b"\x97": "NEXT_BUFFER", b"\x98": "READONLY_BUFFER", b"\x96": "BYTEARRAY8",
    b"2": "DUP", b"0": "POP", b"1": "POP_MARK", b"I": "INT", b"L": "LONG", b"F": "FLOAT",
    b"S": "STRING", b"V": "UNICODE", b"p": "PUT", b"g": "GET", b"d": "DICT", b"l": "LIST",
    b"\x80": "PROTO",
}  # fmt: skip
