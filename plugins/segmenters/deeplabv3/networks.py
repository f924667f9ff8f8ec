"""The two DeepLabv3 networks that weights may belong to, built from a checked configuration.

``torchvision``: its own deeplabv3_resnet50 and _resnet101, whose published COCO weights then need
no translation. ``smp``: DeepLabV3 of segmentation-models-pytorch on any of its encoders.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from torch import Tensor, nn

from sat3d.errors import InputError, unknown_name

VOC_LABELS = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
"""Labels of torchvision's COCO weights, in their order."""
RESNETS = ("resnet50", "resnet101")
SMALL = "tu-mobilenetv3_small_050"
"""The one encoder taken from timm by its name there: half a megabyte, for drawings."""
STRIDE = {"torchvision": 1, "smp": 16}
"""Sides of the network's input are multiples of this (segmentation-models-pytorch insists)."""


@dataclass(frozen=True)
class DeepLabConfig:
    """What a weights header says about a DeepLabv3."""

    source: Literal["torchvision", "smp"]
    encoder: str
    labels: tuple[str, ...] = VOC_LABELS
    size: int = 520
    """The shorter side at which the network looks at an image; torchvision trained at 520."""
    decoder: int = 256
    """Channels of the decoder, as published 256; torchvision's are fixed."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DeepLabConfig":
        """From a weights header. Raises InputError for unknown keys and wrong values."""
        known = {f.name for f in fields(cls)}
        for key in sorted(values.keys() ^ known):
            if key not in values and key in ("labels", "size", "decoder"):
                continue
            what = "unknown key" if key in values else "no key"
            raise InputError(f"DeepLabv3 configuration has {what} '{key}'. Import the file again.")
        labels = values.get("labels", VOC_LABELS)
        named = isinstance(labels, list | tuple) and all(isinstance(x, str) and x for x in labels)
        if not named:
            raise InputError(
                f"DeepLabv3 config.labels is {labels!r:.80}. Allowed: names in a list."
            )
        size, decoder = values.get("size", 520), values.get("decoder", 256)
        config = cls(values["source"], values["encoder"], tuple(labels), size, decoder)
        config.check()
        return config

    def check(self) -> None:
        """Raise InputError for a value out of range: files come from outside."""
        if not 2 <= len(self.labels) <= 1000 or len(set(self.labels)) != len(self.labels):
            raise InputError(
                f"DeepLabv3 config.labels has {len(self.labels)} names. "
                "Allowed: 2 to 1000, all different."
            )
        if type(self.size) is not int or not 32 <= self.size <= 2048:
            raise InputError(f"DeepLabv3 config.size is {self.size!r:.80}. Allowed: 32 to 2048.")
        widths = (256,) if self.source == "torchvision" else range(8, 513)
        if type(self.decoder) is not int or self.decoder not in widths:
            raise InputError(
                f"DeepLabv3 config.decoder is {self.decoder!r:.80}. Allowed: {widths[0]} to "
                f"{widths[-1]}."
            )
        if self.source not in ("torchvision", "smp"):
            raise InputError(
                f"DeepLabv3 config.source is {self.source!r:.80}. Allowed: torchvision, smp."
            )
        known = _encoders(self.source)
        if not isinstance(self.encoder, str) or self.encoder not in known:
            reason = unknown_name("encoder", str(self.encoder), known)
            raise InputError(f"DeepLabv3 config: {reason}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a weights header."""
        return {**asdict(self), "labels": list(self.labels)}


def _encoders(source: str) -> tuple[str, ...]:
    if source == "torchvision":
        return RESNETS
    import segmentation_models_pytorch as smp

    # Only its own table and one more: names beyond it would be looked up elsewhere.
    return (*smp.encoders.encoders, SMALL)


def make_network(config: DeepLabConfig) -> nn.Module:
    """The network with random weights; nothing is fetched. Raises InputError."""
    labels = len(config.labels)
    if config.source == "torchvision":
        from torchvision.models import segmentation

        make = getattr(segmentation, f"deeplabv3_{config.encoder}")
        return make(weights=None, weights_backbone=None, num_classes=labels, aux_loss=False)
    import segmentation_models_pytorch as smp

    try:
        return smp.DeepLabV3(
            config.encoder, encoder_weights=None, classes=labels, decoder_channels=config.decoder
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"encoder '{config.encoder}' cannot be used in DeepLabv3: {reason}. Choose another."
        ) from None


def logits(network: nn.Module, image: Tensor) -> Tensor:
    """Normalised image [B, 3, H, W] to [B, K, H, W]; H and W multiples of the STRIDE."""
    found = network(image)
    return found["out"] if isinstance(found, dict) else found
