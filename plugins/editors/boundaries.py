"""Editors that move w across a linear boundary (InterFaceGAN, Shen et al. 2020; PREIM3D 2023).

Both know two-sided attributes; here an attribute has several values, so that each value gets a
boundary against all others, and an edit goes to the side of the value that the reference shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sat3d.editors import typed_options
from sat3d.errors import UsageError
from sat3d.interfaces import Bench, Codes, Editor, Generator

_LEAST = 40
"""Examples of each side that a small pool gives, where the paper's share would be a handful."""
_TRAIN = 0.7


@dataclass(frozen=True)
class Boundary:
    """One value against the others."""

    normal: Tensor
    """[M] float32 of length 1, towards the value."""
    accuracy: float
    """Of held-out examples."""


def fit_boundary(codes: Tensor, positive: Tensor, negative: Tensor, seed: int) -> Boundary:
    """Linear SVM (scikit-learn, C = 1) between the codes [P, M] at two sets of places, 2 or more.

    70 % of each side are learned from, the rest tells the accuracy.
    """
    from sklearn.svm import SVC

    source = torch.Generator().manual_seed(seed)
    learn, check = [], []
    for places, label in ((positive, 1), (negative, 0)):
        shuffled = places[torch.randperm(len(places), generator=source)]
        cut = max(1, round(_TRAIN * len(places)))
        learn.append((shuffled[:cut], label))
        check.append((shuffled[cut:], label))
    machine = SVC(kernel="linear", C=1.0, class_weight="balanced", random_state=seed)
    machine.fit(*_examples(codes, learn))
    accuracy = float(machine.score(*_examples(codes, check)))
    normal = torch.tensor(machine.coef_[0].tolist()).to(codes)
    return Boundary(F.normalize(normal, dim=0), accuracy)


def _examples(codes: Tensor, sets: list[tuple[Tensor, int]]) -> tuple[Any, Any]:
    places = torch.cat([x for x, _ in sets])
    labels = torch.cat([torch.full((len(x),), label) for x, label in sets])
    return codes[places].double().numpy(), labels.numpy()


class BoundaryEditor(Editor):
    """What both methods share; ``directions`` are filled by ``fit``."""

    def __init__(self) -> None:
        self.directions: dict[str, tuple[Tensor, ...]] = {}
        """Attribute -> for each group of phrases [V, M]; a step of one standard deviation."""

    def edit(self, source: Codes, reference: Codes, attribute: str, intensity: float) -> Tensor:
        """Move w; the styles, all of them, follow."""
        w = self._start.expand(len(source), -1, -1) if source.w is None else source.w
        way = torch.zeros_like(w)
        for group, known in zip(
            reference.values[attribute], self.directions[attribute], strict=True
        ):
            step = known.to(w)[group.argmax(dim=1).to(w.device)]
            way = way + step.view(len(w), -1, w.shape[2])
        # As a difference it also serves codes whose own w is not known: styles are affine in w.
        styles = self._generator.styles
        return source.styles + styles(w + intensity * way) - styles(w)

    def _learn(self, bench: Bench, codes: Tensor, conditional: bool, **more: Any) -> dict[str, Any]:
        """Boundaries of all values in ``codes`` [P, M], by the pool's values."""
        if bench.measure is None or bench.pool.w is None:
            raise UsageError(f"method '{self.name}' needs a text-image model. Add --clip.")
        self._generator: Generator = bench.generator
        self._start = bench.pool.w.mean(dim=0, keepdim=True)
        found: dict[str, list[list[Boundary | None]]] = {}
        for name, groups in bench.pool.values.items():
            found[name] = [self._values(bench, codes, group.cpu(), **more) for group in groups]
        for name in found:
            others = [x for other in found if other != name for x in _flat(found[other])]
            span = _span(others) if conditional and others else None
            self.directions[name] = tuple(
                torch.stack([_step(x, codes, span) for x in group]) for group in found[name]
            )
        return {"accuracy": {name: _accuracy(groups) for name, groups in found.items()}}

    def _values(
        self, bench: Bench, codes: Tensor, group: Tensor, fraction: float
    ) -> list[Boundary | None]:
        """A boundary for each value of [P, V]; None for one that is never or always shown."""
        boundaries: list[Boundary | None] = []
        for value in range(group.shape[1]):
            positive, negative = _sides(group, value, fraction)
            usable = min(len(positive), len(negative)) > 1
            boundaries.append(
                fit_boundary(codes, positive, negative, bench.seed) if usable else None
            )
        return boundaries


def _sides(group: Tensor, value: int, fraction: float) -> tuple[Tensor, Tensor]:
    """Places with and without the value.

    With a ``fraction`` those where it is most and least probable, as in InterFaceGAN; with 0 all,
    by whether it is the most probable one.
    """
    if fraction == 0:
        shown = group.argmax(dim=1) == value
        return shown.nonzero().squeeze(1), (~shown).nonzero().squeeze(1)
    order = group[:, value].argsort(stable=True)
    count = min(max(round(fraction * len(order)), _LEAST), len(order) // 2)
    return order[len(order) - count :], order[:count]


def _flat(groups: list[list[Boundary | None]]) -> list[Tensor]:
    return [x.normal for group in groups for x in group if x is not None]


def _span(normals: list[Tensor]) -> Tensor:
    """Orthonormal columns [M, r] that span the normals."""
    basis, size, _ = torch.linalg.svd(torch.stack(normals, dim=1), full_matrices=False)
    return basis[:, size > 1e-4 * size.max()]


def _step(boundary: Boundary | None, codes: Tensor, span: Tensor | None) -> Tensor:
    """The way [M] of intensity 1: the standard deviation of the codes along the normal.

    With a ``span`` the other attributes' normals are projected out first (conditional edit).
    """
    if boundary is None:
        return torch.zeros(codes.shape[1])
    normal = boundary.normal
    if span is not None:
        normal = normal - span @ (span.T @ normal)
        normal = F.normalize(normal, dim=0) if float(normal.norm()) > 1e-4 else normal * 0
    return normal * (codes @ normal).std()


def _accuracy(groups: list[list[Boundary | None]]) -> list[list[float | None]]:
    return [[None if x is None else round(x.accuracy, 4) for x in group] for group in groups]


class InterFaceGANEditor(BoundaryEditor):
    """Boundaries in W between the images that show a value most and least.

    ``fraction`` of the pool is on each side (paper's code: 0.02 of 10000; at least 40 images
    here). ``conditional=0`` leaves the other attributes' normals in.
    """

    name = "interfacegan"
    intensities = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 14.0)

    def __init__(self, options: Mapping[str, str]) -> None:
        super().__init__()
        self._options = typed_options(self.name, options, fraction=0.02, conditional=1)

    def fit(self, bench: Bench) -> Mapping[str, Any]:
        """Learn the boundaries in W; rows of w that differ are averaged."""
        w = bench.pool.w
        codes = torch.empty(0) if w is None else w.mean(dim=1).cpu()
        conditional, fraction = bool(self._options["conditional"]), self._options["fraction"]
        if not 0 < fraction <= 0.5:
            raise UsageError(f"method 'interfacegan': fraction={fraction:g} is not in 0 to 0.5.")
        facts = self._learn(bench, codes, conditional, fraction=fraction)
        return {**facts, "images": len(codes), "conditional": conditional}


class PREIM3DEditor(BoundaryEditor):
    """Boundaries between inverted images, in all rows of w, of a 3D generator.

    The images are inverted by the generator's own encoder; without one their own w, which their
    camera conditions, stands in. ``images`` bounds how many are learned from.
    """

    name = "preim3d"
    intensities = (1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0)

    def __init__(self, options: Mapping[str, str]) -> None:
        super().__init__()
        self._options = typed_options(self.name, options, images=2000)

    def fit(self, bench: Bench) -> Mapping[str, Any]:
        """Invert the pool and learn from it."""
        if not bench.generator.is_3d:
            raise UsageError(f"method 'preim3d' edits 3D, '{bench.generator.name}' draws 2D.")
        count = min(len(bench.pool), self._options["images"])
        pool = bench.pool[slice(0, count)]
        some = Bench(
            bench.generator, bench.pack, pool, bench.progress, bench.measure, seed=bench.seed
        )
        w = _inverted(bench, pool)
        known = pool.w if w is None else w
        codes = torch.empty(0) if known is None else known.flatten(1).cpu()
        facts = self._learn(some, codes, conditional=False, fraction=0.0)
        return {**facts, "images": count, "inverted": w is not None}


def _inverted(bench: Bench, pool: Codes) -> Tensor | None:
    """What the generator's encoder makes of the pool's images: [P, L, W], or None without one."""
    found = []
    for rows in torch.arange(len(pool)).split(bench.batch):
        part = pool[rows.to(pool.styles.device)]
        image = bench.generator.render(part.styles, part.cameras).image.clamp(-1.0, 1.0)
        guess = bench.generator.encode(image)
        if guess is None:
            return None
        found.append(guess[0])
    return torch.cat(found)
