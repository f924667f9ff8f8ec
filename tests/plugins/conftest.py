"""Golden vectors: small sets in tests/data, larger ones where SAT3D_PARITY points."""

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

DATA = Path(__file__).parent.parent / "data"
Golden = tuple[dict[str, Tensor], dict[str, Any]]


def _load(folder: Path, name: str) -> Golden:
    tensors = load_file(folder / f"{name}.safetensors")
    return tensors, json.loads((folder / f"{name}.json").read_text())


@pytest.fixture
def golden() -> Callable[[str], Golden]:
    """Load a small set of golden vectors: (tensors, description)."""
    return lambda name: _load(DATA, name)


@pytest.fixture
def large_golden() -> Callable[[str], Golden]:
    """Load a set from the folder named by SAT3D_PARITY; skips where there is none."""
    folder = os.environ.get("SAT3D_PARITY")
    if not folder:
        pytest.skip("SAT3D_PARITY does not name a folder of golden vectors")
    return lambda name: _load(Path(folder), name)


@pytest.fixture
def recipe_normal() -> Callable[..., Tensor]:
    """The normal draw of the recipe weights: (key, seed, shape) -> float32 tensor."""

    def draw(key: str, seed: int, shape: tuple[int, ...]) -> Tensor:
        state = (zlib.crc32(key.encode()) + 1000003 * seed) % 2**32
        values = np.random.RandomState(state).standard_normal(size=tuple(shape))
        return torch.from_numpy(np.asarray(values, dtype=np.float32))

    return draw


@pytest.fixture
def recipe_weights(recipe_normal: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Recipe weights of StyleGAN2 and EG3D: (key, seed, shape) -> tensor."""

    def fill(key: str, seed: int, shape: tuple[int, ...]) -> Tensor:
        n = recipe_normal(key, seed, shape)
        if key.endswith("resample_filter"):
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
            return torch.outer(taps, taps) / 64
        if key.endswith("noise_strength"):
            n = 0.1 + 0.05 * n
        elif key.endswith("w_avg"):
            n = 0.4 * n
        elif "mapping.fc" in key:
            n = (100 if key.endswith("weight") else 25) * n
        elif key.endswith("affine.bias"):
            n = 1 + 0.25 * n
        elif key.endswith("bias"):
            n = 0.2 * n
        if key.endswith("decoder.net.2.weight"):
            n[0] *= 15
        return n

    return fill
