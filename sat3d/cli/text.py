"""Text that is safe to show on a terminal."""


def printable(text: str) -> str:
    """The text on one line; line breaks and terminal escapes are spelt out.

    File names and plugins' messages come from outside and may hold either.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
