"""Figure 3: attributes in 3D beside PREIM3D, which knows no reference's details.

    python -m examples.figures.figure03 --out figures

Expression, beard and eyeglasses; ours takes each from two references.
"""

import sys

from examples.figures.common import Figure, Grid, Work
from examples.figures.pairs import YAW, best, fit_methods, make_bank, turned

ATTRIBUTES = ("expression", "beard", "eyeglasses")


def draw(work: Work) -> list[Grid]:
    """A block for each attribute: columns are methods, seen from the front and from the side."""
    domain = work.domain
    bank, methods = make_bank(work, domain), fit_methods(work, domain, work.masks(domain))
    used: set[int] = set()
    grids = []
    for name in domain.some(ATTRIBUTES, 3):
        source = bank.pick(name, {0}, used)
        first = bank.reference(name, used)
        second = bank.reference(name, used, {bank.value(first, name)})
        columns = [("source", bank.shot(source, name), bank.latents[source].styles)]
        for label, editor in methods.items():
            both = label == "ours"
            for k, reference in enumerate((first, second) if both else (first,)):
                found = best(bank, editor, name, source, reference)
                columns.append((f"{label}, {'AB'[k]}" if both else label, *found))
        for k, place in enumerate((first, second)):
            latent = bank.latents[place].styles
            columns.append((f"reference {'AB'[k]}", bank.shot(place, name), latent))
        rows = [[shot for _, shot, _ in columns]]
        if domain.generator.is_3d:
            rows.append([turned(domain, styles) for _, _, styles in columns])
        labels = ["front", f"{YAW}°"][: len(rows)]
        heads = [label for label, _, _ in columns]
        grids.append(Grid(rows, labels, heads, domain.titles[name], domain.text))
    return grids


FIGURE = Figure(
    3,
    "3D editing beside PREIM3D",
    draw,
    ("eg3d+faces",),
    methods=("preim3d",),
    note="Each result is the best of its method's intensities, by a reader that took no part in "
    "training (its words). Other methods go to A's value.",
)

if __name__ == "__main__":
    sys.exit(FIGURE.run())
