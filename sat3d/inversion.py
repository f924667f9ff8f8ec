"""From an image to a latent, by optimisation: w first, then a richer space, the camera throughout.

Draft renders find the way, full renders the details. Steps, not seconds, end the search, so that
the same seed gives the same latent; the time limit is a safety net and is reported when it acts.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from sat3d.interfaces import Generator
from sat3d.latents import Latent
from sat3d.progress import SILENT, Phase, Progress

GOOD_PSNR = 22.0
_STATISTICS = 1000


class InvertSettings(BaseModel):
    """How an image is inverted. Learning rates are in standard deviations of w."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    space: Literal["w", "w+", "s"] = "w+"
    """Where the second stage searches: one w, one w a layer, or single style channels."""
    pool: int = Field(24, ge=1, le=10_000)
    """Generated images among which the starts are looked for."""
    starts: int = Field(1, ge=1, le=64)
    """How many of them are followed in the draft stage; the best one goes on."""
    draft_steps: int = Field(25, ge=0, le=10_000)
    steps: int = Field(45, ge=0, le=10_000)
    """Steps on full renders."""
    learning_rate: float = Field(0.1, gt=0.0, le=10.0)
    camera_rate: float = Field(0.01, ge=0.0, le=1.0)
    """Learning rate of the camera's turn in radians; 0 leaves the camera alone."""
    pull: float = Field(1e-4, ge=0.0)
    """Weight of the squared distance from the start, in standard deviations."""
    max_seconds: float = Field(85.0, gt=0.0)
    seed: int = Field(0, ge=0)


@dataclass(frozen=True)
class Inversion:
    """What was found for an image."""

    latent: Latent
    image: Tensor
    """[1, 3, H, W] float32 in [-1, 1], the latent rendered."""
    target: Tensor
    """[1, 3, H, W] float32 in [-1, 1], the image at the generator's size."""
    psnr: float
    """Decibels, of images in [0, 1]."""
    warnings: tuple[str, ...]
    seconds: float

    def record(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return {
            "psnr": round(self.psnr, 3),
            "seconds": round(self.seconds, 3),
            "warnings": list(self.warnings),
        }


@dataclass
class _Search:
    """The free variables of K searches side by side; all offsets start at zero."""

    centre: Tensor
    """[K, L, W], where w started."""
    spread: Tensor
    """[1, 1, W], standard deviation of w."""
    style_spread: Tensor
    """[1, N], standard deviation of styles."""
    camera: Tensor | None
    """[K, 25], where the camera started."""
    w: Tensor
    """[K, 1 or L, W] in standard deviations."""
    styles: Tensor
    """[K, N] in standard deviations."""
    turn: Tensor
    """[K, 6]: rotation vector about the origin in radians, shift along the camera's axes."""

    def code(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """(w [K, L, W], styles [K, N])."""
        w = self.centre + self.w * self.spread
        return w, generator.styles(w) + self.styles * self.style_spread

    def view(self) -> Tensor | None:
        """[K, 25]."""
        return None if self.camera is None else turn_camera(self.camera, self.turn)

    def keep(self, row: int) -> "_Search":
        """A copy of one search, free to go on by itself."""
        camera = None if self.camera is None else self.camera[row : row + 1]
        free = (self.w, self.styles, self.turn)
        w, styles, turn = (x[row : row + 1].detach().clone() for x in free)
        centre = self.centre[row : row + 1]
        return _Search(centre, self.spread, self.style_spread, camera, w, styles, turn)


def invert(
    generator: Generator,
    image: Tensor,
    settings: InvertSettings | None = None,
    progress: Progress = SILENT,
    origin: str = "image",
) -> Inversion:
    """Find the latent whose render is closest to an image [1, 3, H, W] in [-1, 1], any size.

    Deterministic on one machine unless the time limit strikes, which the warnings then say.
    """
    from sat3d.images import fit

    settings = settings or InvertSettings()
    began = time.monotonic()
    target = fit(image.to(generator.device), generator.resolution)
    total = settings.draft_steps + settings.steps
    with progress.phase(f"Inverting {origin}", total) as phase:
        clock = _Clock(began + settings.max_seconds, total, phase)
        search = _start(generator, target, settings)
        search = _descend_draft(generator, target, search, settings, clock)
        best = _descend_full(generator, target, search, settings, clock)
    with torch.no_grad():
        w, styles = best.code(generator)
        camera = best.view()
        drawn = generator.render(styles, camera).image.clamp(-1.0, 1.0)
    quality = psnr(drawn, target)
    info = {"psnr": round(quality, 3), "space": settings.space}
    # A w that no longer gives the styles would mislead whoever loads it.
    latent = Latent(styles, None if settings.space == "s" else w, camera, origin, info)
    warnings = (*_poor(quality), *clock.warnings())
    return Inversion(latent, drawn, target, quality, warnings, time.monotonic() - began)


def psnr(image: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in decibels of images [B, 3, H, W] in [-1, 1], both clamped."""
    difference = (image.clamp(-1.0, 1.0) - target.clamp(-1.0, 1.0)) / 2.0
    error = float(difference.square().mean())
    return 10.0 * math.log10(1.0 / max(error, 1e-10))


def turn_camera(camera: Tensor, turn: Tensor) -> Tensor:
    """Move cameras [K, 25] by turns [K, 6]; differentiable in both.

    A turn is a rotation vector about the origin in radians, then a shift along the camera's own
    axes (right, down, forward). The intrinsics stay.
    """
    pose = camera[:, :16].reshape(-1, 4, 4)
    rotation = torch.linalg.matrix_exp(_cross(turn[:, :3]))
    axes = rotation @ pose[:, :3, :3]
    place = rotation @ pose[:, :3, 3:] + axes @ turn[:, 3:, None]
    moved = torch.cat([torch.cat([axes, place], dim=2), pose[:, 3:]], dim=1)
    return torch.cat([moved.reshape(-1, 16), camera[:, 16:]], dim=1)


def _cross(vector: Tensor) -> Tensor:
    """Rotation vectors [K, 3] as skew matrices [K, 3, 3]."""
    x, y, z = vector.unbind(dim=1)
    none = torch.zeros_like(x)
    rows = [none, -z, y, z, none, -x, -y, x, none]
    return torch.stack(rows, dim=1).reshape(-1, 3, 3)


class _Clock:
    """Counts steps and stops the search when its time is up."""

    def __init__(self, deadline: float, total: int, phase: Phase) -> None:
        self.deadline, self.total, self.phase = deadline, total, phase
        self.done, self.expired = 0, False

    def tick(self, loss: Tensor) -> bool:
        """Count one step; False when no further one may begin."""
        self.done += 1
        self.phase.advance(values={"loss": float(loss.detach())})
        self.expired = self.done < self.total and time.monotonic() > self.deadline
        return not self.expired

    def warnings(self) -> tuple[str, ...]:
        if not self.expired:
            return ()
        return (
            f"stopped at the time limit after {self.done} of {self.total} steps, so another run "
            "may differ. Raise --max-seconds or lower --steps.",
        )


@torch.no_grad()
def _start(generator: Generator, target: Tensor, settings: InvertSettings) -> _Search:
    """The generated images nearest to the target, and the generator's own guess if it has one."""
    many = generator.map(generator.sample_latents(_STATISTICS, settings.seed))
    spread = many.std(dim=(0, 1), keepdim=True)
    style_spread = generator.styles(many).std(dim=0, keepdim=True)
    w = generator.map(generator.sample_latents(settings.pool, settings.seed + 1))
    cameras = generator.sample_cameras(settings.pool, settings.seed + 1)
    guess = generator.encode(target)
    if guess is not None:
        w = torch.cat([guess[0], w])
        if cameras is not None:
            own = guess[1] if guess[1] is not None else generator.orbit(0.0, 0.0)
            cameras = torch.cat([own if own is not None else cameras[:1], cameras])
    losses = _distances(generator, target, w, cameras)
    chosen = losses.argsort(stable=True)[: settings.starts]
    camera = None if cameras is None else cameras[chosen]
    zeros = target.new_zeros
    rows = len(chosen)
    return _Search(
        w[chosen], spread, style_spread, camera,
        zeros(rows, 1, w.shape[2]), zeros(rows, generator.layout.channels), zeros(rows, 6),
    )  # fmt: skip


def _distances(generator: Generator, target: Tensor, w: Tensor, cameras: Tensor | None) -> Tensor:
    """Loss of draft renders [B], a few at a time to bound the memory."""
    losses = []
    for start in range(0, len(w), 8):
        part = slice(start, start + 8)
        camera = None if cameras is None else cameras[part]
        drawn = generator.render(generator.styles(w[part]), camera, draft=True).image
        losses.append(image_loss(drawn, target))
    return torch.cat(losses)


def image_loss(image: Tensor, target: Tensor) -> Tensor:
    """Squared and a little absolute difference over a pyramid: [B, 3, h, w], [1, 3, H, W] to [B].

    A smaller image is compared with the target reduced to its size. Coarse levels pull shapes
    that do not overlap yet; the absolute part keeps edges sharp.
    """
    size = image.shape[-1]
    target = F.interpolate(target, size=size, mode="area") if target.shape[-1] != size else target
    total = image.new_zeros(len(image))
    for _ in range(4):
        difference = image - target
        total = total + difference.square().mean(dim=(1, 2, 3))
        total = total + 0.1 * difference.abs().mean(dim=(1, 2, 3))
        if image.shape[-1] < 16:
            break
        image, target = F.avg_pool2d(image, 2), F.avg_pool2d(target, 2)
    return total


def _descend_draft(
    generator: Generator, target: Tensor, search: _Search, settings: InvertSettings, clock: _Clock
) -> _Search:
    """Follow all starts in one w each on draft renders; return the best."""
    free = [(search.w, settings.learning_rate), (search.turn, settings.camera_rate)]
    losses = target.new_zeros(len(search.centre))
    for optimizer in _steps(free, settings.draft_steps):
        _, styles = search.code(generator)
        losses = image_loss(generator.render(styles, search.view(), draft=True).image, target)
        _update(optimizer, losses.sum() + settings.pull * search.w.square().mean((1, 2)).sum())
        if not clock.tick(losses.min()):
            break
    return search.keep(int(losses.detach().argmin()))


def _descend_full(
    generator: Generator, target: Tensor, search: _Search, settings: InvertSettings, clock: _Clock
) -> _Search:
    """Refine one search in the chosen space on full renders; return the best point seen."""
    if settings.space == "w+":
        search.w = search.w.repeat(1, search.centre.shape[1], 1)
    free = [(search.w, settings.learning_rate / 2), (search.turn, settings.camera_rate / 2)]
    if settings.space == "s":
        free.append((search.styles, settings.learning_rate / 2))
    best, lowest = search.keep(0), math.inf
    for optimizer in _steps(free, 0 if clock.expired else settings.steps):
        _, styles = search.code(generator)
        drawn = generator.render(styles, search.view()).image
        error = float((drawn.detach().clamp(-1, 1) - target).square().mean())
        if error < lowest:
            lowest, best = error, search.keep(0)
        pulled = search.w.square().mean() + search.styles.square().mean()
        loss = image_loss(drawn, target).sum()
        _update(optimizer, loss + settings.pull * pulled)
        if not clock.tick(loss):
            break
    return best


def _steps(free: Sequence[tuple[Tensor, float]], count: int) -> Iterator[torch.optim.Adam]:
    """An optimiser over (variable, learning rate), ``count`` times, its rates falling to zero."""
    groups = [{"params": [x.requires_grad_()], "lr": rate} for x, rate in free]
    # A short memory of squares: the search is over before Adam's usual thousand steps.
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    for step in range(count):
        fall = 0.5 + 0.5 * math.cos(math.pi * step / count)
        for group, (_, rate) in zip(optimizer.param_groups, free, strict=True):
            group["lr"] = rate * fall
        yield optimizer


def _update(optimizer: torch.optim.Adam, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _poor(quality: float) -> tuple[str, ...]:
    if quality >= GOOD_PSNR:
        return ()
    return (
        f"poor inversion: {quality:.1f} dB, good is {GOOD_PSNR:g} dB or more. Crop the image as "
        "the generator's own are, or try --steps 200 --max-seconds 600, or --space s.",
    )
