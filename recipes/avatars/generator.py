"""Train the bundled EG3D on the avatars: a regression from factors to renders.

    python -m recipes.avatars.mapping          (first, a CPU will do)
    python -m recipes.avatars.generator --minutes 16

Style space is planted (see codes.py and planting.py). The renders' depth says where on a ray the
surface lies, so a few samples there and a few elsewhere train what the generator's own two passes
of many samples show later; only the last part of the time uses those. A run goes on from the work
folder's checkpoint.
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
from sat3d_plugins.generators.eg3d.volume import VolumeOptions, VolumeRender, render_rays
from torch import Tensor, nn

from recipes.avatars import codes, mapping
from recipes.avatars.data import DEPTH_OFFSET, RESOLUTION, Renders, renders, to_float
from recipes.avatars.fitting import muon
from recipes.avatars.planting import MAPPING, apply_masks, masks_of, new_network
from recipes.avatars.world import LABELS, render, sample_cameras
from sat3d.weights import load_weights, save_weights

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
GUIDED_UNTIL = 0.85
"""Share of the time in which samples are placed by the renders' depth."""
ANYWHERE, NEARBY, BAND = 8, 5, 0.05
"""Guided samples on a ray: so many anywhere, and twice so many within BAND of the surface."""
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


# ---------------------------------------------------------------- drawing


def styles_of(network: TriplaneGenerator, w: Tensor) -> Tensor:
    """One row of w [B, W] to the flat style code [B, N]."""
    with torch.autocast(w.device.type, enabled=False):
        return network.styles(w[:, None].expand(-1, network.backbone.synthesis.num_ws, -1))


def guided_depths(depth: Tensor, options: VolumeOptions) -> Tensor:
    """Sorted sample depths [B, R*R, S, 1] where renders [B, 1, 2R, 2R] have their surfaces.

    A ray stands for four pixels; on an outline the nearest and the farthest of them differ.
    """
    front, back = -F.max_pool2d(-depth, 2), F.max_pool2d(depth, 2)
    limits = torch.cat([front, back]).flatten(1)[..., None].chunk(2)
    strata = torch.arange(NEARBY, device=depth.device)
    near = [x + BAND * (2 * (strata + torch.rand_like(x)) / NEARBY - 1) for x in limits]
    strata = torch.arange(ANYWHERE, device=depth.device)
    share = (strata + torch.rand_like(near[0][..., :1])) / ANYWHERE
    start, end = float(options.ray_start), float(options.ray_end)
    return torch.cat([start + share * (end - start), *near], dim=2).sort(dim=2).values[..., None]


def volume_guided(network: TriplaneGenerator, planes: Tensor, batch: Batch) -> VolumeRender:
    """One pass through samples at guided depths."""
    options = network.config.volume
    origins, directions = sample_rays(batch.cameras, network.config.neural_resolution)
    depths = guided_depths(batch.depth, options)
    return render_rays(planes, network.decoder, origins, directions, options, depths, None)


def volume_plain(
    network: TriplaneGenerator, planes: Tensor, cameras: Tensor, seed: int | None
) -> VolumeRender:
    """The generator's own two passes; a seed jitters the samples."""
    options, size = network.config.volume, network.config.neural_resolution
    coarse, fine = uniform_draws(options, size, seed, planes)
    return network.volume(planes, cameras, size, options, coarse, fine)


@torch.no_grad()
def draw(network: TriplaneGenerator, w: Tensor, cameras: Tensor) -> Tensor:
    """w [B, W] and cameras [B, 25] to images [B, 3, 128, 128]."""
    styles = styles_of(network, w)
    volume = volume_plain(network, network.planes(styles), cameras, None)
    return network.superresolve(feature_image(volume, network.config.neural_resolution), styles)


# ---------------------------------------------------------------- the loss


def image_loss(result: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Absolute plus squared difference: the first keeps edges, the second is what PSNR counts."""
    difference = result.float() - target
    return ((difference.abs() + 2 * difference.square()) * weight).mean() / weight.mean()


def loss_of(image: Tensor, volume: VolumeRender, batch: Batch, emphasis: Tensor) -> Tensor:
    """Of the image, of the raw image and of its depth; details count 1 + ``emphasis`` times."""
    size = math.isqrt(volume.depth.shape[1])
    raw = feature_image(volume, size)[:, :3]
    depth = volume.depth.transpose(1, 2).unflatten(2, (size, size))
    small, far = (F.interpolate(x, (size, size), mode="area") for x in (batch.image, batch.depth))
    weight = 1 + emphasis * batch.detail
    return (
        image_loss(image, batch.image, weight)
        + 0.5 * image_loss(raw, small, F.avg_pool2d(weight, RESOLUTION // size))
        + 0.2 * (depth.float() - far).abs().mean()
    )


class Loss:
    """The network's parts, compiled where there is a GPU, and what they are trained by."""

    def __init__(self, network: TriplaneGenerator, compiled: bool) -> None:
        self.network = network
        self.planes, self.guided, self.rest = network.planes, volume_guided, self.finish
        if compiled:
            self.planes = torch.compile(self.planes)
            self.guided, self.rest = torch.compile(self.guided), torch.compile(self.rest)

    def finish(
        self, volume: VolumeRender, styles: Tensor, batch: Batch, emphasis: Tensor
    ) -> Tensor:
        """Super-resolution and the loss."""
        size = self.network.config.neural_resolution
        image = self.network.superresolve(feature_image(volume, size), styles)
        return loss_of(image, volume, batch, emphasis)

    def __call__(self, batch: Batch, progress: float, seed: int) -> Tensor:
        """Scalar loss at ``progress`` in [0, 1]."""
        with torch.autocast(batch.w.device.type, torch.bfloat16, enabled=batch.w.is_cuda):
            styles = styles_of(self.network, batch.w)
            planes = self.planes(styles).float()
            if progress < GUIDED_UNTIL:
                volume = self.guided(self.network, planes, batch)
            else:
                volume = volume_plain(self.network, planes, batch.cameras, seed)
            emphasis = torch.full((1,), 6 * (1 - progress), device=batch.w.device)
            return self.rest(volume, styles, batch, emphasis)


# ---------------------------------------------------------------- the loop


def learning_rate(progress: float) -> float:
    """Of the peak: warm-up, flat, then cosine to 1 % over the last 70 %."""
    tail = max(0.0, (progress - 0.3) / 0.7)
    fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(tail, 1.0)))
    return min(1.0, progress / 0.01) * fall


class Run:
    """What a checkpoint holds."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.path = args, args.work / "generator.pt"
        self.network = new_network(CONFIG, args.seed).to(args.device)
        if args.start:
            begin_with(self.network, args.start)
        self.average = torch.optim.swa_utils.AveragedModel(
            self.network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
        )
        self.moving = [p for n, p in self.network.named_parameters() if MAPPING not in n]
        self.optimiser = muon(self.moving, 5 * args.lr, args.lr, adjusted=True)
        self.peaks = [group["lr"] for group in self.optimiser.param_groups]
        self.loss = Loss(self.network, compiled="cuda" in args.device)
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
            if self.spent - saved > 60:
                saved = self.spent
                self.save()
        self.save()


def begin_with(network: TriplaneGenerator, path: Path) -> None:
    """Start from a generator made by this recipe before."""
    tensors = load_weights(path)[0]
    network.load_state_dict({k: tensors[k].float() for k in network.state_dict()})


def train(run: Run, data: Renders) -> TriplaneGenerator:
    """Returns the exponential moving average of the trained network."""
    args, network = run.args, run.network
    masks = {k: v.to(args.device) for k, v in masks_of(network).items() if MAPPING not in k}
    w = codes.factors_to_w(data.factors)
    for progress in run.clock():
        for group, peak in zip(run.optimiser.param_groups, run.peaks, strict=True):
            group["lr"] = peak * learning_rate(progress)
        torch.manual_seed(run.step)
        loss = run.loss(sample_batch(data, w, args.batch), progress, run.step)
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
    w = mapping.run(network.backbone.mapping, z).float()
    values = []
    for _ in range(3):
        cameras = sample_cameras(count, source).to(device)
        for k in range(0, count, 32):
            part = slice(k, k + 32)
            truth = render(factors[part], cameras[part]).image.clamp(-1, 1)
            image = draw(network, w[part], cameras[part])
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
    parser.add_argument("--start", type=Path, help="a generator of this recipe to improve on")
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
    network = train(Run(args), data)
    figures = mapping.load(network.backbone.mapping, args.mapping)
    figures["psnr"] = held_out_psnr(network, args)
    print(figures)
    save(network, args.out, figures, args.seed)


if __name__ == "__main__":
    main()
