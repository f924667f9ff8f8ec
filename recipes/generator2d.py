"""Train the bundled StyleGAN2 of the avatars: 128 x 128, from about the front, nothing planted.

    python -m recipes.mapping --world avatars2d
    python -m recipes.generator2d

The hard case beside the planted EG3D. The mapping's first layers find the factors (the mapping
recipe trains them block by block); its last layer and all affine layers are dense and learned with
the rest, so a style channel may depend on every factor, as in generators trained on photographs.
Training is a regression from factors, the camera's angles among them, to renders.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sat3d_plugins.generators.stylegan2 import networks
from sat3d_plugins.generators.stylegan2.generator import BUNDLED, StyleGAN2Config, make_network
from torch import Tensor, nn

from recipes import codes, mapping
from recipes.data import Renders, to_float
from recipes.fitting import Options, Took, fit, halved, muon, options, training_set
from recipes.generator import AVERAGE, image_loss, learning_rate
from recipes.worlds import World
from sat3d.weights import save_weights

LAYERS = mapping.LAYERS + 1
MAPPING = "mapping."
ADVICE = (
    "preselection.by=qmm", "preselection.share=0.25", "preselection.evidence=consistency",
    "others_start=0.5", "weights.background=1", "weights.probability=0.05", "lr=0.2", "steps=700",
    "stop.every=0",
)  # fmt: skip
"""For training masks: no channel here is one attribute's alone, so shares are small and the start
is soft. Chosen by measurement, as the presets are."""


def config_of(world: World) -> StyleGAN2Config:
    """The architecture."""
    return StyleGAN2Config(
        z_dim=world.dim,
        w_dim=world.dim,
        resolution=128,
        channel_base=world.channel_base,
        channel_max=world.channel_max,
        mapping={"num_layers": LAYERS, "layer_features": world.hidden * len(world.factors)},
        clamp=None,
        noise_mode="none",
    )


def new_network(world: World, blocks: list[tuple[Tensor, Tensor]], seed: int) -> networks.Generator:
    """A fresh generator whose mapping finds the factors and then mixes them at random."""
    torch.manual_seed(seed)
    network = make_network(config_of(world))
    mapping.write_blocks(network.mapping, blocks)
    for k in range(LAYERS - 1):
        network.mapping.get_submodule(f"fc{k}").requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength"):
            parameter.requires_grad_(False).zero_()
    return network


def read_blocks(world: World, path: Path) -> tuple[list[tuple[Tensor, Tensor]], dict[str, float]]:
    """The mapping recipe's layers, as blocks without its unused camera input; and its figures."""
    found = mapping.new_mapping(world, rows=1)
    figures = mapping.load(found, path)
    return [(w.detach(), b.detach()) for w, b in mapping.blocks_of(world, found)], figures


def mixed(network: networks.Generator, code: Tensor) -> Tensor:
    """The factors' code [B, W] through the mapping's last layer: w [B, W]."""
    last = network.mapping.get_submodule(f"fc{LAYERS - 1}")
    assert isinstance(last, networks.FullyConnected)
    return last(F.pad(code, (0, last.weight.shape[1] - code.shape[1])))


def draw(network: networks.Generator, w: Tensor) -> Tensor:
    """w [B, W] to images [B, 3, 128, 128]."""
    synthesis = network.synthesis
    with torch.autocast(w.device.type, enabled=False):
        rows = w[:, None].expand(-1, synthesis.num_ws, -1)
        styles = networks.affine_styles(synthesis, rows, synthesis.style_rows(), "")
    return synthesis(styles, "none")


class Loss:
    """Draws batches and compares with renders; small parts count seven times, in the end thrice."""

    def __init__(
        self, network: networks.Generator, data: Renders, batch: int, compiled: bool
    ) -> None:
        self.network, self.data, self.batch = network, data, batch
        self.code = codes.factors_to_w(data.world, data.factors)
        device = data.images.device
        details = [name in data.world.details for name in data.world.labels]
        self.details = torch.tensor(details, device=device).float()
        self.draw = torch.compile(self._draw) if compiled else self._draw

    def _draw(self, code: Tensor) -> Tensor:
        return draw(self.network, mixed(self.network, code))

    def __call__(self, progress: float) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The loss of a fresh batch, and what to print."""
        rows = torch.randint(len(self.data), (self.batch,), device=self.code.device)
        image = self.draw(self.code[rows])
        small = self.details[self.data.labels[rows, None].long()]
        weight = 1 + (6 - 4 * progress) * small
        loss = image_loss(image, to_float(self.data.images[rows]), weight)
        return loss, {}


def train(chosen: Options, network: networks.Generator, data: Renders) -> tuple[Any, Took]:
    """Returns the exponential moving average of the trained network, and what it took."""
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE)
    )
    moving = [p for p in network.parameters() if p.requires_grad]
    optimiser = muon(moving, 5 * chosen.rate, chosen.rate, adjusted=True)
    loss = Loss(network, data, chosen.batch, chosen.compile or "cuda" in chosen.device)
    took = fit(
        network, loss, chosen, "generator2d", optimiser, learning_rate,
        after=lambda: average.update_parameters(network), beside={"average": average},
    )  # fmt: skip
    return average.module, took


@torch.no_grad()
def set_mean(network: networks.Generator, dim: int, count: int = 20_000) -> None:
    """The mean w, for truncation."""
    z = torch.randn(count, dim, generator=torch.Generator().manual_seed(1))
    z = z.to(network.mapping.w_avg.device)
    means = [network.mapping(part)[:, 0].mean(0) for part in z.split(1000)]
    network.mapping.w_avg.copy_(torch.stack(means).mean(0))


@torch.no_grad()
def held_out_psnr(network: networks.Generator, chosen: Options) -> float:
    """Mean PSNR in dB against the renderer, of pictures from z never seen."""
    world, values = chosen.world, []
    source = torch.Generator().manual_seed(chosen.seed + 777)
    z = torch.randn(chosen.more["measure"], world.dim, generator=source).to(chosen.device)
    for part in z.split(32):
        factors = codes.factors_from_z(world, part)
        truth = world.render(factors, world.cameras_for(factors, source)).image.clamp(-1, 1)
        image = draw(network, network.mapping(part)[:, 0]).clamp(-1, 1)
        error = ((image - truth) / 2).square().mean(dim=(1, 2, 3))
        values.append(-10 * error.log10())
    return torch.cat(values).mean().item()


def save(
    world: World, network: nn.Module, path: Path, figures: dict[str, float], more: Any
) -> None:
    """Half precision, but for the mapping, whose steep steps need more."""
    state = network.state_dict()
    tensors = halved({k: v for k, v in state.items() if not k.startswith(MAPPING)})
    tensors |= {k: v for k, v in state.items() if k.startswith(MAPPING)}
    header = {
        "kind": "generator",
        "architecture": "stylegan2",
        "title": world.title,
        "config": config_of(world).to_dict(),
        "style_space": "learned",
        "goes_with": dict(world.goes_with),
        "train_settings": list(ADVICE),
        "figures": figures,
        **more,
    }
    save_weights(path, tensors, header)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mapping", type=Path, help="default: the work folder's")
    parser.add_argument("--measure", type=int, default=512, help="pictures to measure")


def main() -> None:
    """Train what is left to train, measure, save."""
    summary = (__doc__ or "").splitlines()[0]
    known = ("avatars2d",)
    chosen = options(
        summary, lambda _: BUNDLED, minutes=6, batch=64, rate=2.5e-3, worlds_known=known, more=_more
    )
    world = chosen.world
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    blocks, figures = read_blocks(world, mapping.chosen_file(chosen))
    network = new_network(world, blocks, chosen.seed).to(chosen.device)
    trained, took = train(chosen, network, training_set(chosen))
    set_mean(trained, world.dim)
    figures["psnr"] = round(held_out_psnr(trained, chosen), 2)
    print(figures)
    save(world, trained, chosen.out, figures, chosen.header(took))


if __name__ == "__main__":
    main()
