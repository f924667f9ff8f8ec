"""Write a contact sheet of a world: ``python -m recipes.sheet --world cats --out sheet.png``."""

import argparse
from pathlib import Path

import torch
from PIL import Image

from recipes import worlds


def main() -> None:
    """Draws ``--n`` random scenes, each seen from all ``--yaws``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--world", choices=worlds.NAMES, default="avatars")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--pitch", type=float, default=0.0)
    parser.add_argument("--yaws", type=float, nargs="+", default=(-0.6, 0.0, 0.6))
    given = parser.parse_args()
    world = worlds.load(given.world)
    sheet = world.contact_sheet(given.n, given.seed, tuple(given.yaws), given.pitch, given.size)
    pixels = ((sheet + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    # A palette takes a third of the bytes.
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).quantize(256).save(given.out, optimize=True)


if __name__ == "__main__":
    main()
