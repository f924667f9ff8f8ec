"""What makes a world: a value that every recipe is given.

A world is a file (or a small folder) in this folder that ends in ``WORLD = World(...)``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from recipes import renderer as r
from recipes.renderer import Factor, Factors, Rendered, Scene


@dataclass(frozen=True)
class Cameras:
    """Cameras on a sphere around the origin, angles in radians.

    Yaw is uniform within ``yaw`` of 0, pitch within ``pitch`` of ``pitch_centre``; below 0 is
    from above.
    """

    yaw: float = 0.6
    pitch: float = 0.25
    pitch_centre: float = 0.0
    radius: float = 2.7
    focal: float = 4.2647

    def at(self, yaw: Tensor, pitch: Tensor) -> Tensor:
        """Labels [B, 25] of cameras at these angles [B] in radians."""
        return r.orbit_camera(yaw, pitch, self.radius, self.focal)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Labels [n, 25] of the range."""
        angles = torch.rand(2, n, generator=generator, device=generator.device) * 2 - 1
        return self.at(self.yaw * angles[0], self.pitch_centre + self.pitch * angles[1])


@dataclass(frozen=True)
class Question:
    """Answers that exclude one another; ``answer_of`` maps a factor's value to its answer.

    The first wording of an answer is the one of the descriptor pack; the others keep the text
    encoder from being a lookup table.
    """

    factor: str
    answers: tuple[tuple[str, ...], ...]
    answer_of: tuple[int, ...]

    @property
    def key(self) -> tuple[str, ...]:
        """The pack's own wordings."""
        return tuple(words[0] for words in self.answers)


def ask(factor: str, *answers: Sequence[str]) -> Question:
    """A question whose answers are the factor's values."""
    return Question(factor, tuple(tuple(a) for a in answers), tuple(range(len(answers))))


@dataclass(frozen=True)
class World:
    """Factors, pictures, words and sizes of one domain."""

    name: str
    title: str
    factors: tuple[Factor, ...]
    shares: Mapping[str, float]
    """How many style channels a factor gets relative to the others: about what it has to draw."""
    attributes: tuple[str, ...]
    """Factors that are attributes: readers read them; all others are nuisance."""
    scene_of: Callable[[Factors, bool], Scene]
    """The scenes of a batch; if True, with distances and paint fused by ``torch.compile``."""
    labels: tuple[str, ...]
    """What a pixel can be, as drawn."""
    details: tuple[str, ...]
    """Labels that the generator's loss counts more: small parts."""
    segments: tuple[str, ...]
    """What the segmenter calls each of ``labels``; empty for a world without one."""
    questions: tuple[Question, ...]
    templates: tuple[str, ...]
    """Frames for captions; the first is the pack's."""
    pack: str
    goes_with: Mapping[str, str]
    joint: str = " and "
    """Between the last two facts of a caption."""
    cameras: Cameras = Cameras()
    volume: Mapping[str, Any] = field(default_factory=dict)
    """VolumeOptions of the generator, by name."""
    draft: Mapping[str, int] = field(default_factory=dict)
    hides: Mapping[str, str] = field(default_factory=dict)
    """Attribute -> the factor that covers it unless its value is 0."""
    camera_of: Callable[[Factors], Tensor] | None = None
    """The camera [B, 25] where it follows from the factors."""
    block: int = 16
    """Dimensions of z and w per factor."""
    hidden: int = 48
    """Width of the mapping's hidden layers per factor."""
    dim: int = 256
    """Z and W; what the factors do not use stays zero."""
    channel_base: int = 5120
    channel_max: int = 160

    @property
    def columns(self) -> dict[str, int]:
        """Factor name -> its column."""
        return {factor.name: column for column, factor in enumerate(self.factors)}

    def values(self, name: str) -> tuple[str, ...]:
        """The values of one factor."""
        return self.factors[self.columns[name]].values

    def sample_factors(self, n: int, generator: torch.Generator) -> Factors:
        """`n` draws from the priors."""
        return r.draw_factors(self.factors, n, generator)

    def cameras_for(self, factors: Factors, generator: torch.Generator) -> Tensor:
        """A camera [B, 25] for each assignment."""
        if self.camera_of is not None:
            return self.camera_of(factors)
        return self.cameras.sample(len(factors), generator)

    @torch.no_grad()
    def render(
        self,
        factors: Factors,
        cameras: Tensor,
        resolution: int = 128,
        supersample: int = 2,
        chunk: int = 16,
        compile: bool = False,  # noqa: A002
    ) -> Rendered:
        """Draw what `cameras` [B, 25] see, `chunk` at a time, on the factors' device.

        The last chunk is filled up with repeats, so that compiled kernels see a single shape.
        """
        n = len(factors)
        chunk = min(chunk, n)
        parts = []
        for start in range(0, n, chunk):
            rows = torch.arange(start, start + chunk, device=cameras.device).clamp_max(n - 1)
            scene = self.scene_of(factors[rows], compile)
            parts.append(r.render_scene(scene, cameras[rows], resolution, supersample))
        return Rendered(*(torch.cat(field)[:n] for field in zip(*parts, strict=True)))

    def contact_sheet(
        self, n: int, seed: int, yaws: tuple[float, ...], pitch: float = 0.0, size: int = 128
    ) -> Tensor:
        """Image [3, H, W] in [-1, 1]: `n` random draws, each seen from every yaw in a row."""
        factors = self.sample_factors(n, torch.Generator().manual_seed(seed))
        yaw = torch.tensor(yaws).repeat(n)
        rows = torch.arange(n).repeat_interleave(len(yaws))
        cameras = self.cameras.at(yaw, torch.full_like(yaw, pitch))
        images = self.render(factors[rows], cameras, size, chunk=4).image
        columns = 4 * len(yaws)
        blank = images.new_ones(-len(images) % columns, *images.shape[1:])
        tiles = torch.cat([images, blank]).unflatten(0, (-1, columns))
        return tiles.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)


# ---------------------------------------------------------------- for writing worlds


def uniform(name: str, values: tuple[str, ...], continuous: int) -> Factor:
    """A factor whose values are equally likely."""
    return Factor(name, values, continuous, (1 / len(values),) * len(values))


class Reading:
    """Reads factors by name; every answer is [B, 1]."""

    def __init__(self, spec: Sequence[Factor], factors: Factors) -> None:
        self.columns = {factor.name: column for column, factor in enumerate(spec)}
        self.factors = factors

    def choose(self, name: str, *table: float) -> Tensor:
        """The entry of `table` for the value of factor `name`."""
        values = self.factors.variations.new_tensor(table)
        return values[self.factors.classes[:, self.columns[name]]].unsqueeze(1)

    def vary(self, name: str, index: int) -> Tensor:
        """Continuous parameter `index` of factor `name`, in [-1, 1]."""
        return self.factors.variations[:, self.columns[name], index].unsqueeze(1)

    def colour(self, name: str, table: Sequence[tuple[float, float, float]]) -> Tensor:
        """The display RGB [B, 1, 3] of `table` for the value of factor `name`."""
        colours = self.factors.variations.new_tensor(table)
        return colours[self.factors.classes[:, self.columns[name]]].unsqueeze(1)


def rgb(hue: Tensor, saturation: Tensor | float, value: Tensor | float) -> Tensor:
    """Display RGB [B, 1, 3] of hue (in turns), saturation and value, each [B, 1]."""
    offsets = hue.new_tensor([0.0, 2 / 3, 1 / 3])
    wave = (((hue.unsqueeze(-1) + offsets) % 1 * 6 - 3).abs() - 1).clamp(0, 1)
    saturation, value = (torch.as_tensor(x).to(hue).expand_as(hue) for x in (saturation, value))
    return value.unsqueeze(-1) * (1 - saturation.unsqueeze(-1) * (1 - wave))


def tint(like: Tensor, colour: tuple[float, float, float]) -> Tensor:
    """A constant linear colour [1, 1, 3]."""
    return like.new_tensor(colour).view(1, 1, 3)


def linear(display: Tensor) -> Tensor:
    """Display RGB in [0, 1] to linear."""
    return display.clamp(0, 1).pow(r.GAMMA)


def soft_backdrop(read: Reading) -> tuple[Tensor, Tensor]:
    """Bottom and top of a pastel background, display RGB [B, 1, 3], from factor `backdrop`."""
    hue, spread, value = (read.vary("backdrop", i) for i in range(3))
    hue = hue / 2
    return rgb(hue, 0.42, 0.74 + 0.12 * value), rgb(hue + 0.1 * spread, 0.25, 0.88 + 0.08 * value)


def front_light(read: Reading) -> r.Light:
    """A lamp in front, above and to a side, from factor `light`."""
    x = 0.7 * read.vary("light", 0)
    direction = r.normalize((x, torch.full_like(x, 0.75), torch.full_like(x, 0.9)))
    return r.Light(direction, 0.80 + 0.12 * read.vary("light", 1))


def by_part(
    part: Tensor, looks: Sequence[tuple[Tensor, Tensor]], gloss: Sequence[float]
) -> r.Surface:
    """Colours and labels chosen by the number of the nearest part [B, N]."""
    albedo, label = looks[0]
    for index, (colour, name) in enumerate(looks[1:], start=1):
        chosen = part == index
        albedo = torch.where(chosen.unsqueeze(-1), colour, albedo)
        label = torch.where(chosen, name, label)
    return r.Surface(albedo, label, albedo.new_tensor(gloss)[part])
