"""The avatar world: sampling, cameras, labels, depth, and independence of its factors."""

import math

import pytest
import torch
import torch.nn.functional as F

from recipes import renderer as r
from recipes import worlds
from recipes.renderer import Factors

SIZE = 40
AVATARS = worlds.load("avatars")
FACTORS, LABELS = AVATARS.factors, AVATARS.labels


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(**values: str) -> Factors:
    """One avatar: the first value of every factor but those named, and mean variations."""
    width = max(factor.continuous for factor in FACTORS)
    classes = torch.zeros(1, len(FACTORS), dtype=torch.int64)
    for column, factor in enumerate(FACTORS):
        if factor.name in values:
            classes[0, column] = factor.values.index(values[factor.name])
    return Factors(classes, torch.zeros(1, len(FACTORS), width))


def look(factors: Factors, yaw: float = 0.0) -> r.Rendered:
    yaws = torch.full((len(factors),), yaw)
    return AVATARS.render(factors, r.orbit_camera(yaws, 0 * yaws), SIZE, supersample=1)


def count(rendered: r.Rendered, *names: str) -> int:
    return sum(int((rendered.label == LABELS.index(name)).sum()) for name in names)


@pytest.fixture(scope="module")
def sample() -> r.Rendered:
    factors = AVATARS.sample_factors(3, seeded())
    cameras = AVATARS.cameras.sample(3, seeded(1))
    return AVATARS.render(factors, cameras, SIZE, supersample=2, chunk=2)


def test_factors_are_drawn_from_their_priors() -> None:
    factors = AVATARS.sample_factors(4000, seeded())
    for column, factor in enumerate(FACTORS):
        share = factors.classes[:, column].bincount(minlength=len(factor.values)) / 4000
        expected = torch.tensor(factor.prior or (1.0,))
        torch.testing.assert_close(share, expected, atol=0.03, rtol=0)
        assert (factors.variations[:, column, factor.continuous :] == 0).all()
    assert factors.variations.abs().max() <= 1


def test_same_seed_gives_same_images(sample: r.Rendered) -> None:
    factors, again = (AVATARS.sample_factors(3, seeded()) for _ in range(2))
    assert torch.equal(factors.classes, again.classes)
    assert torch.equal(factors.variations, again.variations)
    single = AVATARS.render(factors[1], AVATARS.cameras.sample(3, seeded(1))[1:2], SIZE)
    torch.testing.assert_close(single.image, sample.image[1:2], atol=1e-4, rtol=0)


def test_batches_slice_and_concatenate() -> None:
    factors = AVATARS.sample_factors(4, seeded())
    joined = Factors.cat([factors[0], factors[1:]])
    assert len(joined) == 4
    assert torch.equal(joined.variations, factors.variations)


def test_shapes_and_ranges(sample: r.Rendered) -> None:
    assert sample.image.shape == (3, 3, SIZE, SIZE)
    assert sample.image.dtype == torch.float32
    assert sample.image.abs().max() <= 1
    assert sample.label.shape == (3, SIZE, SIZE)
    assert sample.label.dtype == torch.uint8
    assert sample.label.max() < len(LABELS)
    assert sample.depth.shape == (3, 1, SIZE, SIZE)
    assert sample.depth.min() > 2.25
    assert sample.depth.max() < 3.3
    assert sample.image.std(dim=(1, 2, 3)).min() > 0.1


def test_labels_follow_attributes() -> None:
    bare = look(plain())
    absent = {"eye_g", "ear_r", "neck_l", "mouth", "hat"}
    for name in set(LABELS) - absent:
        assert count(bare, name) > 0, name
    assert count(bare, "eye_g", "hat") == 0
    assert count(look(plain(eyeglasses="round glasses")), "eye_g") > 30
    assert count(look(plain(eyeglasses="square glasses")), "eye_g") > 30
    assert count(look(plain(hat="beanie")), "hat") > 100
    assert count(look(plain(eye_region="closed eyes")), "l_eye", "r_eye") == 0
    assert count(look(plain(expression="smile")), "mouth") > 2 * count(bare, "mouth")


def test_left_labels_are_on_the_left_of_the_image() -> None:
    columns = (look(plain()).label[0] == LABELS.index("l_eye")).nonzero()[:, 1]
    assert columns.max() < SIZE // 2


@pytest.mark.parametrize(
    ("name", "value", "labels"),
    [
        ("hair_color", "red hair", ("hair",)),
        ("eyeglasses", "square glasses", ("eye_g",)),
        ("beard", "goatee", ("skin", "neck", "cloth", "mouth", "l_lip")),
        ("expression", "smile", ("mouth", "u_lip", "l_lip", "skin", "nose")),
        ("hairstyle", "bob cut", ("hair", "l_ear", "r_ear")),
    ],
)
@pytest.mark.parametrize("yaw", [0.0, 0.6])
def test_an_attribute_changes_its_own_region(
    name: str, value: str, labels: tuple[str, ...], yaw: float
) -> None:
    pair = look(Factors.cat([plain(), plain(**{name: value})]), yaw)
    changed = (pair.image[0] - pair.image[1]).abs().amax(0) > 0.1
    own = torch.zeros_like(changed)
    for label in labels:
        own |= (pair.label == LABELS.index(label)).any(0)
    own = F.max_pool2d(own[None].float(), 5, stride=1, padding=2)[0] > 0
    assert changed.sum() > 15
    assert (changed & ~own).sum() <= 0.1 * changed.sum()


def test_orbit_camera_convention() -> None:
    label = r.orbit_camera(torch.tensor([0.0, 0.4]), torch.tensor([0.0, -0.2]))
    assert label.shape == (2, 25)
    pose = label[0, :16].view(4, 4)
    expected = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    expected[2, 3] = 2.7
    torch.testing.assert_close(pose, expected, atol=1e-5, rtol=0)
    centre = label[1, :16].view(4, 4)[:3, 3]
    phi = math.acos(0.4 / math.pi)
    around = math.pi / 2 - 0.4
    direction = (math.sin(phi) * math.cos(around), math.cos(phi), math.sin(phi) * math.sin(around))
    torch.testing.assert_close(centre, 2.7 * torch.tensor(direction), atol=1e-5, rtol=0)


def test_rays_pass_through_projected_points() -> None:
    camera = r.orbit_camera(torch.tensor([0.5]), torch.tensor([0.15]))
    origin, direction = r.camera_rays(camera, 8)
    points = torch.stack(r.advance(origin, direction, torch.full((1, 64), 2.6)), -1)[0]
    to_camera = torch.linalg.inv(camera[0, :16].view(4, 4))
    local = points @ to_camera[:3, :3].T + to_camera[:3, 3]
    u = 4.2647 * local[:, 0] / local[:, 2] + 0.5
    v = 4.2647 * local[:, 1] / local[:, 2] + 0.5
    index = torch.arange(64)
    torch.testing.assert_close(u, (index % 8 + 0.5) / 8, atol=1e-5, rtol=0)
    torch.testing.assert_close(v, (index // 8 + 0.5) / 8, atol=1e-5, rtol=0)


def test_traced_depth_matches_analytic_sphere() -> None:
    camera = r.orbit_camera(torch.tensor([0.3]), torch.tensor([-0.1]))
    white = torch.ones(1, 1, 3)

    def paint(p: r.Vec) -> r.Surface:
        ones = torch.ones_like(p[0])
        return r.Surface(white.expand(*ones.shape, 3), ones.long(), 0 * ones)

    front = (torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1))
    light = r.Light(front, torch.ones(1, 1))
    scene = r.Scene(lambda p: r.sphere(p, 0.2), paint, light, (white, white))
    rendered = r.render_scene(scene, camera, 33, supersample=1)
    origin, direction = r.camera_rays(camera, 33)
    middle = -r.dot(origin, direction)
    gap = r.dot(origin, origin) - middle.square()
    inside = gap < 0.19**2
    expected = middle - (0.04 - gap).clamp_min(0).sqrt()
    depth = rendered.depth.flatten(1)
    torch.testing.assert_close(depth[inside], expected[inside], atol=1e-4, rtol=0)
    assert (rendered.label.flatten(1)[inside] == 1).all()
    outside = gap > 0.21**2
    far = r.backdrop_depth(origin, direction)
    torch.testing.assert_close(depth[outside], far[outside])
