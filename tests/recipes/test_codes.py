"""What the bundled avatar weights were trained with must stay what it is; codes of all worlds."""

import hashlib

import pytest
import torch
from sat3d_plugins.generators.eg3d.networks import TriplaneGenerator
from torch import Tensor

from recipes import captions, codes, generator, planting, worlds

AVATARS = worlds.load("avatars")


def digest(*tensors: Tensor) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def text(value: object) -> str:
    return hashlib.sha256(str(value).encode()).hexdigest()[:16]


@pytest.fixture(scope="module")
def network() -> TriplaneGenerator:
    with torch.device("meta"):
        return TriplaneGenerator(generator.config_of(AVATARS))


# Values computed before the recipes were given worlds: the bundled weights rest on them.


def test_a_seed_draws_the_avatars_it_always_drew() -> None:
    source = torch.Generator().manual_seed(0)
    factors = AVATARS.sample_factors(64, source)
    cameras = AVATARS.cameras_for(factors, source)
    assert digest(factors.classes, factors.variations) == "306438c497834350"
    assert digest(codes.factors_to_w(AVATARS, factors)) == "b906d45219dc8e9a"
    # Sines and arc cosines may differ in their last digit.
    assert cameras.double().sum().item() == pytest.approx(842.6952399395741, rel=1e-6)


def test_z_means_the_avatars_it_always_meant() -> None:
    z = torch.randn(64, AVATARS.dim, generator=torch.Generator().manual_seed(1))
    found = codes.factors_from_z(AVATARS, z)
    assert digest(found.classes) == "8b9aaa0aa9c117cf"
    assert found.variations.double().sum().item() == pytest.approx(-13.158056795597, abs=1e-3)
    assert found.variations.double().abs().sum().item() == pytest.approx(992.79900461434, rel=1e-5)


def test_the_planted_channels_of_avatars_are_what_they_always_were(
    network: TriplaneGenerator,
) -> None:
    found = codes.planted_channels(AVATARS, network.layout)
    assert text(",".join(found)) == "b6034f676c705e05"
    assert digest(*[found[name] for name in sorted(found)]) == "1d9d364a5b9d6c72"
    masks = planting.masks_of(AVATARS, network)
    assert digest(*[masks[name] for name in sorted(masks)]) == "a4dc14fde106e5e5"


def test_captions_of_avatars_are_what_they_always_were() -> None:
    assert text([(q.factor, q.answers, q.answer_of) for q in AVATARS.questions]) == (
        "3b29195b27851625"
    )
    assert captions.write_captions(AVATARS, 500, 0)[0][0]


def test_a_seed_shows_the_avatars_it_always_showed() -> None:
    source = torch.Generator().manual_seed(0)
    factors = AVATARS.sample_factors(64, source)
    cameras = AVATARS.cameras_for(factors, source)
    found = AVATARS.render(factors[:2], cameras[:2], 64)
    # Rounding may move a pixel on an outline; a change of the world moves far more.
    assert found.image.double().abs().sum().item() == pytest.approx(9393.665, rel=1e-3)
    assert found.depth.double().sum().item() == pytest.approx(23617.27, rel=1e-4)
    assert (found.label == 0).sum().item() == pytest.approx(5011, abs=8)


# ---------------------------------------------------------------- all worlds


@pytest.mark.parametrize("name", worlds.NAMES)
def test_values_have_the_shares_of_their_priors_in_z_and_in_w(name: str) -> None:
    world = worlds.load(name)
    z = torch.randn(4000, world.dim, generator=torch.Generator().manual_seed(2))
    factors = codes.factors_from_z(world, z)
    w = codes.factors_to_w(world, factors)
    assert w.shape == (4000, world.dim)
    assert not w[:, len(world.factors) * world.block :].any()
    for k, factor in enumerate(world.factors):
        block = w[:, k * world.block :][:, : len(factor.values)]
        shares = (block > 0).float().mean(0)
        torch.testing.assert_close(shares, torch.tensor(factor.prior), atol=0.03, rtol=0)
        used = factors.variations[:, k, : factor.continuous]
        assert not factor.continuous or used.std() == pytest.approx(3**-0.5, abs=0.03)


@pytest.mark.parametrize("name", ["avatars", "cats", "cars"])
def test_every_channel_of_a_layer_has_one_owner(name: str) -> None:
    world = worlds.load(name)
    for channels in (40, 160):
        owners = codes.channel_owners(world, channels)
        assert (owners.diff() >= 0).all()
        assert set(owners.tolist()) == set(range(len(world.factors)))
