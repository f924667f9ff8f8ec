"""StyleGAN2's mapping and synthesis networks, 'skip' architecture (Karras et al. 2020)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sat3d.interfaces import LayerPart, StyleLayer
from sat3d.precision import exact, low_dtype

from .half import HalfRange
from .layers import (
    FullyConnected,
    NoiseMode,
    SynthesisBlock,
    SynthesisLayer,
    ToRGB,
    normalize_second_moment,
)


class MappingNetwork(nn.Module):
    """z (and a label) to w."""

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        lr_multiplier: float = 0.01,
    ) -> None:
        super().__init__()
        self.num_ws, self.num_layers = num_ws, num_layers
        embedded = (embed_features or w_dim) if c_dim else 0
        widths = [z_dim + embedded, *[layer_features or w_dim] * (num_layers - 1), w_dim]
        self.embed = FullyConnected(c_dim, embedded) if c_dim else None
        for k in range(num_layers):
            layer = FullyConnected(widths[k], widths[k + 1], "lrelu", lr_multiplier)
            self.add_module(f"fc{k}", layer)
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self, z: Tensor, label: Tensor | None = None, psi: float = 1.0, cutoff: int | None = None
    ) -> Tensor:
        """z [B, Z] and label [B, c_dim] to w [B, L, W]; the first ``cutoff`` rows are truncated."""
        x = normalize_second_moment(z)
        if self.embed is not None:
            assert label is not None, "this mapping is conditional"
            x = torch.cat([x, normalize_second_moment(self.embed(label))], dim=1)
        for k in range(self.num_layers):
            x = self.get_submodule(f"fc{k}")(x)
        w = x[:, None].repeat(1, self.num_ws, 1)
        if psi == 1:
            return w
        w = w.clone()
        w[:, :cutoff] = self.w_avg + psi * (w[:, :cutoff] - self.w_avg)
        return w


class SynthesisNetwork(nn.Module):
    """Styles to an image (or to planes): one block per resolution from 4 up."""

    def __init__(
        self,
        w_dim: int,
        resolution: int,
        image_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        clamp: float | None = None,
        num_fp16_res: int = 0,
    ) -> None:
        super().__init__()
        self.resolutions = [2**k for k in range(2, int(math.log2(resolution)) + 1)]
        channels = {r: min(channel_base // r, channel_max) for r in self.resolutions}
        for r in self.resolutions:
            inputs = channels[r // 2] if r > 4 else 0
            block = SynthesisBlock(inputs, channels[r], w_dim, r, image_channels, clamp)
            self.add_module(f"b{r}", block)
        self.num_ws = 2 * len(self.resolutions)
        # As published: never the first block, however many are asked for.
        self.half_from = max(resolution * 2 // 2**num_fp16_res, 8)
        self.half_devices = {"cuda"}

    def style_rows(self) -> list[int]:
        """Which row of w feeds each modulated layer, in the order of :func:`style_layers`.

        Convolution k reads row k; a toRGB reads the row of the next block's first convolution.
        """
        rows, row = [], 0
        for module in modulated(self).values():
            rows.append(row)
            row += isinstance(module, SynthesisLayer)
        return rows

    def forward(
        self,
        styles: dict[str, Tensor],
        noise_mode: NoiseMode = "const",
        source: torch.Generator | None = None,
    ) -> Tensor:
        """Styles by layer name, each [B, channels], to [B, image_channels, R, R].

        On a CUDA device the highest ``num_fp16_res`` resolutions compute in float16, unless
        autocast has all compute in bfloat16, which needs no care for its range.
        """
        x = image = None
        first = next(iter(styles.values()))
        short = first.device.type in self.half_devices and low_dtype(first) is None
        half = HalfRange() if short else None
        for r in self.resolutions:
            block = self.get_submodule(f"b{r}")
            assert isinstance(block, SynthesisBlock)
            if half is None or r < self.half_from:
                x, image = block(x, image, styles, f"b{r}", noise_mode, source)
            else:
                assert x is not None, "the first block is never half"
                assert image is not None
                x, image = half.block(block, x, image, styles, f"b{r}", noise_mode, source)
        assert image is not None
        return image if half is None else half.watch(image)


def modulated(network: nn.Module) -> dict[str, SynthesisLayer | ToRGB]:
    """Modulated layers by name, in the order they run."""
    kinds = (SynthesisLayer, ToRGB)
    return {name: m for name, m in network.named_modules() if isinstance(m, kinds)}


def style_layers(network: nn.Module, prefix: str, part: LayerPart) -> tuple[StyleLayer, ...]:
    """The layout entries of a network's modulated layers."""
    return tuple(
        StyleLayer(
            f"{prefix}{name}",
            layer.style_channels,
            "conv" if isinstance(layer, SynthesisLayer) else "torgb",
            part,
        )
        for name, layer in modulated(network).items()
    )


def affine_styles(network: nn.Module, w: Tensor, rows: list[int], prefix: str) -> dict[str, Tensor]:
    """w [B, L, W] to the style vector [B, channels] of every modulated layer, by prefixed name."""
    layers = modulated(network).items()
    with exact(w):
        return {
            f"{prefix}{name}": layer.affine(w[:, row])
            for (name, layer), row in zip(layers, rows, strict=True)
        }


def under(styles: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The styles whose name starts with the prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in styles.items() if k.startswith(prefix)}


class Generator(nn.Module):
    """Mapping and synthesis together, state-dict compatible with StyleGAN2-ADA-PyTorch."""

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        resolution: int,
        image_channels: int,
        mapping: Mapping[str, int] | None = None,
        channel_base: int = 32768,
        channel_max: int = 512,
        clamp: float | None = None,
        num_fp16_res: int = 0,
    ) -> None:
        super().__init__()
        self.synthesis = SynthesisNetwork(
            w_dim, resolution, image_channels, channel_base, channel_max, clamp, num_fp16_res
        )
        self.mapping = MappingNetwork(
            z_dim, c_dim, w_dim, self.synthesis.num_ws, **dict(mapping or {})
        )
