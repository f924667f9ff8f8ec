"""A small renderer for scenes made of signed distance functions.

Everything is vectorised over a batch of scenes and the rays of their images. Points and
directions are triples of tensors (`Vec`) that broadcast to [B, N], which keeps a distance
function purely elementwise, so that `torch.compile` can fuse it into a single kernel.

Lengths are world units (y up); cameras follow the EG3D label convention: 16 numbers of the
row-major cam2world matrix (OpenCV axes: x right, y down, z forward), then 9 numbers of the
intrinsics normalised by the image size. Colours depend on the surface point and the light
only, never on the viewing direction.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Scalar = Tensor | float
Vec = tuple[Tensor, Tensor, Tensor]
Point = tuple[Scalar, Scalar, Scalar]

TRACE_STEPS = 44
GAMMA = 2.2


# ---------------------------------------------------------------- factors of a world


@dataclass(frozen=True)
class Factor:
    """One generative factor: a choice among `values`, `continuous` parameters, or both.

    `prior` holds one probability per value; a factor without values has neither.
    """

    name: str
    values: tuple[str, ...] = ()
    continuous: int = 0
    prior: tuple[float, ...] = ()


@dataclass(frozen=True)
class Factors:
    """A batch of factor assignments.

    `classes` is int64 [B, F] (0 for factors without values); `variations` is float32
    [B, F, V] in [-1, 1] (unused columns are 0).
    """

    classes: Tensor
    variations: Tensor

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int | slice | Tensor) -> "Factors":
        """Rows of the batch; an integer keeps the batch dimension."""
        if isinstance(index, int):
            index = torch.tensor([index], device=self.classes.device)
        return Factors(self.classes[index], self.variations[index])

    def to(self, device: torch.device | str) -> "Factors":
        """The same factors on another device."""
        return Factors(self.classes.to(device), self.variations.to(device))

    @staticmethod
    def cat(parts: Sequence["Factors"]) -> "Factors":
        """Concatenate batches."""
        return Factors(
            torch.cat([part.classes for part in parts]),
            torch.cat([part.variations for part in parts]),
        )


def draw_factors(spec: Sequence[Factor], n: int, generator: torch.Generator) -> Factors:
    """Draw `n` independent assignments of `spec` from its priors (on the generator's device)."""
    device = generator.device
    width = max(factor.continuous for factor in spec)
    classes = torch.zeros(n, len(spec), dtype=torch.int64, device=device)
    variations = torch.rand(n, len(spec), width, generator=generator, device=device) * 2 - 1
    for column, factor in enumerate(spec):
        variations[:, column, factor.continuous :] = 0
        if factor.values:
            prior = torch.tensor(factor.prior, device=device)
            draws = torch.multinomial(prior, n, replacement=True, generator=generator)
            classes[:, column] = draws
    return Factors(classes, variations)


# ---------------------------------------------------------------- vectors and distances


def shift(p: Vec, centre: Point) -> Vec:
    """`p` relative to `centre`."""
    return p[0] - centre[0], p[1] - centre[1], p[2] - centre[2]


def length(*components: Tensor) -> Tensor:
    """Euclidean norm of a vector given by its components."""
    squares = components[0].square()
    for component in components[1:]:
        squares = squares + component.square()
    return squares.clamp_min(1e-12).sqrt()


def dot(a: Vec, b: Vec) -> Tensor:
    """Inner product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def normalize(v: Vec) -> Vec:
    """`v` scaled to unit length."""
    scale = 1 / length(*v)
    return v[0] * scale, v[1] * scale, v[2] * scale


def sphere(p: Vec, radius: Scalar) -> Tensor:
    """Sphere around the origin."""
    return length(*p) - radius


def ellipsoid(p: Sequence[Tensor], radii: Sequence[Scalar]) -> Tensor:
    """First-order distance to an axis-aligned ellipsoid, or to an ellipse in two dimensions."""
    scaled = [x / r for x, r in zip(p, radii, strict=True)]
    k0 = length(*scaled)
    k1 = length(*[x / r for x, r in zip(scaled, radii, strict=True)])
    return k0 * (k0 - 1) / k1


def capsule(p: Vec, start: Point, end: Point, radius: Scalar) -> Tensor:
    """Segment from `start` to `end`, thickened by `radius`."""
    axis = (end[0] - start[0], end[1] - start[1], end[2] - start[2])
    q = shift(p, start)
    norm = axis[0] * axis[0] + axis[1] * axis[1] + axis[2] * axis[2]
    along = ((q[0] * axis[0] + q[1] * axis[1] + q[2] * axis[2]) / norm).clamp(0, 1)
    return length(q[0] - axis[0] * along, q[1] - axis[1] * along, q[2] - axis[2] * along) - radius


def rounded_box(p: Sequence[Tensor], half: Sequence[Scalar], radius: Scalar) -> Tensor:
    """Box of half-sizes `half`, its edges rounded by `radius`; two or three dimensions."""
    q = [x.abs() - h + radius for x, h in zip(p, half, strict=True)]
    inside = q[0]
    for x in q[1:]:
        inside = torch.maximum(inside, x)
    return length(*[x.clamp_min(0) for x in q]) + inside.clamp_max(0) - radius


def torus(p: Vec, major: Scalar, minor: Scalar) -> Tensor:
    """Torus around the y axis."""
    return length(length(p[0], p[2]) - major, p[1]) - minor


def smooth_union(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Union whose seam is rounded over distances of about `k`."""
    h = (k - (a - b).abs()).clamp_min(0) / k
    return torch.minimum(a, b) - h * h * (k / 4)


def smooth_intersection(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Intersection whose edge is rounded over distances of about `k`."""
    return -smooth_union(-a, -b, k)


def smooth_subtraction(a: Tensor, b: Tensor, k: float) -> Tensor:
    """`a` without `b`."""
    return -smooth_union(-a, b, k)


def union(parts: Sequence[Tensor]) -> Tensor:
    """Least of the distances."""
    out = parts[0]
    for part in parts[1:]:
        out = torch.minimum(out, part)
    return out


def soft_below(x: Tensor, edge: Scalar, width: float) -> Tensor:
    """1 where `x` < `edge`, 0 above, with a smooth transition `width` wide."""
    t = ((edge - x) / width + 0.5).clamp(0, 1)
    return t * t * (3 - 2 * t)


def mix(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Colours [..., 3] from `a` (weight 0) to `b` (weight 1); weight lacks the last axis."""
    return a + (b - a) * weight.unsqueeze(-1)


# ---------------------------------------------------------------- cameras


def orbit_camera(yaw: Tensor, pitch: Tensor, radius: float = 2.7, focal: float = 4.2647) -> Tensor:
    """Camera labels [B, 25] on a sphere around the origin, looking at it; angles [B] in radians.

    Yaw 0, pitch 0 is at (0, 0, radius); positive yaw moves towards +x, positive pitch down.
    """
    phi = torch.arccos(1 - 2 * (math.pi / 2 + pitch) / math.pi)
    turn = math.pi / 2 - yaw
    back = torch.stack([phi.sin() * turn.cos(), phi.cos(), phi.sin() * turn.sin()], -1)
    up = torch.tensor([0.0, 1.0, 0.0], device=back.device, dtype=back.dtype).expand_as(back)
    right = F.normalize(torch.linalg.cross(up, back), dim=-1)
    down = torch.linalg.cross(right, back)
    pose = torch.zeros(len(yaw), 4, 4, device=back.device, dtype=back.dtype)
    pose[:, :3] = torch.stack([right, down, -back, radius * back], -1)
    pose[:, 3, 3] = 1
    intrinsics = pose.new_tensor([focal, 0, 0.5, 0, focal, 0.5, 0, 0, 1]).expand(len(yaw), 9)
    return torch.cat([pose.flatten(1), intrinsics], 1)


def camera_rays(cameras: Tensor, resolution: int) -> tuple[Vec, Vec]:
    """Origins (each [B, 1]) and unit directions (each [B, resolution^2], row-major) of pixels."""
    pose = cameras[:, :16].view(-1, 4, 4)
    k = cameras[:, 16:].view(-1, 3, 3)
    centres = (torch.arange(resolution, device=cameras.device) + 0.5) / resolution
    v, u = torch.meshgrid(centres, centres, indexing="ij")
    x = (u.flatten() - k[:, 0, 2, None]) / k[:, 0, 0, None]
    y = (v.flatten() - k[:, 1, 2, None]) / k[:, 1, 1, None]
    local = normalize((x, y, torch.ones_like(x)))
    rotated = [sum(pose[:, i, j, None] * local[j] for j in range(3)) for i in range(3)]
    origin = pose[:, :3, 3, None].unbind(1)
    return origin, (rotated[0], rotated[1], rotated[2])


# ---------------------------------------------------------------- rendering


class Surface(NamedTuple):
    """What a scene paints at points [B, N]: linear albedo [B, N, 3], label [B, N], gloss [B, N]."""

    albedo: Tensor
    label: Tensor
    gloss: Tensor


class Light(NamedTuple):
    """Unit direction towards the light and its strength, each [B, 1]."""

    direction: Vec
    strength: Tensor


@dataclass(frozen=True)
class Scene:
    """A batch of scenes: geometry, paint, light, and a two-tone backdrop.

    `distance` maps points to signed distances [B, N]; `surface` paints points on the surface.
    `backdrop` holds the bottom and the top colour, each [B, 1, 3], display RGB in [0, 1].
    """

    distance: Callable[[Vec], Tensor]
    surface: Callable[[Vec], Surface]
    light: Light
    backdrop: tuple[Tensor, Tensor]
    near: float = 2.2
    """Where rays begin."""
    backdrop_radius: float = 0.48
    """Rays end at the far side of a sphere of this radius around the origin."""
    viewer: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """Unit direction of the viewer that the gloss is painted for."""


class Rendered(NamedTuple):
    """`image` float32 [B, 3, H, W] RGB in [-1, 1], `label` uint8 [B, H, W] and `depth` float32
    [B, 1, H, W], the distance along the unit ray through the pixel centre."""

    image: Tensor
    label: Tensor
    depth: Tensor


def advance(origin: Vec, direction: Vec, t: Tensor) -> Vec:
    """Points at ray parameters `t`."""
    return (
        origin[0] + t * direction[0],
        origin[1] + t * direction[1],
        origin[2] + t * direction[2],
    )


def backdrop_depth(origin: Vec, direction: Vec, radius: float = 0.48) -> Tensor:
    """Ray parameter [B, N] of the far side of the backdrop sphere (of its rim for a miss)."""
    middle = -dot(origin, direction)
    gap = dot(origin, origin) - middle.square()
    return middle + (radius**2 - gap).clamp_min(0).sqrt()


def trace(
    distance: Callable[[Vec], Tensor], origin: Vec, direction: Vec, near: float, far: Tensor
) -> tuple[Tensor, Tensor]:
    """Sphere tracing from `near` to `far`: ray parameters and hit mask, each [B, N].

    A ray that still skims a surface after the last step counts as a hit: a miss would show as a
    speck of backdrop along the outline.
    """
    t = torch.full_like(far, near)
    for _ in range(TRACE_STEPS):
        t = torch.minimum(t + 0.9 * distance(advance(origin, direction, t)), far)
    return t, t < far


def normals(distance: Callable[[Vec], Tensor], p: Vec, step: float = 2e-3) -> Vec:
    """Unit gradients of `distance` at `p` from four samples on a tetrahedron."""
    corners = ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1))
    values = [distance((p[0] + step * i, p[1] + step * j, p[2] + step * k)) for i, j, k in corners]
    a, b, c, d = values
    return normalize((a - b - c + d, c - a - b + d, b - a - c + d))


def ambient_occlusion(distance: Callable[[Vec], Tensor], p: Vec, normal: Vec) -> Tensor:
    """Soft occlusion factor in (0, 1], from the free space along the normal."""
    blocked = torch.zeros_like(p[0])
    for reach, weight in ((0.015, 1.0), (0.035, 0.6), (0.07, 0.35)):
        gap = distance(advance(p, normal, torch.full_like(p[0], reach)))
        blocked = blocked + weight * (1 - gap / reach).clamp(0, 1)
    return torch.exp(-0.42 * blocked)


def shade(
    surface: Surface, normal: Vec, occlusion: Tensor, light: Light, viewer: Sequence[float]
) -> Tensor:
    """Display colours [B, N, 3] in [0, 1].

    Diffuse light wraps around the form, the sky is a little brighter than the ground, and the
    gloss is painted for a fixed viewer, so the true viewpoint does not matter.
    """
    diffuse = (0.5 + 0.5 * dot(normal, light.direction)).square()
    sky = 0.34 + 0.12 * normal[1]
    x, y, z = light.direction
    half = normalize((x + viewer[0], y + viewer[1], z + viewer[2]))
    sheen = surface.gloss * dot(normal, half).clamp_min(0).pow(20)
    received = occlusion * (sky + light.strength * diffuse)
    linear = surface.albedo * received.unsqueeze(-1) + (sheen * occlusion).unsqueeze(-1)
    return linear.clamp(1e-4, 1).pow(1 / GAMMA)


def _view(scene: Scene, cameras: Tensor, resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """Colours [B, N, 3] in [0, 1], labels [B, N] and depths [B, N] through pixel centres."""
    origin, direction = camera_rays(cameras, resolution)
    far = backdrop_depth(origin, direction, scene.backdrop_radius)
    t, hit = trace(scene.distance, origin, direction, scene.near, far)
    p = advance(origin, direction, t)
    normal = normals(scene.distance, p)
    surface = scene.surface(p)
    occlusion = ambient_occlusion(scene.distance, p, normal)
    colour = shade(surface, normal, occlusion, scene.light, scene.viewer)
    bottom, top = scene.backdrop
    wall = mix(bottom, top, soft_below(-p[1], 0.0, 0.8))
    return torch.where(hit.unsqueeze(-1), colour, wall), surface.label * hit, t


@torch.no_grad()
def render_scene(scene: Scene, cameras: Tensor, resolution: int, supersample: int) -> Rendered:
    """Images from supersample^2 rays a pixel; label and depth from the ray of its centre."""
    colour, label, depth = _view(scene, cameras, resolution)
    if supersample > 1:
        colour = _view(scene, cameras, resolution * supersample)[0]
    side = resolution * supersample
    image = colour.transpose(1, 2).reshape(-1, 3, side, side)
    image = F.avg_pool2d(image, supersample) * 2 - 1
    shape = (len(cameras), resolution, resolution)
    return Rendered(image, label.view(shape).to(torch.uint8), depth.view(shape).unsqueeze(1))
