"""A small classifier with one head per attribute, trained on renders only."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sat3d_plugins.convnet import to_square, trunk
from torch import Tensor, nn

from sat3d.errors import InputError
from sat3d.interfaces import Embedding, Reader, WeightsCard
from sat3d.store import resolve
from sat3d.weights import load_into, load_weights, make_card

BUNDLED = Path(__file__).parent / "weights" / "avatars.safetensors"
# The features of these networks do not tell who is shown; where another reader can, it goes along.
_IDENTITY = {"avatars": "complexion"}


class ReaderNetwork(nn.Module):
    """Shared trunk, mean over the image, one linear head per attribute."""

    def __init__(self, attributes: Mapping[str, Sequence[str]], widths: Sequence[int]) -> None:
        super().__init__()
        self.trunk = trunk(widths)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(widths[-1], len(values)) for name, values in attributes.items()}
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Image [B, 3, H, W] in [-1, 1] to logits {attribute: [B, values]}."""
        return self.answers(self.features(image))

    def features(self, image: Tensor) -> Tensor:
        """Image [B, 3, H, W] in [-1, 1] to [B, widths[-1]]."""
        return self.trunk(image).mean((2, 3))

    def answers(self, features: Tensor) -> dict[str, Tensor]:
        """Features [B, widths[-1]] to logits {attribute: [B, values]}."""
        return {name: head(features) for name, head in self.heads.items()}


class AttributeReader(Reader):
    """Frozen network, named as its weights; ``size`` is the side at which it sees an image."""

    def __init__(
        self,
        network: ReaderNetwork,
        attributes: Mapping[str, tuple[str, ...]],
        size: int,
        card: WeightsCard,
    ) -> None:
        self._network = network.eval().requires_grad_(False)
        self.attributes = dict(attributes)
        self.size = size
        self.name, self.card = card.name, card
        # Which way a head looks does not depend on what all its values have in common.
        self._directions = {n: _span(_differences(head)) for n, head in network.heads.items()}

    def to(self, device: torch.device) -> "AttributeReader":
        """Move to a device; returns self."""
        self._network.to(device)
        self._directions = {name: x.to(device) for name, x in self._directions.items()}
        return self

    def read(self, image: Tensor) -> dict[str, Tensor]:
        """Image [B, 3, H, W] in [-1, 1], any size, to probabilities {attribute: [B, values]}."""
        logits = self._network(to_square(image, self.size))
        return {name: values.softmax(1) for name, values in logits.items()}

    def embed(self, image: Tensor) -> Embedding:
        """See the interface: the trunk's features [B, E], and their parts along the heads.

        An attribute's part lies in the directions that its head looks in, so it tells more than
        the head's best value. Identity is not told: also what no head looks at follows the
        attributes, and hardly the person.
        """
        features = self._network.features(to_square(image, self.size))
        return Embedding(
            {name: x.softmax(1) for name, x in self._network.answers(features).items()},
            {name: features @ basis for name, basis in self._directions.items()},
            features,
        )


def _differences(head: nn.Module) -> Tensor:
    """The weights [V, E] of a linear head, less their mean over its values."""
    assert isinstance(head, nn.Linear)
    return head.weight - head.weight.mean(0)


def _span(rows: Tensor) -> Tensor:
    """Orthonormal columns [E, r] that span the rows [V, E]."""
    _, size, basis = torch.linalg.svd(rows, full_matrices=False)
    return basis[size > 1e-5 * size.max()].T


def load(weights: str, device: torch.device) -> AttributeReader:
    """Readers by path or name of weights; the file's stem is their name. Raises UsageError."""
    path = resolve(weights)
    tensors, header = load_weights(path)
    try:
        attributes, widths, size = _settings(header)
    except ValueError as error:
        raise InputError(f"'{path}' is not a file of attribute readers: {error}.") from None
    network = ReaderNetwork(attributes, widths)
    load_into(network, tensors, f"'{path}'")
    card = make_card(path.stem, path, tensors, header)
    if card.name in _IDENTITY:
        card = replace(card, goes_with={"identity": _IDENTITY[card.name], **card.goes_with})
    return AttributeReader(network, attributes, size, card).to(device)


def _settings(header: Mapping[str, Any]) -> tuple[dict[str, tuple[str, ...]], list[int], int]:
    """Attributes, trunk widths and input size from a header. Raises ValueError."""
    config = header.get("config")
    if header.get("architecture") != "avatar-reader" or not isinstance(config, dict):
        raise ValueError(f"its header names architecture {header.get('architecture')!r}")
    attributes, widths, size = (config.get(key) for key in ("attributes", "widths", "size"))
    if not isinstance(attributes, dict) or not attributes:
        raise ValueError("config.attributes is not a table of names and values")
    for name, values in attributes.items():
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise ValueError(f"config.attributes.{name} is not a list of names")
        if not 2 <= len(values) <= 64 or "." in name:
            raise ValueError(f"config.attributes.{name} has {len(values)} values; allowed: 2 to 64")
    if not isinstance(widths, list) or not 1 <= len(widths) <= 8:
        raise ValueError(f"config.widths is {widths!r}; allowed: a list of 1 to 8 numbers")
    if not all(isinstance(w, int) and 1 <= w <= 1024 for w in widths):
        raise ValueError(f"config.widths is {widths!r}; allowed: numbers from 1 to 1024")
    if not isinstance(size, int) or not 32 <= size <= 1024 or size % 2 ** len(widths):
        raise ValueError(f"config.size is {size!r}; allowed: 32 to 1024, divisible by the strides")
    return {name: tuple(values) for name, values in attributes.items()}, widths, size
