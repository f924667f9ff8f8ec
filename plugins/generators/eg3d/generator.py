"""EG3D behind the core's generator interface."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from sat3d.errors import InputError
from sat3d.interfaces import Generator, Render, WeightsCard
from sat3d.store import resolve
from sat3d.weights import load_into, load_weights, make_card

from ..stylegan2.layers import NoiseMode
from .encoder import Encoder
from .networks import EG3DConfig, TriplaneGenerator, feature_image, uniform_draws
from .rays import orbit_camera

EMBEDDED = Path(__file__).parent / "weights" / "avatars.safetensors"
ENCODER = "encoder."


@dataclasses.dataclass(frozen=True)
class CameraRange:
    """Cameras of the training distribution: a sphere around the origin, angles in radians.

    Yaw is within ``yaw`` of 0, pitch within ``pitch`` of ``pitch_centre``; below 0 is from above.
    """

    radius: float = 2.7
    focal: float = 4.2647
    pivot: tuple[float, float, float] = (0.0, 0.0, 0.2)
    yaw: float = 0.35
    pitch: float = 0.25
    pitch_centre: float = 0.0


@dataclasses.dataclass(frozen=True)
class Draft:
    """The cheap render: the volume renderer alone, smaller and with fewer samples."""

    resolution: int = 64
    depth_resolution: int = 24
    depth_resolution_importance: int = 24


class EG3DGenerator(Generator):
    """A frozen EG3D with its cameras and, where bundled, an encoder."""

    name = "eg3d"
    is_3d = True

    def __init__(
        self,
        network: TriplaneGenerator,
        card: WeightsCard,
        cameras: CameraRange,
        draft: Draft,
        planted: Mapping[str, Tensor] | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.encoder = encoder.eval().requires_grad_(False) if encoder is not None else None
        self.card, self.cameras, self.draft = card, cameras, draft
        self.layout = network.layout
        self.resolution = network.superresolution.resolution
        self.latent_dim = network.config.z_dim
        self._planted = dict(planted or {})
        strengths = [p for n, p in network.named_parameters() if n.endswith("noise_strength")]
        silent = all(p.item() == 0 for p in strengths)
        self._noise_mode: NoiseMode = "none" if silent else "const"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.backbone.mapping.w_avg.device

    @property
    def planted(self) -> Mapping[str, Tensor]:
        """The channels that each attribute was given, for weights trained that way."""
        return self._planted

    def to(self, device: torch.device) -> Self:
        """Move to a device; returns self."""
        self.network.to(device)
        if self.encoder is not None:
            self.encoder.to(device)
        return self

    def sample_cameras(self, count: int, seed: int) -> Tensor:
        """[count, 25], yaw and pitch uniform in the training range."""
        draws = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        yaw, pitch = draws[:, 0] * self.cameras.yaw, draws[:, 1] * self.cameras.pitch
        return self._camera(yaw, self.cameras.pitch_centre + pitch)

    def orbit(self, yaw: float, pitch: float) -> Tensor:
        """One camera [1, 25]; ``pitch`` counts from the middle of the training range."""
        return self._camera(torch.tensor([yaw]), torch.tensor([self.cameras.pitch_centre + pitch]))

    def _camera(self, yaw: Tensor, pitch: Tensor) -> Tensor:
        c = self.cameras
        pivot = torch.tensor(c.pivot)
        return orbit_camera(yaw, pitch, c.radius, c.focal, pivot).to(self.device)

    @torch.no_grad()
    def map(self, z: Tensor, camera: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """z [B, Z] to w [B, L, W]; without a camera the mapping is given the frontal one."""
        label = self.orbit(0.0, 0.0).expand(len(z), -1) if camera is None else camera
        return self.network.map(z, label, truncation)

    def styles(self, w: Tensor) -> Tensor:
        """w [B, L, W] to [B, N]."""
        return self.network.styles(w)

    def render(
        self,
        styles: Tensor,
        camera: Tensor | None = None,
        *,
        seed: int | None = None,
        draft: bool = False,
    ) -> Render:
        """See the interface. A draft stops before super-resolution."""
        network, config = self.network, self.network.config
        if camera is None:
            camera = self.orbit(0.0, 0.0).expand(len(styles), -1)
        options, size = config.volume, config.neural_resolution
        if draft:
            size = self.draft.resolution
            options = dataclasses.replace(
                options,
                depth_resolution=self.draft.depth_resolution,
                depth_resolution_importance=self.draft.depth_resolution_importance,
            )
        coarse, fine = uniform_draws(options, size, seed, styles)
        planes = network.planes(styles, self._noise_mode)
        # A draft is the first three features; super-resolution needs all of them.
        channels = 3 if draft else None
        volume = network.volume(planes, camera, size, options, coarse, fine, channels)
        feature = feature_image(volume, size)
        depth = volume.depth.transpose(1, 2).unflatten(2, (size, size))
        image = feature if draft else network.superresolve(feature, styles)
        return Render(image, depth)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor] | None:
        """The bundled encoder's guess, or None where there is no encoder."""
        if self.encoder is None:
            return None
        w, yaw, pitch = self.encoder(image)
        rows = self.network.backbone.synthesis.num_ws
        return w[:, None].repeat(1, rows, 1), self._camera(yaw.cpu(), pitch.cpu())


def load(weights: str | None, device: torch.device) -> EG3DGenerator:
    """Read weights by path or name (None: the embedded avatars). Raises UsageError."""
    path = EMBEDDED if weights is None else resolve(weights)
    tensors, header = load_weights(path)
    if header.get("architecture") != "eg3d":
        found = header.get("architecture", "no architecture")
        raise InputError(f"'{path}' holds {found}, not an eg3d generator. Choose another file.")
    return build(tensors, header, path).to(device)


def build(tensors: Mapping[str, Tensor], header: Mapping[str, Any], path: Path) -> EG3DGenerator:
    """A generator from the tensors and header of a weights file."""
    network = TriplaneGenerator(EG3DConfig.from_dict(header["config"]))
    own = {k: v for k, v in tensors.items() if not k.startswith((ENCODER, "planted."))}
    load_into(network, own, f"'{path}'")
    encoder = None
    if "encoder" in header:
        encoder = Encoder(**header["encoder"])
        parts = {k.removeprefix(ENCODER): v for k, v in tensors.items() if k.startswith(ENCODER)}
        load_into(encoder, parts, f"the encoder in '{path}'")
    planted = {k.removeprefix("planted."): v for k, v in tensors.items() if "planted." in k}
    cameras = dict(header.get("cameras", {}))
    return EG3DGenerator(
        network,
        make_card(path.stem, path, own, header),
        CameraRange(**cameras | {"pivot": tuple(cameras.get("pivot", (0.0, 0.0, 0.2)))}),
        Draft(**header.get("draft", {})),
        {name: channels.long() for name, channels in planted.items()},
        encoder,
    )
