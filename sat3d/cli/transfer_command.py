"""``sat3d transfer``: attributes of references carried over to a source."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sat3d.cli.loading import (
    DeviceOption,
    GeneratorOption,
    MasksOption,
    OverwriteOption,
    QuietOption,
    TruncationOption,
    WeightsOption,
    checked,
    load_pair,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sat3d.artifact import Masks
    from sat3d.interfaces import Generator
    from sat3d.inversion import Inversion, InvertSettings
    from sat3d.latents import Latent
    from sat3d.progress import Progress
    from sat3d.transfer_report import Job, Outcome

Space = Literal["w", "w+", "s"]
_SOURCE_HELP = "seed:N, a saved latent (.safetensors) or an image file."
_MANIFEST_HELP = "Many pairs: CSV with source, reference, attributes[, intensity, name]."
_VIEWS = 5
_Views = Annotated[
    int | None, typer.Option(min=1, max=15, help="Views from -25 to 25 degrees; by default 5.")
]
_Video = Annotated[
    Path | None, typer.Option(help="Also a turn as .mp4 or .gif; a bare name goes to --out.")
]
_Batch = Annotated[
    int | None, typer.Option(min=1, help="Pairs of --manifest at once; by default 8.")
]


def transfer(
    masks: MasksOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")],
    source: Annotated[str | None, typer.Option("--source", help=_SOURCE_HELP)] = None,
    attribute: Annotated[
        list[str] | None, typer.Option(help="NAME, or NAME=REFERENCE; may be repeated.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="As --source, for every plain NAME.")
    ] = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", help=_MANIFEST_HELP)] = None,
    intensity: Annotated[
        float | None, typer.Option("--intensity", help="Strength of the edit; by default 1.")
    ] = None,
    sweep: Annotated[
        str | None, typer.Option("--sweep", help="Several intensities, FROM:TO:COUNT.")
    ] = None,
    views: _Views = None,
    video: _Video = None,
    batch: _Batch = None,
    generator: GeneratorOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    truncation: TruncationOption = 1.0,
    space: Annotated[Space, typer.Option("--space", help="Space of image inversion.")] = "w+",
    steps: Annotated[
        int | None, typer.Option("--steps", min=0, help="Full steps of image inversion.")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option("--max-seconds", min=1.0, help="Limit of one inversion.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Carry attributes of references over to a source.

    Attributes without a reference of their own are taken together from --reference; those written
    NAME=REFERENCE one after the other. With --manifest, every row of a CSV file is a pair, and the
    same command goes on after a kill.

    \b
    Examples:
      sat3d transfer --masks runs/faces --source seed:3 --reference seed:8 \\
          --attribute beard --out runs/beard
      sat3d transfer --masks runs/faces --source me.png --attribute beard=ref1.png \\
          --attribute eyeglasses=seed:8 --sweep 0:2:5 --video turn.mp4 --out runs/me
      sat3d transfer --masks runs/faces --manifest pairs.csv --out runs/pairs
    """
    from sat3d.files import folder_written_whole
    from sat3d.progress import open_progress
    from sat3d.transfer_report import draw_all
    from sat3d.transfers import parse_attributes

    settings = _settings(space, steps, max_seconds)
    if manifest is not None:
        single = {"source": source, "attribute": attribute, "reference": reference,
                  "sweep": sweep, "views": views, "video": video}  # fmt: skip
        _refuse_beside("--manifest", single)
        plan = (manifest, 1.0 if intensity is None else intensity, batch, truncation, settings)
        _transfer_list((masks, generator, weights, device), plan, out, overwrite, as_json, quiet)
        return
    _refuse_beside("a single transfer", {"batch": batch})
    if source is None:
        raise _nothing_asked()
    strengths = _strengths(intensity, sweep)
    wanted = parse_attributes(attribute or [], reference)
    progress = open_progress(quiet=quiet or as_json)
    # The folder comes first: a wrong --out must not cost minutes of inversion.
    with folder_written_whole(out, overwrite) as folder:
        film = _film(video, folder, overwrite)
        pair = load_pair(masks, generator, weights, device)
        resolver = _Resolver(pair[1], truncation, settings, progress)
        job = _job(pair, resolver, source, wanted, strengths, views or _VIEWS, film)
        outcomes = draw_all(job, progress)
        told = _write(folder, job, outcomes, masks, film, progress)
    _tell(told, out, as_json)


def _nothing_asked() -> Exception:
    from sat3d.errors import UsageError

    return UsageError("there is no source. Give --source and --attribute, or --manifest.")


def _refuse_beside(what: str, options: "Mapping[str, object]") -> None:
    """Raise UsageError for options that mean nothing here."""
    from sat3d.errors import UsageError

    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{', '.join(given)} cannot be used with {what}. Leave out one of them.")


def _transfer_list(
    loading: "tuple[Path, str | None, str | None, str]",
    plan: "tuple[Path, float, int | None, float, InvertSettings]",
    out: Path,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """All pairs of a manifest; started by ``torchrun``, this process's share of them."""
    from sat3d.artifact import load_masks
    from sat3d.bulk import bulk_transfer, check_latents
    from sat3d.bulk_folder import BulkSettings
    from sat3d.errors import Sat3dError
    from sat3d.manifest import read_manifest
    from sat3d.parallel import rank
    from sat3d.progress import open_progress
    from sat3d.transfers import check_intensity

    path, intensity, batch, truncation, invert = plan
    where, generator, weights, device = loading
    # The list comes first: it is quick to read, and a generator is not quick to load.
    listed = read_manifest(path, load_masks(where), check_intensity(intensity))
    _refuse_problems(path, listed.problems)
    masks, loaded = load_pair(where, generator, weights, device)
    _refuse_problems(path, check_latents(listed, loaded))
    settings = BulkSettings(batch or BulkSettings.batch, truncation, invert)
    progress = open_progress(quiet=quiet or as_json or rank() > 0)
    told = bulk_transfer(
        loaded, masks, listed, out, settings, overwrite=overwrite, progress=progress
    )
    failed = told["run"]["failed"]
    for one in failed:
        typer.echo(f"line {one['line']}: {one['reason']}", err=True)
    if as_json and rank() == 0:
        typer.echo(json.dumps({**told, "out": str(out)}, indent=2))
    elif not as_json:
        _tell_list(told, out)
    if failed:
        raise Sat3dError(f"{len(failed)} pairs failed, see above. The same command tries again.")


def _refuse_problems(path: Path, problems: "Sequence[str]") -> None:
    """One line for each bad row, then the error."""
    from sat3d.errors import InputError
    from sat3d.parallel import is_main

    for problem in problems if is_main() else ():
        typer.echo(problem, err=True)
    if problems:
        raise InputError(
            f"manifest '{path}' has {len(problems)} bad rows, named above. Correct them; nothing "
            "was transferred."
        )


def _tell_list(told: dict[str, Any], out: Path) -> None:
    own = told["run"]
    who = f"process {own['rank']} of {own['processes']}: " if own["processes"] > 1 else ""
    typer.echo(
        f"{who}{own['written']} pairs in {own['seconds']:.1f} s, "
        f"{own['pairs_per_second']:.2f} pairs/s, {own['found']} were there before"
    )
    typer.echo(f"{who}{out / 'record.json'}: {told['done']} of {told['pairs']} pairs are done")


def _strengths(intensity: float | None, sweep: str | None) -> list[float]:
    from sat3d.errors import UsageError
    from sat3d.transfers import check_intensity, parse_sweep

    if sweep is None:
        return [check_intensity(1.0 if intensity is None else intensity)]
    if intensity is not None:
        raise UsageError("--intensity and --sweep exclude each other. Drop one.")
    return parse_sweep(sweep)


def _settings(space: Space, steps: int | None, max_seconds: float | None) -> "InvertSettings":
    from sat3d.inversion import InvertSettings

    return checked(InvertSettings, space=space, steps=steps, max_seconds=max_seconds)


def _film(video: Path | None, folder: Path, overwrite: bool) -> Path | None:
    """Where the video goes: a bare name into the results' folder."""
    from sat3d.files import refuse_existing
    from sat3d.video import check_ending

    if video is None:
        return None
    check_ending(video)
    if video.parent == Path() and not video.is_absolute():
        return folder / video.name
    refuse_existing(video, overwrite)
    return video


class _Resolver:
    """Turns sources into latents, each only once, and remembers what was inverted."""

    def __init__(
        self,
        generator: "Generator",
        truncation: float,
        settings: "InvertSettings",
        progress: "Progress",
    ) -> None:
        self.generator, self.truncation = generator, truncation
        self.settings, self.progress = settings, progress
        self.inversions: dict[str, Inversion] = {}
        self._known: dict[str, Latent] = {}

    def __call__(self, text: str) -> "Latent":
        from sat3d.latents import resolve

        def heard(found: "Inversion") -> None:
            self.inversions[text] = found
            for warning in found.warnings:
                typer.echo(f"warning: '{text}': {warning}", err=True)

        if text not in self._known:
            self._known[text] = resolve(
                text,
                self.generator,
                truncation=self.truncation,
                settings=self.settings,
                progress=self.progress,
                on_inversion=heard,
            )
        return self._known[text]


def _job(
    pair: "tuple[Masks, Generator]",
    resolver: _Resolver,
    source: str,
    wanted: "Sequence[tuple[str, list[str]]]",
    strengths: "Sequence[float]",
    views: int,
    film: Path | None,
) -> "Job":
    """Check everything that is quick to check, then resolve, which may take minutes."""
    from sat3d.latents import parse_source
    from sat3d.transfer_report import Job
    from sat3d.transfers import Edit, canonical
    from sat3d.video import check_turns

    masks, generator = pair
    names = canonical(masks, wanted)
    for text in (source, *(reference for reference, _ in wanted)):
        parse_source(text)
    if film is not None:
        check_turns(generator)
    start = resolver(source)
    edits = [Edit(resolver(text), group) for (text, _), group in zip(wanted, names, strict=True)]
    return Job(generator, masks, start, edits, strengths, views, resolver.inversions)


def _write(
    folder: Path,
    job: "Job",
    outcomes: "Sequence[Outcome]",
    masks: Path,
    film: Path | None,
    progress: "Progress",
) -> dict[str, Any]:
    """Fill the folder; return the record."""
    from sat3d.files import write_atomically
    from sat3d.transfer_report import RECORD, record, write_files, write_turn

    if film is not None:
        write_turn(film, job, outcomes, progress)
    files = write_files(folder, job, outcomes)
    told = {**record(job, outcomes), "masks": str(masks), "files": [*files, RECORD]}
    if film is not None and film.parent != folder:
        told["video"] = str(film)
    write_atomically(folder / RECORD, (json.dumps(told, indent=2) + "\n").encode())
    return told


def _tell(told: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**told, "out": str(out)}, indent=2))
        return
    typer.echo(f"{out / 'picture.png'}: the labelled picture")
    for stem in told["results"]:
        typer.echo(f"{out / stem}.png, {stem}.safetensors: result; the latent can be a --source")
