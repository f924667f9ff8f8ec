"""What the core knows of generators, segmenters, readers and text-image models.

Shape letters, used in every docstring of the project:

    B batch    N all style channels    n editable style channels    A attributes
    Z latent   L rows of w             W width of w                 K segmenter labels
    D phrases  E text-image embedding  H W pixels

Images are [B, 3, H, W] float32 RGB in [-1, 1]. A camera is [B, 25] float32: the 4x4 camera-to-world
matrix row by row (x right, y down, z forward), then the 3x3 intrinsics divided by the image size.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sat3d.artifact import Masks
    from sat3d.descriptors import DescriptorPack
    from sat3d.pool import Measure
    from sat3d.progress import Progress

LayerKind = Literal["conv", "torgb"]
LayerPart = Literal["backbone", "superresolution"]


@dataclass(frozen=True)
class StyleLayer:
    """One modulated layer: how many style channels it takes and what it is."""

    name: str
    channels: int
    kind: LayerKind
    part: LayerPart


@dataclass(frozen=True)
class StyleLayout:
    """Order and meaning of the flat style code [B, N].

    Only convolutions of the backbone are edited; toRGB and super-resolution styles follow the
    source's own w (paper, section 3.1).
    """

    layers: tuple[StyleLayer, ...]

    @property
    def channels(self) -> int:
        """N, the length of the flat style code."""
        return sum(layer.channels for layer in self.layers)

    @cached_property
    def editable(self) -> Tensor:
        """Positions of the editable channels in the flat code: [n] int64, ascending."""
        flags = [
            torch.full((layer.channels,), layer.kind == "conv" and layer.part == "backbone")
            for layer in self.layers
        ]
        return torch.cat(flags).nonzero().squeeze(1)

    @property
    def editable_channels(self) -> int:
        """n, the number of editable channels."""
        return len(self.editable)

    def split(self, styles: Tensor) -> dict[str, Tensor]:
        """Cut [B, N] into one [B, channels] view per layer, by layer name."""
        if styles.shape[-1] != self.channels:
            raise ValueError(f"style code has {styles.shape[-1]} channels, not {self.channels}")
        pieces = styles.split([layer.channels for layer in self.layers], dim=-1)
        return {layer.name: piece for layer, piece in zip(self.layers, pieces, strict=True)}

    def join(self, pieces: Mapping[str, Tensor]) -> Tensor:
        """Inverse of :meth:`split`: [B, N]."""
        return torch.cat([pieces[layer.name] for layer in self.layers], dim=-1)

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits that two layouts share only if they are equal."""
        text = "\n".join(f"{x.name} {x.channels} {x.kind} {x.part}" for x in self.layers)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class WeightsCard:
    """What is known about a set of weights, and what goes with them."""

    name: str
    """Short name, e.g. the weights' entry in a list or the file's stem."""
    fingerprint: str
    """sha256 over the tensors; a mask matrix belongs to exactly one."""
    path: Path | None = None
    licence: str = "unknown"
    goes_with: Mapping[str, str] = field(default_factory=dict)
    """What fits these weights: names by role. Roles are 'clip', 'segmenter', 'descriptors',
    'reader' and 'identity' (a reader that tells who is shown), and 'clip_pretrained' and
    'segmenter_weights' for the weights of two of them."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """Everything else of the file's header: configuration, seeds, figures."""


@dataclass(frozen=True)
class Render:
    """What a generator draws for one style code and camera."""

    image: Tensor
    """[B, 3, H, W] float32, nominally in [-1, 1] (not clamped, so that gradients survive)."""
    depth: Tensor | None = None
    """[B, 1, h, w] float32 distance along the ray, or None for a 2D generator."""


class Generator(ABC):
    """A frozen StyleGAN-type generator with a style space. Drawing is a pure function."""

    name: str
    card: WeightsCard
    layout: StyleLayout
    resolution: int
    """Height and width of a full render."""
    latent_dim: int
    """Z."""
    is_3d: bool

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def planted(self) -> Mapping[str, Tensor]:
        """Known truth, where there is one: attribute -> its editable channels, int64 in [0, n)."""
        return {}

    @abstractmethod
    def to(self, device: torch.device) -> "Generator":
        """Move to a device; returns self."""

    def sample_latents(self, count: int, seed: int) -> Tensor:
        """Standard normal [count, Z] float32, drawn on the CPU: the same on every device."""
        source = torch.Generator().manual_seed(seed)
        return torch.randn(count, self.latent_dim, generator=source).to(self.device)

    @abstractmethod
    def sample_cameras(self, count: int, seed: int) -> Tensor | None:
        """Cameras of the training distribution [count, 25], or None for a 2D generator."""

    @abstractmethod
    def orbit(self, yaw: float, pitch: float) -> Tensor | None:
        """The camera [1, 25] at an angle (radians; 0, 0 is frontal), or None for 2D."""

    @abstractmethod
    def map(self, z: Tensor, camera: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """z [B, Z] (and a conditioning camera [B, 25]) to w [B, L, W]."""

    @abstractmethod
    def styles(self, w: Tensor) -> Tensor:
        """w [B, L, W] to the flat style code [B, N]; differentiable."""

    @abstractmethod
    def render(
        self,
        styles: Tensor,
        camera: Tensor | None = None,
        *,
        seed: int | None = None,
        draft: bool = False,
    ) -> Render:
        """Draw [B, N] styles under [B, 25] cameras; differentiable in both.

        Pure: no state is kept, an image does not depend on its neighbours in the batch.
        ``seed`` selects the random depth samples (the same for every image of the batch); None
        takes the deterministic centre of every stratum. ``draft`` may draw smaller and faster;
        it keeps what attributes look like.
        """

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """Guess (w [B, L, W], camera [B, 25]) of an image as a start for inversion, or None."""
        return None


class Segmenter(ABC):
    """Assigns each pixel one of K labels."""

    name: str
    card: WeightsCard
    labels: tuple[str, ...]

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @abstractmethod
    def to(self, device: torch.device) -> "Segmenter":
        """Move to a device; returns self."""

    @abstractmethod
    def segment(self, image: Tensor) -> Tensor:
        """Image [B, 3, H, W] in [-1, 1] to probabilities [B, K, H, W] summing to 1 over K."""


@dataclass(frozen=True)
class Embedding:
    """What a reader sees of an image, finer than the values that it names."""

    probabilities: Mapping[str, Tensor]
    """What :meth:`Reader.read` gives."""
    attributes: Mapping[str, Tensor]
    """Attribute -> [B, E_t] float32: where between and beyond its values the image lies."""
    features: Tensor | None = None
    """[B, E] float32: all that it sees, to compare sets of images by."""
    identity: Tensor | None = None
    """[B, E] float32: who is shown, whatever the attributes; None if it does not tell."""


class Reader(ABC):
    """Reads attribute values off an image, for measuring only; training never sees it.

    One that only tells who is shown (a recognition network) has no attributes.
    """

    name: str
    card: WeightsCard
    attributes: Mapping[str, tuple[str, ...]]
    """Attribute -> its values."""

    @abstractmethod
    def to(self, device: torch.device) -> "Reader":
        """Move to a device; returns self."""

    @abstractmethod
    def read(self, image: Tensor) -> dict[str, Tensor]:
        """Image [B, 3, H, W] in [-1, 1] to probabilities {attribute: [B, values]}."""

    def embed(self, image: Tensor) -> Embedding | None:
        """Image [B, 3, H, W] in [-1, 1] to its embedding, or None where there is none."""
        return None


@dataclass(frozen=True)
class Codes:
    """Many images as codes, with what is known of each."""

    styles: Tensor
    """[B, N] float32."""
    w: Tensor | None = None
    """[B, L, W] float32 that the styles come from; None once they were edited."""
    cameras: Tensor | None = None
    """[B, 25] float32; None for a 2D generator."""
    values: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    """Attribute -> probabilities [B, values], one tensor for each of its groups of phrases."""

    def __len__(self) -> int:
        return len(self.styles)

    def __getitem__(self, rows: Tensor | slice) -> "Codes":
        """The codes at these places [k], in this order."""
        return Codes(
            self.styles[rows],
            None if self.w is None else self.w[rows],
            None if self.cameras is None else self.cameras[rows],
            {name: tuple(x[rows] for x in groups) for name, groups in self.values.items()},
        )


@dataclass(frozen=True)
class Bench:
    """What an editor may learn from. The reader that measures results is not part of it."""

    generator: Generator
    pack: "DescriptorPack"
    pool: Codes
    """Generated images; their ``values`` tell what each shows."""
    progress: "Progress"
    measure: "Measure | None" = None
    """The text-image model, if one was loaded."""
    segmenter: Segmenter | None = None
    masks: "Masks | None" = None
    seed: int = 0
    batch: int = 8


class Editor(ABC):
    """A way to give a source the value that a reference has of an attribute."""

    name: str
    intensities: tuple[float, ...]
    """Strengths worth trying, in the unit of the method; the best is found by measurement."""

    @abstractmethod
    def fit(self, bench: Bench) -> Mapping[str, Any]:
        """Learn what is to be learned, once, before any edit; plain JSON facts about it.

        Raises UsageError if this method cannot work with the bench, e.g. without a segmenter.
        """

    @abstractmethod
    def edit(self, source: Codes, reference: Codes, attribute: str, intensity: float) -> Tensor:
        """Styles [B, N] of the sources with the references' attribute; B codes of each."""
