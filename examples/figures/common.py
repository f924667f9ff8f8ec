"""What the commands of all figures share: options, domains, masks, and what they write.

A domain is written GENERATOR[:WEIGHTS][+PACK], e.g. ``eg3d+faces`` or ``eg3d:cats+cats``.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import sat3d
from sat3d.artifact import FILE
from sat3d.cli.loading import find_reader, find_segmenter, fitting_clip
from sat3d.engine import train
from sat3d.errors import PluginError, UsageError
from sat3d.files import write_atomically
from sat3d.identity import identity_of
from sat3d.images import write_png
from sat3d.measuring.studio import measured
from sat3d.picture import Panel, Tile, sheet
from sat3d.pool import Measure
from sat3d.progress import Progress, open_progress
from sat3d.settings import fitting, override
from sat3d.weights import fingerprint

HINTS = {"flowers": "pip install ./examples/flowers"}
SOFT = ("preselection.strength=1.8", "others_start=1")
"""The paper's own head start. The presets' firmer one would hide what a loss is good for."""
CORNER = 40.0
"""Degrees from which things are shown that have sides."""


@dataclass(frozen=True)
class Shot:
    """One picture of a figure with the words under it and the data behind it."""

    image: Any
    """[3, H, W] float32 in [-1, 1]."""
    caption: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """Pictures in labelled rows and columns; None leaves a place empty."""

    rows: Sequence[Sequence[Shot | None]]
    row_labels: Sequence[str]
    column_labels: Sequence[str]
    title: str = ""
    domain: str = ""

    def panel(self) -> Panel:
        """What is drawn."""
        rows = [[Tile(x.image, x.caption) if x else None for x in row] for row in self.rows]
        return Panel(rows, self.title, self.row_labels, self.column_labels)

    def plain(self) -> dict[str, Any]:
        """What is written as JSON: the labels, and every picture by its labels."""
        cells = [
            {"row": down, "column": across, "caption": x.caption, **x.data}
            for down, row in zip(self.row_labels, self.rows, strict=True)
            for across, x in zip(self.column_labels, row, strict=True)
            if x
        ]
        labels = {"rows": list(self.row_labels), "columns": list(self.column_labels)}
        return {"title": self.title, "domain": self.domain, **labels, "cells": cells}


@dataclass(frozen=True)
class Domain:
    """A generator with its pack and with what goes with its weights."""

    text: str
    generator: sat3d.Generator
    pack: sat3d.DescriptorPack
    measure: Measure
    segmenter: sat3d.Segmenter | None
    reader: sat3d.Reader

    @cached_property
    def titles(self) -> dict[str, str]:
        """Attribute -> title, of those that the reader knows."""
        known = measured(self.pack.names, self.reader)
        return {x.name: x.title for x in self.pack.attributes if x.name in known}

    @cached_property
    def yaw(self) -> float:
        """Degrees from which it is looked at: from a corner where cameras go all around."""
        front, some = self.generator.orbit(0.0, 0.0), self.generator.sample_cameras(64, 0)
        if front is None or some is None:
            return 0.0
        places = [3, 7, 11]  # where a camera is, in its matrix to the world
        behind = (some[:, places] @ front[0, places] < 0).any()
        return CORNER if behind else 0.0

    def some(self, wanted: Sequence[str], count: int) -> list[str]:
        """The wanted attributes that there are; without any, the first ``count``."""
        return [x for x in wanted if x in self.titles] or list(self.titles)[:count]

    def plain(self) -> dict[str, Any]:
        """Who it is, for the data."""
        card = self.generator.card
        return {
            "domain": self.text,
            "generator": self.generator.name,
            "weights": card.name,
            "fingerprint": card.fingerprint,
            "pack": self.pack.name,
            "reader": self.reader.name,
            "text_image": dict(self.measure.identity),
            "segmenter": self.segmenter.name if self.segmenter else None,
        }


def load_domain(text: str, device: str, masks: sat3d.Masks | None = None) -> Domain:
    """Load a domain by its text, or that of ``masks``. Raises Sat3dError."""
    whole, _, pack_name = text.partition("+")
    name, _, weights = whole.partition(":")
    if masks is None:
        generator = sat3d.load_generator(name, weights or None, device)
        pack = sat3d.load_pack(pack_name or _fitting("descriptors", generator))
    else:
        generator = sat3d.generator_for(masks, name, weights or None, device)
        pack = masks.pack
    _fitting("reader", generator)
    parts = find_segmenter(None, generator), find_reader(None, generator)
    return Domain(text, generator, pack, load_measure(generator, pack), *parts)


def load_measure(generator: sat3d.Generator, pack: sat3d.DescriptorPack) -> Measure:
    """The text-image model that goes with the weights."""
    _fitting("clip", generator)
    clip, pretrained = fitting_clip(None, None, generator)
    return sat3d.QMM.load(pack, str(clip), pretrained, generator.device)


def _fitting(role: str, generator: sat3d.Generator) -> str:
    name = generator.card.goes_with.get(role)
    if name is None:
        raise UsageError(f"weights '{generator.card.name}' do not say which {role} goes with them.")
    return name


@dataclass
class Work:
    """What a figure is drawn with."""

    options: argparse.Namespace
    domains: list[Domain]
    progress: Progress
    facts: dict[str, Any] = field(default_factory=dict)
    """What goes into the data beside the pictures."""

    @property
    def domain(self) -> Domain:
        """The first domain."""
        return self.domains[0]

    def masks(self, domain: Domain, *changes: str) -> sat3d.Masks:
        """The domain's masks: those given, kept from an earlier call, or trained now.

        ``changes`` are settings of the training, KEY=VALUE; masks that are given then say the rest.
        """
        given = sat3d.load_masks(self.options.masks) if self.options.masks else None
        if given is not None:
            given.check(domain.generator)
        found = (
            given if given is not None and not changes else self._trained(domain, given, changes)
        )
        matrix = fingerprint({"mask.logits": found.logits})
        keys = ("seed", "settings", "figures")
        told: dict[str, Any] = {
            "domain": domain.text,
            "changes": list(changes),
            "fingerprint": matrix,
        }
        told |= {key: found.header.get(key) for key in keys}
        self.facts.setdefault("masks", []).append(told)
        return found

    def _trained(
        self, domain: Domain, given: sat3d.Masks | None, changes: Sequence[str]
    ) -> sat3d.Masks:
        options, generator = self.options, domain.generator
        wishes = [*options.set, *changes]
        if given is not None and "settings" in given.header:
            settings = override(_settings(given), wishes)
        else:
            settings = fitting(options.preset, generator, wishes)
        label = "-".join((generator.name, generator.card.name, domain.pack.name, *changes))
        folder = Path(options.work) / label
        parts = generator, domain.pack, domain.measure, domain.segmenter, settings
        if (folder / FILE).is_file():
            kept = sat3d.load_masks(folder)
            if _fits(kept, identity_of(*parts), settings):
                return kept
        self.progress.note(f"Training masks, which stay in '{folder}'.")
        return train(*parts, out=folder, progress=self.progress)


def _fits(kept: sat3d.Masks, made_of: Mapping[str, Any], settings: sat3d.TrainSettings) -> bool:
    """Whether masks come from these parts and settings, and their training was not broken off."""
    header = kept.header
    parts = ("generator", "pack", "clip", "segmenter")
    same = all(header.get(key) == made_of[key] for key in parts)
    return same and _settings(kept) == settings and bool(header["figures"]["finished"])


def _settings(masks: sat3d.Masks) -> sat3d.TrainSettings:
    """What masks were trained with; a setting that is newer than they are counts as its default."""
    try:
        return sat3d.TrainSettings.model_validate(masks.header["settings"])
    except ValidationError:
        raise UsageError("the masks name settings that are not known here. Train anew.") from None


@dataclass(frozen=True)
class Figure:
    """One of the paper's figures: what it shows and how it is drawn."""

    number: int
    title: str
    draw: Callable[[Work], Sequence[Grid]]
    domains: tuple[str, ...]
    """Domains that it can show, the best first."""
    every: bool = False
    """Show all that are installed, not only the first."""
    methods: tuple[str, ...] = ()
    """Methods of editing shown beside ours."""
    side: int = 160
    """Size of a picture in pixels."""
    note: str = ""

    def run(self, arguments: Sequence[str] | None = None) -> int:
        """The command: draw and write; the exit code. What is wrong is told in one line."""
        options = self._options(arguments)
        try:
            work = self._open(options)
            for path in self._write(work, self.draw(work)):
                sys.stdout.write(f"{path}: written\n")
        except sat3d.Sat3dError as error:
            sys.stderr.write(f"error: {error}\n")
            return error.exit_code
        return 0

    def _options(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        parser = argparse.ArgumentParser(
            f"python -m examples.figures.figure{self.number:02}", description=self.title
        )
        add = parser.add_argument
        add("--out", type=Path, default=Path("runs/figures"), help="for PNG and JSON")
        add("--masks", type=Path, help="masks of 'sat3d train'; by default kept or trained")
        add("--domains", nargs="+", help="GENERATOR[:WEIGHTS][+PACK], the first one installed")
        add("--generator", help="instead of --domains: GENERATOR[:WEIGHTS]")
        add("--descriptors", help="with --generator: its pack; by default the weights' own")
        add("--seed", type=int, default=0, help="another seed shows other images")
        add("--bank", type=int, default=64, help="images to choose from")
        add("--work", type=Path, default=Path("runs/figures"), help="where trained masks are kept")
        add("--preset", default="auto", help="settings of a training, as in 'sat3d train'")
        add("--set", nargs="+", default=[], help="of it: KEY=VALUE, as in 'sat3d train'")
        add("--device", default="auto", help="auto, cpu, cuda, ...")
        add("--quiet", action="store_true", help="no progress")
        if self.methods:
            add("--methods", nargs="*", default=self.methods, help="as in 'sat3d compare'")
            add("--pool", type=int, help="images that they learn from; 400, on a GPU 10000")
        return parser.parse_args(arguments)

    def _open(self, options: argparse.Namespace) -> Work:
        """Load the domains; one line says which are missing. Raises UsageError without any."""
        texts, masks = options.domains or self.domains, None
        if options.generator:
            texts = ["+".join(filter(None, (options.generator, options.descriptors)))]
        if options.masks:
            masks = sat3d.load_masks(options.masks)
            texts = [options.generator or masks.header["generator"]["name"]]
        found: list[Domain] = []
        missing: dict[str, str] = {}
        for text in texts:
            try:
                found.append(load_domain(text, options.device, masks))
            except (UsageError, PluginError) as error:
                if options.masks:
                    raise
                missing[text] = str(error)
            if found and not self.every:
                break
        if not found:
            reasons = "; ".join(f"{text}: {reason}" for text, reason in missing.items())
            raise UsageError(f"none of the domains is installed: {reasons}")
        if missing:
            shown = ", ".join(x.text for x in found)
            sys.stderr.write(
                f"figure {self.number}: not installed: {', '.join(map(_hinted, missing))}; "
                f"drawn with {shown}\n"
            )
        work = Work(options, found, open_progress(quiet=options.quiet))
        work.facts["missing"] = missing
        return work

    def _write(self, work: Work, grids: Sequence[Grid]) -> list[Path]:
        stem = work.options.out / f"figure{self.number:02}"
        picture, data = stem.with_suffix(".png"), stem.with_suffix(".json")
        title = f"Figure {self.number}: {self.title}"
        panels = [grid.panel() for grid in grids]
        write_png(picture, sheet(panels, title, self.note, self.side))
        told = {
            "figure": self.number,
            "title": self.title,
            "note": self.note,
            "sat3d": sat3d.__version__,
            "seed": work.options.seed,
            "bank": work.options.bank,
            "domains": [domain.plain() for domain in work.domains],
            **work.facts,
            "grids": [grid.plain() for grid in grids],
        }
        write_atomically(data, (json.dumps(told, indent=1) + "\n").encode())
        return [picture, data]


def _hinted(text: str) -> str:
    hint = HINTS.get(text.partition("+")[0])
    return f"{text} ({hint})" if hint else text
