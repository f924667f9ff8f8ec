"""Train the bundled EG3D of a world: a regression from factors to renders.

    python -m recipes.mapping --world avatars          (first, a CPU will do)
    python -m recipes.generator --world avatars

Style space is planted (see codes.py and planting.py). The renders' depth says where on a ray the
surface lies, so a few samples there and a few elsewhere train what the generator's own two passes
of many samples show later; only the last part of the time uses those. The depth is no part of the
loss: where a ray meets nothing its gradient is 0 / 0. A run goes on from the work folder's
checkpoint.
"""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

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
from torch import Tensor

from recipes import codes, mapping
from recipes.data import RESOLUTION, Renders, to_float
from recipes.fitting import Options, Took, fit, muon, options, training_set
from recipes.planting import MAPPING, apply_masks, masks_of, new_network
from recipes.worlds import World
from sat3d.weights import load_weights, save_weights

GUIDED_UNTIL = 0.85
"""Share of the time in which samples are placed by the renders' depth."""
ANYWHERE, NEARBY, BAND = 8, 5, 0.05
"""Guided samples on a ray: so many anywhere, and twice so many within BAND of the surface."""
SPAN = 1.4
"""A ray that is longer than this gets more samples anywhere."""
AVERAGE = 0.998


def file_of(world: World) -> Path:
    """The bundled weights."""
    return EMBEDDED.parent / f"{world.name}.safetensors"


def config_of(world: World) -> EG3DConfig:
    """The architecture for a world."""
    return EG3DConfig(
        z_dim=world.dim,
        w_dim=world.dim,
        plane_resolution=128,
        neural_resolution=64,
        channel_base=world.channel_base,
        channel_max=world.channel_max,
        mapping=mapping.kwargs(world),
        superresolution="2X",
        sr_clamp=None,
        conditioning_scale=0.0,
        volume=VolumeOptions(**world.volume),
    )


def cameras_of(world: World) -> CameraRange:
    """The cameras of the header."""
    return CameraRange(**dataclasses.asdict(world.cameras), pivot=(0.0, 0.0, 0.0))


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
    """[B, 1, 128, 128], 1 on the parts that count more."""


def sample_batch(data: Renders, w: Tensor, count: int) -> Batch:
    """Random renders."""
    index = torch.randint(len(w), (count,), device=w.device)
    world = data.world
    details = [name in world.details for name in world.labels]
    table = torch.tensor(details, device=w.device).float()
    return Batch(
        w[index],
        data.cameras[index],
        to_float(data.images[index]),
        data.depths[index, None].float() + world.cameras.radius,
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
    start, end = float(options.ray_start), float(options.ray_end)
    count = round(ANYWHERE * max(1.0, (end - start) / SPAN))
    strata = torch.arange(count, device=depth.device)
    share = (strata + torch.rand_like(near[0][..., :1])) / count
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
    """Of the image and of the raw image; details count 1 + ``emphasis`` times."""
    size = math.isqrt(volume.feature.shape[1])
    raw = feature_image(volume, size)[:, :3]
    small = F.interpolate(batch.image, (size, size), mode="area")
    weight = 1 + emphasis * batch.detail
    half = F.avg_pool2d(weight, RESOLUTION // size)
    return image_loss(image, batch.image, weight) + 0.5 * image_loss(raw, small, half)


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


# ---------------------------------------------------------------- training


def learning_rate(step: int, progress: float) -> float:
    """Share of the peak: warm-up, flat, then cosine to 1 % over the last 70 %."""
    tail = max(0.0, (progress - 0.3) / 0.7)
    fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(tail, 1.0)))
    return min(1.0, max(progress / 0.01, (step + 1) / 500)) * fall


def begin_with(network: TriplaneGenerator, path: Path) -> None:
    """Start from a generator made by this recipe before."""
    tensors = load_weights(path)[0]
    network.load_state_dict({k: tensors[k].float() for k in network.state_dict()})


def train(chosen: Options, network: TriplaneGenerator, data: Renders) -> tuple[Any, Took]:
    """Returns the exponential moving average of the trained network, and what it took."""
    network.backbone.mapping.requires_grad_(False)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE)
    )
    masks = {k: v.to(chosen.device) for k, v in masks_of(data.world, network).items()}
    moving = [p for p in network.parameters() if p.requires_grad]
    optimiser = muon(moving, 5 * chosen.rate, chosen.rate, adjusted=True)
    loss_at = Loss(network, compiled="cuda" in chosen.device)
    w = codes.factors_to_w(data.world, data.factors)

    def loss(progress: float) -> tuple[Tensor, dict[str, float | Tensor]]:
        seed = int(torch.randint(2**31, ()))
        return loss_at(sample_batch(data, w, chosen.batch), progress, seed), {}

    def after() -> None:
        apply_masks(network, masks)
        average.update_parameters(network)

    name, beside = "generator", {"average": average}
    took = fit(network, loss, chosen, name, optimiser, learning_rate, after, beside)
    return average.module, took


# ---------------------------------------------------------------- measuring and saving


@torch.no_grad()
def held_out_psnr(network: TriplaneGenerator, chosen: Options) -> float:
    """Mean PSNR in dB against the renderer, of scenes from z never seen, three views each."""
    device, count, world = torch.device(chosen.device), chosen.more["measure"], chosen.world
    source = torch.Generator().manual_seed(chosen.seed + 777)
    z = torch.randn(count, world.dim, generator=source).to(device)
    factors = codes.factors_from_z(world, z)
    w = mapping.run(network.backbone.mapping, z).float()
    values = []
    for _ in range(3):
        cameras = world.cameras.sample(count, source).to(device)
        for k in range(0, count, 32):
            part = slice(k, k + 32)
            truth = world.render(factors[part], cameras[part]).image.clamp(-1, 1)
            image = draw(network, w[part], cameras[part])
            error = ((image.clamp(-1, 1) - truth) / 2).square().mean(dim=(1, 2, 3))
            values.append(-10 * error.log10())
    return torch.cat(values).mean().item()


def save(
    world: World, network: TriplaneGenerator, path: Path, figures: dict[str, float], more: Any
) -> None:
    """Half precision, but for the mapping, whose steep steps need more."""
    tensors = {k: v if MAPPING in k else v.half() for k, v in network.state_dict().items()}
    planted = codes.planted_channels(world, network.layout)
    tensors |= {f"planted.{k}": v.int() for k, v in planted.items()}
    header = {
        "kind": "generator",
        "architecture": "eg3d",
        "title": world.title,
        "config": network.config.to_dict(),
        "cameras": dataclasses.asdict(cameras_of(world)),
        "draft": dataclasses.asdict(Draft(**world.draft)),
        "style_space": "planted",
        "goes_with": dict(world.goes_with),
        "figures": figures,
        **more,
    }
    save_weights(path, tensors, header)


def _more(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--start", type=Path, help="a generator of this recipe to improve on")
    add("--mapping", type=Path, help="default: the work folder's")
    add("--measure", type=int, default=256, help="scenes to measure, 3 views each")


def main() -> None:
    """Train what is left to train, measure, save."""
    summary = (__doc__ or "").splitlines()[0]
    chosen = options(summary, file_of, minutes=16, batch=32, rate=2.5e-3, more=_more)
    world = chosen.world
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    network = new_network(world, config_of(world), chosen.seed)
    figures = mapping.load(network.backbone.mapping, mapping.chosen_file(chosen))
    if chosen.more["start"]:
        begin_with(network, chosen.more["start"])
    trained, took = train(chosen, network.to(chosen.device), training_set(chosen))
    figures["psnr"] = round(held_out_psnr(trained, chosen), 2)
    print(figures)
    save(world, trained, chosen.out, figures, chosen.header(took))


if __name__ == "__main__":
    main()
