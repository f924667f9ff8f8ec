"""EG3D snapshots as weights for this EG3D, and our own files."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from sat3d.errors import InputError
from sat3d.foreign import Checkpoint, state_dict, submodule, tensor_of
from sat3d.importing import (
    Conversion,
    number,
    one_of,
    shapes_of,
    table,
    whole_number,
    yes_or_no,
)
from sat3d.pickles import Module
from sat3d.stored import StoredTensor, shown

from ..stylegan2 import snapshot
from .encoder import Encoder
from .generator import ENCODER, CameraRange, Draft
from .networks import EG3DConfig, TriplaneGenerator
from .superresolution import Factor
from .volume import VolumeOptions

_FACTORS: dict[str, Factor] = {
    "SuperresolutionHybrid2X": "2X",
    "SuperresolutionHybrid4X": "4X",
    "SuperresolutionHybrid8X": "8X",
    "SuperresolutionHybrid8XDC": "8XDC",
}
# The planes (x, y), (x, z), (z, x) that the published weights were trained with.
_AXES = (
    ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    ((1, 0, 0), (0, 0, 1), (0, 1, 0)),
    ((0, 0, 1), (1, 0, 0), (0, 1, 0)),
)
_PLANTED = "planted."
_LENGTH = 1e3


def recognise(checkpoint: Checkpoint) -> bool:
    """True for a checkpoint that :func:`convert` is for."""
    return (
        snapshot.network(checkpoint, "TriPlaneGenerator") is not None
        or checkpoint.header.get("architecture") == "eg3d"
    )


def convert(checkpoint: Checkpoint) -> Conversion:
    """Tensors and configuration. Raises InputError for variants that are not supported."""
    network = snapshot.network(checkpoint, "TriPlaneGenerator")
    if network is None:
        return _own(checkpoint)
    config = _config(network)
    tensors = state_dict(network)
    # Registered by the training loop; drawing has no use for it.
    tensors.pop("dataset_label_std", None)
    snapshot.check_filters(tensors)
    rendering = table(network.state, "rendering_kwargs")
    volume = config.volume
    draft = Draft(
        min(64, config.neural_resolution),
        min(24, volume.depth_resolution),
        min(24, volume.depth_resolution_importance),
    )
    cameras = _cameras(rendering)
    note = (
        "The focal length of its cameras is not in the file: where the weights list gives none, "
        f"{cameras.focal} is taken."
    )
    header = {
        "cameras": asdict(cameras),
        "draft": asdict(draft),
        "rendering_kwargs": _plain(rendering),
    }
    return _conversion("EG3D training snapshot", tensors, config, header, {}, (note,))


def _conversion(
    layout: str,
    tensors: Mapping[str, StoredTensor],
    config: EG3DConfig,
    header: Mapping[str, Any],
    more_shapes: Mapping[str, tuple[int, ...]],
    notes: tuple[str, ...] = (),
) -> Conversion:
    with torch.device("meta"):
        network = TriplaneGenerator(config)
    own = {"kind": "generator", "architecture": "eg3d", "config": config.to_dict()}
    return Conversion(
        layout,
        tensors,
        {**shapes_of(network), **more_shapes},
        {**header, **own},
        network.superresolution.resolution,
        network.layout.editable_channels,
        notes,
    )


def _config(network: Module) -> EG3DConfig:
    """The configuration of a published generator's record."""
    state = network.state
    rendering = table(state, "rendering_kwargs")
    backbone = snapshot.settings(snapshot.part(network, "backbone"))
    for what, value, fixed in (
        ("label", backbone.c_dim, 25),
        ("planes", backbone.image_channels, 96),
    ):
        if value != fixed:
            raise InputError(f"its {what} have {value} numbers; allowed: {fixed}")
    _check_axes(network)
    superresolution = snapshot.part(network, "superresolution")
    factor = _FACTORS.get(superresolution.class_name)
    if factor is None:
        name = shown(superresolution.class_name)
        raise InputError(f"its super-resolution is {name}; allowed: {', '.join(_FACTORS)}")
    blocks = [snapshot.part(superresolution, name) for name in ("block0", "block1")]
    zeroed = yes_or_no(rendering, "c_gen_conditioning_zero", False)
    mode = one_of(rendering, "superresolution_noise_mode", ("none", "const", "random"), "none")
    return EG3DConfig(
        z_dim=backbone.z_dim,
        w_dim=backbone.w_dim,
        plane_resolution=backbone.resolution,
        neural_resolution=whole_number(state, "neural_rendering_resolution", 8, 512),
        channel_base=backbone.channel_base,
        channel_max=backbone.channel_max,
        mapping=backbone.mapping,  # type: ignore[arg-type]
        superresolution=factor,
        sr_clamp=snapshot.clamp_of(blocks),
        sr_noise_mode=mode,  # type: ignore[arg-type]
        sr_antialias=yes_or_no(rendering, "sr_antialias", False),
        # As published: without c_scale the mapping sees no camera.
        conditioning_scale=0.0 if zeroed else number(rendering, "c_scale", 0, _LENGTH, 0.0),
        decoder_lr_multiplier=number(rendering, "decoder_lr_mul", 1e-6, _LENGTH, 1.0),
        clamp=backbone.clamp,
        volume=_volume(rendering),
    )


def _volume(rendering: Mapping[str, object]) -> VolumeOptions:
    one_of(rendering, "clamp_mode", ("softplus",))
    automatic = rendering.get("ray_start") == rendering.get("ray_end") == "auto"
    return VolumeOptions(
        whole_number(rendering, "depth_resolution", 2, 1024),
        whole_number(rendering, "depth_resolution_importance", 0, 1024),
        "auto" if automatic else number(rendering, "ray_start", 0, _LENGTH),
        "auto" if automatic else number(rendering, "ray_end", 0, _LENGTH),
        number(rendering, "box_warp", 1e-3, _LENGTH),
        yes_or_no(rendering, "white_back", False),
        yes_or_no(rendering, "disparity_space_sampling", False),
    )


def _check_axes(network: Module) -> None:
    renderer = submodule(network, "renderer")
    axes = tensor_of(renderer.state.get("plane_axes")) if renderer is not None else None
    if axes is None:
        return  # older snapshots compute them, always these
    known = axes.shape == (3, 3, 3) and bool((axes.read() == torch.tensor(_AXES)).all())
    if not known:
        raise InputError(
            "its feature planes lie along other axes than those of the published models, "
            "(x, y), (x, z), (z, x), which is not supported"
        )


def _cameras(rendering: Mapping[str, object]) -> CameraRange:
    usual = CameraRange()
    pivot = rendering.get("avg_camera_pivot", list(usual.pivot))
    if not isinstance(pivot, list) or len(pivot) != 3:
        raise InputError(f"its setting avg_camera_pivot is {shown(pivot)}; allowed: three numbers")
    point = {f"avg_camera_pivot[{k}]": value for k, value in enumerate(pivot)}
    x, y, z = (float(number(point, key, -_LENGTH, _LENGTH)) for key in point)
    radius = number(rendering, "avg_camera_radius", 1e-3, _LENGTH, usual.radius)
    return CameraRange(radius=radius, pivot=(x, y, z))


def _plain(rendering: Mapping[str, object]) -> dict[str, object]:
    """The settings as published, for the header: only short plain values."""
    kept: dict[str, object] = {}
    for key, value in list(rendering.items())[:100]:
        items = value if isinstance(value, list) else [value]
        if len(key) <= 100 and len(items) <= 16 and all(_is_plain(item) for item in items):
            kept[key] = value
    return kept


def _is_plain(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return (
        value is None
        or isinstance(value, bool | int)
        or (isinstance(value, str) and len(value) <= 200)
    )


def _own(checkpoint: Checkpoint) -> Conversion:
    """A file written by this package, encoder and planted channels included."""
    header = checkpoint.header
    tensors = state_dict(checkpoint.root)
    snapshot.check_filters(tensors)
    shapes: dict[str, tuple[int, ...]] = {
        key: tensor.shape
        for key, tensor in tensors.items()
        if key.startswith(_PLANTED) and len(tensor.shape) == 1
    }
    if "encoder" in header:
        shapes |= _encoder_shapes(table(header, "encoder"))
    config = _checked_own(table(header, "config"))
    return _conversion("sat3d weights", tensors, config, header, shapes)


def _encoder_shapes(values: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
    widths = values.get("widths", [])
    if not isinstance(widths, list) or not 1 <= len(widths) <= 8:
        raise InputError(f"its encoder has widths {shown(widths)}; allowed: 1 to 8 numbers")
    numbered = {f"widths[{k}]": width for k, width in enumerate(widths)}
    with torch.device("meta"):
        encoder = Encoder(
            whole_number(values, "w_dim", 1, 8192, 512),
            whole_number(values, "size", 2 ** len(widths), 2048, 128),
            [whole_number(numbered, key, 1, 4096) for key in numbered],
            whole_number(values, "hidden", 1, 8192, 384),
        )
    return {f"{ENCODER}{key}": shape for key, shape in shapes_of(encoder).items()}


def _checked_own(values: Mapping[str, object]) -> EG3DConfig:
    """A header's configuration, with every number that decides on sizes in its range."""
    volume, mapping = table(values, "volume"), table(values, "mapping")
    for group, key, low, high in (
        (values, "z_dim", 1, 8192),
        (values, "w_dim", 1, 8192),
        (values, "plane_resolution", 8, 1024),
        (values, "neural_resolution", 8, 512),
        (values, "channel_base", 1, 2**17),
        (values, "channel_max", 1, 2048),
        (mapping, "num_layers", 1, 64),
        (volume, "depth_resolution", 2, 1024),
        (volume, "depth_resolution_importance", 0, 1024),
    ):
        whole_number(group, key, low, high)
    for key in ("embed_features", "layer_features"):
        if mapping.get(key) is not None:
            whole_number(mapping, key, 1, 8192)
    if values["plane_resolution"] not in [2**k for k in range(3, 11)]:
        raise InputError(f"its plane resolution is {values['plane_resolution']}: no power of two")
    one_of(values, "superresolution", tuple(_FACTORS.values()))
    return EG3DConfig.from_dict(values)
