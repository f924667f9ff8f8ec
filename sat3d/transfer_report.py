"""What a transfer leaves behind: a labelled picture, the images, the latents and a record."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sat3d.artifact import Masks
from sat3d.images import write_png
from sat3d.interfaces import Generator
from sat3d.inversion import Inversion
from sat3d.latents import Latent, save_latent
from sat3d.picture import Panel, Tile, sheet
from sat3d.progress import SILENT, Progress
from sat3d.transfers import Edit, draw, transfer, view_angles
from sat3d.video import turntable, write_video

PICTURE = "picture.png"
RECORD = "record.json"
TURN_FRAMES = 48


@dataclass(frozen=True)
class Job:
    """A transfer ready to be drawn."""

    generator: Generator
    masks: Masks
    source: Latent
    edits: Sequence[Edit]
    intensities: Sequence[float] = (1.0,)
    views: int = 5
    inversions: Mapping[str, Inversion] = field(default_factory=dict)
    """What was found for each source or reference that was an image, by its name."""

    @property
    def angles(self) -> list[float]:
        """Yaw angles in degrees; none for a 2D generator."""
        return view_angles(self.views) if self.generator.is_3d and self.views > 1 else []

    def titles(self, edit: Edit) -> str:
        """The attributes of an edit as the pack writes them."""
        pack = self.masks.pack
        return " + ".join(pack.attributes[pack.index(name)].title for name in edit.attributes)


@dataclass(frozen=True)
class Outcome:
    """The results of one intensity."""

    intensity: float
    stages: Sequence[Latent]
    """After each edit; the last one is the result."""
    images: Sequence[Tensor]
    """[3, H, W] of each stage, from the source's camera."""
    views: Sequence[Tensor]
    """[3, H, W] of the result from each angle."""

    @property
    def latent(self) -> Latent:
        """The result."""
        return self.stages[-1]


def outcome(job: Job, intensity: float) -> Outcome:
    """Apply the edits with one intensity and draw every stage and view."""
    counts = range(1, len(job.edits) + 1)
    stages = [
        transfer(job.generator, job.masks, job.source, job.edits[:k], intensity) for k in counts
    ]
    images = [draw(job.generator, stage) for stage in stages]
    return Outcome(intensity, stages, images, _views(job, stages[-1]))


def _views(job: Job, latent: Latent) -> list[Tensor]:
    return [draw(job.generator, latent, yaw) for yaw in job.angles]


def draw_all(job: Job, progress: Progress = SILENT) -> list[Outcome]:
    """The outcome of every intensity."""
    outcomes = []
    with progress.phase("Drawing results", len(job.intensities)) as phase:
        for intensity in job.intensities:
            outcomes.append(outcome(job, intensity))
            phase.advance()
    return outcomes


def write_files(folder: Path, job: Job, outcomes: Sequence[Outcome]) -> list[str]:
    """Write picture, result images and latents into a folder; return their names."""
    write_png(folder / PICTURE, picture(job, outcomes))
    for stem, result in zip(stems(len(outcomes)), outcomes, strict=True):
        write_png(folder / f"{stem}.png", result.images[-1])
        for k, view in enumerate(result.views, start=1):
            write_png(folder / f"{stem}-view-{k}.png", view)
        save_latent(folder / f"{stem}.safetensors", result.latent, job.generator)
    return sorted(path.name for path in folder.iterdir())


def stems(count: int) -> list[str]:
    """Names of the results without ending: 'result', or 'result-01' and on for a sweep."""
    return ["result"] if count == 1 else [f"result-{k:02d}" for k in range(1, count + 1)]


def picture(job: Job, outcomes: Sequence[Outcome]) -> Image.Image:
    """The labelled sheet: source, references, results, views."""
    panels = [_overview(job, outcomes)]
    if len(outcomes) > 1:
        row = [Tile(x.images[-1], f"{x.intensity:g}") for x in outcomes]
        panels.append(Panel([row], "Result by intensity"))
    if job.angles:
        panels.append(_views_panel(job, outcomes))
    if job.inversions:
        panels.append(_inversions_panel(job))
    title = " · ".join(job.titles(edit) for edit in job.edits)
    words = [f"generator {job.generator.name}", f"weights {job.generator.card.name}"]
    if len(outcomes) == 1:
        words.append(f"intensity {outcomes[0].intensity:g}")
    return sheet(panels, title, " · ".join(words))


def _overview(job: Job, outcomes: Sequence[Outcome]) -> Panel:
    """One row for one edit; else references above what each of them led to."""
    source = Tile(draw(job.generator, job.source), f"Source\n{job.source.origin}")
    references = [
        Tile(draw(job.generator, x.reference), f"Reference\n{job.titles(x)} · {x.reference.origin}")
        for x in job.edits
    ]
    if len(outcomes) > 1:
        return Panel([[source, *references]], fill=True)
    images = outcomes[0].images
    if len(job.edits) == 1:
        return Panel([[source, *references, Tile(images[0], "Result")]], fill=True)
    words = [*(f"Step {k}" for k in range(1, len(images))), "Result"]
    results = [
        Tile(image, f"{word}\n+ {job.titles(x)}")
        for image, word, x in zip(images, words, job.edits, strict=True)
    ]
    return Panel([[None, *references], [source, *results]])


def _views_panel(job: Job, outcomes: Sequence[Outcome]) -> Panel:
    """Source and results from every angle."""
    rows = [_views(job, job.source), *(x.views for x in outcomes)]
    labels = ["Result"] if len(outcomes) == 1 else [f"{x.intensity:g}" for x in outcomes]
    tiles = [[Tile(image) for image in row] for row in rows]
    return Panel(tiles, "Views", ["Source", *labels], [_degrees(x) for x in job.angles])


def _degrees(angle: float) -> str:
    return f"{angle:+.3g}°" if angle else "0°"


def _inversions_panel(job: Job) -> Panel:
    """Each image as it was given and as it was found, side by side."""
    row = []
    for name, found in job.inversions.items():
        row.append(Tile(found.target[0], f"Given\n{Path(name).name}"))
        row.append(Tile(found.image[0], f"Inverted\n{found.psnr:.1f} dB"))
    return Panel([row], "Inverted images")


def write_turn(
    path: Path, job: Job, outcomes: Sequence[Outcome], progress: Progress = SILENT
) -> None:
    """A turntable of the source and the last intensity's result, side by side."""
    styles = torch.cat([job.source.styles, outcomes[-1].latent.styles])
    with progress.phase("Drawing the turn", TURN_FRAMES) as phase:

        def frames() -> Iterator[Tensor]:
            for frame in turntable(job.generator, styles, TURN_FRAMES):
                yield frame
                phase.advance()

        write_video(path, frames(), overwrite=True)


def record(job: Job, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What was done, as plain JSON values."""
    from sat3d import __version__

    card = job.generator.card
    return {
        "format": 1,
        "sat3d": __version__,
        "generator": {
            "name": job.generator.name,
            "weights": card.name,
            "fingerprint": card.fingerprint,
        },
        "source": {"origin": job.source.origin, **job.source.info},
        "edits": [
            {"reference": x.reference.origin, "attributes": list(x.attributes)} for x in job.edits
        ],
        "intensities": [x.intensity for x in outcomes],
        "results": stems(len(outcomes)),
        "views": job.angles,
        "inversions": {name: found.record() for name, found in job.inversions.items()},
    }
