"""The paper's figure 3 on your own masks: each attribute carried from its reference, in 3D.

    python examples/figures/attributes.py runs/faces figure.png seed:12 \
        hairstyle=seed:19 beard=seed:22 eyeglasses=seed:3

References and results are seen from two sides, so that the third dimension shows.
"""

import math
import sys

import sat3d
from sat3d.picture import Panel, Tile, sheet

masks_path, picture_path, source_text, *wishes = sys.argv[1:]

masks = sat3d.load_masks(masks_path)
generator = sat3d.generator_for(masks)
source = sat3d.resolve(source_text, generator)


def seen(styles, yaw):
    """A tile of styles [1, N] from ``yaw`` degrees."""
    camera = generator.orbit(math.radians(yaw), 0.0)
    return Tile(generator.render(styles, camera).image[0].clamp(-1, 1))


references, fronts, sides = [None], [seen(source.styles, -12)], [seen(source.styles, 25)]
names = ["source"]
for wish in wishes:
    name, _, text = wish.partition("=")
    reference = sat3d.resolve(text, generator)
    result = sat3d.transfer(generator, masks, source, [sat3d.Edit(reference, (name,))])
    names.append(name.replace("_", " "))
    references.append(seen(reference.styles, -12))
    fronts.append(seen(result.styles, -12))
    sides.append(seen(result.styles, 25))

panel = Panel(
    [references, fronts, sides], row_labels=("reference", "result", ""), column_labels=names
)
sheet([panel], side=192).save(picture_path, optimize=True, quality=92)
