"""Weights files: one .safetensors whose header explains it.

The header's ``sat3d`` entry is JSON: ``{"format": 1, "kind": "generator", "architecture": "name",
"config": {...}, "goes_with": {...}, "licence": "...", "figures": {...}, "seed": 0, ...}``.
Floating tensors may be stored in half precision; they are read back as float32.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sat3d.errors import InputError
from sat3d.files import write_atomically
from sat3d.headers import FORMAT as FORMAT
from sat3d.headers import KEY
from sat3d.headers import read_header as read_header
from sat3d.interfaces import WeightsCard


def save_weights(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and header in one step; the file appears whole or not at all."""
    metadata = {KEY: json.dumps({"format": FORMAT, **header}, sort_keys=True)}
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata)
    write_atomically(path, data)


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, header) of a weights file, floating tensors as float32 on the CPU.

    Raises InputError for a missing, damaged or foreign file.
    """
    header = read_header(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"'{path}' is not a readable .safetensors file: {error}.") from None
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, header


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and float32 values: 64 hex digits, order independent."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        value = tensors[key].detach().cpu()
        value = value.float() if value.is_floating_point() else value
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def make_card(
    name: str, path: Path | None, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> WeightsCard:
    """The card of loaded weights."""
    return WeightsCard(
        name=name,
        fingerprint=fingerprint(tensors),
        path=path,
        licence=str(header.get("licence", "unknown")),
        goes_with=dict(header.get("goes_with", {})),
        info=header,
    )


def load_into(
    module: torch.nn.Module, tensors: Mapping[str, Tensor], what: str, assign: bool = False
) -> None:
    """Load a state dict strictly; raises InputError naming the first keys that do not fit.

    With ``assign`` the module takes the tensors themselves: build it on the meta device, and a
    header that claims a gigantic network costs nothing before it is refused.
    """
    own = module.state_dict()
    missing = sorted(own.keys() - tensors.keys())
    extra = sorted(tensors.keys() - own.keys())
    shapes = [k for k in own if k in tensors and own[k].shape != tensors[k].shape]
    for problem, keys in (("lacks", missing), ("does not know", extra), ("differs in", shapes)):
        if keys:
            raise InputError(
                f"{what} {problem} {len(keys)} tensors, first '{keys[0]}'. "
                "Check that the file belongs to this architecture and configuration."
            )
    module.load_state_dict(tensors, assign=assign)
