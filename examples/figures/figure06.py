"""Figure 6: one attribute after the other, until the source looks like the reference.

python -m examples.figures.figure06 --out figures
"""

import sys

from examples.figures.common import Figure, Grid, Work
from examples.figures.pairs import YAW, Bank, make_bank, ours, turned


def draw(work: Work) -> list[Grid]:
    """A block for each of two pairs: columns are steps, seen from the front and from the side."""
    domain = work.domain
    masks, bank = work.masks(domain), make_bank(work, domain)
    names, used = list(domain.titles), set[int]()
    grids = []
    for title in ("First pair", "Second pair"):
        source, reference = apart(bank, used)
        steps = [
            ours(bank, masks, names[: k + 1], source, reference) for k in range(len(names))
        ]  # fmt: skip
        ends = [(bank.shot(k), bank.latents[k].styles) for k in (source, reference)]
        columns = [ends[0], *steps, ends[1]]
        rows = [[shot for shot, _ in columns]]
        if domain.generator.is_3d:
            rows.append([turned(domain, styles) for _, styles in columns])
        heads = ["source", *(f"+ {domain.titles[x].lower()}" for x in names), "reference"]
        grids.append(Grid(rows, ["front", f"{YAW}°"][: len(rows)], heads, title, domain.text))
    return grids


def apart(bank: Bank, used: set[int]) -> tuple[int, int]:
    """The pair that differs in most attributes; of several the one that is read most surely."""
    places = [k for k in range(len(bank.images)) if k not in used]
    names = list(bank.domain.titles)

    def differences(pair: tuple[int, int]) -> tuple[int, float]:
        one, two = pair
        differ = sum(bank.value(one, x) != bank.value(two, x) for x in names)
        return differ, min(bank.clear(one), bank.clear(two))

    found = max(((a, b) for a in places for b in places if a != b), key=differences)
    used.update(found)
    return found


FIGURE = Figure(
    6,
    "Attributes one after the other",
    draw,
    ("eg3d+faces",),
    side=128,
    note="Under each step: what a reader that took no part in training sees of the attribute "
    "that was carried over last. Intensity 1.",
)

if __name__ == "__main__":
    sys.exit(FIGURE.run())
