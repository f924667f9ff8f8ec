"""Figure 7: attributes in 2D, towards presence, beside StyleCLIP and InterFaceGAN.

    python -m examples.figures.figure07 --out figures

Expression, beard and eyeglasses of sources without; ours takes each from two references.
"""

import sys

from examples.figures.common import Domain, Figure, Grid, Work
from examples.figures.pairs import best, fit_methods, make_bank

ATTRIBUTES = ("expression", "beard", "eyeglasses")


def draw(work: Work) -> list[Grid]:
    """Rows are attributes, columns methods."""
    domain = work.domain
    bank, methods = make_bank(work, domain), fit_methods(work, domain, work.masks(domain))
    names, used = domain.some(ATTRIBUTES, 3), set[int]()
    rows = []
    for name in names:
        source = bank.pick(name, {0}, used)
        first = bank.reference(name, used)
        second = bank.reference(name, used, {bank.value(first, name)})
        results = [
            best(bank, editor, name, source, reference)[0]
            for label, editor in methods.items()
            for reference in ((first, second) if label == "ours" else (first,))
        ]
        shots = [bank.shot(k, name) for k in (source, first, second)]
        rows.append([shots[0], *results, *shots[1:]])
    others = [label for label in methods if label != "ours"]
    heads = ["source", *others, "ours, A", "ours, B", "reference A", "reference B"]
    labels = [domain.titles[x] for x in names]
    return [Grid(rows, labels, heads, stands_in(domain), domain.text)]


def stands_in(domain: Domain) -> str:
    """What to say above a figure of 2D editing that a 3D generator draws."""
    name = domain.generator.name
    return f"No 2D generator: {name} from the front stands in" if domain.generator.is_3d else ""


FIGURE = Figure(
    7,
    "2D editing towards presence, beside semantic methods",
    draw,
    ("stylegan2+faces", "eg3d+faces"),
    methods=("styleclip", "interfacegan"),
    note="Each result is the best of its method's intensities, by a reader that took no part in "
    "training (its words). Other methods go to A's value.",
)

if __name__ == "__main__":
    sys.exit(FIGURE.run())
