"""Figure 5: the same method on other domains, all that are installed.

python -m examples.figures.figure05 --out figures
"""

import sys

from examples.figures.common import Domain, Figure, Grid, Shot, Work
from examples.figures.pairs import make_bank, ours

ROWS = ["source", "reference", "result"]
COLUMNS = 6


def draw(work: Work) -> list[Grid]:
    """A block for each domain; with three attributes or fewer several pairs of each."""
    return [block(work, domain) for domain in work.domains]


def block(work: Work, domain: Domain) -> Grid:
    """Columns are attributes."""
    masks, bank = work.masks(domain), make_bank(work, domain)
    names = list(domain.titles)[:COLUMNS]
    used: set[int] = set()
    columns: list[list[Shot]] = []
    heads: list[str] = []
    for name in names:
        shown: list[int] = []
        for _ in range(COLUMNS // len(names)):
            source, reference = bank.pair(name, used, shown)
            shown.append(bank.value(reference, name))
            found, _ = ours(bank, masks, [name], source, reference)
            columns.append([bank.shot(source, name), bank.shot(reference, name), found])
            heads.append(domain.titles[name])
    rows = list(zip(*columns, strict=True))
    return Grid(rows, ROWS, heads, domain.pack.title, domain.text)


FIGURE = Figure(
    5,
    "Attribute transfer in several domains",
    draw,
    ("eg3d+faces", "eg3d:cats+cats", "eg3d:cars+cars", "flowers+flowers"),
    every=True,
    note="Under each picture: what a reader sees that took no part in training. "
    "Intensity 1. Pairs chosen by source and reference alone.",
)

if __name__ == "__main__":
    sys.exit(FIGURE.run())
