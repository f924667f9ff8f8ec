"""What each part of training buys: ``python -m benchmarks.ablations --out ablations.json``.

The bundled avatars are trained once for each variant, everything else equal, and measured by
readers that training never saw. The head start of the default presets alone finds most channels, so
the losses are also left out where the matrix starts from nothing. A file that is there is gone on
with: what it holds is not trained again.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.clock import describe
from benchmarks.command import start
from benchmarks.subjects import Subject, avatars
from sat3d.artifact import Masks
from sat3d.cli.loading import find_reader
from sat3d.descriptors import DescriptorPack, PoolRules
from sat3d.devices import resolve_device
from sat3d.engine import train
from sat3d.errors import InputError, UsageError, unknown_name
from sat3d.evaluation import EvaluateSettings, evaluate
from sat3d.files import write_atomically
from sat3d.interfaces import Reader
from sat3d.mask import probabilities
from sat3d.settings import TrainSettings, override, preset

_FIRM = 20.0
"""A logit so much above the others is a mask of 1."""


@dataclass(frozen=True)
class Variant:
    """One change to the default."""

    name: str
    what: str
    assignments: Sequence[str] = ()
    pack: Callable[[DescriptorPack], DescriptorPack] | None = None


def without_quotas(pack: DescriptorPack) -> DescriptorPack:
    """The pool as it comes, but for what it excludes."""
    return pack.model_copy(update={"pool": PoolRules(exclude=pack.pool.exclude)})


def without_rules(pack: DescriptorPack) -> DescriptorPack:
    """The pool as it comes."""
    return pack.model_copy(update={"pool": PoolRules()})


def hardened(masks: Masks) -> Masks:
    """Each channel given wholly to its most probable row."""
    best = probabilities(masks.logits).argmax(dim=0)
    hard = torch.nn.functional.one_hot(best, len(masks.logits)).T.float()
    return Masks(hard * _FIRM, masks.header)


_BARE = "preselection.by=none", "others_start=1"

VARIANTS = (
    Variant("default", "the preset as it is"),
    Variant("no L_bg", "background loss off", ["weights.background=0"]),
    Variant("no L_src", "preservation loss off", ["weights.preserve=0"]),
    Variant("no L_prob", "probability loss off", ["weights.probability=0"]),
    Variant("start: region", "head start by region gradients", ["preselection.by=region"]),
    Variant("start: qmm", "head start by the QMM's gradients", ["preselection.by=qmm"]),
    Variant("start: none", "no head start", _BARE),
    Variant("no quota", "pool without quotas", pack=without_quotas),
    Variant("no quota, no filter", "pool with hats, as it comes", pack=without_rules),
    Variant("saturated QMM", "probabilities sharpened tenfold", ["softness=0.1"]),
    Variant(
        "centralised", "gradients centralised over the channels", ["matrix_layout=attributes"]
    ),
    Variant("start: none, no L_bg", "both", [*_BARE, "weights.background=0"]),
    Variant("start: none, no L_src", "both", [*_BARE, "weights.preserve=0"]),
    Variant("start: none, no L_prob", "both", [*_BARE, "weights.probability=0"]),
    Variant("start: none, saturated QMM", "both", [*_BARE, "softness=0.1"]),
    Variant("start: none, centralised", "both", [*_BARE, "matrix_layout=attributes"]),
)  # fmt: skip

HARD = "hard masks"
"""The default's own, each channel given to one row; nothing is trained."""
FIGURES = ("success", "leakage", "background", "precision", "recall")


def learn(subject: Subject, variant: Variant, settings: TrainSettings) -> Masks:
    """Train a variant."""
    generator, pack, qmm, segmenter = subject.parts
    if variant.pack is not None:
        pack = variant.pack(pack)
    return train(generator, pack, qmm, segmenter, override(settings, variant.assignments))


def measure(
    subject: Subject, reader: Reader, masks: Masks, what: str, wanted: EvaluateSettings
) -> dict[str, Any]:
    """Figures of masks as plain JSON values."""
    found = evaluate(subject.generator, masks, reader, subject.segmenter, wanted)
    attributes = {
        name: {key: told[key] for key in FIGURES} for name, told in found["attributes"].items()
    }
    return {
        "what": what,
        "mean": {key: found["mean"][key] for key in FIGURES},
        "intervals": {k: found["intervals"]["mean"].get(k) for k in ("success", "leakage")},
        "attributes": attributes,
        "steps": masks.header["figures"].get("steps"),
    }


def show(told: Mapping[str, Any], console: Console) -> None:
    """Print the means."""
    table = Table(title=f"{told['pairs']} pairs for each attribute, preset {told['preset']}")
    table.add_column("")
    for head in (*FIGURES, "steps"):
        table.add_column(head, justify="right")
    for name, row in told["variants"].items():
        values = [row["mean"][key] for key in FIGURES]
        cells = ["-" if value is None else f"{value:.3f}" for value in values]
        table.add_row(name, *cells, str(row["steps"]))
    console.print(table)


def _begun(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the file holds already. Raises InputError for one of other settings."""
    if not path.exists():
        return {**settings, "variants": {}}
    try:
        told = json.loads(path.read_text())
        same = all(told[key] == value for key, value in settings.items())
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise InputError(f"'{path}' is not of this run. Name another --out, or remove it.")
    return dict(told)


def main(
    out: Annotated[Path, typer.Option(help="JSON file; what it holds is not measured again.")],
    only: Annotated[list[str] | None, typer.Option(help="Only this variant; repeatable.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs for each attribute.")] = 100,
    bank: Annotated[int, typer.Option(min=2, help="Images that pairs are drawn from.")] = 400,
    name: Annotated[str, typer.Option("--preset", help="auto, cpu, gpu, paper, quick.")] = "auto",
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, KEY=VALUE, for every variant.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
) -> None:
    """Train and measure each variant, print a table, write JSON after each."""
    target = resolve_device(device)
    names = [variant.name for variant in VARIANTS]
    for wrong in set(only or ()) - set(names):
        raise UsageError(unknown_name("variant", wrong, names))
    settings = override(preset(name, target.type), ["preview_every=0", *(assignments or ())])
    subject = avatars(target)
    told = _begun(out, {
        "preset": name, "pairs": pairs, "bank": bank, "settings": settings.model_dump(mode="json"),
        "weights": subject.generator.card.fingerprint, **describe(target),
    })  # fmt: skip
    reader = find_reader(None, subject.generator)
    wanted = EvaluateSettings(pairs=pairs, bank=bank, multi_view_pairs=0, batch=settings.chunk)
    console = Console()
    for variant in VARIANTS:
        if variant.name in told["variants"] or variant.name not in (only or names):
            continue
        console.print(f"{variant.name}: {variant.what}", highlight=False)
        masks = learn(subject, variant, settings)
        told["variants"][variant.name] = measure(subject, reader, masks, variant.what, wanted)
        if variant is VARIANTS[0]:
            what = "the default's, each channel given to one row"
            told["variants"][HARD] = measure(subject, reader, hardened(masks), what, wanted)
        write_atomically(out, json.dumps(told, indent=1).encode())
    show(told, console)


if __name__ == "__main__":
    start(main, "ablations")
