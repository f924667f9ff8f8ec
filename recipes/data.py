"""Renders as training data: one set of images that a world's recipes share; augmentation."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipes.renderer import Factors
from recipes.worlds import World

RESOLUTION = 128
FORMAT = 2
"""In the name of kept renders, so that older ones are not taken for these."""
TRAIN_SEED, TRAIN_COUNT = 0, 60_000
HELD_OUT_SEED, HELD_OUT_COUNT = 1_000_003, 2_000
COMPILED_FROM = 512
"""Pictures for which compiling the renderer pays; compiled it is seven times faster on a CPU."""


@dataclass(frozen=True)
class Renders:
    """M pictures of a world and everything that is true of them, on one device."""

    world: World
    images: Tensor
    """[M, 3, 128, 128] uint8 RGB."""
    labels: Tensor
    """[M, 128, 128] uint8, numbers of world.labels."""
    depths: Tensor
    """[M, 128, 128] float16, distance along the ray less the cameras', for precision's sake."""
    factors: Factors
    cameras: Tensor
    """[M, 25] float32."""

    def __len__(self) -> int:
        return len(self.images)

    def classes(self, factor: str) -> Tensor:
        """Value numbers [M] int64 of one factor."""
        return self.factors.classes[:, self.world.columns[factor]]

    def shows(self, attribute: str) -> Tensor:
        """[M] bool, false where another factor hides the attribute."""
        cover = self.world.hides.get(attribute)
        if cover is None:
            return torch.ones(len(self), dtype=torch.bool, device=self.images.device)
        return self.classes(cover) == 0

    def angles(self) -> Tensor:
        """Yaw in (-pi, pi] and pitch [M, 2] in radians, off the cameras' positions."""
        place = F.normalize(self.cameras[:, [3, 7, 11]], dim=1)
        return torch.stack([torch.atan2(place[:, 0], place[:, 2]), -torch.pi / 2 * place[:, 1]], 1)


def to_float(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def renders(
    world: World, count: int, seed: int, device: str | torch.device, cache: Path | None
) -> Renders:
    """Draw ``count`` pictures, or read them from ``cache`` if this set was drawn before.

    The draws are made on the CPU, so that a seed means the same scenes on every device.
    """
    device = torch.device(device)
    path = cache / f"renders-{FORMAT}-{seed}-{count}.safetensors" if cache else None
    if path and path.is_file():
        found = {key: value.to(device) for key, value in load_file(path).items()}
        factors = Factors(found["classes"], found["variations"])
        images, labels, depths = (found[key] for key in ("images", "labels", "depths"))
        return Renders(world, images, labels, depths, factors, found["cameras"])
    source = torch.Generator().manual_seed(seed)
    factors = world.sample_factors(count, source)
    cameras = world.cameras_for(factors, source).to(device)
    factors = factors.to(device)
    drawn = Renders(world, *_draw(world, factors, cameras), factors, cameras)
    if path:
        _keep(drawn, path)
    return drawn


def _draw(world: World, factors: Factors, cameras: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and depths, in chunks so that only bytes pile up."""
    count = len(factors)
    chunk = 128 if cameras.is_cuda else 16
    compiled = count >= COMPILED_FROM and _compiles(world, factors[:chunk], cameras[:chunk])
    images = torch.empty(count, 3, RESOLUTION, RESOLUTION, dtype=torch.uint8, device=cameras.device)
    labels = torch.empty(count, RESOLUTION, RESOLUTION, dtype=torch.uint8, device=cameras.device)
    depths = torch.empty(labels.shape, dtype=torch.float16, device=cameras.device)
    began = said = time.monotonic()
    for start in range(0, count, 32 * chunk):
        rows = slice(start, min(start + 32 * chunk, count))
        part = world.render(factors[rows], cameras[rows], RESOLUTION, chunk=chunk, compile=compiled)
        images[rows] = ((part.image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        labels[rows] = part.label
        depths[rows] = (part.depth[:, 0] - world.cameras.radius).half()
        if time.monotonic() - said > 10:
            said = time.monotonic()
            print(f"rendered {rows.stop} of {count} in {said - began:.0f} s", flush=True)
    return images, labels, depths


def _compiles(world: World, factors: Factors, cameras: Tensor) -> bool:
    """Whether the world's renderer can be compiled here, tried on one chunk."""
    try:
        world.render(factors, cameras, RESOLUTION, chunk=len(factors), compile=True)
    except Exception as error:
        # Compilers raise whatever they like; drawing goes on without, and says why.
        print(f"not compiled, so slower: {' '.join(str(error).split())[:300]}", flush=True)
        return False
    return True


def _keep(drawn: Renders, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    tensors = {
        "images": drawn.images,
        "labels": drawn.labels,
        "depths": drawn.depths,
        "classes": drawn.factors.classes,
        "variations": drawn.factors.variations,
        "cameras": drawn.cameras,
    }
    save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, beside)
    beside.replace(path)


# ---------------------------------------------------------------- augmentation


def augment(images: Tensor, parts: int = 4) -> Tensor:
    """Images [B, 3, H, W] in [-1, 1], degraded as drafts, blurry generators and cameras do.

    Each of ``parts`` slices of the batch is shrunk to its own random size (as drafts are) and
    enlarged again; then every image gets its own contrast, brightness, tint and noise. Random
    numbers are torch's global ones.
    """
    images = torch.cat([_blurred(part) for part in images.chunk(parts)])
    count, device = len(images), images.device
    contrast = 1 + 0.15 * _signed(count, 1, device)
    shift = 0.12 * _signed(count, 1, device) + 0.03 * _signed(count, 3, device)
    noise = 0.04 * torch.rand(count, 1, 1, 1, device=device) * torch.randn_like(images)
    return (images * contrast + shift + noise).clamp(-1, 1)


def _blurred(images: Tensor) -> Tensor:
    """One slice through a smaller size; a quarter of the slices is left as it is."""
    full = images.shape[-1]
    draw = torch.rand(3)
    if draw[0] < 0.25 or not len(images):
        return images
    size = int((24 / full) ** float(draw[1]) * full)
    small = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    mode = "bicubic" if draw[2] < 0.5 else "bilinear"
    return F.interpolate(small, (full, full), mode=mode)


def _signed(count: int, channels: int, device: torch.device) -> Tensor:
    """Uniform in [-1, 1]: [count, channels, 1, 1]."""
    return torch.rand(count, channels, 1, 1, device=device) * 2 - 1


def shrunk(images: Tensor, size: int) -> Tensor:
    """Images [B, 3, H, W] in [-1, 1] at another size, for measuring."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)
