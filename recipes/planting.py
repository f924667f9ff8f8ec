"""What is planted in the generator: zeros, so that every style channel depends on one factor."""

import torch
from sat3d_plugins.generators.eg3d.networks import EG3DConfig, TriplaneGenerator
from sat3d_plugins.generators.stylegan2.networks import modulated
from torch import Tensor, nn

from recipes import codes
from recipes.worlds import World

MAPPING = "backbone.mapping."


def mapping_masks(world: World, layers: int, embedded: int) -> dict[str, Tensor]:
    """Block-diagonal masks of the mapping's layers, by parameter name within the mapping."""
    ends = codes.block_owners(world, world.block, world.dim)
    hidden = codes.block_owners(world, world.hidden, world.hidden * len(world.factors))
    widths = [ends, *[hidden] * (layers - 1), ends]
    masks = {f"fc{k}.weight": codes.block_mask(widths[k + 1], widths[k]) for k in range(layers)}
    camera = torch.zeros(len(hidden), embedded)
    masks["fc0.weight"] = torch.cat([masks["fc0.weight"], camera], dim=1)
    return masks


def masks_of(world: World, network: TriplaneGenerator) -> dict[str, Tensor]:
    """Masks by parameter name; trained parameters are multiplied by them after every step.

    toRGB and super-resolution styles are constant: they follow the source in an edit, so nothing
    that an edit should change may pass through them.
    """
    config = network.config
    w_owner = codes.block_owners(world, world.block, world.dim)
    editable = {x.name for x in network.layout.layers if (x.kind, x.part) == ("conv", "backbone")}
    masks = {}
    for name, layer in modulated(network).items():
        mask = codes.block_mask(codes.channel_owners(world, layer.style_channels), w_owner)
        masks[f"{name}.affine.weight"] = mask * float(name in editable)
    settings = config.mapping
    mapping = mapping_masks(world, settings["num_layers"], settings["embed_features"])
    return masks | {MAPPING + name: mask for name, mask in mapping.items()}


@torch.no_grad()
def apply_masks(module: nn.Module, masks: dict[str, Tensor]) -> None:
    """Multiply parameters by their masks; noise is off, the camera does not reach the mapping."""
    for name, parameter in module.named_parameters():
        if name in masks:
            parameter.mul_(masks[name])
        elif name.endswith("noise_strength") or "embed." in name:
            parameter.zero_()


def new_network(world: World, config: EG3DConfig, seed: int) -> TriplaneGenerator:
    """A freshly initialised generator, planted."""
    torch.manual_seed(seed)
    network = TriplaneGenerator(config)
    with torch.no_grad():
        density = network.decoder.net[2]
        density.weight[0] *= 10  # densities of solid things are in the hundreds
        density.bias[0] = -2.0  # nearly transparent at first: gradients reach all depths
        for name, buffer in network.named_buffers():
            if name.endswith("noise_const"):
                buffer.zero_()
    apply_masks(network, masks_of(world, network))
    return network
