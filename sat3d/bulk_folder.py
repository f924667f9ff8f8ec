"""The folder of a bulk transfer: whose it is, which pairs are done, and the record."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor

from sat3d import __version__
from sat3d.artifact import Masks
from sat3d.checkpoint import append_line
from sat3d.errors import InputError, MismatchError, UsageError
from sat3d.files import write_atomically
from sat3d.interfaces import Generator
from sat3d.inversion import InvertSettings
from sat3d.manifest import Manifest, Row
from sat3d.parallel import rank, world
from sat3d.weights import fingerprint, read_header

JOB = "job.json"
RUNS = "runs.jsonl"
RECORD = "record.json"
INVERSIONS = "inversions"
_PENDING = ".sat3d-"
"""Beginning of the names of files that are being written."""


@dataclass(frozen=True)
class BulkSettings:
    """How the pairs of a list are transferred."""

    batch: int = 8
    """Pairs drawn at once."""
    truncation: float = 1.0
    """Of seeds."""
    invert: InvertSettings = field(default_factory=InvertSettings)


@dataclass(frozen=True)
class Bulk:
    """All that stays the same during a bulk transfer."""

    generator: Generator
    masks: Masks
    manifest: Manifest
    folder: Path
    settings: BulkSettings
    controls: Mapping[tuple[str, ...], Tensor]
    """Mask [n] of each set of attributes, on the generator's device."""


def _identity(bulk: Bulk) -> dict[str, Any]:
    """All that the results depend on, as plain data."""
    card = bulk.generator.card
    return {
        "format": 1,
        "kind": "bulk transfer",
        "manifest": bulk.manifest.digest,
        "pairs": len(bulk.manifest.rows),
        "masks": fingerprint({"mask.logits": bulk.masks.logits}),
        "generator": {
            "name": bulk.generator.name,
            "weights": card.name,
            "fingerprint": card.fingerprint,
        },
        # The intensities are read into the rows, so the manifest's digest does not tell them.
        "intensities": _digest_of([row.intensity for row in bulk.manifest.rows]),
        "truncation": bulk.settings.truncation,
        "inversion": bulk.settings.invert.model_dump(mode="json"),
    }


def _digest_of(values: Sequence[float]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def claim(bulk: Bulk, overwrite: bool) -> None:
    """Make the folder this job's, or find that it is. Raises UsageError, MismatchError."""
    if overwrite and world() > 1:
        raise UsageError(
            "--overwrite cannot be told to several processes at once: one would delete what "
            "another has just written. Remove the folder first."
        )
    wanted, path = _identity(bulk), bulk.folder / JOB
    if bulk.folder.is_dir() and not overwrite:
        _check_claim(bulk.folder, path, wanted)
    if bulk.folder.exists() and not bulk.folder.is_dir():
        raise UsageError(f"output '{bulk.folder}' is a file. Give --out the name of a folder.")
    if overwrite:
        for name in (RECORD, RUNS):
            (bulk.folder / name).unlink(missing_ok=True)
        for row in bulk.manifest.rows:
            for file in files_of(bulk.folder, row):
                file.unlink(missing_ok=True)
    if overwrite or not path.exists():
        write_atomically(path, (json.dumps(wanted, indent=2) + "\n").encode())


def _check_claim(folder: Path, path: Path, wanted: Mapping[str, Any]) -> None:
    """Refuse a folder with something else in it."""
    if not path.exists():
        # Another process may just be claiming it: its unfinished file is not something else.
        if any(not x.name.startswith(_PENDING) for x in folder.iterdir()) and not path.exists():
            raise UsageError(
                f"output '{folder}' already exists. Choose another name or --overwrite."
            )
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"'{path}' is damaged. Choose another --out, or --overwrite.")
    other = [key for key in wanted if found.get(key) != wanted[key]]
    if other:
        raise MismatchError(
            f"'{folder}' holds a bulk transfer with other {', '.join(other)}. Choose another "
            "--out, go on with the same command, or --overwrite."
        )


def files_of(folder: Path, row: Row) -> tuple[Path, Path]:
    """Picture and latent of a pair; the latent is written last."""
    return folder / f"{row.name}.png", folder / f"{row.name}.safetensors"


def is_done(folder: Path, row: Row) -> bool:
    """Whether both files of a pair are there."""
    return all(path.exists() for path in files_of(folder, row))


def finish(
    bulk: Bulk,
    own: Sequence[Row],
    missing: Sequence[Row],
    failed: Sequence[Mapping[str, Any]],
    began: float,
) -> dict[str, Any]:
    """Add this process's part to the runs; write the record as it is now, and return both."""
    seconds = time.monotonic() - began
    written = sum(is_done(bulk.folder, row) for row in missing)
    told = {
        "rank": rank(),
        "processes": world(),
        "rows": len(own),
        "found": len(own) - len(missing),
        "written": written,
        "failed": list(failed),
        "seconds": round(seconds, 3),
        "pairs_per_second": round(written / max(seconds, 1e-9), 3),
        "device": str(bulk.generator.device),
    }
    append_line(bulk.folder / RUNS, told)
    # The last process to come here writes the complete record, and nobody an older one over it.
    with FileLock(bulk.folder / f"{_PENDING}record.lock"):
        record = _record(bulk)
        text = json.dumps(record, indent=2) + "\n"
        write_atomically(bulk.folder / RECORD, text.encode())
    return {**record, "run": told}


def _record(bulk: Bulk) -> dict[str, Any]:
    """Everything that was done so far, as plain JSON values."""
    runs = _runs(bulk.folder / RUNS)
    reasons = {x["name"]: x["reason"] for run in runs for x in run["failed"]}
    results, failed = [], []
    for row in bulk.manifest.rows:
        plain = {"name": row.name, "line": row.line, "source": row.source,
                 "reference": row.reference, "attributes": list(row.attributes),
                 "intensity": row.intensity}  # fmt: skip
        if is_done(bulk.folder, row):
            results.append(plain)
        elif row.name in reasons:
            failed.append({**plain, "reason": reasons[row.name]})
    return {
        "format": 1,
        "sat3d": __version__,
        **{key: value for key, value in _identity(bulk).items() if key != "format"},
        "done": len(results),
        "results": results,
        "failed": failed,
        "inversions": _inversions(bulk.folder / INVERSIONS),
        "runs": runs,
    }


def _runs(path: Path) -> list[dict[str, Any]]:
    """The parts of the work by process; a line that a kill cut short is left out."""
    runs = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            runs.append(json.loads(line))
        except ValueError:
            continue
    return runs


def _inversions(folder: Path) -> dict[str, Any]:
    """File -> what was found, for every image that was inverted."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        header = read_header(path)
        info = header.get("info", {})
        keys = ("psnr", "seconds", "warnings")
        found[path.name] = {"image": header.get("origin"), **{k: info.get(k) for k in keys}}
    return found
