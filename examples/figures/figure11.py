"""Figure 11: masks trained with and without the preservation loss.

    python -m examples.figures.figure11 --out figures

One attribute is carried over; another one, which lies on the same pixels, should stay.
"""

import sys

from examples.figures.common import SOFT, Figure, Grid, Shot, Work
from examples.figures.pairs import Bank, make_bank, ours, word

ROWS = ["source", "reference", "with L_src", "without L_src"]
MOVES = {"cars": ("shape", "color"), "flowers": ("petal_shape", "petal_color"),
         "faces": ("beard", "expression")}  # fmt: skip
PAIRS = 6


def draw(work: Work) -> list[Grid]:
    """Columns are pairs that differ in both attributes, rows the two trainings."""
    domain = work.domain
    moved, kept = MOVES.get(domain.pack.name) or list(domain.titles)[:2]
    both = [work.masks(domain, *SOFT), work.masks(domain, *SOFT, "weights.preserve=0")]
    bank = make_bank(work, domain)
    used: set[int] = set()
    columns = []
    for _ in range(PAIRS):
        source, reference = differing(bank, moved, kept, used)
        ends = [worded(bank.shot(k), moved, kept) for k in (source, reference)]
        results = [ours(bank, masks, [moved], source, reference)[0] for masks in both]
        columns.append([*ends, *(worded(shot, moved, kept) for shot in results)])
    rows = list(zip(*columns, strict=True))
    title = f"{domain.titles[moved]} moves, {domain.titles[kept].lower()} should stay"
    return [Grid(rows, ROWS, [f"pair {k + 1}" for k in range(PAIRS)], title, domain.text)]


def differing(bank: Bank, moved: str, kept: str, used: set[int]) -> tuple[int, int]:
    """(source, reference) that differ in both attributes."""
    reference = bank.reference(moved, used)
    alike = {
        k for k in range(len(bank.images)) if bank.value(k, kept) == bank.value(reference, kept)
    }
    rest = set(bank.values(moved)) - {bank.value(reference, moved)}
    source = bank.pick(moved, rest, used | alike)
    used.add(source)
    return source, reference


def worded(shot: Shot, moved: str, kept: str) -> Shot:
    """The picture with both attributes' values under it."""
    reading = shot.data.get("after") or shot.data["reading"]
    words = [word(reading[name]["value"]) for name in (moved, kept)]
    return Shot(shot.image, "\n".join(words), shot.data)


FIGURE = Figure(
    11,
    "What the preservation loss keeps",
    draw,
    ("eg3d:cars+cars", "flowers+flowers", "eg3d+faces"),
    note="Under each picture: both attributes, as a reader sees them that took no part in "
    "training. Intensity 1.",
)

if __name__ == "__main__":
    sys.exit(FIGURE.run())
