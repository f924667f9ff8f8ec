"""Training snapshots of the published code bases: what a generator's record says about itself.

Settings are read from the layers themselves where they have them: constructor defaults differ
between the code bases (StyleGAN2-ADA-PyTorch, StyleGAN3's repository, EG3D).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sat3d.errors import InputError
from sat3d.foreign import Checkpoint, submodule
from sat3d.importing import number, one_of, table, whole_number, yes_or_no
from sat3d.pickles import Module
from sat3d.stored import StoredTensor, shown

from .layers import low_pass_filter

_MAPPING = {"num_layers", "embed_features", "layer_features", "lr_multiplier"}
_WITHOUT_EFFECT = {"z_dim", "c_dim", "w_dim", "num_ws", "activation", "w_avg_beta"}


@dataclass(frozen=True)
class Settings:
    """What shapes a published StyleGAN2 generator or backbone."""

    z_dim: int
    c_dim: int
    w_dim: int
    resolution: int
    image_channels: int
    channel_base: int
    channel_max: int
    mapping: dict[str, int | float]
    clamp: float | None
    num_fp16_res: int


def network(checkpoint: Checkpoint, class_name: str) -> Module | None:
    """The averaged generator of a snapshot, or the one network of a file, if of that class."""
    root = checkpoint.root
    found = root.get("G_ema") if isinstance(root, dict) else root
    return found if isinstance(found, Module) and found.class_name == class_name else None


def part(module: Module, name: str) -> Module:
    """A submodule that has to be there. Raises InputError."""
    found = submodule(module, name)
    if found is None:
        raise InputError(f"its {shown(module.class_name)} has no part '{name}'")
    return found


def settings(generator: Module) -> Settings:
    """The settings of a record of class ``Generator``. Raises InputError for unknown variants."""
    state, synthesis = generator.state, part(generator, "synthesis")
    if submodule(synthesis, "input") is not None:
        raise InputError("it is a StyleGAN3 generator; of that code only StyleGAN2 is supported")
    arguments = table(state, "_init_kwargs")
    arguments = arguments | table(arguments, "synthesis_kwargs")
    resolution = whole_number(state, "img_resolution", 8, 2048)
    blocks = [block for name, block in _modules(synthesis) if name.startswith("b")]
    return Settings(
        whole_number(state, "z_dim", 1, 8192),
        whole_number(state, "c_dim", 0, 8192),
        whole_number(state, "w_dim", 1, 8192),
        resolution,
        whole_number(state, "img_channels", 1, 512),
        whole_number(arguments, "channel_base", 1, 2**17, 32768),
        whole_number(arguments, "channel_max", 1, 2048, 512),
        _mapping(part(generator, "mapping")),
        clamp_of(blocks),
        sum(yes_or_no(block.state, "use_fp16", False) for block in blocks),
    )


def _mapping(mapping: Module) -> dict[str, int | float]:
    arguments = table(mapping.state, "_init_kwargs")
    one_of(arguments, "activation", ("lrelu",), "lrelu")
    unknown = sorted(arguments.keys() - _MAPPING - _WITHOUT_EFFECT)
    if unknown:
        raise InputError(f"its mapping has the unknown setting {shown(unknown[0])}")
    found: dict[str, int | float] = {
        "num_layers": whole_number(mapping.state, "num_layers", 1, 64),
        "lr_multiplier": number(arguments, "lr_multiplier", 1e-6, 1e3, 0.01),
    }
    for key in ("embed_features", "layer_features"):
        if arguments.get(key) is not None:
            found[key] = whole_number(arguments, key, 1, 8192)
    return found


def clamp_of(blocks: list[Module]) -> float | None:
    """The clamp that all convolutions share. Raises InputError for layers of another design."""
    clamps: list[float | None] = []
    for block in blocks:
        one_of(block.state, "architecture", ("skip",))
        for name, layer in _modules(block):
            if name.startswith("conv"):
                one_of(layer.state, "activation", ("lrelu",))
                if not yes_or_no(layer.state, "use_noise", True):
                    raise InputError("it has layers without noise, which are not supported")
            clamp = layer.state.get("conv_clamp")
            clamps.append(None if clamp is None else number(layer.state, "conv_clamp", 1e-6, 1e6))
    if not clamps or any(clamp != clamps[0] for clamp in clamps):
        raise InputError("its layers differ in conv_clamp, which is not supported")
    return clamps[0]


def _modules(module: Module) -> Iterator[tuple[str, Module]]:
    for name, value in table(module.state, "_modules").items():
        if isinstance(value, Module):
            yield name, value


def check_filters(tensors: Mapping[str, StoredTensor]) -> None:
    """Raise InputError unless every up-sampling filter is the binomial one, which is built in."""
    for key, tensor in tensors.items():
        if key.endswith("resample_filter") and not is_low_pass(tensor):
            raise InputError(f"its filter {shown(key)} is not the 4x4 binomial one")


def is_low_pass(tensor: StoredTensor, gain: float = 1.0) -> bool:
    """True if a tensor is the binomial filter times a gain, to float32 rounding."""
    expected = low_pass_filter() * gain
    return tensor.shape == (4, 4) and bool(((tensor.read() - expected).abs() <= 1e-6).all())
