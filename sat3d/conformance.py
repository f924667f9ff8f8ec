"""Checks that a plugin's generator, segmenter, reader or pack is what the core expects.

Two ways to use them, both reached as :mod:`sat3d.testing`: a function such as
:func:`check_generator` makes all checks of a kind at once; a class such as
:class:`GeneratorConformance` is inherited by a test class, and each check is a test of its own::

    class TestGenerator(GeneratorConformance):
        @staticmethod
        def load(weights):
            return my_plugin.load(weights, torch.device("cpu"))

Every failure is an AssertionError that names what is wrong. pytest is not needed to import this.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from sat3d.descriptors import DescriptorPack, load_pack
from sat3d.errors import Sat3dError
from sat3d.interfaces import Generator, Reader, Segmenter, WeightsCard

MISSING = "no-such-folder/no-such-weights.safetensors"
_Result = TypeVar("_Result")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def check_generator(generator: Generator, tolerance: float = 1e-4, bound: float = 4.0) -> None:
    """Raise AssertionError, naming what is wrong, if a generator is not what the core expects.

    ``tolerance`` bounds what batching may change: convolutions sum in another order. ``bound`` is
    the largest value that passes for an image in [-1, 1]; with random weights allow more.
    """
    checks = GeneratorConformance()
    checks.generator, checks.tolerance, checks.bound = generator, tolerance, bound
    _run(checks)


def check_segmenter(segmenter: Segmenter, size: int = 64) -> None:
    """Raise AssertionError, naming what is wrong, if a segmenter is not what the core expects."""
    checks = SegmenterConformance()
    checks.segmenter, checks.size = segmenter, size
    _run(checks)


def check_reader(reader: Reader, size: int = 64) -> None:
    """Raise AssertionError, naming what is wrong, if a reader is not what the core expects."""
    checks = ReaderConformance()
    checks.reader, checks.size = reader, size
    _run(checks)


def check_pack(pack: DescriptorPack | Path, labels: Sequence[str] | None = None) -> None:
    """Raise AssertionError for a pack that does not validate or names labels that are not there.

    ``labels`` are those of the segmenter that goes with it; None leaves them unchecked.
    """
    try:
        pack = load_pack(pack) if isinstance(pack, Path) else pack
        if labels is not None:
            pack.check_labels(tuple(labels), "of the test")
    except Sat3dError as error:
        raise AssertionError(str(error)) from error


def check_missing_weights(load: Callable[[str | None], object]) -> None:
    """Raise AssertionError unless weights that do not exist end in one line that names them."""
    try:
        load(MISSING)
    except Sat3dError as error:
        text = str(error)
    except Exception as error:
        raise AssertionError(
            f"missing weights raise {type(error).__name__}, not a Sat3dError: {error}"
        ) from error
    else:
        raise AssertionError("weights that do not exist are loaded")
    _require("\n" not in text and bool(text), "the error for missing weights is not one line")
    _require(MISSING.rpartition("/")[2] in text, f"the error does not name the weights: {text}")


def _run(checks: object) -> None:
    """All tests of a class in the order of their writing, but those that load."""
    for name in [x for x in vars(type(checks)) if x.startswith("test_") and x not in _LOADING]:
        getattr(checks, name)()


_LOADING = ("test_missing_weights_are_explained",)


class GeneratorConformance:
    """Tests of a generator. Subclasses give ``load``, and may ease ``tolerance`` and ``bound``."""

    generator: Generator
    tolerance = 1e-4
    bound = 4.0

    @staticmethod
    def load(weights: str | None) -> Generator:
        """The generator on the CPU with these weights, or with the default for None."""
        raise NotImplementedError("give the test class a static method 'load'")

    @classmethod
    def setup_class(cls) -> None:
        """Load once for all tests."""
        cls.generator = cls.load(None)

    def test_missing_weights_are_explained(self) -> None:
        """Weights that do not exist end in one line that names them."""
        check_missing_weights(self.load)

    def test_the_layout_is_sound(self) -> None:
        """Names differ, something is editable, and split and join are inverses."""
        layout = self.generator.layout
        names = [layer.name for layer in layout.layers]
        _require(len(set(names)) == len(names), "layer names repeat")
        _require(layout.editable_channels > 0, "no layer is an editable backbone convolution")
        code = torch.arange(2.0 * layout.channels).view(2, -1)
        _require(torch.equal(layout.join(layout.split(code)), code), "split and join do not agree")

    def test_the_card_says_what_it_is(self) -> None:
        """A name, and a fingerprint that masks can be tied to."""
        _require(isinstance(self.generator.name, str) and bool(self.generator.name), "no name")
        _check_card(self.generator.card)

    def test_latents_follow_their_seed(self) -> None:
        """The same on every call, others with another seed; the program's own random stays."""
        generator = self.generator
        z = _quietly(lambda: generator.sample_latents(3, seed=5), "sample_latents")
        shape = (3, generator.latent_dim)
        _require(z.shape == shape, "sample_latents is not [count, latent_dim]")
        _require(
            torch.equal(z, generator.sample_latents(3, seed=5)), "sample_latents ignores the seed"
        )
        other = generator.sample_latents(3, seed=6)
        _require(not torch.equal(z, other), "sample_latents gives the same for every seed")

    def test_cameras_are_cameras(self) -> None:
        """None for 2D; for 3D [count, 25] by seed, with a rotation in it."""
        generator = self.generator
        cameras = _quietly(lambda: generator.sample_cameras(3, seed=5), "sample_cameras")
        front = generator.orbit(0.0, 0.0)
        if not generator.is_3d:
            _require(cameras is None and front is None, "a 2D camera is None")
            return
        _require(
            cameras is not None and cameras.shape == (3, 25), "sample_cameras is not [count, 25]"
        )
        _require(front is not None and front.shape == (1, 25), "orbit does not give [1, 25]")
        assert cameras is not None
        again = generator.sample_cameras(3, seed=5)
        _require(again is not None and torch.equal(again, cameras), "sample_cameras has no seed")
        turn = cameras[:, :16].view(3, 4, 4)[:, :3, :3]
        error = (turn @ turn.transpose(1, 2) - torch.eye(3).to(turn)).abs().max()
        _require(float(error) < 1e-3, "a camera's rotation is not orthonormal")

    def test_z_leads_to_styles(self) -> None:
        """Shapes of w and of the code; truncation 0 is the mean of all; w has a gradient."""
        generator = self.generator
        z, cameras = _start(generator)
        w = generator.map(z, cameras)
        _require(w.ndim == 3 and len(w) == 3, "map does not give w [B, L, W]")
        still = generator.map(z, cameras, 0.0)
        _require(bool((still[0] - still[1]).abs().max() < 1e-4), "truncation 0 leaves a difference")
        leaf = w.detach().clone().requires_grad_()
        styles = generator.styles(leaf)
        _require(styles.shape == (3, generator.layout.channels), "styles does not give [B, N]")
        _require(styles.dtype == torch.float32, "the style code is not float32")
        _require(styles.requires_grad, "styles has no gradient to w")
        alone = generator.styles(leaf[1:2])
        _require(bool((alone - styles[1:2]).abs().max() < 1e-4), "a code depends on its batch")

    @torch.no_grad()
    def test_an_image_is_one(self) -> None:
        """Shape, type, range and depth of a full render, and the size of a draft."""
        generator, side = self.generator, self.generator.resolution
        styles, cameras = _codes(generator)
        drawn = generator.render(styles, cameras)
        _require(drawn.image.shape == (3, 3, side, side), "render does not give [B, 3, H, W]")
        _require(drawn.image.dtype == torch.float32, "the image is not float32")
        _require(bool(drawn.image.isfinite().all()), "the image holds numbers that are not finite")
        # Nominally in [-1, 1]: overshoot is allowed, another range is not.
        far = float(drawn.image.abs().max())
        _require(far < self.bound, f"the image is far outside [-1, 1]: {far:.3g}")
        _require((drawn.depth is not None) == generator.is_3d, "depth belongs to 3D, and always")
        draft = generator.render(styles, cameras, draft=True).image
        small = draft.ndim == 4 and draft.shape[2] <= side
        _require(small, "a draft is larger than the full render")

    @torch.no_grad()
    def test_rendering_is_pure(self) -> None:
        """Nothing is kept, nothing is changed, and neighbours in a batch do not matter."""
        generator = self.generator
        styles, cameras = _codes(generator)
        before = styles.clone()
        image = _quietly(lambda: generator.render(styles, cameras).image, "render")
        _require(torch.equal(styles, before), "render writes into the style code")
        again = generator.render(styles, cameras).image
        _require(torch.equal(image, again), "two renders differ: the generator keeps state")
        one = generator.render(styles[1:2], None if cameras is None else cameras[1:2]).image
        error = float((one - image[1:2]).abs().max())
        _require(error <= self.tolerance, f"an image depends on its batch (by {error:.2g})")
        seeded = [generator.render(styles, cameras, seed=7).image for _ in range(2)]
        _require(torch.equal(*seeded), "two renders with one seed differ")

    def test_gradients_reach_styles_and_not_weights(self) -> None:
        """Most editable channels move the image; no weight collects a gradient."""
        generator = self.generator
        styles, cameras = _codes(generator)
        code = styles.clone().requires_grad_()
        generator.render(code, cameras).image.square().mean().backward()
        grad = code.grad
        _require(grad is not None and bool(grad.isfinite().all()), "no gradient to styles")
        assert grad is not None
        reached = (grad[:, generator.layout.editable.to(code.device)] != 0).any(dim=0)
        share = float(reached.float().mean())
        _require(share > 0.5, f"most editable channels have no gradient ({share:.0%} have)")
        open_ = [x for x in _tensors(generator) if x.requires_grad or x.grad is not None]
        _require(not open_, "gradients reach the weights: freeze them")

    def test_planted_channels_are_channels(self) -> None:
        """Where the truth is known: int64 places of editable channels, each with one owner."""
        planted = self.generator.planted
        if not planted:
            return
        every = torch.cat([x.cpu() for x in planted.values()])
        count = self.generator.layout.editable_channels
        fits = every.dtype == torch.int64 and bool(((every >= 0) & (every < count)).all())
        _require(fits, "planted channels are not int64 in [0, n)")
        _require(len(every.unique()) == len(every), "a planted channel has two owners")


class SegmenterConformance:
    """Tests of a segmenter. Subclasses give ``load``, and may set the images' ``size``."""

    segmenter: Segmenter
    size = 64

    @staticmethod
    def load(weights: str | None) -> Segmenter:
        """The segmenter on the CPU with these weights, or with the default for None."""
        raise NotImplementedError("give the test class a static method 'load'")

    @classmethod
    def setup_class(cls) -> None:
        """Load once for all tests."""
        cls.segmenter = cls.load(None)

    def test_missing_weights_are_explained(self) -> None:
        """Weights that do not exist end in one line that names them."""
        check_missing_weights(self.load)

    def test_labels_differ(self) -> None:
        """At least one label, all different, and a card."""
        labels = self.segmenter.labels
        _require(len(set(labels)) == len(labels) > 0, "labels repeat or are missing")
        _check_card(self.segmenter.card)

    @torch.no_grad()
    def test_pixels_get_probabilities(self) -> None:
        """[B, K, H, W] for each of several sizes, in [0, 1], summing to 1, also on flat images."""
        labels = len(self.segmenter.labels)
        for size in (self.size, self.size + 6):
            for image in (
                _noise(size),
                torch.ones(3, 3, size, size),
                -torch.ones(3, 3, size, size),
            ):
                found = self.segmenter.segment(image.to(self.segmenter.device))
                shape = (3, labels, size, size)
                _require(found.shape == shape, "segment does not give [B, K, H, W]")
                _check_shares(found.movedim(1, -1), "segment")

    @torch.no_grad()
    def test_segmenting_is_pure(self) -> None:
        """The same again, and alone as among others."""
        image = _noise(self.size).to(self.segmenter.device)
        found = _quietly(lambda: self.segmenter.segment(image), "segment")
        _require(torch.equal(image, _noise(self.size).to(image)), "segment writes into the image")
        again = self.segmenter.segment(image)
        _require(torch.equal(found, again), "two segmentations of one image differ")
        error = float((self.segmenter.segment(image[1:2]) - found[1:2]).abs().max())
        _require(error < 1e-4, f"a segmentation depends on its batch (by {error:.2g})")


class ReaderConformance:
    """Tests of a reader. Subclasses give ``load``, and may set the images' ``size``."""

    reader: Reader
    size = 64

    @staticmethod
    def load(weights: str | None) -> Reader:
        """The reader on the CPU with these weights, or with the default for None."""
        raise NotImplementedError("give the test class a static method 'load'")

    @classmethod
    def setup_class(cls) -> None:
        """Load once for all tests."""
        cls.reader = cls.load(None)

    def test_it_reads_something(self) -> None:
        """Attributes, each with two or more different values, or at least an identity."""
        attributes = self.reader.attributes
        seen = None if attributes else self.reader.embed(_noise(self.size))
        tells = seen is not None and seen.identity is not None
        _require(bool(attributes) or tells, "a reader with neither attributes nor an identity")
        for name, values in attributes.items():
            _require(len(set(values)) == len(values) > 1, f"'{name}': values repeat or are missing")

    @torch.no_grad()
    def test_images_get_probabilities(self) -> None:
        """[B, values] for each attribute, in [0, 1], summing to 1."""
        found = self.reader.read(_noise(self.size))
        same = found.keys() == self.reader.attributes.keys()
        _require(same, "read gives other attributes than it says")
        for name, values in self.reader.attributes.items():
            _require(found[name].shape == (3, len(values)), f"'{name}' is not [B, values]")
            _check_shares(found[name], name)

    @torch.no_grad()
    def test_reading_is_pure(self) -> None:
        """The same again, and alone as among others."""
        image = _noise(self.size)
        found = _quietly(lambda: self.reader.read(image), "read")
        again, one = self.reader.read(image), self.reader.read(image[1:2])
        for name, value in found.items():
            _require(torch.equal(value, again[name]), f"'{name}': two readings of one image differ")
            error = float((one[name] - value[1:2]).abs().max())
            _require(error < 1e-4, f"'{name}': a reading depends on its batch (by {error:.2g})")

    @torch.no_grad()
    def test_embeddings_belong_to_what_is_read(self) -> None:
        """None, or one row an image in every part, attributes as read gives them."""
        seen = self.reader.embed(_noise(self.size))
        if seen is None:
            return
        _require(seen.attributes.keys() <= self.reader.attributes.keys(), "unknown attributes")
        parts = [*seen.probabilities.values(), *seen.attributes.values()]
        parts += [x for x in (seen.features, seen.identity) if x is not None]
        _require(all(x.ndim == 2 and len(x) == 3 for x in parts), "embeddings are not [B, E]")


def _start(generator: Generator) -> tuple[Tensor, Tensor | None]:
    """Three z [3, Z] and their cameras."""
    return generator.sample_latents(3, seed=5), generator.sample_cameras(3, seed=5)


@torch.no_grad()
def _codes(generator: Generator) -> tuple[Tensor, Tensor | None]:
    """Three style codes [3, N] and their cameras."""
    z, cameras = _start(generator)
    return generator.styles(generator.map(z, cameras)).clone(), cameras


def _tensors(thing: object) -> list[Tensor]:
    """The weights: parameters of modules among the attributes, and plain tensors."""
    found: list[Tensor] = []
    for value in vars(thing).values():
        if isinstance(value, torch.nn.Module):
            found += value.parameters()
        elif isinstance(value, Tensor) and value.is_floating_point():
            found.append(value)
    return found


def _quietly(action: Callable[[], _Result], what: str) -> _Result:
    """Do it, and require that the random numbers of the program went on as if it had not been."""
    before = torch.get_rng_state()
    result = action()
    same = torch.equal(before, torch.get_rng_state())
    _require(same, f"{what} draws from torch's global random numbers: use a generator of its own")
    return result


def _check_card(card: WeightsCard) -> None:
    text = card.fingerprint
    good = len(text) == 64 and not set(text) - set("0123456789abcdef")
    _require(good, "the card's fingerprint is not 64 hex digits: use sat3d.weights.make_card")
    _require(bool(card.name), "the card has no name")


def _noise(size: int) -> Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _check_shares(found: Tensor, what: str) -> None:
    """Last axis: probabilities."""
    _require(bool(((found >= 0) & (found <= 1)).all()), f"{what}: probabilities outside 0 to 1")
    _require(float((found.sum(-1) - 1).abs().max()) < 1e-4, f"{what}: they do not sum to 1")
