"""The EG3D generator (Chan et al. 2022): mapping, tri-plane backbone, renderer, super-resolution.

State-dict compatible with the published code. Two numbers that the published code fixes are
settings here: the plane resolution (256) and the width of w (512).
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from sat3d.errors import InputError
from sat3d.interfaces import StyleLayout

from ..stylegan2 import networks as stylegan2
from ..stylegan2.layers import NoiseMode
from .rays import sample_rays
from .superresolution import Factor, SuperResolution
from .volume import Decoder, VolumeOptions, VolumeRender, ray_limits, render_rays, stratified_depths

BACKBONE, SUPERRES = "backbone.synthesis.", "superresolution."


@dataclass(frozen=True)
class EG3DConfig:
    """Everything that shapes an EG3D generator; defaults are the published FFHQ 512 model."""

    z_dim: int = 512
    w_dim: int = 512
    plane_resolution: int = 256
    neural_resolution: int = 128
    """Side of the image that the volume renderer draws, before super-resolution."""
    channel_base: int = 32768
    channel_max: int = 512
    mapping: Mapping[str, int] = field(default_factory=lambda: {"num_layers": 2})
    superresolution: Factor = "8XDC"
    sr_clamp: float | None = 256.0
    sr_noise_mode: NoiseMode = "none"
    sr_antialias: bool = True
    conditioning_scale: float = 1.0
    """``c_scale``; 0 when the mapping must not see the camera (``c_gen_conditioning_zero``)."""
    decoder_lr_multiplier: float = 1.0
    clamp: float | None = None
    volume: VolumeOptions = field(default_factory=VolumeOptions)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EG3DConfig":
        """From a weights header. Raises InputError for unknown keys."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(values.keys() - known)
        if unknown:
            raise InputError(f"EG3D configuration has unknown key '{unknown[0]}'. Known: {known}.")
        plain = dict(values)
        plain["volume"] = VolumeOptions(**plain.get("volume", {}))
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a weights header."""
        return asdict(self)


class TriplaneGenerator(nn.Module):
    """z and cameras to styles to images. Drawing keeps no state."""

    def __init__(self, config: EG3DConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = stylegan2.Generator(
            config.z_dim,
            25,
            config.w_dim,
            config.plane_resolution,
            32 * 3,
            config.mapping,
            config.channel_base,
            config.channel_max,
            config.clamp,
        )
        self.superresolution = SuperResolution(
            config.superresolution, config.w_dim, config.sr_antialias, config.sr_clamp
        )
        self.decoder = Decoder(lr_multiplier=config.decoder_lr_multiplier)
        self.layout = StyleLayout(
            stylegan2.style_layers(self.backbone.synthesis, BACKBONE, "backbone")
            + stylegan2.style_layers(self.superresolution, SUPERRES, "superresolution")
        )

    def map(self, z: Tensor, camera: Tensor, psi: float = 1.0, cutoff: int | None = None) -> Tensor:
        """z [B, Z] and the conditioning camera [B, 25] to w [B, L, W]."""
        return self.backbone.mapping(z, camera * self.config.conditioning_scale, psi, cutoff)

    def styles(self, w: Tensor) -> Tensor:
        """w [B, L, W] to the flat style code [B, N]; super-resolution reads the last row."""
        synthesis, sr = self.backbone.synthesis, self.superresolution
        pieces = stylegan2.affine_styles(synthesis, w, synthesis.style_rows(), BACKBONE)
        last = [w.shape[1] - 1] * len(stylegan2.modulated(sr))
        return self.layout.join(pieces | stylegan2.affine_styles(sr, w, last, SUPERRES))

    def planes(self, styles: Tensor, noise_mode: NoiseMode = "const") -> Tensor:
        """Flat styles [B, N] to tri-planes [B, 3, 32, P, P]."""
        planes = _joined(self._planes(part, noise_mode) for part in _few(styles))
        return planes.unflatten(1, (3, 32))

    def _planes(self, styles: Tensor, noise_mode: NoiseMode) -> Tensor:
        pieces = stylegan2.under(self.layout.split(styles), BACKBONE)
        return self.backbone.synthesis(pieces, noise_mode)

    def volume(
        self,
        planes: Tensor,
        camera: Tensor,
        resolution: int,
        options: VolumeOptions,
        coarse: Tensor,
        fine: Tensor | None,
        channels: int | None = None,
    ) -> VolumeRender:
        """Volume-render planes under cameras [B, 25] from uniform draws.

        ``coarse`` is [B or 1, R*R or 1, S, 1] and ``fine`` [B*R*R, R*R or 1, S'], values in [0, 1].
        """
        origins, directions = sample_rays(camera, resolution)
        near, far = ray_limits(origins, directions, options)
        batch, rays = origins.shape[:2]
        coarse = coarse.expand(batch, rays, -1, -1)
        depths = stratified_depths(near, far, coarse, options.disparity_space_sampling)
        if fine is not None:
            fine = fine.repeat(batch * rays // len(fine), 1)
        return render_rays(
            planes, self.decoder, origins, directions, options, depths, fine, channels=channels
        )

    def superresolve(self, feature: Tensor, styles: Tensor) -> Tensor:
        """Feature image [B, 32, r, r] and flat styles [B, N] to [B, 3, R, R]."""
        parts = zip(_few(feature), _few(styles), strict=True)
        return _joined(self._superresolve(*part) for part in parts)

    def _superresolve(self, feature: Tensor, styles: Tensor) -> Tensor:
        pieces = stylegan2.under(self.layout.split(styles), SUPERRES)
        return self.superresolution(feature[:, :3], feature, pieces, self.config.sr_noise_mode)


def _few(batch: Tensor) -> tuple[Tensor, ...]:
    """A batch in parts to draw one after the other: on a CPU that keeps no features for a
    gradient two images each, whose features stay in its caches; else all at once."""
    alone = batch.device.type == "cpu" and not torch.is_grad_enabled()
    return batch.split(2) if alone else (batch,)


def _joined(parts: Iterable[Tensor]) -> Tensor:
    drawn = list(parts)
    return drawn[0] if len(drawn) == 1 else torch.cat(drawn)


def feature_image(volume: VolumeRender, resolution: int) -> Tensor:
    """Rendered rays [B, R*R, 32] as an image [B, 32, R, R]."""
    return volume.feature.transpose(1, 2).unflatten(2, (resolution, resolution))


def uniform_draws(
    options: VolumeOptions, resolution: int, seed: int | None, like: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Draws for one image, shared by a whole batch: ([1, R*R, S, 1], [R*R, S']).

    None takes the centre of every stratum, broadcast over the rays; a seed draws on the CPU, so
    that every device sees the same samples.
    """
    coarse, fine = options.depth_resolution, options.depth_resolution_importance
    if seed is None:
        # Made on the device: no step of training is to wait for a copy.
        first = torch.full((1, 1, coarse, 1), 0.5, device=like.device)
        second = ((torch.arange(fine, device=like.device) + 0.5) / fine)[None] if fine else None
    else:
        source = torch.Generator().manual_seed(seed)
        first = torch.rand(1, resolution**2, coarse, 1, generator=source)
        second = torch.rand(resolution**2, fine, generator=source) if fine else None
    return first.to(like), second.to(like) if second is not None else None
