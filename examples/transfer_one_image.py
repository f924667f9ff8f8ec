"""Carry one attribute from a reference to a source and save what comes out.

    python examples/transfer_one_image.py runs/faces/masks.safetensors seed:12 seed:22 beard

Source and reference are seed:N, a saved latent or an image file.
"""

import sys

import sat3d

masks_path, source_text, reference_text, attribute = sys.argv[1:]

masks = sat3d.load_masks(masks_path)
generator = sat3d.generator_for(masks)

source = sat3d.resolve(source_text, generator)
reference = sat3d.resolve(reference_text, generator)
edits = [sat3d.Edit(reference, (attribute,))]

for intensity in (1.0, 1.5, 2.0):
    result = sat3d.transfer(generator, masks, source, edits, intensity)
    image = generator.render(result.styles, result.camera).image
    sat3d.write_png(f"result-{intensity:g}.png", image[0])

sat3d.save_latent("result.safetensors", result, generator)
