"""Figure 4: every attribute carried from a reference to a source, in 3D; two pairs of each.

python -m examples.figures.figure04 --out figures
"""

import sys

from examples.figures.common import Figure, Grid, Shot, Work
from examples.figures.pairs import YAW, make_bank, ours, turned

ROWS = ["source", "reference", "result", f"result, {YAW}°"]


def draw(work: Work) -> list[Grid]:
    """Columns are attributes; a block for each of the two pairs."""
    domain = work.domain
    masks, bank = work.masks(domain), make_bank(work, domain)
    used: set[int] = set()
    shown: dict[str, list[int]] = {name: [] for name in domain.titles}
    grids = []
    for title in ("First pair", "Second pair"):
        columns: list[list[Shot]] = []
        for name in domain.titles:
            source, reference = bank.pair(name, used, shown[name])
            shown[name].append(bank.value(reference, name))
            front, styles = ours(bank, masks, [name], source, reference)
            side = [turned(domain, styles)] if domain.generator.is_3d else []
            pair = [bank.shot(source, name), bank.shot(reference, name)]
            columns.append([*pair, front, *side])
        rows = list(zip(*columns, strict=True))
        labels = ROWS[: len(rows)]
        grids.append(Grid(rows, labels, list(domain.titles.values()), title, domain.text))
    return grids


FIGURE = Figure(
    4,
    "Attribute transfer in 3D",
    draw,
    ("eg3d+faces",),
    note="Under each picture: what a reader sees that took no part in training. "
    "Intensity 1. Pairs chosen by source and reference alone.",
)

if __name__ == "__main__":
    sys.exit(FIGURE.run())
