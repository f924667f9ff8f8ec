"""masks.safetensors: the learned matrix and a header with everything that explains it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from sat3d.descriptors import DescriptorPack, parse_pack
from sat3d.errors import InputError, MismatchError
from sat3d.interfaces import Generator
from sat3d.mask import channel_mask
from sat3d.weights import load_weights, save_weights

FILE = "masks.safetensors"
_TENSOR = "mask.logits"


@dataclass(frozen=True)
class Masks:
    """A mask matrix with what it was made from.

    ``header`` holds 'kind', 'sat3d', 'generator' {'name', 'weights', 'fingerprint', 'layout'},
    'pack', 'clip', 'segmenter', 'settings', 'seed' and 'figures'.
    """

    logits: Tensor
    """[A+1, n] float32 on the CPU; the last row is 'others'."""
    header: Mapping[str, Any]

    @cached_property
    def pack(self) -> DescriptorPack:
        """The descriptor pack it was trained with."""
        return parse_pack(self.header["pack"], "the masks' own pack")

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the rows but the last."""
        return self.pack.names

    def mask(self, targets: Sequence[str] | str) -> Tensor:
        """Sum of the probabilities of these attributes (names or titles): [n] in [0, 1].

        Raises PackError for an unknown attribute.
        """
        names = [targets] if isinstance(targets, str) else list(targets)
        return channel_mask(self.logits, sorted({self.pack.index(name) for name in names}))

    def save(self, path: Path) -> None:
        """Write the file whole or not at all. Raises Sat3dError."""
        save_weights(path, {_TENSOR: self.logits}, self.header)

    def check(self, generator: Generator) -> None:
        """Raise MismatchError if the masks were made for another generator."""
        made = self.header["generator"]
        load = f"Load generator '{made['name']}' with weights '{made['weights']}'"
        if made["layout"] != generator.layout.digest:
            raise MismatchError(
                f"these masks belong to the style layout {made['layout']}, generator "
                f"'{generator.name}' has {generator.layout.digest}. {load}, or train anew."
            )
        if made["fingerprint"] != generator.card.fingerprint:
            raise MismatchError(
                f"these masks were made for weights '{made['weights']}' "
                f"({made['fingerprint'][:12]}), loaded are '{generator.card.name}' "
                f"({generator.card.fingerprint[:12]}). {load}, or train anew."
            )


def load_masks(path: Path | str) -> Masks:
    """Read masks.safetensors, or the one in a folder. Raises InputError, PackError."""
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    tensors, header = load_weights(path)
    if header.get("kind") != "masks" or _TENSOR not in tensors:
        raise InputError(f"'{path}' holds no masks. Give a {FILE} written by 'sat3d train'.")
    _check_header(path, header)
    masks = Masks(tensors[_TENSOR], header)
    rows = len(masks.attributes) + 1
    if masks.logits.ndim != 2 or masks.logits.shape[0] != rows:
        raise InputError(
            f"'{path}' holds a matrix of shape {list(masks.logits.shape)}, its pack asks for "
            f"{rows} rows. The file is damaged: train anew."
        )
    if not bool(masks.logits.isfinite().all()):
        raise InputError(f"'{path}' holds numbers that are not finite. Train anew.")
    return masks


def _check_header(path: Path, header: Mapping[str, Any]) -> None:
    made = header.get("generator")
    keys = ("name", "weights", "fingerprint", "layout")
    if not isinstance(made, dict) or not all(isinstance(made.get(key), str) for key in keys):
        raise InputError(f"'{path}' does not say which generator it is for. Train anew.")
    if "pack" not in header:
        raise InputError(f"'{path}' does not contain its descriptor pack. Train anew.")
