"""What a web server's answer to a request for a file, or for its rest, is worth.

Nothing in an answer is believed that can be checked: where it redirects to, how long the file is,
which part of it comes, and whether it is still the same file.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit, urlunsplit

if TYPE_CHECKING:
    from httpx2 import Client, Response

MOST_REDIRECTS = 5
WEB = ("http", "https")


class Refused(Exception):
    """This address does not have the file; another one may."""


class Broken(Exception):
    """The transfer stopped; it can go on."""


class StartAgain(Broken):
    """What is here is of no use; the next attempt begins at the first byte."""


@dataclass(frozen=True)
class Expected:
    """What is known of a file before it comes."""

    size: int | None = None
    sha256: str | None = None
    """All 64 digits, or the first ones."""

    def misfit(self, size: int, sha256: str) -> str | None:
        """Why a whole file is not this one, or None."""
        if self.size is not None and size != self.size:
            return f"the file has {size} bytes, not {self.size}"
        if self.sha256 is not None and not sha256.startswith(self.sha256):
            return f"the file's sha256 is {sha256}, not {self.sha256}"
        return None


@dataclass(frozen=True)
class Part:
    """Whose bytes a part file holds."""

    address: str
    mark: str = ""
    """A strong ETag or a date, to be sent as If-Range; empty if the server gave none."""
    total: int | None = None
    """Length of the whole file."""


def shown(address: str) -> str:
    """The address without user name and password."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@contextmanager
def followed(client: "Client", address: str, headers: Mapping[str, str]) -> Iterator["Response"]:
    """The answer at the end of all redirections, its body unread. Raises Refused, Broken."""
    for _ in range(MOST_REDIRECTS + 1):
        with client.stream("GET", address, headers=headers) as response:
            if response.status_code not in (301, 302, 303, 307, 308):
                _check(response)
                yield response
                return
            address = _next(address, response.headers.get("Location", ""))
    raise Refused(f"more than {MOST_REDIRECTS} redirections")


def _next(address: str, location: str) -> str:
    try:
        found = urljoin(address, location)
        parts = urlsplit(found)
    except ValueError:
        raise Refused("redirected to what is no address") from None
    if parts.scheme not in WEB or not parts.hostname:
        raise Refused(f"redirected to '{shown(found):.100}', which is not http or https")
    if urlsplit(address).scheme == "https" and parts.scheme == "http":
        raise Refused(f"redirected from https to '{shown(found):.100}', which anyone can change")
    return found


def _check(response: "Response") -> None:
    code = response.status_code
    if code in (408, 425, 429) or code >= 500:
        raise Broken(f"the server says {code}")
    if code not in (200, 206, 416):
        raise Refused(f"the server says {code}")
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise Refused("the server sends a web page instead of the file")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused("the server sends the file compressed, though told not to")


def place(
    response: "Response", part: Part | None, have: int, expected: Expected
) -> tuple[int, int | None]:
    """(position of the body's first byte, length of the whole file if known).

    ``have`` bytes of ``part`` are here; the body goes on from there or begins anew.
    """
    told = response.headers.get("Content-Length")
    length = int(told) if told is not None else None
    if response.status_code == 200:
        _check_length(length, response, expected)
        return 0, length if length is not None else expected.size
    match = re.fullmatch(
        r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})", response.headers.get("Content-Range", "")
    )
    if part is None or response.status_code == 416 or match is None:
        raise StartAgain("the server does not give the rest")
    first, last, total = (int(digits) for digits in match.groups())
    if first != have or last != total - 1 or length not in (None, total - first):
        raise StartAgain(f"the server gives bytes {first} to {last}, not from {have} on")
    if expected.size is not None and total != expected.size:
        raise Refused(f"the file there has {total} bytes, not {expected.size}")
    if part.total not in (None, total) or part.mark not in ("", mark(response.headers)):
        raise StartAgain("the file there has changed")
    return have, total


def _check_length(length: int | None, response: "Response", expected: Expected) -> None:
    if length is not None and expected.size is not None and length != expected.size:
        raise Refused(f"the file there has {length} bytes, not {expected.size}")
    # A file of which nothing tells where it ends could be cut off unseen.
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    if length is None and not chunked and expected == Expected():
        raise Refused("the server does not say how long the file is")


def mark(headers: Mapping[str, str]) -> str:
    """What If-Range may carry: a strong ETag, else the date; '' if there is neither."""
    tag = headers.get("ETag", "")
    found = headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
    return found if found.isascii() and found.isprintable() and len(found) <= 200 else ""
