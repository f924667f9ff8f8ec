"""Thousands of transfers in batches, restartable, over any number of processes.

Processes share nothing but the folder of the results: a pair is done when its files are there, and
an image is inverted by whoever first holds its lock. A killed run goes on with the same command.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from sat3d.artifact import Masks
from sat3d.bulk_folder import (
    INVERSIONS,
    Bulk,
    BulkSettings,
    claim,
    files_of,
    finish,
    is_done,
)
from sat3d.errors import InputError, Interrupted, Sat3dError, UsageError
from sat3d.images import write_png
from sat3d.interfaces import Generator
from sat3d.latents import Latent, Source, load_latent, parse_source, resolve, save_latent
from sat3d.manifest import Manifest, Row
from sat3d.mask import edit
from sat3d.parallel import share
from sat3d.progress import SILENT, Phase, Progress

_WRITERS = 4


def check_latents(manifest: Manifest, generator: Generator) -> list[str]:
    """'line N: ...' for every row whose saved latents are not this generator's."""
    verdicts: dict[str, str | None] = {}
    problems = []
    for row in manifest.rows:
        for text in dict.fromkeys((row.source, row.reference)):
            if text not in verdicts:
                verdicts[text] = _latent_problem(parse_source(text), generator)
            if verdicts[text] is not None:
                problems.append(f"line {row.line}: {verdicts[text]}")
    return problems


def _latent_problem(source: Source, generator: Generator) -> str | None:
    try:
        if source.kind == "latent":
            load_latent(source.path, generator)
    except Sat3dError as error:
        return str(error)
    return None


def bulk_transfer(
    generator: Generator,
    masks: Masks,
    manifest: Manifest,
    folder: Path,
    settings: BulkSettings | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Transfer every pair of a list; return the record, with this process's part under 'run'.

    Each pair leaves NAME.png (what the source's camera sees) and NAME.safetensors (the latent).
    Pairs whose files are there are left alone. A pair whose picture cannot be read is recorded as
    failed and does not end the run. Started by ``torchrun``, process r takes rows r, r + count
    and so on. Raises Interrupted after Ctrl-C, MismatchError for a folder of another job.
    """
    settings = settings or BulkSettings()
    bulk = _prepare(generator, masks, manifest, folder, settings)
    claim(bulk, overwrite)
    own = share(manifest.rows)
    missing = [row for row in own if not is_done(folder, row)]
    began = time.monotonic()
    failed: list[dict[str, Any]] = []
    with progress.phase("Transferring pairs", len(own), len(own) - len(missing)) as phase:
        try:
            _transfer_all(bulk, missing, failed, phase, progress)
        except KeyboardInterrupt:
            finish(bulk, own, missing, failed, began)
            left = sum(not is_done(folder, row) for row in own)
            raise Interrupted(
                f"stopped after {len(own) - left} of {len(own)} pairs, which are in '{folder}'. "
                "The same command goes on."
            ) from None
        except torch.cuda.OutOfMemoryError:
            raise Sat3dError(
                f"the device ran out of memory at {settings.batch} pairs at once. Lower --batch; "
                "the same command goes on."
            ) from None
    return finish(bulk, own, missing, failed, began)


def _prepare(
    generator: Generator, masks: Masks, manifest: Manifest, folder: Path, settings: BulkSettings
) -> Bulk:
    masks.check(generator)
    sets = {row.attributes for row in manifest.rows}
    controls = {names: masks.mask(names).to(generator.device) for names in sets}
    return Bulk(generator, masks, manifest, folder, settings, controls)


# ---------------------------------------------------------------- the work


def _transfer_all(
    bulk: Bulk,
    rows: Sequence[Row],
    failed: list[dict[str, Any]],
    phase: Phase,
    progress: Progress,
) -> None:
    """Transfer the rows batch by batch; files are written while the next batch is drawn."""
    writing: list[Future[None]] = []
    resolver = _Resolver(bulk, progress)
    # Leaving the block, also by an error, waits until what was drawn is written.
    with ThreadPoolExecutor(_WRITERS) as pool:
        for pairs in _batches(resolver, rows, bulk.settings.batch, failed, phase):
            drawn = list(_draw(bulk, pairs))
            _await(writing, phase)  # at most one batch waits to be written
            writing += [pool.submit(_write, bulk, *result) for result in drawn]
        _await(writing, phase)


def _await(writing: list[Future[None]], phase: Phase) -> None:
    """Wait until all are written. Raises what went wrong."""
    while writing:
        writing.pop(0).result()
        phase.advance()


def _batches(
    resolver: "_Resolver",
    rows: Sequence[Row],
    size: int,
    failed: list[dict[str, Any]],
    phase: Phase,
) -> Iterator[list[tuple[Row, Latent, Latent]]]:
    """Pairs of latents, ``size`` at a time; pairs that cannot be had go to ``failed``."""
    batch: list[tuple[Row, Latent, Latent]] = []
    for row in rows:
        try:
            batch.append((row, resolver(row.source), resolver(row.reference)))
        except UsageError as error:  # the file of this row, not the run
            failed.append({"line": row.line, "name": row.name, "reason": str(error)})
            phase.advance()
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


@torch.no_grad()
def _draw(
    bulk: Bulk, pairs: Sequence[tuple[Row, Latent, Latent]]
) -> Iterator[tuple[Row, Latent, Tensor]]:
    """(row, result, image [3, H, W] in [-1, 1]) of each pair, on the CPU."""
    rows, sources, references = zip(*pairs, strict=True)
    styles = torch.cat([x.styles for x in sources])
    strength = torch.tensor([[row.intensity] for row in rows]).to(styles)
    mask = torch.stack([bulk.controls[row.attributes] for row in rows]) * strength
    edited = edit(styles, torch.cat([x.styles for x in references]), mask, bulk.generator.layout)
    views = [x.camera for x in sources if x.camera is not None]
    image = bulk.generator.render(edited, torch.cat(views) if views else None).image
    image, edited = image.clamp(-1.0, 1.0).cpu(), edited.cpu()
    for k, (row, source, reference) in enumerate(pairs):
        words = f"{' + '.join(row.attributes)} of {reference.origin}"
        info = {"intensity": row.intensity}
        origin = f"{source.origin} with {words}"
        # A copy: a slice would keep the whole batch in memory and in the file.
        yield row, Latent(edited[k : k + 1].clone(), None, source.camera, origin, info), image[k]


def _write(bulk: Bulk, row: Row, latent: Latent, image: Tensor) -> None:
    picture, code = files_of(bulk.folder, row)
    write_png(picture, image)
    save_latent(code, latent, bulk.generator)


class _Resolver:
    """Turns sources into latents; an image is inverted once, whoever asks for it and when."""

    def __init__(self, bulk: Bulk, progress: Progress) -> None:
        self._bulk, self._progress = bulk, progress
        self._keys: dict[str, str] = {}
        self._refused: dict[str, UsageError] = {}

    def __call__(self, text: str) -> Latent:
        if text in self._refused:
            raise self._refused[text]
        source = parse_source(text)
        try:
            return self._inverted(source) if source.kind == "image" else self._plain(source)
        except UsageError as error:
            self._refused[text] = error
            raise

    def _plain(self, source: Source) -> Latent:
        return resolve(source, self._bulk.generator, truncation=self._bulk.settings.truncation)

    def _inverted(self, source: Source) -> Latent:
        if source.text not in self._keys:
            self._keys[source.text] = _content(source.path)
        path = self._bulk.folder / INVERSIONS / f"{self._keys[source.text]}.safetensors"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            # Whoever waits here finds the file when the lock is free.
            with FileLock(path.with_suffix(".lock")):
                if not path.exists():
                    self._invert(source, path)
        return replace(load_latent(path, self._bulk.generator), origin=source.label)

    def _invert(self, source: Source, path: Path) -> None:
        told: dict[str, Any] = {}
        latent = resolve(
            source,
            self._bulk.generator,
            settings=self._bulk.settings.invert,
            on_inversion=lambda found: told.update(found.record()),
        )
        for warning in told["warnings"]:
            self._progress.note(f"warning: '{source.label}': {warning}")
        save_latent(path, replace(latent, info={**latent.info, **told}), self._bulk.generator)


def _content(path: Path) -> str:
    """Name of what is in a file: the same picture under two names is inverted once."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror}. Check the path.") from None
