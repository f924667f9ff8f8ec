"""Published weights into the store: licence, download, check, import.

The store keeps a record of licences that were accepted and of every file that was pulled, so that
a file without a published hash must be the same the next time (trust on first use).
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sat3d.answers import WEB, Expected
from sat3d.download import Fetched, fetch
from sat3d.errors import InputError, Sat3dError, UsageError
from sat3d.files import write_atomically
from sat3d.progress import SILENT, Progress
from sat3d.store import SUFFIX, checked_name, path_of, store_folder
from sat3d.weights_list import Entry, Listed

RECORDS = "records.json"
DOWNLOADS = "downloads"


@dataclass(frozen=True)
class Pulled:
    """What a pull did."""

    path: Path
    """The weights in the store."""
    sha256: str
    """Of the published file; empty if nothing was fetched because the weights are there."""
    hash_was_known: bool
    """False if the hash was recorded now and could not be compared."""


def pull(
    listed: Listed,
    accept: Callable[[Entry], bool],
    *,
    mirror: str | None = None,
    offline: bool = False,
    progress: Progress = SILENT,
    wait: float = 1.0,
) -> Pulled:
    """Bring one set of published weights into the store, unless it is there.

    ``accept`` is asked once for each licence. ``mirror`` is tried first: the address of the file,
    or of a folder (ends in '/') that holds it. Raises UsageError if the licence is not accepted
    or there is no address left, Sat3dError if no address has the right file.
    """
    entry = listed.entry
    target = path_of(entry.name)
    if target.is_file():
        return Pulled(target, "", True)
    addresses = _addresses(entry, mirror, offline)
    _agree(entry, accept)
    known = read_records()["pulled"].get(entry.name, {}).get("sha256")
    expected = Expected(entry.size, entry.sha256 if len(entry.sha256 or "") == 64 else known)
    if expected.sha256 is None:
        expected = Expected(entry.size, entry.sha256)
    folder = store_folder() / DOWNLOADS / entry.name
    fetched = _fetch(entry, addresses, folder / entry.file, expected, progress, wait)
    _record(entry, fetched)
    _into_store(fetched.path, entry, fetched.sha256)
    shutil.rmtree(folder, ignore_errors=True)
    return Pulled(target, fetched.sha256, expected.sha256 is not None)


def _addresses(entry: Entry, mirror: str | None, offline: bool) -> list[str]:
    """Where to look, in this order. Raises UsageError if that is nowhere."""
    found = list(entry.addresses)
    if mirror is not None:
        try:
            parts = urlsplit(mirror)
            usable = parts.hostname if parts.scheme in WEB else parts.scheme == "file"
        except ValueError:
            usable = False
        if not usable:
            raise UsageError(
                f"mirror '{mirror}' cannot be used. Give an https, http or file: address of "
                f"'{entry.file}', or of its folder with '/' at the end."
            )
        found.insert(0, mirror + entry.file if mirror.endswith("/") else mirror)
    if offline:
        found = [address for address in found if urlsplit(address).scheme == "file"]
    if not found:
        why = "no network is allowed" if offline and entry.addresses else "no address is known"
        raise UsageError(
            f"cannot pull '{entry.name}': {why}. Get '{entry.file}' from {entry.page} by hand, "
            f"then run: sat3d weights import {entry.file} --name {entry.name}"
        )
    return found


def _agree(entry: Entry, accept: Callable[[Entry], bool]) -> None:
    """The licence must have been accepted, now or before. Raises UsageError."""
    records = read_records()
    if records["licences"].get(entry.licence_url, {}).get("licence") == entry.licence:
        return
    if not accept(entry):
        raise UsageError(
            f"'{entry.name}' may only be used under its licence: {entry.licence}, "
            f"{entry.licence_url} . Read it; --accept-licence accepts it."
        )
    agreed = {"licence": entry.licence, "accepted": _now()}
    _update(lambda tables: tables["licences"].__setitem__(entry.licence_url, agreed))


def _fetch(
    entry: Entry,
    addresses: list[str],
    target: Path,
    expected: Expected,
    progress: Progress,
    wait: float,
) -> Fetched:
    try:
        return fetch(addresses, target, expected, progress, wait=wait)
    except UsageError:
        raise
    except Sat3dError as error:
        hint = f" Or get it from {entry.page} by hand and import it."
        if expected.sha256 != entry.sha256 and "sha256" in str(error):
            hint = (
                " It was another file when it was first pulled. If its owner has published a new "
                f"one, run: sat3d weights remove {entry.name} --forget"
            )
        raise Sat3dError(f"{error}{hint}") from None


def _into_store(file: Path, entry: Entry, sha256: str) -> None:
    """Make a weights file of what was fetched."""
    if file.suffix == SUFFIX:
        from sat3d.weights import read_header

        if not read_header(file):
            raise InputError(f"'{file}' was not written by sat3d. Report it to the list's author.")
        file.replace(path_of(entry.name))
        return
    from sat3d.importing import import_file

    import_file(file, entry.name, header=entry.header())


def read_records() -> dict[str, dict[str, Any]]:
    """Accepted licences by address and pulled files by name; empty where there are none."""
    path = store_folder() / RECORDS
    found: Any = {}
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"'{path}' cannot be read: {error}. Mend it, or delete it to begin anew."
            ) from None
    tables = found if isinstance(found, Mapping) else {}
    return {
        key: dict(value) if isinstance(value := tables.get(key), Mapping) else {}
        for key in ("licences", "pulled")
    }


def forget(name: str) -> None:
    """Drop the record of a pulled file: the next pull trusts what it finds."""
    _update(lambda tables: tables["pulled"].pop(name, None))


def drop_download(name: str) -> bool:
    """Delete what an unfinished pull has left; False if there is nothing."""
    folder = store_folder() / DOWNLOADS / checked_name(name)
    if not folder.is_dir():
        return False
    shutil.rmtree(folder)
    return True


def _record(entry: Entry, fetched: Fetched) -> None:
    if not fetched.address and entry.name in read_records()["pulled"]:
        return  # it was fetched and recorded before, and only its import failed
    row = {
        "file": entry.file,
        "sha256": fetched.sha256,
        "size": fetched.size,
        "address": fetched.address,
        "date": _now(),
    }
    _update(lambda tables: tables["pulled"].__setitem__(entry.name, row))


def _update(change: Callable[[dict[str, dict[str, Any]]], object]) -> None:
    """Change the records; two pulls at a time do not lose each other's."""
    from filelock import FileLock

    folder = store_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".records.lock", timeout=30):
        records = read_records()
        change(records)
        text = json.dumps(records, indent=2, sort_keys=True) + "\n"
        write_atomically(folder / RECORDS, text.encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
