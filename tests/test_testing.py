import pytest
import torch

from sat3d.errors import InputError
from sat3d.interfaces import Render, StyleLayer, StyleLayout, WeightsCard
from sat3d.testing import (
    STRIPES,
    ToyGenerator,
    ToyMeasure,
    ToyReader,
    ToySegmenter,
    check_generator,
    check_missing_weights,
    check_pack,
    check_reader,
    check_segmenter,
    toy_pack,
)


@pytest.mark.parametrize("is_3d", [False, True])
def test_the_toys_meet_their_own_interfaces(is_3d):
    check_generator(ToyGenerator(is_3d))
    check_segmenter(ToySegmenter())
    check_reader(ToyReader())


def test_only_its_own_channels_change_a_stripe():
    generator = ToyGenerator()
    z = generator.sample_latents(2, seed=0)
    source, reference = generator.styles(generator.map(z)).split(1)
    for name in STRIPES:
        mixed = source.clone()
        index = generator.layout.editable[generator.planted[name]]
        mixed[:, index] = reference[:, index]
        before, after = (ToyReader().read(generator.render(x).image) for x in (source, mixed))
        wanted = ToyReader().read(generator.render(reference).image)
        for other in STRIPES:
            expected = wanted if other == name else before
            # toRGB shading differs between source and reference, by 0.05 at most.
            torch.testing.assert_close(after[other], expected[other], atol=0.3, rtol=0)


def test_the_toy_measurement_is_a_softmax_in_each_group():
    qmm = ToyMeasure(toy_pack())
    found = qmm.measure(ToyGenerator().render(torch.zeros(2, 72)).image)
    torch.testing.assert_close(found.unflatten(1, (3, 3)).sum(2), torch.ones(2, 3))


class _Stateful(ToyGenerator):
    calls = 0

    def render(self, styles, camera=None, *, seed=None, draft=False):
        self.calls += 1
        drawn = super().render(styles, camera, seed=seed, draft=draft)
        return Render(drawn.image + 0.01 * self.calls)


class _Mixing(ToyGenerator):
    def render(self, styles, camera=None, *, seed=None, draft=False):
        drawn = super().render(styles, camera, seed=seed, draft=draft)
        return Render(drawn.image + 0.1 * drawn.image.mean())


class _Detached(ToyGenerator):
    def render(self, styles, camera=None, *, seed=None, draft=False):
        image = super().render(styles, camera, seed=seed, draft=draft).image
        return Render(image.detach() + 0 * styles.sum())


class _Bytes(ToyGenerator):
    def render(self, styles, camera=None, *, seed=None, draft=False):
        return Render(super().render(styles, camera, seed=seed, draft=draft).image * 127 + 128)


class _Twins(ToyGenerator):
    def __init__(self):
        super().__init__()
        self.layout = StyleLayout((StyleLayer("a", 3, "conv", "backbone"),) * 2)


class _Global(ToyGenerator):
    def render(self, styles, camera=None, *, seed=None, draft=False):
        torch.rand(1)
        return super().render(styles, camera, seed=seed, draft=draft)


class _Writing(ToyGenerator):
    def render(self, styles, camera=None, *, seed=None, draft=False):
        drawn = super().render(styles, camera, seed=seed, draft=draft)
        if not styles.requires_grad:
            styles.mul_(0.5)
        return drawn


class _Trainable(ToyGenerator):
    def __init__(self):
        super().__init__()
        self._paint.requires_grad_()


class _OneLatent(ToyGenerator):
    def sample_latents(self, count, seed):
        return super().sample_latents(count, 0)


class _NoTruncation(ToyGenerator):
    def map(self, z, camera=None, truncation=1.0):
        return super().map(z, camera)


class _Cut(ToyGenerator):
    def styles(self, w):
        return super().styles(w).detach()


class _TwoOwners(ToyGenerator):
    @property
    def planted(self):
        return {"one": torch.tensor([1]), "two": torch.tensor([1])}


class _Beyond(ToyGenerator):
    @property
    def planted(self):
        return {"one": torch.tensor([10_000])}


class _NoCard(ToyGenerator):
    def __init__(self):
        super().__init__()
        self.card = WeightsCard("toy", "none")


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        (_Global(), "global random numbers"),
        (_Writing(), "writes into the style code"),
        (_Trainable(), "reach the weights"),
        (_OneLatent(), "the same for every seed"),
        (_NoTruncation(), "truncation 0"),
        (_Cut(), "no gradient to w"),
        (_TwoOwners(), "two owners"),
        (_Beyond(), "not int64 in"),
        (_NoCard(), "64 hex digits"),
        (_Stateful(), "keeps state"),
        (_Mixing(), "depends on its batch"),
        (_Detached(), "no gradient"),
        (_Bytes(), "outside"),
        (_Twins(), "names repeat"),
    ],
)
def test_a_generator_that_breaks_a_rule_is_told_which(generator, message):
    with pytest.raises(AssertionError, match=message):
        check_generator(generator)


def test_a_segmenter_must_give_probabilities_at_the_images_size():
    class Logits(ToySegmenter):
        def segment(self, image):
            return super().segment(image) * 3

    class Small(ToySegmenter):
        def segment(self, image):
            return super().segment(image)[:, :, ::2, ::2]

    with pytest.raises(AssertionError, match="outside 0 to 1"):
        check_segmenter(Logits())
    with pytest.raises(AssertionError, match="B, K, H, W"):
        check_segmenter(Small())


def test_a_reader_must_read_what_it_says():
    class Silent(ToyReader):
        def read(self, image):
            return {}

    with pytest.raises(AssertionError, match="other attributes"):
        check_reader(Silent())


def test_a_reader_must_not_look_at_neighbours():
    class Mixing(ToyReader):
        def read(self, image):
            return super().read(image * len(image))

    with pytest.raises(AssertionError, match="depends on its batch"):
        check_reader(Mixing())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (None, "are loaded"),
        (OSError("no-such-weights.safetensors"), "not a Sat3dError"),
        (InputError("two\nlines"), "not one line"),
        (InputError("something is wrong"), "does not name the weights"),
    ],
)
def test_missing_weights_must_be_explained(error, message):
    def load(weights):
        if error is not None:
            raise error

    with pytest.raises(AssertionError, match=message):
        check_missing_weights(load)


def test_missing_weights_that_are_named_pass():
    def load(weights):
        raise InputError(f"no file '{weights}'. Check the path.")

    check_missing_weights(load)


def test_a_pack_must_be_valid_and_name_labels_that_exist(tmp_path):
    check_pack(toy_pack(), STRIPES)
    with pytest.raises(AssertionError, match="unknown label"):
        check_pack(toy_pack(), ("frame",))
    (tmp_path / "bad.yaml").write_text("name: bad")
    with pytest.raises(AssertionError, match="this key is missing"):
        check_pack(tmp_path / "bad.yaml")
