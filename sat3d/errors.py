"""The error tree.

Sat3dError                what the command line prints in one line; exit code 1
├── UsageError            the request is wrong: unknown name, bad value, output exists; exit code 2
│   ├── InputError        a file or text given by the user is missing, damaged or not allowed
│   ├── PackError         a descriptor pack does not validate; names file, key path and value
│   └── MismatchError     two things that do not belong together, e.g. masks of another generator
├── PluginError           a plugin cannot be loaded or is not what it claims to be
└── Interrupted           the user stopped a run; what was saved is named

Every message says what is wrong, the value, what is allowed and what to do.
"""

import difflib
from collections.abc import Iterable


class Sat3dError(Exception):
    """Base of all errors a user can meet. Prints as one line."""

    exit_code = 1


class UsageError(Sat3dError):
    """The request cannot be carried out as written."""

    exit_code = 2


class InputError(UsageError):
    """A file, address or text from outside is missing, damaged or not allowed."""


class PackError(UsageError):
    """A descriptor pack does not validate."""


class MismatchError(UsageError):
    """Two things do not belong together."""


class PluginError(Sat3dError):
    """A plugin cannot be loaded."""


class Interrupted(Sat3dError):
    """The user stopped the run."""

    exit_code = 130


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name most like a misspelt one, case ignored; None if none is like it."""
    names = {n.casefold(): n for n in known}
    near = difflib.get_close_matches(name.casefold(), names, n=1)
    return names[near[0]] if near else None


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for a name that does not exist: the name, the nearest known one, all known ones."""
    names = sorted(known)
    nearest = nearest_name(name, names)
    hint = f" Did you mean '{nearest}'?" if nearest else ""
    return f"unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}."
