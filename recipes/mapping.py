"""Train the mapping network alone: from z to the planted code of its factors.

    python -m recipes.mapping --world avatars

It does not depend on the rest of the generator, and a CPU is enough. The generator's recipe puts
the result into the bundled weights.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from sat3d_plugins.generators.stylegan2.networks import MappingNetwork
from torch import Tensor

from recipes import codes, worlds
from recipes.fitting import Options
from recipes.planting import apply_masks, mapping_masks
from recipes.worlds import World
from sat3d.weights import load_into, load_weights, save_weights

LAYERS, EMBEDDED = 4, 4


def file_of(world: World) -> Path:
    """Where the recipe leaves its result."""
    return Path("work") / world.name / "mapping.safetensors"


def chosen_file(chosen: Options) -> Path:
    """The file of ``--mapping``, by default the one in the work folder."""
    given: Path | None = chosen.more["mapping"]
    return given or chosen.work / file_of(chosen.world).name


def kwargs(world: World) -> dict[str, int]:
    """The mapping's settings in an EG3D configuration."""
    hidden = world.hidden * len(world.factors)
    return {"num_layers": LAYERS, "embed_features": EMBEDDED, "layer_features": hidden}


def new_mapping(world: World, rows: int) -> MappingNetwork:
    """An untrained mapping network with its zeros planted."""
    mapping = MappingNetwork(world.dim, 25, world.dim, rows, **kwargs(world))
    apply_masks(mapping, mapping_masks(world, LAYERS, EMBEDDED))
    return mapping


def run(mapping: MappingNetwork, z: Tensor) -> Tensor:
    """z [B, Z] to one row of w [B, W]; the camera does not matter."""
    return mapping(z, z.new_zeros(len(z), 25))[:, 0]


def blocks_of(world: World, mapping: MappingNetwork) -> list[tuple[Tensor, Tensor]]:
    """The diagonal blocks of every layer, (weight [F, O, I], bias [F, O]), effective values."""
    count, blocks = len(world.factors), []
    sizes = [world.block, *[world.hidden] * (LAYERS - 1), world.block]
    for k in range(LAYERS):
        layer = mapping.get_submodule(f"fc{k}")
        o, i = sizes[k + 1], sizes[k]
        weight = layer.weight[: count * o, : count * i] * layer.weight_gain
        weight = weight.view(count, o, count, i).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        blocks.append((weight, (layer.bias[: count * o] * layer.bias_gain).view(count, o)))
    return blocks


def write_blocks(mapping: MappingNetwork, blocks: list[tuple[Tensor, Tensor]]) -> None:
    """Inverse of :func:`blocks_of`."""
    with torch.no_grad():
        for k, (weight, bias) in enumerate(blocks):
            layer = mapping.get_submodule(f"fc{k}")
            layer.weight.zero_()
            layer.bias.zero_()
            dense = torch.block_diag(*weight) / layer.weight_gain
            layer.weight[: dense.shape[0], : dense.shape[1]] = dense
            layer.bias[: bias.numel()] = bias.flatten() / layer.bias_gain


def run_blocks(world: World, blocks: list[tuple[Tensor, Tensor]], z: Tensor) -> Tensor:
    """The same function of normalised z [B, Z] as the network's, by blocks: [B, F, block]."""
    count = len(world.factors)
    x = z[:, : count * world.block].view(len(z), count, -1).transpose(0, 1)
    for weight, bias in blocks:
        x = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
        x = torch.nn.functional.leaky_relu(x, 0.2) * 2**0.5
    return x.transpose(0, 1)


def fit(
    world: World, mapping: MappingNetwork, steps: int, batch: int, seed: int, say: Callable
) -> None:
    """Adam on the blocks; a batch is fresh normal z."""
    torch.manual_seed(seed)
    # Equalised learning rates reckon with dense layers; a block starts in proportion to itself.
    device = mapping.w_avg.device
    blocks = [
        (torch.randn_like(weight) / weight.shape[2] ** 0.5, bias.detach())
        for weight, bias in blocks_of(world, mapping)
    ]
    leaves = [t.requires_grad_() for pair in blocks for t in pair]
    optimiser = torch.optim.Adam(leaves, lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, steps)
    used = len(world.factors) * world.block
    for step in range(steps):
        z = torch.randn(batch, world.dim, device=device)
        z = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        wanted = codes.factors_to_w(world, codes.factors_from_z(world, z))[:, :used]
        loss = (run_blocks(world, blocks, z).flatten(1) - wanted).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 500 == 0:
            say(f"step {step} of {steps}: loss {loss.item():.4f}")
    write_blocks(mapping, blocks)


@torch.no_grad()
def measure(
    world: World, mapping: MappingNetwork, seed: int, count: int = 50_000
) -> dict[str, float]:
    """Share of z with every value within half a step of its code, and the variations' error."""
    z = torch.randn(count, world.dim, generator=torch.Generator().manual_seed(seed))
    z = z.to(mapping.w_avg.device)
    w, wanted = run(mapping, z), codes.factors_to_w(world, codes.factors_from_z(world, z))
    error = (w - wanted).abs()
    clean = error.amax(dim=1) < codes.CLASS_SCALE / 2
    rms = error[clean].square().mean().sqrt() / codes.VARIATION_SCALE
    return {"mapping_right": clean.float().mean().item(), "variation_rms": rms.item()}


def load(mapping: MappingNetwork, path: Path) -> dict[str, float]:
    """Fill a mapping from this recipe's file; returns its figures."""
    tensors, header = load_weights(path)
    load_into(mapping, tensors, f"'{path}'")
    return header["figures"]


def main() -> None:
    """Train, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=worlds.NAMES, default="avatars")
    parser.add_argument("--out", type=Path, help="default: work/WORLD/mapping.safetensors")
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    world = worlds.load(args.world)
    mapping = new_mapping(world, rows=12).to(args.device)
    fit(world, mapping, args.steps, args.batch, args.seed, lambda text: print(text, flush=True))
    with torch.no_grad():
        z = torch.randn(100_000, world.dim, generator=torch.Generator().manual_seed(1))
        mapping.w_avg.copy_(run(mapping, z.to(args.device)).mean(dim=0))
    figures = measure(world, mapping, seed=2)
    print(json.dumps(figures))
    header = {"kind": "mapping", "world": world.name, "figures": figures}
    out = args.out or file_of(world)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(out, mapping.state_dict(), header)


if __name__ == "__main__":
    main()
