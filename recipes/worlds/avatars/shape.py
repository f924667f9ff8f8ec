"""The parts of an avatar as signed distances, from the measures in factors.py.

The head looks towards +z, its left and right are the image's in the frontal view. Everything
lies within [-0.5, 0.5]^3; the parts mirrored in x are modelled once, on |x|.
"""

import torch
from torch import Tensor

from recipes import renderer as r
from recipes.renderer import Vec
from recipes.worlds.avatars.factors import Avatar, Hair, Head

HEAD_Y = 0.012
EYE_X, EYE_Y = 0.069, 0.010
EYE_RADII = (0.047, 0.053, 0.034)


def _mirror(p: Vec) -> Vec:
    return p[0].abs(), p[1], p[2]


def _face_z(head: Head, x: float, y: float) -> Tensor:
    """Depth [B, 1] of the face's surface at a height and a distance from the middle."""
    inside = 1 - (x / head.rx).square() - ((y - HEAD_Y) / head.ry).square()
    return 0.172 * inside.sqrt()


def skull_at(a: Avatar, p: Vec) -> Tensor:
    """Cranium and jaw, the surface that the face is drawn on."""
    cranium = r.ellipsoid((p[0], p[1] - HEAD_Y, p[2]), (a.head.rx, a.head.ry, 0.172))
    jaw = r.ellipsoid((p[0], p[1] + 0.088, p[2] - 0.032), (a.head.jaw, 0.100, 0.118))
    return r.smooth_union(cranium, jaw, 0.07)


def nose_at(a: Avatar, p: Vec) -> Tensor:
    """Distance [B, N] to the nose."""
    y = -0.046 - a.head.nose_length
    radii = (a.head.nose, a.head.nose * 0.85 + 0.5 * a.head.nose_length.clamp_min(0), 0.034)
    return r.ellipsoid((p[0], p[1] - y, p[2] - _face_z(a.head, 0.0, -0.045)), radii)


def ears_at(a: Avatar, p: Vec) -> Tensor:
    """Distance [B, N] to the nearer ear."""
    q = r.shift(_mirror(p), (a.head.rx + 0.006, -0.006, -0.012))
    return r.ellipsoid(q, (0.024, 0.044, 0.030))


def torso_at(p: Vec) -> Tensor:
    """Distance [B, N] to neck and trunk."""
    neck = r.capsule(p, (0.0, -0.12, -0.025), (0.0, -0.32, -0.035), p[0].new_tensor(0.068))
    trunk = r.ellipsoid((p[0], p[1] + 0.372, p[2] + 0.025), (0.245, 0.112, 0.120))
    return r.smooth_union(neck, trunk, 0.06)


def _skin(a: Avatar, p: Vec, skull: Tensor) -> Tensor:
    face = r.smooth_union(skull, nose_at(a, p), 0.016)
    return torch.minimum(r.smooth_union(face, ears_at(a, p), 0.015), torso_at(p))


def eye_frame(a: Avatar, p: Vec) -> Vec:
    """Coordinates of the eye on either side, turned outwards with the face."""
    x, y, z = r.shift(_mirror(p), (EYE_X, EYE_Y, _face_z(a.head, EYE_X, EYE_Y) - 0.016))
    return 0.94 * x - 0.34 * z, y, 0.34 * x + 0.94 * z


def _brows(a: Avatar, p: Vec, skull: Tensor) -> Tensor:
    u = p[0].abs() - EYE_X
    v = p[1] - a.eyes.brow_y - a.eyes.brow_slope * u + a.eyes.brow_bow * u.square()
    shape = r.length((u.abs() - 0.034).clamp_min(0), v) - a.eyes.brow_size
    slab = torch.maximum(skull - 0.009, -p[2])
    return r.smooth_intersection(0.8 * shape, slab, 0.008)


def mouth_at(a: Avatar, p: Vec) -> tuple[Tensor, Tensor]:
    """Distance to the mouth's outline as seen from the front, and the unbent height in it."""
    v = p[1] - a.mouth.y - a.mouth.bend * p[0].square()
    corner = 0.98 * torch.minimum(a.mouth.w, a.mouth.h)
    outline = r.rounded_box((p[0], v), (a.mouth.w, a.mouth.h), corner)
    return r.smooth_intersection(outline, v - a.mouth.cut, 0.012), v


def _lips(a: Avatar, p: Vec, skull: Tensor, mouth: Tensor) -> Tensor:
    rim = (mouth - a.mouth.lip * 0.5).abs() - a.mouth.lip
    slab = torch.maximum(skull - 0.006, -p[2])
    return r.smooth_intersection(0.75 * rim, slab, 0.008)


def _beard(a: Avatar, p: Vec, skull: Tensor, mouth: Tensor) -> Tensor:
    x, size = p[0].abs(), a.beard.size
    z = _face_z(a.head, 0.03, -0.08)
    near, far = (0.016, -0.078, z + 0.020), (0.066, -0.092, z - 0.002)
    moustache = r.capsule((x, p[1], p[2]), near, far, 0.0165 * size) + a.beard.no_moustache
    chin = r.shift(p, (0.0, -0.186, 0.100))
    goatee = r.ellipsoid(chin, (0.048 * size, 0.044 * size, 0.054)) + a.beard.no_goatee
    edge = p[1] + 0.082 - 2.4 * x.square()
    shell = r.smooth_intersection(skull - 0.018 * size, 0.75 * edge, 0.02)
    bush = r.ellipsoid(r.shift(p, (0.0, -0.165, 0.075)), (0.100 * size, 0.062 * size, 0.082))
    full = r.smooth_union(r.smooth_intersection(shell, 0.01 - p[2], 0.03), bush, 0.03)
    full = r.smooth_subtraction(full, 0.75 * (mouth - 0.014), 0.008) + a.beard.no_full
    return torch.minimum(r.smooth_union(moustache, full, 0.015), goatee)


def _glasses(a: Avatar, p: Vec) -> Tensor:
    x, y, z = _mirror(p)
    front = _face_z(a.head, EYE_X, EYE_Y) + 0.030
    bowed = z - front + 1.1 * (x * x - EYE_X**2)
    outline = r.rounded_box(
        (x - EYE_X, y - EYE_Y), (a.glasses.half, a.glasses.half), a.glasses.corner
    )
    rims = r.length(outline, bowed) - 0.0085
    hinge = (EYE_X + 0.062, EYE_Y + 0.02, front - 0.014)
    temple = r.capsule((x, y, z), hinge, (a.head.rx + 0.008, 0.026, -0.01), 0.0075)
    return torch.minimum(rims, temple) * 0.9 + a.glasses.absent


_CURLS = (
    (0.0, 0.215, 0.045),
    (0.105, 0.195, 0.060),
    (0.175, 0.110, 0.035),
    (0.190, 0.000, -0.020),
    (0.060, 0.225, -0.070),
    (0.160, 0.125, -0.100),
    (0.135, 0.000, -0.130),
)


def _brim(p: Vec) -> Tensor:
    """Height above the plane of the hat's brim, which sinks towards the back."""
    return p[1] - 0.116 - 0.32 * (p[2] - 0.18)


def _curls(h: Hair, p: Vec) -> Tensor:
    """A few big lumps that make the outline of curly hair."""
    q = _mirror(p)
    lumps = [r.sphere(r.shift(q, centre), 0.075 + 0.5 * h.grow_extra) for centre in _CURLS]
    out = lumps[0]
    for lump in lumps[1:]:
        out = r.smooth_union(out, lump, 0.022)
    return out + h.no_curls


def _hair(a: Avatar, p: Vec) -> Tensor:
    h, head = a.hair, a.head
    x, y, z = p
    radii = (head.rx + h.grow, head.ry + h.grow, 0.172 + h.grow)
    shell = r.ellipsoid((x, y - HEAD_Y - h.lift, z + 0.012), radii)
    shell = r.smooth_intersection(shell, h.cut + h.tilt * (z + 0.02) - y, 0.03)
    middle = 0.5 * (h.opening_top - 0.24)
    opening = r.ellipsoid((x - h.parting, y - middle), (h.opening_w, h.opening_top - middle))
    opening = r.smooth_intersection(opening, 0.015 - z, 0.02)
    shell = r.smooth_subtraction(shell, opening, 0.018)
    lock_x = head.rx - 0.006
    lock = r.capsule(
        _mirror(p), (lock_x, 0.04, -0.02), (lock_x + 0.012, h.lock_end, 0.0), h.lock_size
    )
    drape_middle = 0.5 * (0.12 + h.drape_end)
    drape = r.ellipsoid((x, y - drape_middle, z + 0.095), (0.165, 0.12 - drape_middle, 0.09))
    out = r.smooth_union(shell, lock + h.no_locks, 0.03)
    out = r.smooth_union(out, drape + h.no_drape, 0.03)
    quiff = r.ellipsoid(
        r.shift(p, (-1.3 * h.parting, 0.158 + 0.5 * h.grow, 0.075)), (0.128, 0.066, 0.100)
    )
    out = r.smooth_union(out, quiff + h.no_quiff, 0.05)
    out = r.smooth_union(out, r.smooth_subtraction(_curls(h, p), opening, 0.02), 0.02)
    return r.smooth_intersection(out, _brim(p) - h.bald_above, 0.04)


def _hat(a: Avatar, p: Vec) -> Tensor:
    x, y, z = p
    above = _brim(p)
    radii = (a.head.rx + 0.014, a.head.ry - 0.016, 0.188)
    middle = HEAD_Y + 0.066
    crown = r.ellipsoid((x, y - middle, z + 0.008), radii)
    crown = r.smooth_intersection(crown, -above, 0.02)
    ring = r.ellipsoid((x, y - middle, z + 0.008), radii)
    band = r.length(((above - 0.020).abs() - 0.016).clamp_min(0), ring) - 0.015
    pompom = r.sphere(r.shift(p, (0.0, middle + a.head.ry + 0.002, -0.015)), 0.033)
    return torch.minimum(torch.minimum(crown, 0.9 * band), pompom) + a.no_hat


def _cloth(a: Avatar, p: Vec) -> Tensor:
    collar = r.ellipsoid(r.shift(p, (0.0, -0.215 + a.head.neckline, 0.0)), (0.115, 0.07, 0.135))
    shirt = torch.maximum(torso_at(p) - 0.010, p[1] + 0.190)
    return r.smooth_subtraction(shirt, collar, 0.012)


def parts_at(a: Avatar, p: Vec) -> tuple[Tensor, ...]:
    """Distances [B, N] to skin, eyes, brows, lips, beard, glasses, hair, hat and cloth."""
    skull = skull_at(a, p)
    mouth, _ = mouth_at(a, p)
    return (
        _skin(a, p, skull),
        r.ellipsoid(eye_frame(a, p), EYE_RADII),
        _brows(a, p, skull),
        _lips(a, p, skull, mouth),
        _beard(a, p, skull, mouth),
        _glasses(a, p),
        _hair(a, p),
        _hat(a, p),
        _cloth(a, p),
    )


def distance_at(a: Avatar, p: Vec) -> Tensor:
    """Distance [B, N] to the nearest part."""
    return r.union(parts_at(a, p))
