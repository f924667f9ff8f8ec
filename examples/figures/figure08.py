"""Figure 8: attributes in 2D, towards absence, beside StyleCLIP and InterFaceGAN.

    python -m examples.figures.figure08 --out figures

The reference is an image without the attribute.
"""

import sys

from examples.figures.common import Figure, Grid, Work
from examples.figures.figure07 import ATTRIBUTES, stands_in
from examples.figures.pairs import best, fit_methods, make_bank


def draw(work: Work) -> list[Grid]:
    """Rows are attributes, columns methods."""
    domain = work.domain
    bank, methods = make_bank(work, domain), fit_methods(work, domain, work.masks(domain))
    names, used = domain.some(ATTRIBUTES, 3), set[int]()
    rows = []
    for name in names:
        reference = bank.pick(name, {0}, used)
        source = bank.reference(name, used)
        results = [best(bank, x, name, source, reference)[0] for x in methods.values()]
        rows.append([bank.shot(source, name), *results, bank.shot(reference, name)])
    labels = [domain.reader.attributes[name][0] for name in names]
    heads = ["source", *methods, "reference"]
    return [Grid(rows, labels, heads, stands_in(domain), domain.text)]


FIGURE = Figure(
    8,
    "2D editing towards absence, beside semantic methods",
    draw,
    ("stylegan2+faces", "eg3d+faces"),
    methods=("styleclip", "interfacegan"),
    note="Each result is the best of its method's intensities, by a reader that took no part in "
    "training (its words).",
)

if __name__ == "__main__":
    sys.exit(FIGURE.run())
