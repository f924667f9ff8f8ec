"""Drawing, reading and segmenting images for measurement, each image once.

A bank of codes is rendered once with everything that depends on it alone; pairs are drawn from it,
and only their edits are rendered anew.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sat3d.errors import Sat3dError, UsageError
from sat3d.interfaces import Codes, Generator, Reader, Render, Segmenter
from sat3d.parallel import gathered_objects, share
from sat3d.progress import Phase
from sat3d.regions import RegionTable, alterable, pack_masks

# Seeds here begin far from the pool's, so that no training image is measured.
SEED_SPACE = 1_000_000_007
_DRAWN = 4096


@dataclass(frozen=True)
class Look:
    """What the readers say of B images; all on the CPU."""

    values: Mapping[str, Tensor]
    """Attribute -> number of its most probable value: [B] int64."""
    details: Mapping[str, Tensor] = field(default_factory=dict)
    """Attribute -> [B, E_t]: the reader's embedding, or its probabilities where it has none."""
    features: Tensor | None = None
    """[B, E]: all that the reader sees; its probabilities where it has no embedding."""
    identity: Tensor | None = None
    """[B, E]: who is shown, if a reader tells."""

    def __getitem__(self, rows: Tensor | slice) -> "Look":
        """The images at these places."""
        return Look(
            {name: x[rows] for name, x in self.values.items()},
            {name: x[rows] for name, x in self.details.items()},
            None if self.features is None else self.features[rows],
            None if self.identity is None else self.identity[rows],
        )


def join_looks(looks: Sequence[Look]) -> Look:
    """Looks at several batches as one."""
    features = [look.features for look in looks if look.features is not None]
    identities = [look.identity for look in looks if look.identity is not None]
    first = looks[0]
    return Look(
        {name: torch.cat([x.values[name] for x in looks]) for name in first.values},
        {name: torch.cat([x.details[name] for x in looks]) for name in first.details},
        torch.cat(features) if features else None,
        torch.cat(identities) if identities else None,
    )


@dataclass(frozen=True)
class Bank:
    """Codes with all that is known of their images."""

    codes: Codes
    images: Tensor
    """[B, 3, H, W] in [-1, 1], on the CPU."""
    look: Look
    regions: Tensor | None = None
    """[B, ceil(A/8), H, W] uint8 packed alterable regions, on the CPU; None without a segmenter."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Studio:
    """The parts that a measurement works with."""

    generator: Generator
    reader: Reader
    segmenter: Segmenter | None
    table: RegionTable | None
    phase: Phase
    batch: int
    embed: bool = False
    """Also take embeddings."""
    identity: Reader | None = None
    """Whose embedding tells who is shown; None: the reader's own."""

    def draw(self, styles: Tensor, cameras: Tensor | None) -> Render:
        """[B, N], [B, 25] to a render with its image in [-1, 1]; counts as progress."""
        drawn = self.generator.render(styles, cameras)
        self.phase.advance(len(styles))
        return replace(drawn, image=drawn.image.clamp(-1.0, 1.0))

    def look(self, images: Tensor, closely: bool = True) -> Look:
        """Read [B, 3, H, W]; ``closely``: with embeddings, where those are taken."""
        closely = closely and self.embed
        found = self.reader.embed(images) if closely else None
        probabilities = self.reader.read(images) if found is None else found.probabilities
        values = {name: x.argmax(dim=1).cpu() for name, x in probabilities.items()}
        if not closely:
            return Look(values)
        details = probabilities if found is None else found.attributes
        features = None if found is None else found.features
        if features is None:
            features = torch.cat([details[name] for name in sorted(details)], dim=1)
        who = found if self.identity is None else self.identity.embed(images)
        identity = None if who is None else who.identity
        return Look(
            values,
            {name: x.float().cpu() for name, x in details.items()},
            features.float().cpu(),
            None if identity is None else identity.float().cpu(),
        )

    def regions(self, images: Tensor) -> Tensor | None:
        """Packed alterable regions of [B, 3, H, W]: [B, ceil(A/8), H, W] uint8 on the CPU."""
        if self.segmenter is None or self.table is None:
            return None
        return pack_masks(alterable(self.segmenter.segment(images), self.table)).cpu()

    def region(self, images: Tensor, row: int) -> Tensor | None:
        """The alterable region of one attribute: [B, H, W] bool; None where it has none."""
        if self.segmenter is None or self.table is None or self.table.regions[row] is None:
            return None
        one = RegionTable(self.table.member[row : row + 1], self.table.regions[row : row + 1])
        return alterable(self.segmenter.segment(images), one)[:, 0]


def parts(count: int, size: int) -> Iterator[slice]:
    """0 to count in slices of at most ``size``."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def make_bank(studio: Studio, size: int, seed: int, truncation: float) -> Bank:
    """Sample, render, read and segment ``size`` codes once, in order of the seed."""
    generator = studio.generator
    z = generator.sample_latents(size, SEED_SPACE + seed)
    cameras = generator.sample_cameras(size, SEED_SPACE + seed)
    w = [generator.map(z[part], truncation=truncation) for part in parts(size, studio.batch)]
    styles = [generator.styles(x) for x in w]
    own = []
    for k, part in share(list(enumerate(parts(size, studio.batch)))):
        image = studio.draw(styles[k], None if cameras is None else cameras[part]).image
        own.append((k, image.cpu(), studio.look(image), studio.regions(image)))
    seen = sorted(gathered_objects(own), key=lambda x: x[0])
    codes = Codes(torch.cat(styles), torch.cat(w), cameras)
    regions = [x[3] for x in seen if x[3] is not None]
    outlines = torch.cat(regions) if regions else None
    images = torch.cat([x[1] for x in seen])
    return Bank(codes, images, join_looks([x[2] for x in seen]), outlines)


def draw_pairs(bank: Bank, name: str, row: int, count: int, seed: int) -> Tensor:
    """Numbers [count, 2] of sources and references whose readings differ, evenly drawn.

    ``row`` tells attributes of one seed apart. Raises Sat3dError if only one value is shown.
    """
    values = bank.look.values[name]
    source = torch.Generator().manual_seed(SEED_SPACE + seed * 101 + row)
    if len(values.unique()) == 1:
        raise Sat3dError(
            f"all {len(values)} sampled images show one value of '{name}', so no pair differs in "
            "it. Raise --bank or --truncation."
        )
    found: list[Tensor] = []
    while sum(map(len, found)) < count:
        drawn = torch.randint(len(values), (_DRAWN, 2), generator=source)
        found.append(drawn[values[drawn[:, 0]] != values[drawn[:, 1]]])
    return torch.cat(found)[:count]


@dataclass(frozen=True)
class Edited:
    """One batch of edits of one attribute, from the sources' cameras."""

    name: str
    sources: Tensor
    """[b] int64, places in the bank, on the CPU."""
    references: Tensor
    styles: Tensor
    """[b, N]."""
    image: Tensor
    """[b, 3, H, W] in [-1, 1]."""
    look: Look


Edit = Callable[[Codes, Codes], Tensor]
"""Codes of b sources and b references to styles [b, N]."""


def edits(
    studio: Studio, bank: Bank, name: str, pairs: Tensor, edit: Edit, closely: bool = True
) -> Iterator[Edited]:
    """Make, render and read the edits of pairs [P, 2], batch by batch; see :meth:`Studio.look`."""
    device = bank.codes.styles.device
    for part in parts(len(pairs), studio.batch):
        sources, references = pairs[part].unbind(dim=1)
        source = bank.codes[sources.to(device)]
        styles = edit(source, bank.codes[references.to(device)])
        image = studio.draw(styles, source.cameras).image
        yield Edited(name, sources, references, styles, image, studio.look(image, closely))


def measured(attributes: Sequence[str], reader: Reader) -> list[str]:
    """The attributes that the reader knows. Raises UsageError if there is none."""
    names = [name for name in attributes if name in reader.attributes]
    if not names:
        raise UsageError(
            f"reader '{reader.name}' reads none of the masks' attributes "
            f"({', '.join(attributes)}). Choose another with --reader."
        )
    return names
