"""Train the bundled EG3D on the avatars: a regression from factors to renders.

    python -m recipes.avatars.generator --minutes 12

Style space is planted (see codes.py). The synthesis network learns image, raw image and depth of
rendered heads from the factors' w code; the mapping network learns that code from z. Both runs
go on from the work folder's checkpoint until their time is used up.
"""

import argparse
import dataclasses
import math
import time
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
from sat3d_plugins.generators.eg3d.volume import VolumeOptions
from sat3d_plugins.generators.stylegan2.networks import modulated
from torch import Tensor, nn

from recipes.avatars import codes
from recipes.avatars.data import Renders, renders, to_float
from recipes.avatars.world import FACTORS, render, sample_cameras
from sat3d.weights import save_weights

CONFIG = EG3DConfig(
    z_dim=codes.DIM,
    w_dim=codes.DIM,
    plane_resolution=128,
    neural_resolution=64,
    channel_base=5120,
    channel_max=160,
    mapping={"num_layers": 4, "embed_features": 4, "layer_features": codes.HIDDEN * len(FACTORS)},
    superresolution="2X",
    sr_clamp=None,
    conditioning_scale=0.0,
    volume=VolumeOptions(depth_resolution=24, depth_resolution_importance=24),
)
CAMERAS = CameraRange(radius=2.7, focal=4.2647, pivot=(0.0, 0.0, 0.0), yaw=0.6, pitch=0.25)
DRAFT = Draft(resolution=48, depth_resolution=20, depth_resolution_importance=16)
WORK = Path("work/avatars")


# ---------------------------------------------------------------- planting


def plant(network: TriplaneGenerator) -> dict[str, Tensor]:
    """Masks of the planted zeros by parameter name; parameters are multiplied by them.

    toRGB and super-resolution styles are constant: they follow the source in an edit, so nothing
    that an edit should change may pass through them.
    """
    masks: dict[str, Tensor] = {}
    w_owner = codes.block_owners(codes.BLOCK, codes.DIM)
    hidden = codes.block_owners(codes.HIDDEN, codes.HIDDEN * len(FACTORS))
    editable = {x.name for x in network.layout.layers if (x.kind, x.part) == ("conv", "backbone")}
    for name, layer in modulated(network).items():
        rows = codes.channel_owners(layer.style_channels)
        mask = codes.block_mask(rows, w_owner)
        masks[f"{name}.affine.weight"] = mask * float(name in editable)
    widths = [w_owner, hidden, hidden, hidden, w_owner]
    for k in range(4):
        masks[f"backbone.mapping.fc{k}.weight"] = codes.block_mask(widths[k + 1], widths[k])
    embed = torch.zeros(len(hidden), CONFIG.mapping["embed_features"])
    first = "backbone.mapping.fc0.weight"
    masks[first] = torch.cat([masks[first], embed], dim=1)
    return masks


@torch.no_grad()
def apply_masks(network: nn.Module, masks: dict[str, Tensor]) -> None:
    """Multiply parameters by their masks; noise is off, the camera does not reach the mapping."""
    for name, parameter in network.named_parameters():
        if name in masks:
            parameter.mul_(masks[name].to(parameter))
        elif name.endswith("noise_strength") or ".embed." in name:
            parameter.zero_()
    for name, buffer in network.named_buffers():
        if name.endswith("noise_const"):
            buffer.zero_()


def new_network(seed: int) -> TriplaneGenerator:
    """A freshly initialised generator, planted."""
    torch.manual_seed(seed)
    network = TriplaneGenerator(CONFIG)
    with torch.no_grad():
        network.decoder.net[2].bias[
            0
        ] = -2.0  # start nearly transparent: gradients reach all depths
    apply_masks(network, plant(network))
    return network


# ---------------------------------------------------------------- synthesis


def draw(
    network: TriplaneGenerator, w: Tensor, cameras: Tensor, size: int, seed: int | None
) -> tuple[Tensor | None, Tensor, Tensor]:
    """w [B, W] to (image [B, 3, 128, 128], raw [B, 3, size, size], depth [B, 1, size, size]).

    Below the neural resolution there is no image: super-resolution is not run.
    """
    styles = network.styles(w[:, None].expand(-1, network.backbone.synthesis.num_ws, -1))
    options = network.config.volume
    coarse, fine = uniform_draws(options, size, seed, styles)
    planes = network.planes(styles).float()
    volume = network.volume(planes, cameras, size, options, coarse, fine)
    feature = feature_image(volume, size)
    depth = volume.depth.transpose(1, 2).unflatten(2, (size, size))
    full = size == network.config.neural_resolution
    return network.superresolve(feature, styles) if full else None, feature[:, :3], depth


def image_loss(result: Tensor, target: Tensor) -> Tensor:
    """Absolute plus squared difference: the first keeps edges, the second is what PSNR counts."""
    difference = result.float() - target
    return difference.abs().mean() + 2 * difference.square().mean()


def step_loss(
    network: TriplaneGenerator, batch: tuple[Tensor, ...], size: int, seed: int
) -> Tensor:
    """Loss of one batch (w, camera, image, depth)."""
    w, cameras, image, depth = batch
    result, raw, depth_result = draw(network, w, cameras, size, seed)
    small = F.interpolate(image, (size, size), mode="area")
    far = F.interpolate(depth, (size, size), mode="area")
    loss = 0.7 * image_loss(raw, small) + 0.5 * (depth_result.float() - far).abs().mean()
    return loss if result is None else loss + image_loss(result, image)


def learning_rate(progress: float, peak: float) -> float:
    """Short warm-up, flat, then cosine to 2 % over the last 60 %."""
    if progress < 0.01:
        return peak * progress / 0.01
    tail = max(0.0, (progress - 0.4) / 0.6)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(tail, 1.0))))


def neural_size(progress: float) -> int:
    """Small volume renders first: several times as many images in the same time."""
    return 32 if progress < 0.35 else CONFIG.neural_resolution


def sample_batch(data: Renders, w: Tensor, count: int) -> tuple[Tensor, ...]:
    """A random batch (w, camera, image in [-1, 1], depth)."""
    index = torch.randint(len(w), (count,), device=w.device)
    image = to_float(data.images[index])
    return w[index], data.cameras[index], image, data.depths[index].float()


def train_synthesis(args: argparse.Namespace, data: Renders) -> nn.Module:
    """Returns the exponential moving average of the trained network."""
    device = torch.device(args.device)
    network = new_network(args.seed).to(device)
    masks = {k: v.to(device) for k, v in plant(network).items()}
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    )
    moving = [p for n, p in network.named_parameters() if ".mapping." not in n]
    optimiser = torch.optim.Adam(moving, lr=args.lr, betas=(0.9, 0.99), fused=device.type == "cuda")
    spent, step = resume(args, network, average, optimiser)
    w = codes.factors_to_w(data.factors)
    budget = args.minutes * 60
    began = last = time.monotonic() - spent
    while (spent := time.monotonic() - began) < budget:
        progress = spent / budget
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(progress, args.lr)
        torch.manual_seed(step)
        size = neural_size(progress)
        count = args.batch * 2 if size < CONFIG.neural_resolution else args.batch
        batch = sample_batch(data, w, count)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = step_loss(network, batch, size, step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(moving, 1.0)
        optimiser.step()
        apply_masks(network, masks)
        average.update_parameters(network)
        step += 1
        if time.monotonic() - last > 30:
            last = time.monotonic()
            print(f"{spent:5.0f} s  step {step}  loss {loss.item():.4f}", flush=True)
            save_checkpoint(args, network, average, optimiser, spent, step)
    save_checkpoint(args, network, average, optimiser, spent, step)
    return average.module


def save_checkpoint(args, network, average, optimiser, spent, step) -> None:
    """Everything that :func:`resume` needs, replaced in one step."""
    args.work.mkdir(parents=True, exist_ok=True)
    state = {
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "spent": spent,
        "step": step,
    }
    torch.save(state, args.work / "generator.tmp")
    (args.work / "generator.tmp").replace(args.work / "generator.pt")


def resume(args, network, average, optimiser) -> tuple[float, int]:
    """(seconds spent, step) of the checkpoint in the work folder, or (0, 0)."""
    path = args.work / "generator.pt"
    if not path.exists():
        return 0.0, 0
    state = torch.load(path, map_location=args.device, weights_only=True)
    network.load_state_dict(state["network"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return state["spent"], state["step"]


# ---------------------------------------------------------------- mapping


def train_mapping(network: nn.Module, args: argparse.Namespace) -> float:
    """Teach the mapping the code of z. Returns the share of samples with every value right."""
    device = torch.device(args.device)
    mapping = network.backbone.mapping
    masks = {
        k.removeprefix("backbone.mapping."): v.to(device)
        for k, v in plant(network).items()
        if ".mapping." in k
    }
    # Stored weights are 100 times the effective ones (learning-rate multiplier 0.01).
    optimiser = torch.optim.Adam(mapping.parameters(), lr=0.3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.3, args.mapping_steps)
    torch.manual_seed(args.seed)
    for _ in range(args.mapping_steps):
        z = torch.randn(args.mapping_batch, codes.DIM, device=device)
        loss = mapping_loss(mapping, z)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        apply_masks(mapping, masks)
    with torch.no_grad():
        z = torch.randn(100_000, codes.DIM, device=device)
        w = mapping(z, z.new_zeros(len(z), 25))[:, 0]
        mapping.w_avg.copy_(w.mean(dim=0))
        error = (w - codes.factors_to_w(codes.factors_from_z(z))).abs().amax(dim=1)
    return (error < codes.CLASS_SCALE / 2).float().mean().item()


def mapping_loss(mapping: nn.Module, z: Tensor) -> Tensor:
    """Mean squared distance between the mapping's w and the code of the factors in z."""
    wanted = codes.factors_to_w(codes.factors_from_z(z))
    return (mapping(z, z.new_zeros(len(z), 25))[:, 0] - wanted).square().mean()


# ---------------------------------------------------------------- measuring and saving


@torch.no_grad()
def held_out_psnr(network: TriplaneGenerator, args: argparse.Namespace, count: int) -> float:
    """Mean PSNR in dB against the renderer, of heads drawn from z never seen, three views each."""
    device = torch.device(args.device)
    source = torch.Generator().manual_seed(args.seed + 777)
    z = torch.randn(count, codes.DIM, generator=source).to(device)
    factors = codes.factors_from_z(z)
    w = network.map(z, z.new_zeros(count, 25))[:, 0]
    values = []
    for _ in range(3):
        cameras = sample_cameras(count, source).to(device)
        for k in range(0, count, 32):
            part = slice(k, k + 32)
            truth = render(factors[part], cameras[part]).image.clamp(-1, 1)
            image = draw(network, w[part], cameras[part], CONFIG.neural_resolution, None)[0]
            error = ((image.clamp(-1, 1) - truth) / 2).square().mean(dim=(1, 2, 3))
            values.append(-10 * error.log10())
    return torch.cat(values).mean().item()


def save(network: TriplaneGenerator, path: Path, figures: dict[str, float], seed: int) -> None:
    """Half precision, but for the mapping, whose steep steps need more."""
    tensors = {k: v if ".mapping." in k else v.half() for k, v in network.state_dict().items()}
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
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--renders", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mapping-steps", type=int, default=6000)
    parser.add_argument("--mapping-batch", type=int, default=8192)
    parser.add_argument("--measure", type=int, default=256, help="heads to measure, 3 views each")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    data = renders(args.renders, args.seed, args.device, args.work)
    network = train_synthesis(args, data)
    right = train_mapping(network, args)
    figures = {"mapping_right": right, "psnr": held_out_psnr(network, args, args.measure)}
    print(figures)
    save(network, args.out, figures, args.seed)


if __name__ == "__main__":
    main()
