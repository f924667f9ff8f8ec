"""For authors of plugins and for the project's own tests: toys, and checks of the interfaces.

The toy domain is a picture of three coloured stripes in a frame. Each stripe and the frame has its
own style channels, so that the right mask matrix is known. Everything here runs in milliseconds.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sat3d.artifact import Masks
from sat3d.conformance import (
    GeneratorConformance,
    ReaderConformance,
    SegmenterConformance,
    check_generator,
    check_missing_weights,
    check_pack,
    check_reader,
    check_segmenter,
)
from sat3d.descriptors import DescriptorPack, Rule, parse_pack
from sat3d.interfaces import (
    Generator,
    Reader,
    Render,
    Segmenter,
    StyleLayer,
    StyleLayout,
    WeightsCard,
)
from sat3d.weights import fingerprint

__all__ = [
    "COLOURS",
    "STRIPES",
    "GeneratorConformance",
    "ReaderConformance",
    "SegmenterConformance",
    "ToyGenerator",
    "ToyMeasure",
    "ToyReader",
    "ToySegmenter",
    "check_generator",
    "check_missing_weights",
    "check_pack",
    "check_reader",
    "check_segmenter",
    "part_masks",
    "toy_masks",
    "toy_pack",
]

STRIPES = ("top", "middle", "bottom")
COLOURS = {
    "red": (0.8, -0.6, -0.6),
    "green": (-0.6, 0.8, -0.6),
    "blue": (-0.6, -0.6, 0.8),
    "dark": (-0.5, -0.5, -0.5),
    "bright": (0.5, 0.5, 0.5),
}
_PARTS = (*STRIPES, "frame")
_EACH = 8
"""Channels of each part in each convolution."""


def toy_pack(**changes: Any) -> DescriptorPack:
    """The pack of the toy domain; ``changes`` replace top-level keys."""
    data = {
        "name": "stripes",
        "title": "Stripes",
        "domain": "three coloured stripes in a frame",
        "template": "a picture with {}",
        "attributes": [
            {
                "name": part,
                "title": f"{part.capitalize()} stripe",
                "groups": [
                    {
                        "name": "colour",
                        "phrases": [f"a {colour} {part}" for colour in ("red", "green", "blue")],
                    }
                ],
                "region": {"labels": [part]},
                "preselect": {"share": 0.25},
            }
            for part in STRIPES
        ],
        "pool": {
            "exclude": [_rule("dark", ("dark", "bright"), "frame", above=0.9)],
            "quotas": [_rule("red", ("red", "green", "blue"), "top", share=0.4)],
        },
    }
    return parse_pack({**data, **changes}, "the toy pack")


def _rule(colour: str, colours: tuple[str, ...], part: str, **more: float) -> dict[str, Any]:
    phrases = [f"a {x} {part}" for x in colours]
    return {"name": part, "phrases": phrases, "phrase": f"a {colour} {part}", **more}


def part_masks(height: int, width: int) -> Tensor:
    """Where the toy's parts are: [4, H, W] float32, three stripes and the frame; sums to 1."""
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    inside = ((y - 0.5).abs() < 0.375)[:, None] & ((x - 0.5).abs() < 0.375)[None, :]
    stripe = ((y - 0.125) * 4).floor()[:, None].expand(height, width)
    stripes = [inside & (stripe == k) for k in range(3)]
    return torch.stack([*stripes, ~inside]).float()


class ToyGenerator(Generator):
    """Paints each part in the colour that the part's own style channels say."""

    name = "toy"
    resolution = 16
    latent_dim = 12

    def __init__(self, is_3d: bool = False, seed: int = 0) -> None:
        self.is_3d = is_3d
        source = torch.Generator().manual_seed(seed)
        width = _EACH * len(_PARTS)
        self.layout = StyleLayout(
            (
                StyleLayer("b8.conv", width, "conv", "backbone"),
                StyleLayer("b8.torgb", 4, "torgb", "backbone"),
                StyleLayer("b16.conv", width, "conv", "backbone"),
                StyleLayer("sr.conv", 4, "conv", "superresolution"),
            )
        )
        # Channel -> part, shuffled: nothing may rely on blocks being neighbours.
        order = torch.arange(2 * width) % len(_PARTS)
        self._part = order[torch.randperm(2 * width, generator=source)]
        affine = torch.randn(2 * width, 3, generator=source)
        block = F.one_hot(self._part, len(_PARTS)).float()[:, :, None] * affine[:, None]
        self._affine = block.flatten(1)
        self._paint = torch.linalg.pinv(self._affine).unflatten(0, (len(_PARTS), 3))
        self._extra = torch.randn(8, self.latent_dim, generator=source)
        tensors = {"affine": self._affine, "paint": self._paint, "extra": self._extra}
        self.card = WeightsCard("toy", fingerprint(tensors))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._affine.device

    @property
    def planted(self) -> Mapping[str, Tensor]:
        """Channels of each stripe; the frame's belong to no attribute."""
        return {part: (self._part == k).nonzero().squeeze(1) for k, part in enumerate(STRIPES)}

    def to(self, device: torch.device) -> "ToyGenerator":
        """Move to a device; returns self."""
        self._affine, self._paint, self._extra = (
            x.to(device) for x in (self._affine, self._paint, self._extra)
        )
        return self

    def sample_cameras(self, count: int, seed: int) -> Tensor | None:
        """Random yaw within 0.4 rad, [count, 25]; None without is_3d."""
        if not self.is_3d:
            return None
        yaw = torch.rand(count, generator=torch.Generator().manual_seed(seed)) * 0.8 - 0.4
        return torch.cat([_camera(x, 0.0) for x in yaw.tolist()]).to(self.device)

    def orbit(self, yaw: float, pitch: float) -> Tensor | None:
        """The camera [1, 25] at an angle."""
        return _camera(yaw, pitch).to(self.device) if self.is_3d else None

    def map(self, z: Tensor, camera: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """z [B, 12] to w [B, 2, 12]."""
        return (z * truncation)[:, None].expand(-1, 2, -1)

    def styles(self, w: Tensor) -> Tensor:
        """w [B, 2, 12] to [B, 72]."""
        first, second = (w @ self._affine.T).unbind(1)
        width = _EACH * len(_PARTS)
        extra = w[:, 0] @ self._extra.T
        return torch.cat([first[:, :width], extra[:, :4], second[:, width:], extra[:, 4:]], dim=1)

    def render(
        self,
        styles: Tensor,
        camera: Tensor | None = None,
        *,
        seed: int | None = None,
        draft: bool = False,
    ) -> Render:
        """Stripes and frame [B, 3, 16, 16], or [B, 3, 8, 8] as a draft."""
        side = self.resolution // 2 if draft else self.resolution
        pieces = self.layout.split(styles)
        code = torch.cat([pieces["b8.conv"], pieces["b16.conv"]], dim=1)
        colour = torch.tanh(torch.einsum("pcn,bn->bpc", self._paint, code))
        image = torch.einsum("bpc,phw->bchw", colour, part_masks(side, side).to(styles))
        shade = torch.tanh(pieces["b8.torgb"].mean(1) + pieces["sr.conv"].mean(1))
        image = image + 0.05 * shade[:, None, None, None]
        if seed is not None:
            noise = torch.randn(side, side, generator=torch.Generator().manual_seed(seed))
            image = image + 0.01 * noise.to(styles)
        if camera is None or not self.is_3d:
            return Render(image)
        # Seen from the right, the right is brighter; enough to make cameras matter.
        ramp = torch.linspace(-1, 1, side, device=styles.device)
        depth = camera[:, 3:12:4].norm(dim=1)[:, None, None, None].expand(-1, 1, side, side)
        return Render(image + 0.1 * camera[:, 3, None, None, None] * ramp, depth)


def _camera(yaw: float, pitch: float) -> Tensor:
    """A camera [1, 25] at distance 2.7 that looks at the origin; y is down."""
    place = torch.tensor(
        [
            math.sin(yaw) * math.cos(pitch),
            -math.sin(pitch),
            -math.cos(yaw) * math.cos(pitch),
        ]
    )
    forward = -place
    right = F.normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), forward), dim=0)
    down = torch.linalg.cross(forward, right)
    pose = torch.eye(4)
    pose[:3] = torch.stack([right, down, forward, place * 2.7], dim=1)
    intrinsics = torch.tensor([4.2647, 0.0, 0.5, 0.0, 4.2647, 0.5, 0.0, 0.0, 1.0])
    return torch.cat([pose.flatten(), intrinsics])[None]


class ToySegmenter(Segmenter):
    """Knows where the stripes are without looking."""

    name = "toy"
    labels = ("frame", *STRIPES)

    def __init__(self) -> None:
        self._device = torch.device("cpu")
        self.card = WeightsCard("toy", "0" * 64)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    def to(self, device: torch.device) -> "ToySegmenter":
        """Move to a device; returns self."""
        self._device = device
        return self

    def segment(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, 4, H, W] probabilities."""
        masks = part_masks(*image.shape[-2:]).roll(1, dims=0).to(image)
        return (masks * 0.9 + 0.025).expand(len(image), -1, -1, -1)


def _part_colours(image: Tensor) -> Tensor:
    """Mean colour of each part: [B, 4, 3]."""
    masks = part_masks(*image.shape[-2:]).to(image)
    return torch.einsum("bchw,phw->bpc", image, masks) / masks.sum(dim=(1, 2))[:, None]


def _score(colours: Tensor, phrases: tuple[str, ...]) -> Tensor:
    """Scores [B, phrases] of 'a COLOUR PART' from colours [B, 4, 3]: minus squared distance."""
    found = []
    for phrase in phrases:
        colour, part = phrase.split()[-2:]
        wanted = torch.tensor(COLOURS[colour]).to(colours)
        found.append(-(colours[:, _PARTS.index(part)] - wanted).square().sum(dim=1))
    return torch.stack(found, dim=1)


class ToyMeasure:
    """Stands in for :class:`sat3d.qmm.QMM`: soft, and a little confused by the other parts."""

    def __init__(self, pack: DescriptorPack, sharpness: float = 1.5, crosstalk: float = 0.1):
        self.identity: Mapping[str, Any] = {"name": "toy", "sharpness": sharpness}
        self.sharpness, self.crosstalk = sharpness, crosstalk
        self._groups = [(a, g.phrases) for a, x in enumerate(pack.attributes) for g in x.groups]
        owners = [a for a, phrases in self._groups for _ in phrases]
        self.attribute_of_phrase = torch.tensor(owners)

    def encode_image(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, 12]: the parts' mean colours, each mixed with all others."""
        colours = _part_colours(image)
        mixed = colours + self.crosstalk * (colours.mean(dim=1, keepdim=True) - colours)
        return mixed.flatten(1)

    def probabilities(self, embedding: Tensor) -> Tensor:
        """[B, 12] to [B, D]."""
        colours = embedding.unflatten(1, (len(_PARTS), 3))
        scores = [_score(colours, phrases) * self.sharpness for _, phrases in self._groups]
        return torch.cat([score.softmax(dim=1) for score in scores], dim=1)

    def measure(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, D]."""
        return self.probabilities(self.encode_image(image))

    def rule_probability(self, embedding: Tensor, rule: Rule) -> Tensor:
        """[B, 12] to [B]."""
        scores = _score(embedding.unflatten(1, (len(_PARTS), 3)), rule.phrases)
        return (scores * self.sharpness).softmax(dim=1)[:, rule.phrases.index(rule.phrase)]


class ToyReader(Reader):
    """Reads each stripe's colour."""

    name = "toy"
    attributes: Mapping[str, tuple[str, ...]] = dict.fromkeys(STRIPES, ("red", "green", "blue"))

    def __init__(self) -> None:
        self.card = WeightsCard("toy", "0" * 64)

    def to(self, device: torch.device) -> "ToyReader":
        """Nothing to move; returns self."""
        return self

    def read(self, image: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] to {stripe: [B, 3]}."""
        colours = _part_colours(image)
        return {
            part: (_score(colours, tuple(f"a {x} {part}" for x in values)) * 20).softmax(dim=1)
            for part, values in self.attributes.items()
        }


def toy_masks(generator: ToyGenerator, sureness: float = 20.0) -> Masks:
    """The right masks of the toy; ``sureness`` is what the right row has over the others."""
    logits = torch.zeros(len(STRIPES) + 1, generator.layout.editable_channels)
    logits[-1] = sureness
    for row, channels in enumerate(generator.planted.values()):
        logits[row, channels], logits[-1, channels] = sureness, 0.0
    made = {
        "name": generator.name,
        "weights": generator.card.name,
        "fingerprint": generator.card.fingerprint,
        "layout": generator.layout.digest,
    }
    pack = toy_pack().model_dump(mode="json")
    return Masks(logits, {"kind": "masks", "generator": made, "pack": pack})
