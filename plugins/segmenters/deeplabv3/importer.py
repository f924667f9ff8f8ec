"""torchvision's published DeepLabv3 weights, recognised by names and shapes, and our own files."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import torch

from sat3d.foreign import Checkpoint, state_dict
from sat3d.importing import Conversion, shapes_of, table
from sat3d.stored import StoredTensor

from .networks import VOC_LABELS, DeepLabConfig, make_network

_HEAD = "classifier.4.weight"
_AUXILIARY = "aux_classifier."


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


Value = TypeVar("Value", bound=_Shaped)


def config_of(state: Mapping[str, _Shaped]) -> DeepLabConfig | None:
    """The configuration of a state dict of torchvision's deeplabv3_resnet50 or _resnet101.

    None for anything else, its FCN with the same backbone and the MobileNet version included.
    """
    head, atrous = state.get(_HEAD), state.get("classifier.0.convs.1.0.weight")
    if head is None or atrous is None or "backbone.layer4.2.conv3.weight" not in state:
        return None
    if head.shape[1:] != (256, 1, 1) or atrous.shape != (256, 2048, 3, 3):
        return None
    encoder = "resnet101" if "backbone.layer3.22.conv3.weight" in state else "resnet50"
    count = head.shape[0]
    named = count == len(VOC_LABELS)
    labels = VOC_LABELS if named else tuple(f"label{k}" for k in range(count))
    return DeepLabConfig("torchvision", encoder, labels)


def convert_state(state: Mapping[str, Value]) -> tuple[dict[str, Value], dict[str, Any]] | None:
    """(tensors, header) of a weights file for such a state dict, or None for anything else.

    The auxiliary classifier, which only serves training, is left out.
    """
    config = config_of(state)
    if config is None:
        return None
    tensors = {key: value for key, value in state.items() if not key.startswith(_AUXILIARY)}
    header = {"kind": "segmenter", "architecture": "deeplabv3", "config": config.to_dict()}
    return tensors, header


def recognise(checkpoint: Checkpoint) -> bool:
    """True for a checkpoint that :func:`convert` is for."""
    if checkpoint.header:
        return checkpoint.header.get("architecture") == "deeplabv3"
    return config_of(_tensors(checkpoint.root)) is not None


def convert(checkpoint: Checkpoint) -> Conversion:
    """Tensors and configuration. Raises InputError for a configuration that is not allowed."""
    tensors, header = _tensors(checkpoint.root), dict(checkpoint.header)
    layout, notes = "sat3d weights", list[str]()
    if not header:
        converted = convert_state(tensors)
        assert converted is not None, "recognised before"
        tensors, header = converted
        layout = "torchvision's DeepLabv3 state dict"
        notes = [_about_labels(tensors[_HEAD].shape[0])]
    config = DeepLabConfig.from_dict(table(header, "config"))
    header |= {"kind": "segmenter", "architecture": "deeplabv3", "config": config.to_dict()}
    with torch.device("meta"):
        network = make_network(config)
    return Conversion(
        layout,
        tensors,
        shapes_of(network),
        header,
        resolution=config.size,
        notes=tuple(notes),
    )


def _about_labels(count: int) -> str:
    if count == len(VOC_LABELS):
        return "Its 21 labels are taken for those of Pascal VOC, as in the published weights."
    return f"The file does not name its {count} labels; they are numbered."


def _tensors(root: object) -> dict[str, StoredTensor]:
    """The state dict, also where it is one entry of a checkpoint of torchvision's training."""
    inner = root.get("model") if isinstance(root, dict) else None
    return state_dict(inner if isinstance(inner, dict) else root)
