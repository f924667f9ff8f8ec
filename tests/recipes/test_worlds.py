"""All worlds alike: what a recipe relies on; and what is particular to cats and to cars."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F

from recipes import renderer as r
from recipes import worlds
from recipes.renderer import Factors
from recipes.worlds import World

NAMES = ("avatars", "cats", "cars")
SIZE = 32


def plain(world: World, **values: str) -> Factors:
    """One scene: the first value of every factor but those named, and mean variations."""
    width = max(factor.continuous for factor in world.factors)
    classes = torch.zeros(1, len(world.factors), dtype=torch.int64)
    for name, value in values.items():
        classes[0, world.columns[name]] = world.values(name).index(value)
    return Factors(classes, torch.zeros(1, len(world.factors), width))


def look(world: World, factors: Factors, yaw: float = 0.0, pitch: float = 0.0) -> r.Rendered:
    yaws = torch.full((len(factors),), yaw)
    cameras = world.cameras.at(yaws, torch.full_like(yaws, pitch))
    return world.render(factors, cameras, SIZE, supersample=1)


@cache
def sample(name: str) -> r.Rendered:
    world, source = worlds.load(name), torch.Generator().manual_seed(5)
    factors = world.sample_factors(3, source)
    return world.render(factors, world.cameras_for(factors, source), SIZE, 1, chunk=2)


def test_an_unknown_world_is_named_with_those_known() -> None:
    with pytest.raises(ValueError, match="'dogs'.*avatars, avatars2d, cats, cars"):
        worlds.load("dogs")


@pytest.mark.parametrize("name", worlds.NAMES)
def test_a_world_is_of_one_piece(name: str) -> None:
    world = worlds.load(name)
    names = [factor.name for factor in world.factors]
    assert world.name == name
    assert len(set(names)) == len(names)
    assert len(names) * world.block <= world.dim
    for factor in world.factors:
        assert len(factor.values) + factor.continuous <= world.block
        assert len(factor.prior) == len(factor.values)
        assert abs(sum(factor.prior) - bool(factor.values)) < 1e-6
    assert all(world.values(attribute) for attribute in world.attributes)
    assert set(world.details) <= set(world.labels)
    assert not world.shares or list(world.shares) == names
    assert len(world.segments) in (0, len(world.labels))
    assert set(world.hides) <= set(world.attributes)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_within_their_ranges(name: str) -> None:
    world, found = worlds.load(name), sample(name)
    assert found.image.shape == (3, 3, SIZE, SIZE)
    assert found.image.abs().max() <= 1
    assert found.image.std(dim=(1, 2, 3)).min() > 0.1
    assert found.label.max() < len(world.labels)
    assert 0.1 < (found.label > 0).float().mean() < 0.9
    # What the generator's rays and its box can hold.
    start, end = (world.volume.get(k, d) for k, d in (("ray_start", 2.25), ("ray_end", 3.3)))
    assert start < found.depth.min()
    assert found.depth.max() < end
    reach = world.volume.get("box_warp", 1.0) / 2
    hit = found.depth.flatten(1)[found.label.flatten(1) > 0]
    assert (hit - world.cameras.radius).abs().max() < reach


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_an_attribute_looks_different(name: str) -> None:
    world = worlds.load(name)
    for attribute in world.attributes:
        values = world.values(attribute)
        every = Factors.cat([plain(world, **{attribute: value}) for value in values])
        image = look(world, every, 0.5).image.flatten(1)
        apart = torch.cdist(image, image, p=1) / image.shape[1]
        apart = apart[~torch.eye(len(values), dtype=torch.bool)]
        assert apart.min() > 0.0015, attribute


def test_the_camera_of_the_flat_avatars_follows_from_their_factors() -> None:
    world = worlds.load("avatars2d")
    factors = world.sample_factors(4, torch.Generator().manual_seed(0))
    first, again = (world.cameras_for(factors, torch.Generator().manual_seed(k)) for k in (0, 1))
    assert torch.equal(first, again)
    assert first[:, 3].std() > 0
    assert sample("avatars").image.shape == sample("avatars2d").image.shape


def test_longer_fur_takes_more_room_and_leaves_the_face_alone() -> None:
    world = worlds.load("cats")
    values = [plain(world, fur_length=value) for value in world.values("fur_length")]
    found = look(world, Factors.cat(values))
    room = (found.label > 0).flatten(1).sum(1)
    assert room[0] < room[1] < room[2]
    eyes = found.label == world.labels.index("eye")
    assert (eyes[0] == eyes[2]).float().mean() > 0.99
    assert eyes[0].sum() >= 6


@pytest.mark.parametrize(
    ("attribute", "value"), [("fur_color", "orange fur"), ("fur_pattern", "tabby stripes")]
)
def test_fur_changes_fur_only(attribute: str, value: str) -> None:
    world = worlds.load("cats")
    pair = look(world, Factors.cat([plain(world), plain(world, **{attribute: value})]))
    assert torch.equal(pair.label[0], pair.label[1])
    changed = (pair.image[0] - pair.image[1]).abs().amax(0) > 0.1
    own = (pair.label[0] > 0).float()[None]
    assert changed.sum() > 20
    assert not (changed & (F.max_pool2d(own, 3, 1, 1)[0] == 0)).any()


def test_a_car_stands_on_white_and_is_seen_from_all_around() -> None:
    world = worlds.load("cars")
    views = [look(world, plain(world), yaw, -0.3) for yaw in (0.0, 1.57, 3.14)]
    wide = []
    for view in views:
        assert (view.image[0][:, view.label[0] == 0] > 0.98).float().mean() > 0.99
        columns = (view.label[0] > 0).any(0).nonzero()
        wide.append(int(columns.max() - columns.min()))
    assert wide[1] > 1.5 * wide[0]
    assert abs(wide[0] - wide[2]) <= 2
    angles = world.cameras.sample(200, torch.Generator().manual_seed(0))[:, [3, 11]]
    assert ((angles > 0).float().mean(0) - 0.5).abs().max() < 0.15
    height = world.cameras.sample(200, torch.Generator().manual_seed(0))[:, 7]
    assert (height > 0.05 * world.cameras.radius).all()  # nobody looks at cars from below


def test_the_color_of_a_car_leaves_its_shape_alone() -> None:
    world = worlds.load("cars")
    colors = [plain(world, color=value) for value in world.values("color")]
    found = look(world, Factors.cat(colors), 0.8, -0.3)
    assert (found.label == found.label[:1]).all()
    body = found.label[0] == world.labels.index("body")
    means = found.image[:, :, body].mean(2)
    assert torch.pdist(means).min() > 0.2
