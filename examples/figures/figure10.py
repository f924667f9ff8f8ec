"""Figure 10: the same edits at growing intensity.

python -m examples.figures.figure10 --out figures
"""

import sys

from examples.figures.common import Figure, Grid, Work
from examples.figures.pairs import make_bank, ours

ATTRIBUTES = ("eyeglasses", "expression")
INTENSITIES = (0.5, 1.0, 1.5, 2.0, 2.5)
PAIRS = 2


def draw(work: Work) -> list[Grid]:
    """Rows are pairs, columns intensities."""
    domain = work.domain
    masks, bank = work.masks(domain), make_bank(work, domain)
    used: set[int] = set()
    rows, labels = [], []
    for name in domain.some(ATTRIBUTES, 2):
        shown: list[int] = []
        for _ in range(PAIRS):
            source = bank.pick(name, {0}, used)
            reference = bank.reference(name, used, shown)
            shown.append(bank.value(reference, name))
            steps = [ours(bank, masks, [name], source, reference, x)[0] for x in INTENSITIES]
            rows.append([bank.shot(source, name), *steps, bank.shot(reference, name)])
            labels.append(domain.titles[name])
    heads = ["source", *(f"intensity {x:g}" for x in INTENSITIES), "reference"]
    return [Grid(rows, labels, heads, domain=domain.text)]


FIGURE = Figure(
    10,
    "Editing intensity",
    draw,
    ("eg3d+faces",),
    note="1 replaces, more exaggerates. Under each picture: what a reader sees that took no "
    "part in training.",
)

if __name__ == "__main__":
    sys.exit(FIGURE.run())
