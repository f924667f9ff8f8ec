"""The layout of rosinality's stylegan2-pytorch, which e4e, pSp and StyleCLIP use too.

Its numbers mean the same as ours: only names and shapes differ. The constant factor that it puts
on convolution weights is undone by demodulation, and neither side flips a kernel.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sat3d.errors import InputError
from sat3d.foreign import state_dict, tensor_of
from sat3d.importing import Value
from sat3d.stored import StoredTensor, shown

from .layers import bias_act, low_pass_filter, normalize_second_moment
from .snapshot import is_low_pass

_LR = 0.01
_SAMPLES = 4096
_MOST_TO_SAMPLE = 2**25
_MOST_BLOCKS = 9


@dataclass(frozen=True)
class Converted:
    """Tensors under our names, and what had to be made up."""

    tensors: dict[str, Value]
    notes: tuple[str, ...]


def generator(root: object) -> dict[str, StoredTensor] | None:
    """The averaged generator's tensors in such a checkpoint; None if it is none."""
    if not isinstance(root, dict):
        return None
    for candidate in (root.get("g_ema"), root, root.get("state_dict")):
        for start in ("", "decoder.", "module."):
            if isinstance(candidate, dict) and f"{start}convs.0.conv.weight" in candidate:
                tensors = state_dict(candidate).items()
                return {k.removeprefix(start): v for k, v in tensors if k.startswith(start)}
    return None


def convert(root: object) -> Converted:
    """Rename and reshape. Raises InputError for missing, unknown or odd tensors."""
    tensors = generator(root)
    assert tensors is not None, "recognised before"
    assert isinstance(root, dict)
    source = _Source(tensors)
    result: dict[str, Value] = {}
    notes: list[str] = []
    result["synthesis.b4.const"] = source.take("input.input", 4)
    _add_block(result, source, "b4", (None, "conv1"), "to_rgb1")
    blocks = sum(f"to_rgbs.{k}.conv.weight" in tensors for k in range(_MOST_BLOCKS))
    for k in range(blocks):
        names = (f"convs.{2 * k}", f"convs.{2 * k + 1}")
        _add_block(result, source, f"b{8 * 2**k}", names, f"to_rgbs.{k}")
    layers = 0
    while f"style.{layers + 1}.weight" in tensors:
        for what in ("weight", "bias"):
            result[f"mapping.fc{layers}.{what}"] = source.whole(f"style.{layers + 1}.{what}")
        layers += 1
    noises = _add_noises(result, source, blocks)
    if not noises:
        notes.append("The file has no noise maps; they were drawn with seed 0.")
    result["mapping.w_avg"], note = _average(root, result, layers)
    notes += [note] if note else []
    source.finish()
    return Converted(result, tuple(notes))


class _Source:
    """Hands out each tensor once, so that what nobody asked for is noticed."""

    def __init__(self, tensors: dict[str, StoredTensor]) -> None:
        self._left = dict(tensors)

    def whole(self, key: str) -> StoredTensor:
        """A tensor as it is."""
        if key not in self._left:
            raise InputError(f"it lacks the tensor '{key}' of that layout")
        return self._left.pop(key)

    def take(self, key: str, dimensions: int) -> StoredTensor:
        """A tensor without its first dimension, which is 1."""
        tensor = self.whole(key)
        if len(tensor.shape) != dimensions or tensor.shape[0] != 1:
            raise InputError(f"its tensor '{key}' has shape {list(tensor.shape)}")
        return tensor.reshaped(*tensor.shape[1:])

    def has(self, key: str) -> bool:
        """True if the tensor is there."""
        return key in self._left

    def finish(self) -> None:
        """Check the filters; complain of anything else that is left."""
        for key, tensor in self._left.items():
            filters = key.endswith((".blur.kernel", ".upsample.kernel"))
            if not filters or not is_low_pass(tensor, 4.0):
                raise InputError(f"its tensor {shown(key)} does not belong to that layout")


def _add_block(
    result: dict[str, Value],
    source: _Source,
    block: str,
    convolutions: tuple[str | None, str],
    rgb: str,
) -> None:
    result[f"synthesis.{block}.resample_filter"] = low_pass_filter()
    for ours, theirs in zip(("conv0", "conv1"), convolutions, strict=True):
        if theirs is None:
            continue
        name = f"synthesis.{block}.{ours}"
        _add_modulated(result, source, name, theirs)
        result[f"{name}.bias"] = source.whole(f"{theirs}.activate.bias")
        result[f"{name}.noise_strength"] = source.take(f"{theirs}.noise.weight", 1)
        result[f"{name}.resample_filter"] = low_pass_filter()
    name = f"synthesis.{block}.torgb"
    _add_modulated(result, source, name, rgb)
    bias = source.take(f"{rgb}.bias", 4)
    result[f"{name}.bias"] = bias.reshaped(bias.shape[0])


def _add_modulated(result: dict[str, Value], source: _Source, name: str, theirs: str) -> None:
    result[f"{name}.weight"] = source.take(f"{theirs}.conv.weight", 5)
    for what in ("weight", "bias"):
        result[f"{name}.affine.{what}"] = source.whole(f"{theirs}.conv.modulation.{what}")


def _add_noises(result: dict[str, Value], source: _Source, blocks: int) -> bool:
    """The constant noise maps; drawn where an old file has none. True if they were there."""
    there = source.has("noises.noise_0")
    draws = torch.Generator().manual_seed(0)
    for k in range(2 * blocks + 1):
        side = 4 * 2 ** ((k + 1) // 2)
        name = f"synthesis.b{side}.conv{(k + 1) % 2}.noise_const"
        if there:
            result[name] = source.take(f"noises.noise_{k}", 4).reshaped(side, side)
        else:
            result[name] = torch.randn(side, side, generator=draws)
    return there


def _average(root: dict[str, object], result: dict[str, Value], layers: int) -> tuple[Value, str]:
    """(mean w [W], note): stored, or measured as that code does where it is not."""
    stored = tensor_of(root.get("latent_avg"))
    if stored is None:
        return _measured(result, layers), (
            f"The file has no latent_avg; the mean of {_SAMPLES} w (seed 0) was taken."
        )
    if len(stored.shape) == 1:
        return stored, ""
    if len(stored.shape) != 2 or math.prod(stored.shape) > 2**20 or not stored.shape[0]:
        raise InputError(f"its latent_avg has shape {list(stored.shape)}")
    rows = stored.read()
    if torch.allclose(rows, rows[:1].expand_as(rows), atol=1e-5):
        return rows[0].clone(), ""
    return rows.mean(dim=0), "The rows of its latent_avg differ; their mean was taken."


@torch.no_grad()
def _measured(result: dict[str, Value], layers: int) -> Tensor:
    weights = [result[f"mapping.fc{k}.weight"] for k in range(layers)]
    if not weights or any(len(w.shape) != 2 for w in weights):
        raise InputError("its mapping has no layers, or odd ones")
    if sum(math.prod(w.shape) for w in weights) > _MOST_TO_SAMPLE:
        raise InputError("it has no latent_avg, and its mapping is too large to measure one")
    x = torch.randn(_SAMPLES, weights[0].shape[1], generator=torch.Generator().manual_seed(0))
    x = normalize_second_moment(x)
    for k in range(layers):
        weight, bias = (_tensor(result[f"mapping.fc{k}.{what}"]) for what in ("weight", "bias"))
        if weight.shape[1] != x.shape[1] or bias.shape != weight.shape[:1]:
            raise InputError("the layers of its mapping do not fit each other")
        x = F.linear(x, weight * (_LR / math.sqrt(weight.shape[1])))
        x = bias_act(x, bias * _LR, "lrelu")
    return x.mean(dim=0)


def _tensor(value: Value) -> Tensor:
    return (value.read() if isinstance(value, StoredTensor) else value).float()
