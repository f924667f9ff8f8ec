"""Train the bundled EG3D on the avatars: a regression from factors to renders.

    python -m recipes.avatars.mapping          (first, a CPU will do)
    python -m recipes.avatars.generator --minutes 16

Style space is planted (see codes.py and planting.py). Two phases share the time. In the first,
points on the rendered surfaces, known from the renders' depth, and points in the empty space
before them are asked for their colour and density directly: no ray is marched, so many more heads
are seen, and half of the points lie on eyes, mouths and glasses, which are few among the pixels.
In the second, whole images are drawn and super-resolved. A run goes on from the work folder's
checkpoint.
"""

import argparse
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from sat3d_plugins.generators.eg3d.generator import EMBEDDED, CameraRange, Draft
from sat3d_plugins.generators.eg3d.networks import (
    EG3DConfig,
    TriplaneGenerator,
    feature_image,
    uniform_draws,
)
from sat3d_plugins.generators.eg3d.rays import sample_rays
from sat3d_plugins.generators.eg3d.volume import VolumeOptions, query
from torch import Tensor, nn

from recipes.avatars import codes, mapping
from recipes.avatars.data import DEPTH_OFFSET, RESOLUTION, Renders, renders, to_float
from recipes.avatars.planting import MAPPING, apply_masks, masks_of, new_network
from recipes.avatars.world import LABELS, render, sample_cameras
from sat3d.weights import save_weights

CONFIG = EG3DConfig(
    z_dim=codes.DIM,
    w_dim=codes.DIM,
    plane_resolution=128,
    neural_resolution=64,
    channel_base=5120,
    channel_max=160,
    mapping=mapping.kwargs(),
    superresolution="2X",
    sr_clamp=None,
    conditioning_scale=0.0,
    volume=VolumeOptions(depth_resolution=24, depth_resolution_importance=24),
)
CAMERAS = CameraRange(radius=2.7, focal=4.2647, pivot=(0.0, 0.0, 0.0), yaw=0.6, pitch=0.25)
DRAFT = Draft(resolution=32, depth_resolution=16, depth_resolution_importance=12)
WORK = Path("work/avatars")
SURFACE_SHARE = 0.5
"""Share of the time that goes to the first phase."""
POINTS = 3072
"""Surface points per head and step, and as many in empty space."""
SHELL = 0.012
"""Depth under the surface within which colour and density are asked for, in world units."""
DETAILS = ("l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "nose", "mouth", "u_lip", "l_lip")


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some renders and their codes, on the device."""

    w: Tensor
    """[B, W]."""
    cameras: Tensor
    """[B, 25]."""
    image: Tensor
    """[B, 3, 128, 128] in [-1, 1]."""
    depth: Tensor
    """[B, 1, 128, 128] along the ray."""
    detail: Tensor
    """[B, 1, 128, 128], 1 on the parts of DETAILS."""


def sample_batch(data: Renders, w: Tensor, count: int) -> Batch:
    """Random renders."""
    index = torch.randint(len(w), (count,), device=w.device)
    table = torch.tensor([name in DETAILS for name in LABELS], device=w.device).float()
    return Batch(
        w[index],
        data.cameras[index],
        to_float(data.images[index]),
        data.depths[index, None].float() + DEPTH_OFFSET,
        table[data.labels[index, None].long()],
    )


# ---------------------------------------------------------------- first phase: surfaces


def pick_pixels(detail: Tensor, count: int) -> Tensor:
    """Pixel numbers [B, count]: half anywhere, half on details."""
    batch, pixels = len(detail), detail[0].numel()
    anywhere = torch.randint(pixels, (batch, count // 2), device=detail.device)
    weight = (detail.flatten(1) + 1e-4).cumsum(dim=1)
    draw = torch.rand(batch, count - count // 2, device=detail.device) * weight[:, -1:]
    chosen = torch.searchsorted(weight, draw).clamp(max=pixels - 1)
    return torch.cat([anywhere, chosen], dim=1)


def surface_loss(network: TriplaneGenerator, batch: Batch) -> Tensor:
    """Colour and density just under the surface, emptiness before it."""
    options, count = network.config.volume, len(batch.w)
    pixel = pick_pixels(batch.detail, POINTS)[..., None]
    origins, directions = sample_rays(batch.cameras, RESOLUTION)
    origins = origins.gather(1, pixel.expand(-1, -1, 3))
    directions = directions.gather(1, pixel.expand(-1, -1, 3))
    depth = batch.depth.view(count, -1, 1).gather(1, pixel)
    wanted = batch.image.flatten(2).transpose(1, 2).gather(1, pixel.expand(-1, -1, 3))
    under = depth + SHELL * torch.rand_like(depth)
    # Half of the empty points lie close before the surface, where outlines are decided.
    share = torch.rand_like(depth)
    close = depth - 0.006 - 0.08 * share.square()
    away = options.ray_start + share * (depth - 0.006 - options.ray_start)
    before = torch.where(torch.rand_like(depth) < 0.5, close, away)
    points = torch.cat([origins + under * directions, origins + before * directions], dim=1)
    planes = network.planes(styles_of(network, batch.w)).float()
    color, density = query(planes, network.decoder, points, options.box_warp)
    reach = F.softplus(density.float() - 1) * SHELL
    solid = -torch.log(-torch.expm1(-reach[:, :POINTS]) + 1e-4)
    result = color[:, :POINTS, :3].float() * 2 - 1
    return image_loss(result, wanted) + 0.1 * (solid.mean() + reach[:, POINTS:].mean())


# ---------------------------------------------------------------- second phase: images


def styles_of(network: TriplaneGenerator, w: Tensor) -> Tensor:
    """One row of w [B, W] to the flat style code [B, N]."""
    return network.styles(w[:, None].expand(-1, network.backbone.synthesis.num_ws, -1))


def draw(
    network: TriplaneGenerator, w: Tensor, cameras: Tensor, seed: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """w [B, W] to (image [B, 3, 128, 128], raw [B, 3, 64, 64], depth [B, 1, 64, 64])."""
    options, size = network.config.volume, network.config.neural_resolution
    styles = styles_of(network, w)
    coarse, fine = uniform_draws(options, size, seed, styles)
    planes = network.planes(styles).float()
    volume = network.volume(planes, cameras, size, options, coarse, fine)
    feature = feature_image(volume, size)
    depth = volume.depth.transpose(1, 2).unflatten(2, (size, size))
    return network.superresolve(feature, styles), feature[:, :3], depth


def image_loss(result: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Absolute plus squared difference: the first keeps edges, the second is what PSNR counts."""
    difference = result.float() - target
    loss = difference.abs() + 2 * difference.square()
    return loss.mean() if weight is None else (loss * weight).mean() / weight.mean()


def march_loss(network: TriplaneGenerator, batch: Batch, seed: int, emphasis: float) -> Tensor:
    """Whole images; details count ``emphasis`` times more than the rest."""
    image, raw, depth = draw(network, batch.w, batch.cameras, seed)
    size = raw.shape[-1]
    small, far = (F.interpolate(x, (size, size), mode="area") for x in (batch.image, batch.depth))
    weight = 1 + emphasis * batch.detail
    return (
        image_loss(image, batch.image, weight)
        + 0.5 * image_loss(raw, small, F.avg_pool2d(weight, RESOLUTION // size))
        + 0.2 * (depth.float() - far).abs().mean()
    )


# ---------------------------------------------------------------- the loop


def learning_rate(progress: float, peak: float) -> float:
    """Warm-up, flat, then cosine to 1 % over the last 60 %."""
    tail = max(0.0, (progress - 0.4) / 0.6)
    fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(tail, 1.0)))
    return peak * min(1.0, progress / 0.01) * fall


class Run:
    """What a checkpoint holds."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.path = args, args.work / "generator.pt"
        self.network = new_network(CONFIG, args.seed).to(args.device)
        self.average = torch.optim.swa_utils.AveragedModel(
            self.network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
        )
        self.moving = [p for n, p in self.network.named_parameters() if MAPPING not in n]
        self.optimiser = torch.optim.Adam(self.moving, lr=args.lr, betas=(0.9, 0.99))
        self.spent, self.step = 0.0, 0
        if self.path.exists():
            self.load()

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """Everything with a state dict."""
        names = ("network", "average", "optimiser")
        return {name: getattr(self, name) for name in names}

    def save(self) -> None:
        """Replaces the checkpoint in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {k: v.state_dict() for k, v in self.parts().items()}
        beside = self.path.with_suffix(".part")
        torch.save({**state, "spent": self.spent, "step": self.step}, beside)
        beside.replace(self.path)

    def load(self) -> None:
        """Goes on from the checkpoint."""
        state = torch.load(self.path, map_location=self.args.device, weights_only=True)
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.spent, self.step = state["spent"], state["step"]

    def clock(self) -> Iterator[float]:
        """Yields the progress in [0, 1] before each step, until the time is used up."""
        budget, began, saved = self.args.minutes * 60, time.monotonic() - self.spent, self.spent
        while self.spent < budget:
            yield self.spent / budget
            self.step += 1
            self.spent = time.monotonic() - began
            if self.spent - saved > 30:
                saved = self.spent
                self.save()
        self.save()


def train(args: argparse.Namespace, data: Renders) -> TriplaneGenerator:
    """Returns the exponential moving average of the trained network."""
    run = Run(args)
    network, device = run.network, torch.device(args.device)
    masks = {k: v.to(device) for k, v in masks_of(network).items() if MAPPING not in k}
    w = codes.factors_to_w(data.factors)
    for progress in run.clock():
        for group in run.optimiser.param_groups:
            group["lr"] = learning_rate(progress, args.lr)
        torch.manual_seed(run.step)
        first = progress < SURFACE_SHARE
        batch = sample_batch(data, w, args.batch * (2 if first else 1))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            if first:
                loss = surface_loss(network, batch)
            else:
                loss = march_loss(network, batch, run.step, 6 * (1 - progress))
        run.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(run.moving, 1.0)
        run.optimiser.step()
        apply_masks(network, masks)
        run.average.update_parameters(network)
        if run.step % 200 == 0:
            print(f"{run.spent:5.0f} s  step {run.step}  loss {loss.item():.4f}", flush=True)
    return run.average.module


# ---------------------------------------------------------------- measuring and saving


@torch.no_grad()
def held_out_psnr(network: TriplaneGenerator, args: argparse.Namespace) -> float:
    """Mean PSNR in dB against the renderer, of heads drawn from z never seen, three views each."""
    device, count = torch.device(args.device), args.measure
    source = torch.Generator().manual_seed(args.seed + 777)
    z = torch.randn(count, codes.DIM, generator=source).to(device)
    factors = codes.factors_from_z(z)
    w = mapping.run(network.backbone.mapping, z)
    values = []
    for _ in range(3):
        cameras = sample_cameras(count, source).to(device)
        for k in range(0, count, 32):
            part = slice(k, k + 32)
            truth = render(factors[part], cameras[part]).image.clamp(-1, 1)
            image = draw(network, w[part], cameras[part], None)[0]
            error = ((image.clamp(-1, 1) - truth) / 2).square().mean(dim=(1, 2, 3))
            values.append(-10 * error.log10())
    return torch.cat(values).mean().item()


def save(network: TriplaneGenerator, path: Path, figures: dict[str, float], seed: int) -> None:
    """Half precision, but for the mapping, whose steep steps need more."""
    tensors = {k: v if MAPPING in k else v.half() for k, v in network.state_dict().items()}
    planted = codes.planted_channels(network.layout)
    tensors |= {f"planted.{k}": v.int() for k, v in planted.items()}
    header = {
        "kind": "generator",
        "architecture": "eg3d",
        "title": "sat3d avatars 128",
        "licence": "Apache-2.0",
        "seed": seed,
        "config": CONFIG.to_dict(),
        "cameras": dataclasses.asdict(CAMERAS),
        "draft": dataclasses.asdict(DRAFT),
        "style_space": "planted",
        "goes_with": {
            "clip": "sat3d-avatars",
            "segmenter": "bisenet",
            "descriptors": "faces",
            "reader": "avatars",
        },
        "figures": figures,
    }
    save_weights(path, tensors, header)


def main() -> None:
    """Train what is left to train, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=EMBEDDED)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--mapping", type=Path, default=mapping.FILE)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=16.0)
    parser.add_argument("--renders", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=int, default=256, help="heads to measure, 3 views each")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    data = renders(args.renders, args.seed, args.device, args.work)
    network = train(args, data)
    figures = mapping.load(network.backbone.mapping, args.mapping)
    figures["psnr"] = held_out_psnr(network, args)
    print(figures)
    save(network, args.out, figures, args.seed)


if __name__ == "__main__":
    main()
