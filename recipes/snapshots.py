"""Checkpoints in the structure of the published training snapshots, with any weights.

For trying the import at full size without the published files: the same nesting of records, an
embedded source text that raises when it is run, the same storages. Written from a description of
the structure; no published code is used.

    python -m recipes.snapshots eg3d OUT.pkl
    python -m recipes.snapshots stylegan2 OUT.pkl --discriminator 30
"""

import argparse
import contextlib
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sat3d_plugins.generators.eg3d.networks import EG3DConfig, TriplaneGenerator
from sat3d_plugins.generators.stylegan2.generator import StyleGAN2Config, make_network
from torch import Tensor, nn

SOURCE = "raise RuntimeError('the code embedded in the pickle was executed')\n"
_PARAMETERS = ("weight", "bias", "const", "noise_strength")
_HOOKS = (
    "_backward_hooks", "_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)  # fmt: skip


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
    """Stands for the published loader's function; never called."""
    raise AssertionError


class EasyDict(dict[str, Any]):
    """Stands for the published class."""


class Persistent:
    """An object pickled with its source text."""

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE,
            "class_name": class_name,
            "state": state,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """As the published decorator: everything inside one plain dict."""
        return _reconstruct_persistent_obj, (self.meta,)


_PLAIN = {
    "renderer": "training.volumetric_rendering.renderer.ImportanceRenderer",
    "renderer.ray_marcher": "training.volumetric_rendering.ray_marcher.MipRayMarcher2",
    "ray_sampler": "training.volumetric_rendering.ray_sampler.RaySampler",
    "decoder": "training.triplane.OSGDecoder",
}


@contextlib.contextmanager
def published_names() -> Iterator[dict[str, type]]:
    """Modules of the published names for as long as a pickle is written; yields the classes."""
    functions = {
        "torch_utils.persistence": [_reconstruct_persistent_obj],
        "dnnlib.util": [EasyDict],
    }
    made: dict[str, type] = {}
    for full in _PLAIN.values():
        module, _, name = full.rpartition(".")
        made[full] = type(name, (), {"__module__": module})
        functions.setdefault(module, []).append(made[full])
    before = dict(sys.modules)
    for name, members in functions.items():
        parts = name.split(".")
        for k in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:k]), types.ModuleType(".".join(parts[:k])))
        for member in members:
            member.__module__ = name
            setattr(sys.modules[name], member.__name__, member)
    try:
        yield made
    finally:
        for name in set(sys.modules) - set(before):
            del sys.modules[name]


def _state(tensors: Mapping[str, Tensor], modules: Mapping[str, Any], extra: Any) -> dict[str, Any]:
    state: dict[str, Any] = {"training": False, "_parameters": OrderedDict()}
    state["_buffers"], state["_non_persistent_buffers_set"] = OrderedDict(), set()
    for key, value in tensors.items():
        if key in _PARAMETERS:
            state["_parameters"][key] = nn.Parameter(value, requires_grad=False)
        else:
            state["_buffers"][key] = value
    state |= {hooks: OrderedDict() for hooks in _HOOKS}
    return state | {"_modules": OrderedDict(modules)} | extra


def _tree(tensors: Mapping[str, Tensor], describe: Any, path: str = "") -> Any:
    """Records of the module at ``path`` and all below it."""
    here, below = {}, []
    for key in tensors:
        rest = key.removeprefix(f"{path}.") if path else key
        head, dot, _ = rest.partition(".")
        if path and not key.startswith(f"{path}."):
            continue
        if not dot:
            here[rest] = tensors[key]
        elif head not in below:
            below.append(head)
    children = {n: _tree(tensors, describe, f"{path}.{n}" if path else n) for n in below}
    return describe(path, _state(here, children, {}))


def _stylegan2_part(path: str, state: dict[str, Any], config: Mapping[str, Any]) -> Persistent:
    """A part of a StyleGAN2 generator (or backbone), ``path`` relative to it."""
    leaf = path.rpartition(".")[2]
    sizes = {"w_dim": config["w_dim"], "img_resolution": config["resolution"]}
    sizes["img_channels"] = config["image_channels"]
    if not path:
        keys = ("z_dim", "c_dim", "w_dim")
        sizes |= {key: config[key] for key in keys}
        synthesis = EasyDict(
            channel_base=config["channel_base"],
            channel_max=config["channel_max"],
            conv_clamp=config["clamp"],
        )
        arguments = {"synthesis_kwargs": synthesis, "mapping_kwargs": EasyDict(config["mapping"])}
        return Persistent("Generator", state | sizes | _arguments(arguments | sizes))
    if leaf == "mapping":
        own = {key: config[key] for key in ("z_dim", "c_dim", "w_dim")}
        layers = {"num_layers": config["mapping"].get("num_layers", 8)}
        extra = own | layers | _arguments(own | dict(config["mapping"]))
        return Persistent("MappingNetwork", state | extra)
    if leaf == "synthesis":
        return Persistent("SynthesisNetwork", state | sizes | _arguments({}))
    if leaf.startswith(("conv", "torgb")):
        extra = {"conv_clamp": config["clamp"], "activation": "lrelu", "use_noise": True}
        extra["act_gain"] = np.float64(np.sqrt(2))
        name = "SynthesisLayer" if leaf.startswith("conv") else "ToRGBLayer"
        return Persistent(name, state | extra | _arguments({}))
    if leaf.startswith(("b", "block")):
        resolution = int(leaf.lstrip("block"))
        half = resolution >= max(config["resolution"] * 2 // 2 ** config["num_fp16_res"], 8)
        extra = {"architecture": "skip", "use_fp16": half}
        return Persistent("SynthesisBlock", state | extra | _arguments({}))
    return Persistent("FullyConnectedLayer", state | _arguments({}))


def _arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"_init_args": (), "_init_kwargs": arguments}


def stylegan2_record(config: StyleGAN2Config, tensors: Mapping[str, Tensor]) -> Persistent:
    """The record of a StyleGAN2 generator with the tensors of ours."""
    values = config.to_dict() | {"image_channels": 3}
    return _tree(tensors, lambda path, state: _stylegan2_part(path, state, values))


def eg3d_record(
    config: EG3DConfig, tensors: Mapping[str, Tensor], classes: Mapping[str, type]
) -> Persistent:
    """The record of an EG3D generator with the tensors of ours."""
    backbone = config.to_dict() | {
        "c_dim": 25, "resolution": config.plane_resolution, "image_channels": 96,
        "num_fp16_res": 0,
    }  # fmt: skip
    rendering = rendering_kwargs(config)

    def describe(path: str, state: dict[str, Any]) -> Any:
        first, _, rest = path.partition(".")
        if first == "backbone":
            return _stylegan2_part(rest, state, backbone)
        if path in _PLAIN or path == "decoder.net":
            return _bare(classes.get(_PLAIN.get(path, ""), nn.Sequential), state)
        if first == "superresolution" and not rest:
            return Persistent(f"SuperresolutionHybrid{config.superresolution}", state)
        if first == "superresolution":
            values = backbone | {"clamp": config.sr_clamp, "num_fp16_res": 0}
            return _stylegan2_part(rest, state, values)
        if path:
            return Persistent("FullyConnectedLayer", state | _arguments({}))
        state["_modules"] = _renderer(classes) | state["_modules"]
        extra = {"img_resolution": int(rendering["image_resolution"])}
        extra |= {"neural_rendering_resolution": config.neural_resolution}
        return Persistent(
            "TriPlaneGenerator",
            state | extra | {"rendering_kwargs": rendering} | _arguments({}),
        )

    return _tree(tensors, describe)


def rendering_kwargs(config: EG3DConfig) -> dict[str, Any]:
    """The published settings that belong to a configuration."""
    sides = {"2X": 128, "4X": 256, "8X": 512, "8XDC": 512}
    volume = config.to_dict()["volume"]
    return volume | {
        "image_resolution": sides[config.superresolution],
        "clamp_mode": "softplus",
        "superresolution_module": "training.superresolution."
        f"SuperresolutionHybrid{config.superresolution}",
        "c_gen_conditioning_zero": False,
        "c_scale": config.conditioning_scale,
        "superresolution_noise_mode": config.sr_noise_mode,
        "decoder_lr_mul": config.decoder_lr_multiplier,
        "sr_antialias": config.sr_antialias,
        "avg_camera_radius": 2.7,
        "avg_camera_pivot": [0, 0, 0.2],
    }


def _renderer(classes: Mapping[str, type]) -> dict[str, Any]:
    axes = torch.tensor(
        [[[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1], [0, 1, 0]],
         [[0, 0, 1], [1, 0, 0], [0, 1, 0]]], dtype=torch.float32,
    )  # fmt: skip
    marcher = _bare(classes[_PLAIN["renderer.ray_marcher"]], _state({}, {}, {}))
    state = _state({}, {"ray_marcher": marcher}, {"plane_axes": axes})
    sampler = _bare(classes[_PLAIN["ray_sampler"]], _state({}, {}, {}))
    return {"renderer": _bare(classes[_PLAIN["renderer"]], state), "ray_sampler": sampler}


def _bare(kind: type, state: dict[str, Any]) -> Any:
    made = object.__new__(kind)
    made.__dict__.update(state)
    return made


def discriminator_record(millions: float, seed: int) -> Persistent:
    """A stand-in of so many million parameters: importers must pass over it."""
    draws = torch.Generator().manual_seed(seed)
    layers = {
        f"b{k}.weight": torch.randn(1000, 1000, generator=draws) for k in range(int(millions))
    }
    return _tree(layers, lambda path, state: Persistent("Discriminator", state | _arguments({})))


def write_snapshot(
    path: Path,
    config: StyleGAN2Config | EG3DConfig,
    tensors: Mapping[str, Tensor],
    protocol: int = 4,
    discriminator_millions: float = 0,
) -> None:
    """Write a snapshot whose G_ema holds these tensors; G holds others of the same shapes."""
    others = {key: value.clone() for key, value in tensors.items()}
    with published_names() as classes:

        def record(values: Mapping[str, Tensor]) -> Persistent:
            if isinstance(config, StyleGAN2Config):
                return stylegan2_record(config, values)
            return eg3d_record(config, {**values, "dataset_label_std": torch.ones(25)}, classes)

        content = {
            "training_set_kwargs": {"class_name": "training.dataset.ImageFolderDataset"},
            "G": record(others),
            "D": discriminator_record(discriminator_millions, 1),
            "G_ema": record(tensors),
            "augment_pipe": None,
        }
        with path.open("wb") as file:
            pickle.dump(content, file, protocol=protocol)


def random_network(config: StyleGAN2Config | EG3DConfig, seed: int = 0) -> nn.Module:
    """A network of random weights."""
    torch.manual_seed(seed)
    if isinstance(config, StyleGAN2Config):
        return make_network(config)
    return TriplaneGenerator(config)


def main() -> None:
    """Write a full-size snapshot with random weights."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("kind", choices=["eg3d", "stylegan2"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--discriminator", type=float, default=30, help="million parameters")
    given = parser.parse_args()
    # The published FFHQ models are these classes' defaults.
    config = EG3DConfig() if given.kind == "eg3d" else StyleGAN2Config(num_fp16_res=4)
    tensors = random_network(config, given.seed).state_dict()
    write_snapshot(given.out, config, tensors, discriminator_millions=given.discriminator)
    print(f"{given.out}: {given.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
