"""StyleGAN2 behind the core's generator interface: 2D, with or without class labels."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from sat3d.errors import InputError
from sat3d.interfaces import Generator, Render, StyleLayout, WeightsCard
from sat3d.store import resolve
from sat3d.weights import load_into, load_weights, make_card

from . import networks
from .layers import NoiseMode

BUNDLED = Path(__file__).parent / "weights" / "avatars2d.safetensors"
PREFIX = "synthesis."
_RANGES = {
    "z_dim": (1, 8192),
    "c_dim": (0, 8192),
    "w_dim": (1, 8192),
    "resolution": (8, 2048),
    "channel_base": (1, 1 << 17),
    "channel_max": (1, 2048),
    "num_fp16_res": (0, 12),
}
_MAPPING = {
    "num_layers": (1, 64),
    "embed_features": (1, 8192),
    "layer_features": (1, 8192),
    "lr_multiplier": (1e-6, 1e3),
}


@dataclass(frozen=True)
class StyleGAN2Config:
    """Everything that shapes a StyleGAN2 generator; defaults are the published FFHQ 1024 model."""

    z_dim: int = 512
    c_dim: int = 0
    """Length of the label; 0 for an unconditional generator."""
    w_dim: int = 512
    resolution: int = 1024
    channel_base: int = 32768
    channel_max: int = 512
    mapping: Mapping[str, Any] = field(default_factory=lambda: {"num_layers": 8})
    clamp: float | None = 256.0
    """``conv_clamp``."""
    num_fp16_res: int = 0
    """So many of the highest resolutions compute in float16 on CUDA devices."""
    noise_mode: NoiseMode = "const"
    truncation_cutoff: int | None = None
    """Only the first so many rows of w are truncated; None truncates all."""
    label: int = 0
    """The class that a conditional generator draws unless told otherwise."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StyleGAN2Config":
        """From a weights header. Raises InputError for unknown keys and values out of range."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(values.keys() - known)
        if unknown:
            raise InputError(
                f"StyleGAN2 configuration has unknown key '{unknown[0]}'. "
                f"Known: {', '.join(sorted(known))}."
            )
        config = cls(**values)
        config.check()
        return config

    def check(self) -> None:
        """Raise InputError for a value out of range: files come from outside."""
        for key, bounds in _RANGES.items():
            _in_range(key, getattr(self, key), *bounds)
        if self.resolution & (self.resolution - 1):
            raise InputError(f"StyleGAN2 config.resolution is {self.resolution}: no power of two.")
        if not isinstance(self.mapping, Mapping) or self.mapping.keys() - _MAPPING.keys():
            raise InputError(
                f"StyleGAN2 config.mapping is {self.mapping!r:.80}. "
                f"Allowed: a table with the keys {', '.join(_MAPPING)}."
            )
        for key, value in self.mapping.items():
            if value is not None:
                _in_range(f"mapping.{key}", value, *_MAPPING[key])
        if self.clamp is not None:
            _in_range("clamp", self.clamp, 1e-6, 1e6)
        if self.truncation_cutoff is not None:
            _in_range("truncation_cutoff", self.truncation_cutoff, 0, 64)
        _in_range("label", self.label, 0, max(self.c_dim - 1, 0))
        if self.noise_mode not in ("const", "none", "random"):
            raise InputError(
                f"StyleGAN2 config.noise_mode is {self.noise_mode!r:.80}. "
                "Allowed: const, none, random."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a weights header."""
        return asdict(self)


def _in_range(key: str, value: Any, low: float, high: float) -> None:
    whole = isinstance(low, int)
    fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not fits or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise InputError(
            f"StyleGAN2 config.{key} is {value!r:.80}. Allowed: {kind} from {low} to {high}."
        )


class StyleGAN2Generator(Generator):
    """A frozen StyleGAN2. Images do not depend on a camera; all camera arguments must be None."""

    name = "stylegan2"
    is_3d = False

    def __init__(
        self, network: networks.Generator, config: StyleGAN2Config, card: WeightsCard
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.config, self.card = config, card
        self.noise_mode = config.noise_mode
        self.layout = StyleLayout(networks.style_layers(network.synthesis, PREFIX, "backbone"))
        self.resolution = config.resolution
        self.latent_dim = config.z_dim

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.mapping.w_avg.device

    def to(self, device: torch.device) -> Self:
        """Move to a device; returns self."""
        self.network.to(device)
        return self

    def sample_cameras(self, count: int, seed: int) -> None:
        """None: there is no camera."""
        return

    def orbit(self, yaw: float, pitch: float) -> None:
        """None: there is no camera."""
        return

    @torch.no_grad()
    def map(
        self,
        z: Tensor,
        camera: Tensor | None = None,
        truncation: float = 1.0,
        label: Tensor | None = None,
    ) -> Tensor:
        """z [B, Z] to w [B, L, W]; ``label`` [B, c_dim], by default the configured class."""
        config = self.config
        if config.c_dim and label is None:
            label = z.new_zeros(len(z), config.c_dim)
            label[:, config.label] = 1
        return self.network.mapping(z, label, truncation, config.truncation_cutoff)

    def styles(self, w: Tensor) -> Tensor:
        """w [B, L, W] to [B, N]."""
        synthesis = self.network.synthesis
        rows = synthesis.style_rows()
        return self.layout.join(networks.affine_styles(synthesis, w, rows, PREFIX))

    def render(
        self,
        styles: Tensor,
        camera: Tensor | None = None,
        *,
        seed: int | None = None,
        draft: bool = False,
    ) -> Render:
        """See the interface. A draft is the full render: the smaller images inside are unfinished.

        With noise mode 'random' the noise is drawn from ``seed`` (None: 0).
        """
        source = None
        if self.noise_mode == "random":
            source = torch.Generator().manual_seed(seed or 0)
        pieces = networks.under(self.layout.split(styles), PREFIX)
        return Render(self.network.synthesis(pieces, self.noise_mode, source))


def load(weights: str | None, device: torch.device) -> StyleGAN2Generator:
    """Read weights by path or name (None: the bundled ones, if any). Raises UsageError."""
    if weights is None and not BUNDLED.is_file():
        raise InputError(
            "no weights of 'stylegan2' are bundled yet. Add --weights with a path or a name; "
            "'sat3d weights list' shows published ones."
        )
    path = BUNDLED if weights is None else resolve(weights)
    tensors, header = load_weights(path)
    if header.get("architecture") != "stylegan2":
        found = header.get("architecture", "no architecture")
        raise InputError(f"'{path}' holds {found}, not a stylegan2 generator. Choose another file.")
    return build(tensors, header, path).to(device)


def build(
    tensors: Mapping[str, Tensor], header: Mapping[str, Any], path: Path
) -> StyleGAN2Generator:
    """A generator from the tensors and header of a weights file. Raises InputError."""
    values = header.get("config")
    if not isinstance(values, dict):
        raise InputError(f"'{path}' has no configuration in its header. Import it again.")
    config = StyleGAN2Config.from_dict(values)
    with torch.device("meta"):
        network = make_network(config)
    load_into(network, tensors, f"'{path}'", assign=True)
    return StyleGAN2Generator(network, config, make_card(path.stem, path, tensors, header))


def make_network(config: StyleGAN2Config) -> networks.Generator:
    """Mapping and synthesis with random weights."""
    return networks.Generator(
        config.z_dim,
        config.c_dim,
        config.w_dim,
        config.resolution,
        3,
        {key: value for key, value in config.mapping.items() if value is not None},
        config.channel_base,
        config.channel_max,
        config.clamp,
        config.num_fp16_res,
    )
