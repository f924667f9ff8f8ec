"""Face-parsing.PyTorch's checkpoint as weights for this BiSeNet, and our own files."""

import torch

from sat3d.errors import InputError
from sat3d.foreign import Checkpoint, state_dict
from sat3d.importing import Conversion, shapes_of, table, whole_number
from sat3d.stored import StoredTensor

from .network import BiSeNet
from .segmenter import LABELS

_FIRST, _LAST = "cp.resnet.conv1.weight", "conv_out.conv_out.weight"
_PUBLISHED_SIZE = 512
# The one published file, 79999_iter.pth.
_PUBLISHED_SHA256 = "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567"
_PUBLISHED_LICENCE = "MIT (code); trained on CelebAMask-HQ, whose terms allow research only"


def recognise(checkpoint: Checkpoint) -> bool:
    """True for a checkpoint that :func:`convert` is for."""
    if checkpoint.header:
        return checkpoint.header.get("architecture") == "bisenet"
    return {_FIRST, _LAST} <= _tensors(checkpoint.root).keys()


def convert(checkpoint: Checkpoint) -> Conversion:
    """Tensors and configuration. Raises InputError for another number of labels."""
    tensors = _tensors(checkpoint.root)
    for key in (_FIRST, _LAST):
        if key not in tensors or len(tensors[key].shape) != 4:
            raise InputError(f"its tensor '{key}' is missing or no convolution")
    labels, width = tensors[_LAST].shape[0], tensors[_FIRST].shape[0]
    if labels != len(LABELS) or not 4 <= width <= 256:
        raise InputError(
            f"it has {labels} labels and width {width}; allowed: {len(LABELS)} labels, "
            "widths 4 to 256"
        )
    with torch.device("meta"):
        network = BiSeNet(labels, width)
    header = dict(checkpoint.header)
    size = whole_number(table(header, "config"), "size", 32, 2048, _PUBLISHED_SIZE)
    if checkpoint.sha256 == _PUBLISHED_SHA256:
        header["licence"] = _PUBLISHED_LICENCE
    header |= {
        "kind": "segmenter",
        "architecture": "bisenet",
        "config": {"width": width, "size": size},
    }
    layout = "sat3d weights" if checkpoint.header else "face-parsing.PyTorch state dict"
    return Conversion(layout, tensors, shapes_of(network), header, resolution=size)


def _tensors(root: object) -> dict[str, StoredTensor]:
    """The state dict, also where it is one entry of a checkpoint or was trained in parallel."""
    inner = root.get("state_dict") if isinstance(root, dict) else None
    found = state_dict(inner if isinstance(inner, dict) else root)
    return {key.removeprefix("module."): tensor for key, tensor in found.items()}
