"""``sat3d train``: learn the attribute masks of a generator."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sat3d.cli.loading import (
    ClipOption,
    ClipPretrainedOption,
    DeviceOption,
    OverwriteOption,
    QuietOption,
    WeightsOption,
    find_segmenter,
    fitting_clip,
    load_for,
)

if TYPE_CHECKING:
    from sat3d.artifact import Masks
    from sat3d.descriptors import DescriptorPack
    from sat3d.interfaces import Generator
    from sat3d.qmm import QMM
    from sat3d.registry import Catalogue


def train(
    generator: Annotated[str, typer.Option("--generator", help="Generator, by name.")],
    descriptors: Annotated[
        str | None,
        typer.Option("--descriptors", help="Pack by name or YAML file; by default the weights'."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder; by default runs/GENERATOR-PACK.")
    ] = None,
    weights: WeightsOption = None,
    clip: ClipOption = None,
    clip_pretrained: ClipPretrainedOption = None,
    segmenter: Annotated[
        str | None, typer.Option("--segmenter", help="Segmenter or 'none'; by default as --clip.")
    ] = None,
    segmenter_weights: Annotated[
        str | None, typer.Option("--segmenter-weights", help="Its weights; by default embedded.")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            "--preset", help="auto (by device and weights), cpu, gpu, gpu8, paper, quick."
        ),
    ] = "auto",
    device: DeviceOption = "auto",
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the run.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Pairs a step.")] = None,
    pool: Annotated[int | None, typer.Option("--pool", min=4, help="Images in the pool.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, KEY=VALUE, e.g. weights.background=10."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in the folder.")
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Learn which style channels carry which attribute.

    The folder gets masks.safetensors (what transfer and evaluate take), a checkpoint, a preview
    picture and the course of the losses. Ctrl-C saves; the same command with --resume goes on.

    \b
    Examples:
      sat3d train --generator eg3d --descriptors faces
      sat3d train --generator eg3d --preset paper --set weights.background=0 --out runs/no-bg
    """
    from sat3d.engine import train as learn
    from sat3d.parallel import is_main
    from sat3d.progress import open_progress
    from sat3d.registry import discover, load_pack, resolve_device
    from sat3d.settings import fitting, override
    from sat3d.settings import preset as find_preset

    target = resolve_device(device)
    short = {"seed": seed, "steps": steps, "batch": batch, "pool_size": pool}
    given = [f"{key}={value}" for key, value in short.items() if value is not None]
    given += assignments or []
    override(find_preset(preset, target.type), given)  # what is mistyped is told at once
    catalogue = discover()
    wanted = None if descriptors is None else load_pack(descriptors, catalogue)
    loaded = load_for(wanted, generator, weights, target, catalogue)
    pack = wanted or load_pack(_default("descriptors", "--descriptors", loaded), catalogue)
    settings = fitting(preset, loaded, given)
    folder = out or Path("runs") / f"{generator}-{pack.name}"
    _check_folder(folder, resume, overwrite)
    qmm = _qmm(clip, clip_pretrained, pack, loaded, catalogue)
    outline = find_segmenter(segmenter, loaded, segmenter_weights, catalogue)
    progress = open_progress(quiet=quiet or as_json or not is_main())
    masks = learn(
        loaded, pack, qmm, outline, settings, out=folder, resume=resume, progress=progress
    )
    if is_main():
        _tell(masks, folder, as_json)


def _check_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that is in use, before anything costly."""
    from sat3d.errors import UsageError
    from sat3d.files import refuse_existing

    if resume and overwrite:
        raise UsageError("--resume goes on with a run, --overwrite drops it. Choose one of them.")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output '{folder}' is a file. Give --out the name of a folder.")
    if not resume:
        refuse_existing(folder, overwrite)


def _default(role: str, flag: str, generator: "Generator") -> str:
    """What goes with the weights in a role. Raises UsageError if they do not say."""
    from sat3d.errors import UsageError

    name = generator.card.goes_with.get(role)
    if name is None:
        raise UsageError(f"weights '{generator.card.name}' do not say which to use. Add {flag}.")
    return name


def _qmm(
    name: str | None,
    pretrained: str | None,
    pack: "DescriptorPack",
    generator: "Generator",
    catalogue: "Catalogue",
) -> "QMM":
    from sat3d.qmm import QMM

    found, pretrained = fitting_clip(name, pretrained, generator)
    name = found or _default("clip", "--clip", generator)
    return QMM.load(pack, name, pretrained, generator.device, catalogue)


def _tell(masks: "Masks", folder: Path, as_json: bool) -> None:
    """What came out, where it is and what to do with it."""
    from sat3d.artifact import FILE

    figures: dict[str, Any] = masks.header["figures"]
    path = folder / FILE
    if as_json:
        summary = {"masks": str(path), "attributes": list(masks.attributes), **figures}
        typer.echo(json.dumps(summary, indent=2))
        return
    held = figures["held_out"]
    typer.echo(
        f"{path}: {len(masks.attributes)} attributes, {masks.logits.shape[1]} channels, "
        f"{figures['steps']} steps in {figures['seconds']:.0f} s"
    )
    typer.echo(
        f"on held-out pairs, by the text-image model: success {held['success']:.2f}, "
        f"leakage {held['leakage']:.2f}, loss {held['loss']:.3g}"
    )
    typer.echo(
        f"next: sat3d transfer --masks {path} --source seed:12 --reference seed:22 "
        f"--attribute {masks.attributes[0]} --out {folder / 'first'}"
    )
