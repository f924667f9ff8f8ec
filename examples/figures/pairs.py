"""Sources, references and results of the figures: chosen, edited, drawn and read.

Sources and references are chosen by what the reader sees of them alone, never by a result.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import sat3d
from examples.figures.common import Domain, Shot, Work
from sat3d.editors import draw_pool, load_editor, values_of
from sat3d.errors import Sat3dError, UsageError
from sat3d.interfaces import Bench, Codes, Editor
from sat3d.latents import from_seed
from sat3d.progress import Progress

TITLES = {
    "masks": "ours",
    "interfacegan": "InterFaceGAN",
    "preim3d": "PREIM3D",
    "styleclip": "StyleCLIP",
}
YAW = 30
"""Degrees from which results are seen a second time."""
_BATCH = 8
_TRIES = 8
_MANY, _FEW = 10_000, 400
_EQUAL = 0.01
"""Scores this near count as equal: a sure reader's last hundredth says nothing of the picture."""

Reading = Mapping[str, Mapping[str, Any]]
"""Attribute -> its most probable 'value' and that one's 'probability'."""


@dataclass(frozen=True)
class Bank:
    """Generated images to choose from, from the front, with what the reader sees."""

    domain: Domain
    latents: Sequence[sat3d.Latent]
    codes: Codes
    images: Tensor
    """[S, 3, H, W] float32 in [-1, 1], on the CPU."""
    readings: Sequence[Reading]

    def value(self, k: int, name: str) -> int:
        """Number of the value that image ``k`` shows; 0 is the first of the reader's."""
        shown = self.readings[k][name]["value"]
        return self.domain.reader.attributes[name].index(shown)

    def values(self, name: str) -> range:
        """Numbers of all values of an attribute."""
        return range(len(self.domain.reader.attributes[name]))

    def pick(self, name: str, values: Collection[int], used: set[int]) -> int:
        """The image that shows one of these values most surely, and then the rest most surely.

        It is added to ``used``, whose images are not taken. Raises Sat3dError if there is none.
        """
        fitting = [
            k
            for k in range(len(self.images))
            if k not in used and self.value(k, name) in values
        ]  # fmt: skip
        if not fitting:
            words = [self.domain.reader.attributes[name][x] for x in values]
            raise Sat3dError(
                f"none of {len(self.images)} images is left that shows {name} "
                f"'{' or '.join(words)}'. Raise --bank or take another --seed."
            )
        best = max(fitting, key=lambda k: (round(self._sure(k, name), 2), self.clear(k), -k))
        used.add(best)
        return best

    def reference(self, name: str, used: set[int], but: Collection[int] = ()) -> int:
        """An image that shows the attribute: not its first value, which often means absence,
        nor the values ``but`` if it can be helped."""
        shown = {self.value(k, name) for k in range(len(self.images)) if k not in used} - {0}
        return self.pick(name, (shown - set(but)) or shown, used)

    def pair(self, name: str, used: set[int], but: Collection[int] = ()) -> tuple[int, int]:
        """(source, reference) of different values; see :meth:`reference`."""
        reference = self.reference(name, used, but)
        return self.pick(
            name, set(self.values(name)) - {self.value(reference, name)}, used
        ), reference

    def shot(self, k: int, name: str = "") -> Shot:
        """The image itself; the reader's word on one attribute under it."""
        reading = self.readings[k]
        data = {"seed": _seed(self.latents[k]), "reading": reading}
        return Shot(self.images[k], word(reading[name]["value"]) if name else "", data)

    def _sure(self, k: int, name: str) -> float:
        return float(self.readings[k][name]["probability"])

    def clear(self, k: int) -> float:
        """Probability of the reader's least sure word on image ``k``."""
        return min(self._sure(k, name) for name in self.readings[k])


def _seed(latent: sat3d.Latent) -> int:
    return int(latent.origin.removeprefix("seed:"))


@torch.no_grad()
def make_bank(work: Work, domain: Domain) -> Bank:
    """Draw ``--bank`` images, without those that the pack leaves out of the training pool."""
    generator, options = domain.generator, work.options
    wanted, first = options.bank, 1000 * (options.seed + 1)
    kept: list[sat3d.Latent] = []
    images: list[Tensor] = []
    values: list[dict[str, tuple[Tensor, ...]]] = []
    with work.progress.phase(f"Drawing images of {domain.text}", wanted) as phase:
        for start in range(first, first + _TRIES * wanted, _BATCH):
            latents = [from_seed(generator, start + k) for k in range(_BATCH)]
            batch = _render(domain, torch.cat([x.styles for x in latents]))
            embedding = domain.measure.encode_image(batch)
            out = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
            for rule in domain.pack.pool.exclude:
                out |= domain.measure.rule_probability(embedding, rule) >= rule.above
            rows = (~out).nonzero().squeeze(1)[: wanted - len(kept)]
            if len(rows):
                kept += [latents[k] for k in rows.tolist()]
                images.append(batch[rows])
                values.append(values_of(domain.measure, _sizes(domain), batch[rows]))
            phase.advance(len(rows))
            if len(kept) == wanted:
                break
    w = torch.cat([x.w for x in kept if x.w is not None])
    cameras = [x.camera for x in kept if x.camera is not None]
    joined = {
        name: tuple(torch.cat(x) for x in zip(*(one[name] for one in values), strict=True))
        for name in domain.pack.names
    }
    styles = torch.cat([x.styles for x in kept])
    codes = Codes(styles, w, torch.cat(cameras) if cameras else None, joined)
    seen = torch.cat(images)
    return Bank(domain, kept, codes, seen.cpu(), _read(domain, seen))


def _sizes(domain: Domain) -> dict[str, list[int]]:
    return {a.name: [len(g.phrases) for g in a.groups] for a in domain.pack.attributes}


@torch.no_grad()
def _render(domain: Domain, styles: Tensor, yaw: float | None = None) -> Tensor:
    """[B, N] to images [B, 3, H, W] in [-1, 1] from ``yaw`` degrees, by default the domain's."""
    found = []
    camera = domain.generator.orbit(math.radians(domain.yaw if yaw is None else yaw), 0.0)
    for part in styles.split(_BATCH):
        own = None if camera is None else camera.expand(len(part), -1)
        found.append(domain.generator.render(part, own).image.clamp(-1.0, 1.0))
    return torch.cat(found)


@torch.no_grad()
def _read(domain: Domain, images: Tensor) -> list[Reading]:
    """What the reader sees of [B, 3, H, W]."""
    found = {name: x.max(dim=1) for name, x in domain.reader.read(images).items()}
    return [
        {
            name: {
                "value": domain.reader.attributes[name][int(found[name].indices[k])],
                "probability": round(float(found[name].values[k]), 4),
            }
            for name in domain.titles
        }
        for k in range(len(images))
    ]


def word(value: str) -> str:
    """A value as it stands under a picture: without its article."""
    return value.removeprefix("a ").removeprefix("an ")


def result(
    bank: Bank, styles: Tensor, name: str, source: int, reference: int, **facts: Any
) -> Shot:
    """An edited image [1, N] from the front; under it what the reader sees, and what leaked.

    ``facts`` go into the data. 'moved' among them names attributes that were carried over before.
    """
    image = _render(bank.domain, styles)
    before, after = bank.readings[source], _read(bank.domain, image)[0]
    meant = {name, *facts.get("moved", ())}
    changed = [x for x in after if x not in meant and after[x]["value"] != before[x]["value"]]
    wanted = bank.readings[reference][name]["value"]
    told = {
        "attribute": name,
        "source": _seed(bank.latents[source]),
        "reference": _seed(bank.latents[reference]),
        "wanted": wanted,
        "before": before,
        "after": after,
        "success": after[name]["value"] == wanted,
        "changed": changed,
        **facts,
    }
    leaked = f"{len(changed)} others" if len(changed) > 1 else "".join(changed).replace("_", " ")
    caption = word(after[name]["value"]) + (f"\nalso {leaked}" if leaked else "")
    return Shot(image[0].cpu(), caption, told)


def ours(
    bank: Bank,
    masks: sat3d.Masks,
    names: Sequence[str],
    source: int,
    reference: int,
    intensity: float = 1.0,
) -> tuple[Shot, Tensor]:
    """The transfer of attributes, one after the other: (picture, styles [1, N]).

    Under the picture is the last one's value.
    """
    edits = [sat3d.Edit(bank.latents[reference], (name,)) for name in names]
    start = bank.latents[source]
    styles = sat3d.transfer(bank.domain.generator, masks, start, edits, intensity).styles
    facts = {"intensity": intensity, "moved": list(names)}
    return result(bank, styles, names[-1], source, reference, **facts), styles


def turned(domain: Domain, styles: Tensor, yaw: float = YAW) -> Shot:
    """Styles [1, N] from the side."""
    return Shot(_render(domain, styles, yaw)[0].cpu(), "", {"yaw": yaw})


def fit_methods(work: Work, domain: Domain, masks: sat3d.Masks) -> dict[str, Editor]:
    """Ours and the methods beside it, ready to edit; what cannot work here is told and left out."""
    generator, options = domain.generator, work.options
    count = options.pool or (_MANY if generator.device.type == "cuda" else _FEW)
    pool = draw_pool(
        generator, domain.measure, _sizes(domain), count, seed=options.seed, progress=work.progress
    )
    bench = Bench(
        generator, domain.pack, pool, work.progress, domain.measure, domain.segmenter, masks,
        options.seed, _BATCH,
    )  # fmt: skip
    ready: dict[str, Editor] = {}
    told = work.facts["methods"] = {}
    for text in (*options.methods, "masks"):
        editor = load_editor(text)
        try:
            told[text] = _fitted(editor, bench, text, work.progress)
        except UsageError as error:
            work.progress.note(f"{text} is left out: {error}")
            told[text] = {"skipped": str(error)}
            continue
        ready[TITLES.get(editor.name, text)] = editor
    return ready


def _fitted(editor: Editor, bench: Bench, text: str, progress: Progress) -> dict[str, Any]:
    with progress.phase(f"Fitting {text}", 1) as phase:
        facts = dict(editor.fit(bench))
        phase.advance()
    return facts


@torch.no_grad()
def best(
    bank: Bank, editor: Editor, name: str, source: int, reference: int
) -> tuple[Shot, Tensor]:  # fmt: skip
    """The best of a method's range of intensities, as in the paper: (picture, styles [1, N]).

    Best by the reader: the probability of the reference's value, less the mean loss of the other
    attributes' probabilities; of those within a hundredth the gentlest. The data has the range.
    """
    one, two = (bank.codes[slice(k, k + 1)] for k in (source, reference))
    strengths = sorted(editor.intensities, key=abs)
    styles = torch.cat([editor.edit(one, two, name, x) for x in strengths])
    images = _render(bank.domain, styles)
    found = bank.domain.reader.read(images)
    score = found[name][:, bank.value(reference, name)]
    others = [x for x in bank.domain.titles if x != name]
    for other in others:
        score = score - (1 - found[other][:, bank.value(source, other)]) / len(others)
    curve = [
        {"intensity": x, "score": round(float(s), 4)}
        for x, s in zip(strengths, score, strict=True)
    ]  # fmt: skip
    least = max(point["score"] for point in curve) - _EQUAL
    k = next(k for k, point in enumerate(curve) if point["score"] >= least)
    facts = {"method": editor.name, "intensity": strengths[k], "range": curve}
    return result(bank, styles[k : k + 1], name, source, reference, **facts), styles[k : k + 1]
