"""StyleGAN2 checkpoints of other programs, as weights for this one.

Read are snapshots of StyleGAN2-ADA-PyTorch and of StyleGAN3's repository, the layout of
rosinality's stylegan2-pytorch (also inside e4e and pSp), plain state dicts, and our own files.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch

from sat3d.errors import InputError
from sat3d.foreign import Checkpoint, state_dict
from sat3d.importing import Conversion, Value, shapes_of
from sat3d.interfaces import StyleLayout

from . import networks, rosinality, snapshot
from .generator import PREFIX, StyleGAN2Config, make_network

_BLOCK = re.compile(r"synthesis\.b(\d{1,4})\.conv1\.weight")


def recognise(checkpoint: Checkpoint) -> bool:
    """True for a checkpoint that :func:`convert` is for."""
    return (
        snapshot.network(checkpoint, "Generator") is not None
        or checkpoint.header.get("architecture") == "stylegan2"
        or _is_plain(checkpoint)
        or rosinality.generator(checkpoint.root) is not None
    )


def convert(checkpoint: Checkpoint) -> Conversion:
    """Tensors and configuration. Raises InputError for variants that are not supported."""
    network = snapshot.network(checkpoint, "Generator")
    if network is not None:
        s = snapshot.settings(network)
        if s.image_channels != 3:
            raise InputError(f"it draws {s.image_channels} channels; allowed: 3")
        config = StyleGAN2Config(
            s.z_dim, s.c_dim, s.w_dim, s.resolution, s.channel_base, s.channel_max, s.mapping,
            s.clamp, s.num_fp16_res,
        )  # fmt: skip
        tensors = state_dict(network)
        tensors.pop("dataset_label_std", None)
        snapshot.check_filters(tensors)
        return _conversion("StyleGAN2 training snapshot", tensors, config)
    if checkpoint.header.get("architecture") == "stylegan2":
        return _own(checkpoint)
    if _is_plain(checkpoint):
        plain = state_dict(checkpoint.root)
        snapshot.check_filters(plain)
        note = "The file does not say conv_clamp and lr_multiplier: none and 0.01 are taken."
        return _conversion("StyleGAN2 state dict", plain, _guess(plain), (note,))
    found = rosinality.convert(checkpoint.root)
    layout = "rosinality StyleGAN2 checkpoint"
    return _conversion(layout, found.tensors, _guess(found.tensors), found.notes)


def _is_plain(checkpoint: Checkpoint) -> bool:
    root = checkpoint.root
    keys = {"synthesis.b4.const", "mapping.fc0.weight", "mapping.w_avg"}
    return isinstance(root, dict) and keys <= root.keys()


def _own(checkpoint: Checkpoint) -> Conversion:
    values = checkpoint.header.get("config")
    if not isinstance(values, dict):
        raise InputError("its header has no configuration")
    config = StyleGAN2Config.from_dict(values)
    tensors = state_dict(checkpoint.root)
    snapshot.check_filters(tensors)
    return _conversion("sat3d weights", tensors, config, header=checkpoint.header)


def _conversion(
    layout: str,
    tensors: Mapping[str, Value],
    config: StyleGAN2Config,
    notes: tuple[str, ...] = (),
    header: Mapping[str, Any] | None = None,
) -> Conversion:
    config.check()
    with torch.device("meta"):
        network = make_network(config)
    styles = StyleLayout(networks.style_layers(network.synthesis, PREFIX, "backbone"))
    own = {"kind": "generator", "architecture": "stylegan2", "config": config.to_dict()}
    return Conversion(
        layout,
        tensors,
        shapes_of(network),
        {**(header or {}), **own},
        config.resolution,
        styles.editable_channels,
        notes,
    )


def _guess(tensors: Mapping[str, Value]) -> StyleGAN2Config:
    """The configuration that gives tensors of these shapes; the core checks that it does."""
    widths = {
        int(match[1]): _shape(tensors, key, 4)[0]
        for key in tensors
        if (match := _BLOCK.fullmatch(key))
    }
    resolution = max(widths, default=0)
    layers = 0
    while f"mapping.fc{layers}.weight" in tensors:
        layers += 1
    first = _shape(tensors, "mapping.fc0.weight", 2)
    embed, labels = (
        _shape(tensors, "mapping.embed.weight", 2) if "mapping.embed.weight" in tensors else (0, 0)
    )
    mapping = {"num_layers": layers, "embed_features": embed or None, "layer_features": first[0]}
    return StyleGAN2Config(
        z_dim=first[1] - embed,
        c_dim=labels,
        w_dim=_shape(tensors, "mapping.w_avg", 1)[0],
        resolution=resolution,
        # Widths are min(base / resolution, max); where all are equal any larger base does too.
        channel_base=widths.get(resolution, 0) * resolution,
        channel_max=max(widths.values(), default=0),
        mapping={key: value for key, value in mapping.items() if value is not None},
        clamp=None,
    )


def _shape(tensors: Mapping[str, Value], key: str, dimensions: int) -> tuple[int, ...]:
    shape = tuple(tensors[key].shape) if key in tensors else ()
    if len(shape) != dimensions:
        raise InputError(f"its tensor '{key}' is missing or has no {dimensions} dimensions")
    return shape
